#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/primitives.hpp"

using namespace mamba;
using support::Tensor;

namespace {

// A reference file's operator: y = (scan(u, softplus(delta_raw + bias), -exp(A_log), B, C) + D u) silu(z), with all
// gradients.
template <class T, int E, int N>
void check_reference(const char* name, int batch, int length) {
  const auto file = support::reference(name);
  const int rows = batch * length;
  std::vector<int> first;
  for (int b = 0; b <= batch; ++b) first.push_back(b * length);
  const Sequences sequences{first.data(), batch};
  const auto load = [&]<int Columns>(const char* tensor) {
    return Tensor<T, Columns>(rows, file.tensor<T>(tensor).values);
  };
  Buffer scratch;
  eigen::Core core(scratch);
  auto u = load.template operator()<E>("u"), pi = load.template operator()<E>("delta_raw"),
       z = load.template operator()<E>("z");
  auto dout = load.template operator()<E>("grad_y");
  auto b = load.template operator()<N>("B"), c = load.template operator()<N>("C");
  support::Parameter2<T, E, N> a_log(file.tensor<T>("A_log").values, Derived::rate), da(0, Derived::rate);
  support::Parameter2<T, 1, E> d(file.tensor<T>("D").values, Derived::none),
      bias(file.tensor<T>("delta_bias").values, Derived::none), dd(0), dbias(0);
  da.clear(), dd.clear(), dbias.clear();

  Tensor<T, E> delta(rows, 1), y(rows, 2), o(rows, 3), dy(rows, 4), dz(rows, 5), ddelta(rows, 6), du(rows, 7);
  Tensor<T, N> db(rows, 8), dc(rows, 9);
  std::vector<T> kept(
      static_cast<std::size_t>(eigen::kept_states(network::SelectiveScanSizes<T, E, N>{}, sequences) + 1) * E *
          padded(N) +
      16);
  Buffer boundaries(kept.size() * sizeof(T)), carry(static_cast<std::size_t>(E) * padded(N) * sizeof(T));
  add_bias(core, pi.rows(), bias.weight());
  softplus(core, delta.rows(), pi.in());
  selective_scan(core, y.rows(), boundaries.as<T>(), static_cast<T*>(nullptr), delta.in(), u.in(), b.in(), c.in(),
                 sequences, a_log.weight(), d.weight());
  gate(core, o.rows(), y.in(), z.in());
  gate_backward(core, dy.rows(), dz.rows(), dout.in(), y.in(), z.in());
  selective_scan_backward(core, ddelta.rows(), du.rows(), db.rows(), dc.rows(), da.gradient(), dd.gradient(), dy.in(),
                          static_cast<const T*>(boundaries.as<T>()), carry.as<T>(), delta.in(), u.in(), b.in(), c.in(),
                          sequences, a_log.weight(), d.weight());
  softplus_backward(core, ddelta.rows(), ddelta.in(), pi.in());
  add_bias_backward(core, dbias.gradient(), ddelta.in());
  // The gradient arrived with respect to A = -exp(A_log): the chain's factor is A itself.
  auto da_log = da.dense();
  for (int e = 0; e < E; ++e)
    for (int n = 0; n < N; ++n) da_log[static_cast<std::size_t>(e * N + n)] *= -std::exp(a_log(e, n));

  const double bound = sizeof(T) == 4 ? 2e-6 : 1e-13;
  const auto check = [&](const char* tensor, const std::vector<double>& found) {
    INFO(name << " " << tensor);
    CHECK(support::relative_error(found, file.tensor<double>(tensor).values) < bound);
  };
  check("y", o.dense());
  check("grad.u", du.dense());
  check("grad.delta_raw", ddelta.dense());
  check("grad.delta_bias", dbias.dense());
  check("grad.B", db.dense());
  check("grad.C", dc.dense());
  check("grad.A_log", da_log);
  check("grad.D", dd.dense());
  check("grad.z", dz.dense());
  CHECK(y.padding_is_zero());
  CHECK(du.padding_is_zero());
  CHECK(db.padding_is_zero());
}

// Any blocking of channels and states against the recurrence as written down, in double.
template <int E, int N>
void check_recurrence(int length) {
  INFO("channels " << E << ", states " << N << ", length " << length);
  Buffer scratch;
  eigen::Core core(scratch);
  const int first[] = {0, length};
  Tensor<double, E> delta(length, 1), u(length, 2), y(length, 3);
  Tensor<double, N> b(length, 4), c(length, 5);
  support::Parameter2<double, E, N> a_log(6, Derived::rate);
  support::Parameter2<double, 1, E> d(7);
  for (int t = 0; t < length; ++t)
    for (int e = 0; e < E; ++e) delta.at(t, e) = std::abs(delta.at(t, e));
  selective_scan(core, y.rows(), static_cast<double*>(nullptr), static_cast<double*>(nullptr), delta.in(), u.in(),
                 b.in(), c.in(), Sequences{first, 1}, a_log.weight(), d.weight());
  std::vector<double> expected;
  std::vector<double> h(E * N);
  for (int t = 0; t < length; ++t)
    for (int e = 0; e < E; ++e) {
      double sum = d(0, e) * u(t, e);
      for (int n = 0; n < N; ++n) {
        double& state = h[static_cast<std::size_t>(e * N + n)];
        state = std::exp(-delta(t, e) * std::exp(a_log(e, n))) * state + delta(t, e) * b(t, n) * u(t, e);
        sum += c(t, n) * state;
      }
      expected.push_back(sum);
    }
  CHECK(support::relative_error(y.dense(), expected) < 1e-13);
}

}  // namespace

TEMPLATE_TEST_CASE("the selective scan reproduces the reference operator and its gradients", "", float, double) {
  check_reference<TestType, 6, 5>("selective_scan", 2, 11);
  check_reference<TestType, 3, 16>("selective_scan_long", 1, 150);
}

TEST_CASE("the selective scan of any channels, states and lengths is the recurrence") {
  for (const int length : {1, 2, 16, 17, 40}) {
    check_recurrence<1, 1>(length);
    check_recurrence<5, 3>(length);
    check_recurrence<7, 72>(length);
#ifndef MAMBA_TEST_FEW_MODELS
    check_recurrence<9, 16>(length);
    check_recurrence<2, 264>(length);
#endif
  }
}
