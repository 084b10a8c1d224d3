// Gradients against central differences in double.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <string>

#include "support/reference.hpp"

namespace support {

// For every parameter tensor: some single elements and one direction through the whole tensor. loss() computes loss and
// gradients at the model's parameters. Differences of fourth order: the norms make the loss curve sharply where the
// residual stream is small. The bound is relative to the gradient of the whole model.
template <class Model, class Loss>
void check_gradients(Model& model, Loss&& loss, double bound = 2e-8) {
  loss();
  const auto parameters = model.state_dict();
  const auto gradients = model.gradient_dict();
  double total = 0;
  for (const auto& [name, tensor] : gradients)
    for (const double g : tensor.values) total += g * g;
  const double scale = std::sqrt(total) + 1e-3;

  std::uint64_t draw = 0;
  const auto slope = [&](const std::string& name, const std::vector<double>& direction) {
    constexpr double step = 1e-5;
    auto moved = parameters;
    auto& values = moved.at(name).values;
    const auto at = [&](double distance) {
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = parameters.at(name).values[i] + distance * direction[i];
      model.load_state_dict(moved);
      return loss();
    };
    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
  };
  for (const auto& [name, tensor] : gradients) {
    INFO("gradient of " << name);
    const std::size_t size = tensor.values.size();
    for (int element = 0; element < 3; ++element) {
      const auto k = static_cast<std::size_t>((random_number(11, draw++) * 0.5 + 0.5) * static_cast<double>(size));
      std::vector<double> direction(size, 0.0);
      direction[k] = 1;
      INFO("element " << k);
      CHECK(std::abs(slope(name, direction) - tensor.values[k]) <= bound * scale);
    }
    std::vector<double> direction(size);
    double norm = 0, expected = 0;
    for (double& d : direction) d = random_number(12, draw++), norm += d * d;
    for (std::size_t k = 0; k < size; ++k) direction[k] /= std::sqrt(norm), expected += direction[k] * tensor.values[k];
    CHECK(std::abs(slope(name, direction) - expected) <= bound * scale);
  }
  model.load_state_dict(parameters);
}

}  // namespace support
