#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <functional>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/primitives.hpp"

using namespace mamba;
using support::Tensor;

namespace {

constexpr int rows = 5, D = 19;
Buffer scratch;
eigen::Core core(scratch);

// The slope of sum(dy * f(x)) along one element of x, by central differences.
template <int Columns>
double slope(Tensor<double, Columns>& x, int t, int c, const std::function<double()>& value) {
  const double kept = x.at(t, c);
  x.at(t, c) = kept + 1e-6;
  const double above = value();
  x.at(t, c) = kept - 1e-6;
  const double below = value();
  x.at(t, c) = kept;
  return (above - below) / 2e-6;
}

template <int Columns>
double dot(const Tensor<double, Columns>& a, const Tensor<double, Columns>& b) {
  double sum = 0;
  const auto x = a.dense(), y = b.dense();
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

TEST_CASE("the RMS norm and its backward pass") {
  Tensor<double, D> x(rows, 1), y(rows, 2), dy(rows, 3), dx(rows, 4);
  support::Parameter2<double, 1, D> w(5), dw(6);
  double rho[rows];
  const auto run = [&] {
    rms_norm(core, y.rows(), rho, x.in(), w.weight());
    return dot(y, dy);
  };
  run();
  for (int t = 0; t < rows; ++t) {
    double mean = 0;
    for (int d = 0; d < D; ++d) mean += x(t, d) * x(t, d) / D;
    CHECK(std::abs(rho[t] - 1 / std::sqrt(mean + 1e-5)) < 1e-14);
    for (int d = 0; d < D; ++d) CHECK(std::abs(y(t, d) - x(t, d) * rho[t] * w(0, d)) < 1e-14);
  }
  CHECK(y.padding_is_zero());

  // Gradients add to what is there.
  const auto dx_before = dx.dense(), dw_before = dw.dense();
  rms_norm_backward(core, dx.rows(), dw.gradient(), dy.in(), static_cast<const double*>(rho), x.in(), w.weight());
  for (int t = 0; t < rows; ++t)
    for (int d = 0; d < D; ++d)
      CHECK(std::abs(dx(t, d) - dx_before[static_cast<std::size_t>(t * D + d)] - slope(x, t, d, run)) < 1e-7);
  for (int d = 0; d < D; ++d)
    CHECK(std::abs(dw(0, d) - dw_before[static_cast<std::size_t>(d)] - slope<D>(w, 0, d, run)) < 1e-7);
  CHECK(dx.padding_is_zero());
  CHECK(dw.padding_is_zero());
}

TEST_CASE("the gate and its backward pass") {
  Tensor<double, D> y(rows, 1), z(rows, 2), o(rows, 3), d_o(rows, 4), dy(rows, 5), dz(rows, 6);
  const auto run = [&] {
    gate(core, o.rows(), y.in(), z.in());
    return dot(o, d_o);
  };
  run();
  CHECK(std::abs(o(2, 3) - y(2, 3) * z(2, 3) / (1 + std::exp(-z(2, 3)))) < 1e-15);
  gate_backward(core, dy.rows(), dz.rows(), d_o.in(), y.in(), z.in());
  for (int t = 0; t < rows; ++t)
    for (int d = 0; d < D; ++d) {
      CHECK(std::abs(dy(t, d) - slope(y, t, d, run)) < 1e-8);
      CHECK(std::abs(dz(t, d) - slope(z, t, d, run)) < 1e-8);
    }
  CHECK(dy.padding_is_zero());
  CHECK(dz.padding_is_zero());
}

TEST_CASE("SiLU and softplus and their backward passes, in place too") {
  Tensor<double, D> x(rows, 1), y(rows, 2), dy(rows, 3), dx(rows, 4);
  const auto run_silu = [&] {
    silu(core, y.rows(), x.in());
    return dot(y, dy);
  };
  silu_backward(core, dx.rows(), dy.in(), x.in());
  for (int d = 0; d < D; ++d) CHECK(std::abs(dx(1, d) - slope(x, 1, d, run_silu)) < 1e-8);

  const auto run_softplus = [&] {
    softplus(core, y.rows(), x.in());
    return dot(y, dy);
  };
  run_softplus();
  CHECK(y.padding_is_zero());
  std::vector<double> expected;
  for (int d = 0; d < D; ++d) expected.push_back(slope(x, 2, d, run_softplus));
  softplus_backward(core, dy.rows(), dy.in(), x.in());
  for (int d = 0; d < D; ++d) CHECK(std::abs(dy(2, d) - expected[static_cast<std::size_t>(d)]) < 1e-8);
}

TEST_CASE("biases, sums, gathers and scatters") {
  Tensor<float, D> a(rows, 1), b(rows, 2), y(rows, 3);
  add(core, y.rows(), a.in(), b.in());
  CHECK(y(4, 18) == static_cast<double>(a.at(4, 18) + b.at(4, 18)));

  support::Parameter2<float, 1, D> bias(4), dbias(5);
  const auto before = dbias.dense();
  add_bias(core, y.rows(), bias.weight());
  CHECK(std::abs(y(0, 7) - (a(0, 7) + b(0, 7) + bias(0, 7))) < 1e-6);
  add_bias_backward(core, dbias.gradient(), a.in());
  double sum = before[5];
  for (int t = 0; t < rows; ++t) sum += a(t, 5);
  CHECK(std::abs(dbias(0, 5) - sum) < 1e-6);

  const int picked[] = {3, 0};
  Tensor<float, D> two(2, 6), back(rows, 7);
  gather(core, two.rows(), a.in(), picked);
  CHECK(two.at(0, 2) == a.at(3, 2));
  CHECK(two.at(1, 18) == a.at(0, 18));
  zero(core, back.rows());
  scatter(core, back.rows(), two.in(), picked);
  CHECK(back.at(3, 2) == a.at(3, 2));
  CHECK(back.at(1, 2) == 0);
}

TEST_CASE("embedding rows and their repeated tokens' gradients") {
  support::Parameter2<float, 6, D> table(1), dtable(2);
  const auto before = dtable.dense();
  const int tokens[] = {5, 2, 5, 0, 5};
  Tensor<float, D> x(rows, 3), dx(rows, 4);
  embedding(core, x.rows(), tokens, table.weight());
  for (int t = 0; t < rows; ++t) CHECK(x.at(t, 11) == table.at(tokens[t], 11));
  embedding_backward(core, dtable.gradient(), dx.in(), tokens);
  CHECK(std::abs(dtable(5, 3) - (before[5 * D + 3] + dx(0, 3) + dx(2, 3) + dx(4, 3))) < 1e-6);
  CHECK(dtable(1, 3) == before[1 * D + 3]);
}

TEST_CASE("cross-entropy over the first classes only") {
  constexpr int classes = 13;
  Tensor<double, D> logits(rows, 1), gradient(rows, 2);
  for (int t = 0; t < rows; ++t) logits.at(t, 3) = 40 * t;  // large logits must not overflow
  const int labels[] = {0, 12, 3, 5, 3};
  const auto run = [&] { return cross_entropy(core, gradient.rows(), logits.in(), labels, classes, 0.25); };
  double expected = 0;
  for (int t = 0; t < rows; ++t) {
    double sum = 0;
    for (int v = 0; v < classes; ++v) sum += std::exp(logits(t, v) - logits(t, labels[t]));
    expected += 0.25 * std::log(sum);
  }
  CHECK(std::abs(run() - expected) < 1e-12 * expected);
  const auto analytic = gradient.dense();
  for (int t = 0; t < rows; ++t)
    for (int v = 0; v < D; ++v) {
      const double g = analytic[static_cast<std::size_t>(t * D + v)];
      if (v >= classes) CHECK(g == 0);
      else CHECK(std::abs(g - slope(logits, t, v, run)) < 1e-7);
    }
}
