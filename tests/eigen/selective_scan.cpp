#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <utility>
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

// Any blocking of channels and states against the recurrence and its adjoint as written down, in double: two sequences,
// from zero or from a state, whose gradient comes from where they end.
template <int E, int N>
void check_recurrence(int length, int second, bool passes) {
  INFO("channels " << E << ", states " << N << ", lengths " << length << " and " << second
                   << (passes ? ", from a state" : ""));
  const int rows = length + second;
  Buffer scratch;
  eigen::Core core(scratch);
  const int first[] = {0, length, rows};
  const Sequences sequences{first, 2};
  Tensor<double, E> delta(rows, 1), u(rows, 2), y(rows, 3), dy(rows, 4), ddelta(rows, 5), du(rows, 6);
  Tensor<double, N> b(rows, 7), c(rows, 8), db(rows, 9), dc(rows, 10);
  const support::Parameter2<double, E, N> a_log(11, Derived::rate);
  const support::Parameter2<double, 1, E> d(12);
  support::Parameter2<double, E, N> da(13);
  support::Parameter2<double, 1, E> dd(14);
  Tensor<double, N> began(2 * E, 15), state(2 * E, 15), of_end(2 * E, 16);
  for (int t = 0; t < rows; ++t)
    for (int e = 0; e < E; ++e) delta.at(t, e) = std::abs(delta.at(t, e));
  const int kept = eigen::kept_states(network::SelectiveScanSizes<double, E, N>{}, sequences);
  Tensor<double, N> boundaries((kept + 1) * E, 17), carry(E, 18);

  // The sums of both passes, in the order of time and back; what adds up begins from what was there.
  std::vector<double> y_expected, of_delta(ddelta.dense().size()), of_u(of_delta.size()), of_b(db.dense().size()),
      of_c(of_b.size()), of_a = da.dense(), of_d = dd.dense(), of_began(of_end.dense().size());
  for (int t = 0; t < rows; ++t)
    for (int e = 0; e < E; ++e) {
      y_expected.push_back(d(0, e) * u(t, e));
      of_u[static_cast<std::size_t>(t * E + e)] = d(0, e) * dy(t, e);
      of_d[static_cast<std::size_t>(e)] += dy(t, e) * u(t, e);
    }
  for (int s = 0; s < 2; ++s)
    for (int e = 0; e < E; ++e)
      for (int n = 0; n < N; ++n) {
        const double a = -std::exp(a_log(e, n));
        const auto decay = [&](int t) { return std::exp(delta(t, e) * a); };
        std::vector<double> h{passes ? began(s * E + e, n) : 0.0};
        for (int t = first[s]; t < first[s + 1]; ++t) {
          h.push_back(decay(t) * h.back() + delta(t, e) * b(t, n) * u(t, e));
          y_expected[static_cast<std::size_t>(t * E + e)] += c(t, n) * h.back();
        }
        double lambda = passes ? of_end(s * E + e, n) : 0.0;
        for (int t = first[s + 1] - 1; t >= first[s]; --t) {
          const auto step = static_cast<std::size_t>(t - first[s]), at = static_cast<std::size_t>(t * E + e),
                     at_state = static_cast<std::size_t>(t * N + n);
          const double carried = decay(t) * h[step];
          lambda += c(t, n) * dy(t, e);
          of_c[at_state] += dy(t, e) * h[step + 1];
          of_b[at_state] += lambda * delta(t, e) * u(t, e);
          of_u[at] += lambda * delta(t, e) * b(t, n);
          of_delta[at] += lambda * (u(t, e) * b(t, n) + a * carried);
          of_a[static_cast<std::size_t>(e * N + n)] += lambda * delta(t, e) * carried;
          lambda *= decay(t);
        }
        of_began[static_cast<std::size_t>((s * E + e) * N + n)] = lambda;
      }

  selective_scan(core, y.rows(), boundaries.rows().data, passes ? state.rows().data : nullptr, delta.in(), u.in(),
                 b.in(), c.in(), sequences, a_log.weight(), d.weight());
  const auto backward = [&](auto passed) {
    selective_scan_backward(core, ddelta.rows(), du.rows(), db.rows(), dc.rows(), da.gradient(), dd.gradient(), dy.in(),
                            static_cast<const double*>(boundaries.rows().data), carry.rows().data, delta.in(), u.in(),
                            b.in(), c.in(), sequences, a_log.weight(), d.weight(), passed);
  };
  if (passes) backward(network::PassedState<double>{began.rows().data, of_end.rows().data});
  else backward(network::NoPassedState{});
  const auto check = [](const char* name, const std::vector<double>& found, const std::vector<double>& expected) {
    INFO(name);
    CHECK(support::relative_error(found, expected) < 1e-13);
  };
  check("y", y.dense(), y_expected);
  check("gradient of delta", ddelta.dense(), of_delta);
  check("gradient of u", du.dense(), of_u);
  check("gradient of b", db.dense(), of_b);
  check("gradient of c", dc.dense(), of_c);
  check("gradient of a", da.dense(), of_a);
  check("gradient of d", dd.dense(), of_d);
  if (passes) check("gradient of the state", of_end.dense(), of_began);
}

}  // namespace

TEMPLATE_TEST_CASE("the selective scan reproduces the reference operator and its gradients", "", float, double) {
  check_reference<TestType, 6, 5>("selective_scan", 2, 11);
  check_reference<TestType, 3, 16>("selective_scan_long", 1, 150);
}

TEST_CASE("the selective scan of any channels, states and lengths is the recurrence, and its gradients the adjoint") {
  for (const auto& [length, second] : {std::pair{1, 2}, {2, 17}, {16, 1}, {17, 40}, {40, 16}})
    for (const bool passes : {false, true}) {
      check_recurrence<5, 3>(length, second, passes);
      check_recurrence<7, 72>(length, second, passes);
#ifndef MAMBA_TEST_FEW_MODELS
      check_recurrence<1, 1>(length, second, passes);
      check_recurrence<9, 16>(length, second, passes);
      check_recurrence<2, 264>(length, second, passes);
#endif
    }
}
