// Both initialisations by their laws (specification, section 4).
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;

namespace {

inline constexpr Config composite_config{};

struct Moments {
  double mean = 0, deviation = 0, low = INFINITY, high = -INFINITY;
};
Moments moments(const std::vector<float>& values) {
  Moments m;
  for (const float x : values) m.mean += x, m.low = std::min<double>(m.low, x), m.high = std::max<double>(m.high, x);
  m.mean /= static_cast<double>(values.size());
  for (const float x : values) m.deviation += (x - m.mean) * (x - m.mean);
  m.deviation = std::sqrt(m.deviation / static_cast<double>(values.size()));
  return m;
}

}  // namespace

TEST_CASE("gamma initialisation: which tensors are drawn, and how wide") {
  MambaForComposite<composite_config> model({.n_layers = 2, .gamma = 0.7, .seed = 5});
  for (const auto& [name, tensor] : model.state_dict()) {
    INFO(name);
    const Moments m = moments(tensor.values);
    const auto d1 = static_cast<double>(tensor.shape[0]), count = static_cast<double>(tensor.values.size());
    if (name.find("A_log") != std::string::npos) {
      CHECK(tensor.values[127] == std::log(128.0F));
      CHECK(tensor.values[128] == 0);
    } else if (name.find("bias") != std::string::npos) {
      CHECK((m.low == 0 && m.high == 0));
    } else if (tensor.shape.size() == 1) {
      CHECK((m.low == 1 && m.high == 1));
    } else {
      const double expected = std::pow(d1, -0.7);
      CHECK(std::abs(m.deviation / expected - 1) < 5 / std::sqrt(2 * count));
      CHECK(std::abs(m.mean) < 5 * expected / std::sqrt(count));
    }
  }
}

TEST_CASE("gamma initialisation by the size of the input") {
  MambaForComposite<composite_config, Mamba2<>> model({.n_layers = 1, .gamma = 0.7, .gamma_fan = Fan::in, .seed = 5});
  const auto state = model.state_dict();
  const auto check = [&](const char* name, double d1) {
    INFO(name);
    const auto& values = state.at(std::string("backbone.") + name).values;
    CHECK(std::abs(moments(values).deviation / std::pow(d1, -0.7) - 1) <
          5 / std::sqrt(2.0 * static_cast<double>(values.size())));
  };
  check("embedding.weight", 104);
  check("layers.0.mixer.in_proj.weight", 32);
  check("layers.0.mixer.conv1d.weight", 4);
  check("layers.0.mixer.out_proj.weight", 64);
}

TEST_CASE("a head of its own starts by gamma's rule, or as PyTorch's linear layers; the embedding as ever") {
  const auto of = [](const ModelOptions& options) {
    return MambaForComposite<composite_config, UntiedHead>(options).state_dict();
  };
  const auto drawn = of({.n_layers = 1, .gamma = 0.7, .seed = 5}), own = of({.n_layers = 1, .seed = 5});
  const auto tied = MambaForComposite<composite_config>({.n_layers = 1, .gamma = 0.7, .seed = 5}).state_dict();
  REQUIRE(drawn.at("lm_head.weight").shape == std::vector<std::int64_t>{104, 32});
  CHECK(std::abs(moments(drawn.at("lm_head.weight").values).deviation / std::pow(104, -0.7) - 1) <
        5 / std::sqrt(2.0 * 104 * 32));
  CHECK(drawn.at("backbone.embedding.weight").values == tied.at("backbone.embedding.weight").values);
  const Moments m = moments(own.at("lm_head.weight").values);
  const double bound = 1 / std::sqrt(32);
  CHECK((m.low >= -bound && m.low < -0.98 * bound && m.high <= bound && m.high > 0.98 * bound));
  CHECK(std::abs(m.deviation / (bound / std::sqrt(3)) - 1) < 0.05);
}

TEST_CASE("gamma's rule leaves out the roles that it is told to") {
  const auto of = [](const ModelOptions& options) {
    return MambaForComposite<composite_config, UntiedHead, LearnedPosition<8>>(options).state_dict();
  };
  const auto all = of({.n_layers = 1, .gamma = 0.7, .seed = 5}), own = of({.n_layers = 1, .seed = 5});
  const auto check = [&](GammaExcept except, std::initializer_list<std::string_view> left_out) {
    for (const auto& [name, tensor] : of({.n_layers = 1, .gamma = 0.7, .gamma_except = except, .seed = 5})) {
      INFO(name);
      const bool is_own = std::any_of(left_out.begin(), left_out.end(),
                                      [&, &full = name](auto part) { return full.find(part) != std::string::npos; });
      CHECK(tensor.values == (is_own ? own : all).at(name).values);
    }
  };
  check({}, {});
  check({.embedding = true}, {"backbone.embedding"});
  check({.position = true}, {"position_embedding"});
  check({.projection = true}, {"proj.weight"});
  check({.convolution = true, .head = true}, {"conv1d.weight", "lm_head"});
  check({.convolution_bias = true}, {"conv1d.bias"});
  check({.step_bias = true}, {"dt_proj.bias"});
}

TEST_CASE("gamma may leave the biases to mamba_ssm's law") {
  MambaForComposite<composite_config, Mamba2<>> model(
      {.n_layers = 1, .gamma = 1.0, .gamma_zeroes_biases = false, .seed = 5});
  const auto state = model.state_dict();
  const double step = std::log1p(std::exp(static_cast<double>(state.at("backbone.layers.0.mixer.dt_bias").values[0])));
  CHECK((step > 0.000999 && step < 0.1001));
  const Moments bias = moments(state.at("backbone.layers.0.mixer.conv1d.bias").values);
  CHECK(std::abs(bias.deviation / (0.5 / std::sqrt(3.0)) - 1) < 0.2);
}

TEST_CASE("the embedding and learned positions start as wide as they are told to") {
  const auto deviation = [](ModelOptions options, const char* name = "position_embedding.weight") {
    MambaForComposite<composite_config, LearnedPosition<16>> model(options);
    return moments(model.state_dict().at(name).values).deviation;
  };
  CHECK(std::abs(deviation({.gamma = 0.5}) / 0.25 - 1) < 0.2);
  CHECK(std::abs(deviation({}) / 0.02 - 1) < 0.2);
  CHECK(std::abs(deviation({.gamma = 0.5, .position_std = 0.02}) / 0.02 - 1) < 0.2);
  CHECK(deviation({.position_std = 0.0}) == 0);
  const char* const embedding = "backbone.embedding.weight";
  CHECK(std::abs(deviation({.gamma = 0.5}, embedding) / 0.1 - 1) < 0.1);
  CHECK(std::abs(deviation({.gamma = 0.5, .position_std = 3.0}, embedding) / 0.1 - 1) < 0.1);
  CHECK(std::abs(deviation({.gamma = 0.5, .embedding_std = 0.3}, embedding) / 0.3 - 1) < 0.1);
  CHECK(std::abs(deviation({.gamma = 0.5, .embedding_std = 3.0}) / 0.25 - 1) < 0.2);
}

TEST_CASE("mamba_ssm's own initialisation") {
  MambaForComposite<composite_config> model({.n_layers = 4, .seed = 5});
  const auto state = model.state_dict();
  const auto layer = [&](const char* name) {
    return moments(state.at(std::string("backbone.layers.1.") + name).values);
  };
  const auto uniform = [](const Moments& m, double bound, double count) {
    CHECK(m.high <= bound);
    CHECK(m.low >= -bound);
    CHECK(std::abs(m.deviation / (bound / std::sqrt(3.0)) - 1) < 5 / std::sqrt(count));
  };
  CHECK(std::abs(moments(state.at("backbone.embedding.weight").values).deviation / 0.02 - 1) < 0.07);
  uniform(layer("mixer.in_proj.weight"), 1 / std::sqrt(32.0), 4096);
  uniform(layer("mixer.x_proj.weight"), 1 / 8.0, 16512);
  uniform(layer("mixer.conv1d.weight"), 0.5, 256);
  uniform(layer("mixer.conv1d.bias"), 0.5, 64);
  uniform(layer("mixer.dt_proj.weight"), 1 / std::sqrt(2.0), 128);
  uniform(layer("mixer.out_proj.weight"), 1 / 8.0 / 2.0, 2048);
  for (const float b : state.at("backbone.layers.1.mixer.dt_proj.bias").values) {
    const double step = std::log1p(std::exp(static_cast<double>(b)));
    CHECK(step > 0.000999);
    CHECK(step < 0.1001);
  }
  CHECK(layer("mixer.D").deviation == 0);
  CHECK(layer("norm.weight").mean == 1);
}

TEST_CASE("a seed decides the initial parameters, and float's are double's rounded") {
  const auto of = [](std::uint64_t seed) {
    return MambaForComposite<composite_config>({.n_layers = 1, .gamma = 1.0, .seed = seed})
        .state_dict()
        .at("backbone.embedding.weight")
        .values;
  };
  CHECK(of(1) == of(1));
  CHECK(of(1) != of(2));
  const auto wide = MambaForComposite<composite_config, double>({.n_layers = 1, .gamma = 1.0, .seed = 1})
                        .state_dict()
                        .at("backbone.embedding.weight")
                        .values;
  CHECK(of(1) == std::vector<float>(wide.begin(), wide.end()));
}

TEST_CASE("the loss before training is what the specification tells") {
  const auto ids = support::random_tokens(256 * 8, 100, 1), labels = support::random_tokens(256, 100, 2);
  const auto loss = [&](double gamma) {
    return MambaForComposite<composite_config>({.n_layers = 2, .gamma = gamma, .seed = 1})
        .loss_and_gradients(ids, labels);
  };
  CHECK(std::abs(loss(0.1) - 9.48) < 0.6);
  CHECK(std::abs(loss(0.5) - 4.87) < 0.05);
  CHECK(std::abs(loss(1.0) - 4.607) < 0.003);
  CHECK(std::abs(loss(2.0) - 4.605) < 0.001);
}

TEST_CASE("initial values are the same for any number of threads, and left out on request") {
  // Large enough to be shared out, with rows that are no multiple of what is drawn at once.
  static constexpr Config wide{.vocab_size = 1003, .d_model = 200, .d_state = 16};
  MambaLMHeadModel<wide> one({.n_layers = 2, .seed = 9, .threads = 1}), five({.n_layers = 2, .seed = 9, .threads = 5});
  const auto of_one = one.state_dict(), of_five = five.state_dict();
  for (const auto& [name, tensor] : of_one) CHECK(tensor.values == of_five.at(name).values);

  MambaLMHeadModel<wide, OnesConv> empty({.n_layers = 2, .seed = 9, .draw = false});
  for (const auto& [name, tensor] : empty.state_dict()) {
    INFO(name);
    const float expected = name.find("conv1d.weight") != std::string::npos ? 1.0F : 0.0F;  // frozen: its one value
    CHECK(std::all_of(tensor.values.begin(), tensor.values.end(), [&](float x) { return x == expected; }));
  }
}
