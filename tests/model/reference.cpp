// Whole models against the reference numbers (float64 PyTorch): logits, loss, every gradient tensor, 25 training steps.
#include <catch2/catch_test_macros.hpp>
#include <type_traits>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;

namespace {

inline constexpr Config composite{};
inline constexpr Config composite_of_eight{.max_seq_len = 8};
inline constexpr Config small{.vocab_size = 37, .d_model = 16, .d_state = 8, .d_conv = 3, .expand = 3};
inline constexpr Config one_token{.vocab_size = 8, .d_model = 24, .d_state = 16, .d_conv = 2, .expand = 1};
inline constexpr Config long_text{.vocab_size = 64, .d_model = 32, .d_state = 16};

// Relative norms. In double the gradients' bound is that of the files, which hold them in float32.
template <class Scalar>
inline constexpr double logits_bound = sizeof(Scalar) == 4 ? 2e-6 : 1e-12;
template <class Scalar>
inline constexpr double gradients_bound = sizeof(Scalar) == 4 ? 1e-5 : 2e-7;

template <class Model>
void check(const std::string& name) {
  using Scalar = typename Model::Scalar;
  const auto file = support::reference(name);
  INFO(name << (sizeof(Scalar) == 4 ? ", float" : ", double"));
  const auto ids = support::tokens(file, "input_ids");
  const int batch = static_cast<int>(file.tensors().at("input_ids").shape[0]);
  Model model({.n_layers = support::layers_of(file), .gamma = 1.0, .seed = 7});
  model.load_state_dict(support::tensors<Scalar>(file, "param."));
  CHECK(support::relative_error(support::values(model.logits(ids, batch)), file.tensor<double>("logits").values) <= logits_bound<Scalar>);

  double loss = 0;
  if constexpr (requires { model.loss_and_gradients(ids, ids); }) loss = model.loss_and_gradients(ids, support::tokens(file, "labels"));
  else loss = model.loss_and_gradients(ids, batch);
  const double expected = file.tensor<double>("loss").values[0];
  CHECK(std::abs(loss - expected) <= logits_bound<Scalar> * std::abs(expected));

  const auto references = support::tensors<double>(file, "grad.");
  double total = 0;
  for (const auto& [key, tensor] : references)
    for (const double g : tensor.values) total += g * g;
  const auto gradients = model.gradient_dict();
  CHECK(gradients.size() == references.size());
  for (const auto& [key, tensor] : references) {
    INFO("gradient of " << key);
    REQUIRE(gradients.count(key) == 1);
    CHECK(support::relative_error(gradients.at(key).values, tensor.values, 1e-6 * std::sqrt(total)) <= gradients_bound<Scalar>);
  }
}

template <Config config>
void check_classifier(const std::string& name) {
  check<MambaForComposite<config>>(name);
  check<MambaForComposite<config, double>>(name);
}

template <class Scalar>
void check_training(double bound) {
  const auto file = support::reference("train_mamba1");
  const auto ids = support::tokens(file, "input_ids"), labels = support::tokens(file, "labels");
  const auto& shape = file.tensors().at("input_ids").shape;  // (steps, batch, length)
  const auto batch = static_cast<std::size_t>(shape[1]), tokens = batch * static_cast<std::size_t>(shape[2]);
  MambaForComposite<composite, Scalar> model({.n_layers = support::layers_of(file), .gamma = 1.0});
  model.load_state_dict(support::tensors<Scalar>(file, "initial."));
  AdamW optimizer(model, AdamWOptions{.lr = 2.5e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2});
  std::vector<double> losses, norms;
  for (std::size_t s = 0; s < static_cast<std::size_t>(shape[0]); ++s) {
    losses.push_back(model.loss_and_gradients(std::span(ids).subspan(s * tokens, tokens), std::span(labels).subspan(s * batch, batch)));
    norms.push_back(clip_grad_norm(model, 1.0));
    optimizer.step();
  }
  CHECK(support::relative_error(losses, file.tensor<double>("losses").values) <= bound);
  CHECK(support::relative_error(norms, file.tensor<double>("grad_norms").values) <= 10 * bound);
  const auto final_state = model.state_dict();
  for (const auto& [key, tensor] : support::tensors<double>(file, "final.")) {
    INFO("final " << key);
    CHECK(support::relative_error(final_state.at(key).values, tensor.values, 1e-3) <= 100 * bound);
  }
}

}  // namespace

TEST_CASE("Mamba-1 reproduces the reference: composite sizes") {
  check_classifier<composite>("mamba1_composite");
  check_classifier<composite>("mamba1_composite_L5_gamma05");
  check_classifier<composite_of_eight>("mamba1_composite");
}
TEST_CASE("Mamba-1 reproduces the reference: odd sizes, one token, a longer text") {
  check_classifier<small>("mamba1_small_default_init");
  check_classifier<one_token>("mamba1_one_token");
  check<MambaLMHeadModel<long_text>>("mamba1_lm_200");
  check<MambaLMHeadModel<long_text, double>>("mamba1_lm_200");
}
TEST_CASE("25 steps of clipping and AdamW reproduce the reference") {
  check_training<float>(2e-6);
  check_training<double>(1e-9);
}
