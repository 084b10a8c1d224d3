#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/primitives.hpp"

using namespace mamba;
using support::Tensor;

namespace {

// Three sequences of 7, 1 and 2 rows against the definition, for E channels and K taps.
template <class T, int E, int K>
void check_conv() {
  INFO("channels " << E << ", taps " << K);
  constexpr int rows = 10;
  const int first[] = {0, 7, 8, 10};
  const Sequences sequences{first, 3};
  Buffer scratch;
  eigen::Core core(scratch);
  Tensor<T, E> x(rows, 1), v(rows, 2), dv(rows, 3), dx(rows, 4);
  support::Parameter2<T, E, K> w(5), dw(6);
  support::Parameter2<T, 1, E> bias(7);
  const auto dw_before = dw.dense();
  causal_conv(core, v.rows(), x.in(), sequences, w.weight(), bias.weight());
  causal_conv_backward(core, dx.rows(), dv.in(), sequences, w.weight());
  causal_conv_weight_backward(core, dw.gradient(), dv.in(), x.in(), sequences);

  std::vector<double> v_expected(rows * E), dx_expected(rows * E), dw_expected = dw_before;
  for (int s = 0; s < 3; ++s)
    for (int t = first[s]; t < first[s + 1]; ++t)
      for (int e = 0; e < E; ++e) {
        const auto at = [&](int row) { return static_cast<std::size_t>(row * E + e); };
        v_expected[at(t)] += bias(0, e);
        for (int k = 0; k < K; ++k) {
          const int from = t - (K - 1) + k;
          if (from < first[s]) continue;
          v_expected[at(t)] += w(e, k) * x(from, e);
          dx_expected[at(from)] += w(e, k) * dv(t, e);
          dw_expected[static_cast<std::size_t>(e * K + k)] += dv(t, e) * x(from, e);
        }
      }
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-14;
  CHECK(support::relative_error(v.dense(), v_expected) < bound);
  CHECK(support::relative_error(dx.dense(), dx_expected) < bound);
  CHECK(support::relative_error(dw.dense(), dw_expected) < bound);
  CHECK(v.padding_is_zero());
  CHECK(dx.padding_is_zero());
  CHECK(dw.padding_is_zero());
}

}  // namespace

TEMPLATE_TEST_CASE("the causal convolution, sequences shorter than the kernel among them", "", float, double) {
  check_conv<TestType, 64, 4>();
  check_conv<TestType, 5, 1>();
  check_conv<TestType, 17, 2>();
  check_conv<TestType, 48, 3>();
  check_conv<TestType, 3, 9>();
}
