// The golden numbers of the specification's section 13: a model filled by formula, in double.
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <map>
#include <string>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Approx;

namespace {

inline constexpr Config tiny_config{.vocab_size = 10, .d_model = 8, .d_state = 4, .d_conv = 4, .expand = 2};

// Parameter number t in the walk over the model, flat index k.
template <class A>
void fill_by_formula(Model<A>& model) {
  auto dict = model.state_dict();
  double t = 0;
  for (const PlacedParameter& p : model.engine().placed()) {
    auto& [shape, values] = dict.at(p.name);
    for (std::size_t k = 0; k < values.size(); ++k) {
      const double f = std::sin(0.37 + 1.7 * t + 0.61 * static_cast<double>(k));
      const auto has = [&](const char* part) { return p.name.find(part) != std::string::npos; };
      const auto columns = static_cast<std::size_t>(shape.back());
      values[k] = has("A_log")                    ? std::log(1 + static_cast<double>(k % columns)) + 0.1 * f
                  : has("mixer.D") || has("norm") ? 1 + 0.2 * f
                  : has("bias")                   ? 0.2 * f
                                                  : 0.4 * f;
    }
    ++t;
  }
  model.load_state_dict(dict);
}

const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}, labels{7, 0};

struct GradientFacts {
  double norm, first, last;
};

void check_gradient_facts(const StateDict<double>& gradients, const std::map<std::string, GradientFacts>& expected) {
  for (const auto& [name, facts] : expected) {
    INFO(name);
    const auto& g = gradients.at(name).values;
    double squares = 0;
    for (const double x : g) squares += x * x;
    CHECK(std::sqrt(squares) == Approx(facts.norm).epsilon(1e-9));
    CHECK(g.front() == Approx(facts.first).epsilon(1e-9));
    CHECK(g.back() == Approx(facts.last).epsilon(1e-9).margin(0));
  }
}

}  // namespace

TEST_CASE("golden numbers: logits, loss and gradients of a small Mamba-1") {
  MambaForComposite<tiny_config, double> model({.n_layers = 2});
  std::size_t count = 0;
  for (const auto& [name, tensor] : model.state_dict()) count += tensor.values.size();
  CHECK(count == 1592);
  fill_by_formula(model);

  const auto logits = model.logits(ids, 2);
  const double first[] = {1.5639969589, 0.1072596665, -1.5282092722, -0.6171537990},
               last[] = {1.3831512753, 0.3725987963, -1.2588319536, -0.7926139334};
  for (int v = 0; v < 4; ++v) {
    CHECK(logits(5, v) == Approx(first[v]).margin(1e-9));
    CHECK(logits(11, 8 + v) == Approx(last[v]).margin(1e-9));
  }
  CHECK(model.loss_and_gradients(ids, labels) == Approx(3.336740047075).epsilon(1e-12));

  const std::map<std::string, GradientFacts> expected{
      {"backbone.embedding.weight", {3.850230888, -0.1857070085, 0}},
      {"backbone.layers.0.norm.weight", {1.023932166, 0.01669282536, -0.4045728369}},
      {"backbone.layers.0.mixer.A_log", {8.136491165e-3, -2.616335774e-4, -2.056939210e-3}},
      {"backbone.layers.0.mixer.D", {0.6592197542, -6.841195607e-3, -0.05882245698}},
      {"backbone.layers.0.mixer.in_proj.weight", {2.844832165, -1.966712492e-3, 0.03539789525}},
      {"backbone.layers.0.mixer.conv1d.weight", {2.109565322, 0.02305986666, 6.679301164e-4}},
      {"backbone.layers.0.mixer.conv1d.bias", {0.5608333802, 0.01469167216, -0.1963211608}},
      {"backbone.layers.0.mixer.x_proj.weight", {0.5288339741, -4.575874783e-5, 0.01542765541}},
      {"backbone.layers.0.mixer.dt_proj.weight", {1.892954953e-3, -1.820332506e-4, -8.586401238e-4}},
      {"backbone.layers.0.mixer.dt_proj.bias", {9.668401654e-3, -7.022357704e-4, -3.332593417e-3}},
      {"backbone.layers.0.mixer.out_proj.weight", {2.485089724, 0.02389308501, 0.07025616618}},
      {"backbone.norm_f.weight", {0.9544653435, 0.04773502239, 0.5112720118}},
  };
  check_gradient_facts(model.gradient_dict(), expected);
  CHECK(clip_grad_norm(model, 1e9) == Approx(6.933433301470).epsilon(1e-12));
}

TEST_CASE("golden numbers: two steps of AdamW") {
  MambaForComposite<tiny_config, double> model({.n_layers = 2});
  fill_by_formula(model);
  AdamW optimizer(model, {.lr = 2.5e-4});
  for (int step = 0; step < 2; ++step) {
    model.loss_and_gradients(ids, labels);
    clip_grad_norm(model, 1.0);
    optimizer.step();
  }
  CHECK(model.loss_and_gradients(ids, labels) == Approx(3.277564158297).epsilon(1e-12));
  const auto state = model.state_dict();
  const auto& embedding = state.at("backbone.embedding.weight").values;
  CHECK(embedding[3 * 8 + 0] == Approx(0.257562325068).epsilon(1e-11));
  CHECK(embedding[15 * 8 + 7] == Approx(0.257629593952).epsilon(1e-11));  // a padding row: decay only
  CHECK(state.at("backbone.layers.0.mixer.A_log").values[0] == Approx(-0.058285558178).epsilon(1e-10));
}

namespace {

// The first three logits of sequence 0's last position, of a variant filled as the standard model is.
template <class Mixer, class... Policies>
void check_variant(const char* what, double first, double second, double third) {
  INFO(what);
  MambaForComposite<tiny_config, double, Mixer> standard({.n_layers = 2});
  fill_by_formula(standard);
  MambaForComposite<tiny_config, double, Mixer, Policies...> model({.n_layers = 2});
  auto dict = standard.state_dict();
  for (auto& [name, tensor] : dict) {
    if (!std::is_same_v<typename decltype(model)::Architecture::ConvKernel, FrozenOnesConv>) break;
    if (name.ends_with("conv1d.weight")) std::fill(tensor.values.begin(), tensor.values.end(), 1.0);
    if (name.ends_with("conv1d.bias")) std::fill(tensor.values.begin(), tensor.values.end(), 0.0);
  }
  model.load_state_dict(dict);
  const auto logits = model.logits(ids, 2);
  CHECK(logits(5, 0) == Approx(first).margin(1e-7));
  CHECK(logits(5, 1) == Approx(second).margin(1e-7));
  CHECK(logits(5, 2) == Approx(third).margin(1e-7));
}

template <class Mixer>
void check_blocking(double first, double second, double third) {
  MambaForComposite<tiny_config, double, Mixer> model({.n_layers = 2});
  fill_by_formula(model);
  const std::vector<std::uint8_t> mask{0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0};
  const auto logits = model.blocked(ids, 2, mask);
  CHECK(logits(0, 0) == Approx(first).margin(1e-7));
  CHECK(logits(0, 1) == Approx(second).margin(1e-7));
  CHECK(logits(0, 2) == Approx(third).margin(1e-7));
}

}  // namespace

TEST_CASE("golden numbers: the variants") {
  check_variant<Mamba1, ConvResidual>("residual", 0.43354765, -0.16688871, -0.48923084);
  check_variant<Mamba1, ConvGate>("gate", 1.79400341, 0.12971258, -1.75072421);
  check_variant<Mamba1, FrozenOnesConv>("ones", -0.1533903, -0.34997443, 0.03661971);
  check_variant<Mamba1, SinusoidalPosition>("sinusoids", 0.67490535, 1.19770653, -0.27528499);
  using Two = Mamba2<8>;
  check_variant<Two, ConvResidual>("residual", 0.89450771, 0.23243458, -0.81695483);
  check_variant<Two, ConvGate>("gate", 0.49104479, -0.38532685, -0.61961089);
  check_variant<Two, FrozenOnesConv>("ones", 0.73882677, 0.17965167, -0.67888516);
  check_variant<Two, SinusoidalPosition>("sinusoids", 0.6868502, 1.03235607, -0.3423998);
}

TEST_CASE("golden numbers: strict blocking") {
  check_blocking<Mamba1>(1.56696525, 0.10943056, -1.53045323);
  check_blocking<Mamba2<8>>(1.71043312, -0.07024039, -1.73386915);
}

TEST_CASE("golden numbers: logits, loss, gradients and steps of a small Mamba-2") {
  MambaForComposite<tiny_config, double, Mamba2<8>> model({.n_layers = 2});
  std::size_t count = 0;
  for (const auto& [name, tensor] : model.state_dict()) count += tensor.values.size();
  CHECK(count == 1364);
  fill_by_formula(model);
  const auto logits = model.logits(ids, 2);
  const double first[] = {1.7187382164, -0.1273391794, -1.7612255260, -0.4603019100},
               last[] = {1.2493091539, 0.5361627736, -1.0704159504, -0.8933120346};
  for (int v = 0; v < 4; ++v) {
    CHECK(logits(5, v) == Approx(first[v]).margin(1e-9));
    CHECK(logits(11, 8 + v) == Approx(last[v]).margin(1e-9));
  }
  CHECK(model.loss_and_gradients(ids, labels) == Approx(3.330537869982).epsilon(1e-12));
  check_gradient_facts(model.gradient_dict(),
                       {
                           {"backbone.embedding.weight", {7.302330445, -0.4553336168, 0}},
                           {"backbone.layers.0.norm.weight", {0.9750229471, -0.5026549545, 0.1457720159}},
                           {"backbone.layers.0.mixer.A_log", {0.05976111022, -0.03093282997, 0.05113267375}},
                           {"backbone.layers.0.mixer.D", {1.450874895, -0.8951645486, 1.141804883}},
                           {"backbone.layers.0.mixer.in_proj.weight", {7.201521351, 0.3009931752, 0.3095490453}},
                           {"backbone.layers.0.mixer.conv1d.weight", {21.01917650, -0.1601822692, 0.7781491751}},
                           {"backbone.layers.0.mixer.conv1d.bias", {7.485757440, 0.1778958230, -0.2231222347}},
                           {"backbone.layers.0.mixer.dt_bias", {0.2579521877, 0.09024218953, -0.2416519778}},
                           {"backbone.layers.0.mixer.norm.weight", {2.034339612, -0.06424270607, 0.7350298531}},
                           {"backbone.layers.0.mixer.out_proj.weight", {10.78855371, 0.06373193215, -2.015185506}},
                           {"backbone.norm_f.weight", {0.8321118952, 0.07419737823, -0.02224551906}},
                       });
  AdamW optimizer(model, {.lr = 2.5e-4});
  for (int step = 0; step < 2; ++step) {
    model.loss_and_gradients(ids, labels);
    const double norm = clip_grad_norm(model, 1.0);
    if (step == 0) CHECK(norm == Approx(29.640576335439).epsilon(1e-12));
    optimizer.step();
  }
  CHECK(model.loss_and_gradients(ids, labels) == Approx(3.085254892518).epsilon(1e-11));
  const auto state = model.state_dict();
  CHECK(state.at("backbone.embedding.weight").values[3 * 8] == Approx(0.256562049874).epsilon(1e-11));
  CHECK(state.at("backbone.layers.0.mixer.A_log").values[0] == Approx(-0.072166012279).epsilon(1e-10));
}
