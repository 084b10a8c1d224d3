#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <vector>

#include <mamba/eigen/backend.hpp>
#include <mamba/eigen/weights.hpp>

#include "support/primitives.hpp"

using namespace mamba;
using support::Tensor;

namespace {

// All three products of a layer against plain loops in double.
template <class T, int Out, int In>
void check_linear(int rows) {
  INFO("rows " << rows << ", out " << Out << ", in " << In);
  Buffer scratch;
  eigen::Core core(scratch);
  Tensor<T, In> x(rows, 1), dx(rows, 2);
  Tensor<T, Out> y(rows, 3), dy(rows, 4);
  support::Parameter2<T, Out, In> w(5), dw(6);
  const auto dx_before = dx.dense(), dw_before = dw.dense();

  linear(core, y.rows(), x.in(), w.weight());
  linear_backward<Write::add>(core, dx.rows(), dy.in(), w.weight());
  linear_weight_backward(core, dw.gradient(), dy.in(), x.in());

  std::vector<double> y_expected(static_cast<std::size_t>(rows * Out)), dx_expected = dx_before,
                                                                        dw_expected = dw_before;
  for (int t = 0; t < rows; ++t)
    for (int o = 0; o < Out; ++o)
      for (int i = 0; i < In; ++i) {
        y_expected[static_cast<std::size_t>(t * Out + o)] += x(t, i) * w(o, i);
        dx_expected[static_cast<std::size_t>(t * In + i)] += dy(t, o) * w(o, i);
        dw_expected[static_cast<std::size_t>(o * In + i)] += dy(t, o) * x(t, i);
      }
  const double bound = sizeof(T) == 4 ? 1e-6 : 1e-14;
  CHECK(support::relative_error(y.dense(), y_expected) < bound);
  CHECK(support::relative_error(dx.dense(), dx_expected) < bound);
  CHECK(support::relative_error(dw.dense(), dw_expected) < bound);
  CHECK(y.padding_is_zero());
  CHECK(dx.padding_is_zero());
  CHECK(dw.padding_is_zero());

  linear_backward<Write::set>(core, dx.rows(), dy.in(), w.weight());
  for (std::size_t k = 0; k < dx_expected.size(); ++k) dx_expected[k] -= dx_before[k];
  CHECK(support::relative_error(dx.dense(), dx_expected) < 2 * bound);
}

}  // namespace

TEMPLATE_TEST_CASE("linear layers of all shapes", "", float, double) {
  for (const int rows : {1, 2, 5, 6, 7, 13, 64}) {
    check_linear<TestType, 64, 32>(rows);
    check_linear<TestType, 128, 64>(rows);
    check_linear<TestType, 1, 1>(rows);
    check_linear<TestType, 3, 17>(rows);
    check_linear<TestType, 33, 2>(rows);
    check_linear<TestType, 258, 5>(rows);
    check_linear<TestType, 80, 48>(rows);
    check_linear<TestType, 70, 259>(rows);
  }
}

TEST_CASE("a team of threads changes no bit of a linear layer") {
  constexpr int out = 301, in = 512;
  for (const int rows : {1, 7, 64, 200}) {
    INFO("rows " << rows);
    const Tensor<float, in> x(rows, 1);
    const support::Parameter2<float, out, in> w(2);
    Buffer scratch;
    eigen::Core alone(scratch);
    Tensor<float, out> expected(rows, 3);
    linear(alone, expected.rows(), x.in(), w.weight());
    for (const int threads : {2, 7}) {
      ThreadPool pool(threads);
      eigen::Core core(scratch, &pool);
      Tensor<float, out> y(rows, 4);
      linear(core, y.rows(), x.in(), w.weight());
      CHECK(y.dense() == expected.dense());
      CHECK(y.padding_is_zero());
    }
  }
}

TEST_CASE("a block of a weight's rows is a weight") {
  Buffer scratch;
  eigen::Core core(scratch);
  Tensor<float, 20> x(9, 1);
  support::Parameter2<float, 41, 20> w(2);
  Tensor<float, 41> whole(9, 3);
  Tensor<float, 17> part(9, 4);
  linear(core, whole.rows(), x.in(), w.weight());
  linear(core, part.rows(), x.in(), w.weight().row_block<3, 17>());
  for (int t = 0; t < 9; ++t)
    for (int o = 0; o < 17; ++o) CHECK(part(t, o) == whole(t, o + 3));
  CHECK(part.padding_is_zero());
}
