#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <limits>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 10, .d_model = 16, .d_state = 8};

double squares(const StateDict<double>& dict) {
  double sum = 0;
  for (const auto& [name, tensor] : dict)
    for (const double x : tensor.values) sum += x * x;
  return sum;
}

}  // namespace

TEST_CASE("AdamW is the specification's formula, step by step") {
  MambaForComposite<tiny_config, double> model({.n_layers = 1, .seed = 1});
  const AdamWOptions o{.lr = 3e-2, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.1};
  AdamW optimizer(model, o);
  const auto ids = support::random_tokens(4 * 8, 10, 1), labels = support::random_tokens(4, 10, 2);
  auto expected = model.state_dict();
  auto mean = model.gradient_dict(), square = mean;
  for (auto* dict : {&mean, &square})
    for (auto& [name, tensor] : *dict) std::fill(tensor.values.begin(), tensor.values.end(), 0.0);
  for (int s = 1; s <= 3; ++s) {
    model.loss_and_gradients(ids, labels);
    for (const auto& [name, g] : model.gradient_dict())
      for (std::size_t k = 0; k < g.values.size(); ++k) {
        double &p = expected.at(name).values[k], &m = mean.at(name).values[k], &v = square.at(name).values[k];
        p *= 1 - o.lr * o.weight_decay;
        m = o.beta1 * m + (1 - o.beta1) * g.values[k];
        v = o.beta2 * v + (1 - o.beta2) * g.values[k] * g.values[k];
        p -= o.lr / (1 - std::pow(o.beta1, s)) * m / (std::sqrt(v) / std::sqrt(1 - std::pow(o.beta2, s)) + o.eps);
      }
    optimizer.step();
    for (const auto& [name, tensor] : model.state_dict())
      CHECK(support::relative_error(tensor.values, expected.at(name).values) < 1e-14);
  }
  CHECK(optimizer.steps() == 3);
}

TEST_CASE("clipping scales all gradients to the norm, and only then") {
  MambaForComposite<tiny_config, double> model({.n_layers = 2, .seed = 1});
  const auto ids = support::random_tokens(4 * 8, 10, 1), labels = support::random_tokens(4, 10, 2);
  model.loss_and_gradients(ids, labels);
  const double norm = std::sqrt(squares(model.gradient_dict()));
  CHECK(std::abs(clip_grad_norm(model, 2 * norm) - norm) < 1e-14 * norm);
  CHECK(std::abs(std::sqrt(squares(model.gradient_dict())) - norm) < 1e-14 * norm);
  CHECK(std::abs(clip_grad_norm(model, norm / 4) - norm) < 1e-14 * norm);
  const double expected = norm * (norm / 4) / (norm + 1e-6);
  CHECK(std::abs(std::sqrt(squares(model.gradient_dict())) - expected) < 1e-14 * norm);
}

TEST_CASE("frozen parameters have no gradient, no state, no decay and no part in the norm") {
  MambaForComposite<tiny_config, double, FrozenOnesConv> model({.n_layers = 2, .gamma = 1.0, .seed = 1});
  AdamW optimizer(model, {.lr = 0.1, .weight_decay = 0.5});
  const auto ids = support::random_tokens(4 * 8, 10, 1), labels = support::random_tokens(4, 10, 2);
  for (int s = 0; s < 3; ++s) {
    model.loss_and_gradients(ids, labels);
    const double norm = std::sqrt(squares(model.gradient_dict()));
    CHECK(std::abs(clip_grad_norm(model, 1e9) - norm) < 1e-14 * norm);
    optimizer.step();
  }
  for (const auto& dict : {model.gradient_dict(), optimizer.mean_dict(), optimizer.square_dict()})
    for (const auto& [name, tensor] : dict) CHECK(name.find("conv1d") == std::string::npos);
  for (const auto& [name, tensor] : model.state_dict())
    if (name.find("conv1d") != std::string::npos)
      for (const double x : tensor.values) CHECK(x == (name.ends_with("weight") ? 1.0 : 0.0));
}

TEST_CASE("an optimiser refuses bad options and a state of another model") {
  using Classifier = MambaForComposite<tiny_config>;
  Classifier model({.n_layers = 1, .seed = 1});
  const auto refused = [&](AdamWOptions o, const char* words) {
    CHECK_THROWS_WITH(AdamW<Classifier>(model, o), ContainsSubstring(words));
  };
  refused({.lr = -1}, "learning rate");
  refused({.lr = std::numeric_limits<double>::quiet_NaN()}, "learning rate");
  refused({.beta1 = 1}, "betas");
  refused({.weight_decay = -1}, "weight decay");
  CHECK_THROWS_WITH(clip_grad_norm(model, 0), ContainsSubstring("max_norm"));
  AdamW optimizer(model);
  CHECK_THROWS_AS(optimizer.set_lr(-1), Error);
  Classifier other({.n_layers = 2, .seed = 1});
  AdamW others(other);
  CHECK_THROWS_WITH(optimizer.load_state(others.mean_dict(), others.square_dict(), 3),
                    ContainsSubstring("no parameter"));
  CHECK(optimizer.steps() == 0);
}
