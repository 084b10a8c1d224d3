#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include <mamba/math/activation.hpp>

using namespace mamba::math;

TEST_CASE("activations and their derivatives agree with central differences") {
  for (double x = -30; x <= 30; x += 0.37) {
    const auto slope = [x](auto f) { return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6; };
    CHECK(std::abs(silu_derivative(x, sigmoid(x)) - slope([](double t) { return silu(t); })) < 1e-8);
    if (std::abs(x - 20) > 1e-5)
      CHECK(std::abs(softplus_derivative(x) - slope([](double t) { return softplus(t); })) < 1e-8);
  }
}

TEST_CASE("softplus is exact far below zero and the identity above 20") {
  CHECK(softplus(-40.0) == std::log1p(std::exp(-40.0)));
  CHECK(softplus(20.5) == 20.5);
  CHECK(softplus_derivative(20.5) == 1);
  CHECK(softplus(1000.0F) == 1000.0F);
}
