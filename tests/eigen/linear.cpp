#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <functional>
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

  Tensor<T, Out> added(rows, 3);
  for (int t = 0; t < rows; ++t)
    for (int o = 0; o < Out; ++o) y_expected[static_cast<std::size_t>(t * Out + o)] += added(t, o);
  linear<Write::add>(core, added.rows(), x.in(), w.weight());
  CHECK(support::relative_error(added.dense(), y_expected) < bound);

  linear_backward<Write::set>(core, dx.rows(), dy.in(), w.weight());
  for (std::size_t k = 0; k < dx_expected.size(); ++k) dx_expected[k] -= dx_before[k];
  CHECK(support::relative_error(dx.dense(), dx_expected) < 2 * bound);
}

}  // namespace

TEMPLATE_TEST_CASE("linear layers of all shapes", "", float, double) {
  for (const int rows : {1, 2, 5, 6, 7, 13, 64}) {
    check_linear<TestType, 1, 1>(rows);
    check_linear<TestType, 80, 48>(rows);
    check_linear<TestType, 258, 5>(rows);
    check_linear<TestType, 70, 259>(rows);
#ifndef MAMBA_TEST_FEW_MODELS
    check_linear<TestType, 64, 32>(rows);
    check_linear<TestType, 128, 64>(rows);
    check_linear<TestType, 3, 17>(rows);
    check_linear<TestType, 33, 2>(rows);
#endif
  }
  // Weights that are read as they lie: by rows, and in panels of more than one stretch of columns and piece of rows.
  for (const int rows : {1, 3, 4, 8, 9, 50, 130}) {
    check_linear<TestType, 65, 257>(rows);
    check_linear<TestType, 3, 256>(rows);
#ifndef MAMBA_TEST_FEW_MODELS
    check_linear<TestType, 200, 384>(rows);
    check_linear<TestType, 40, 1100>(rows);
#endif
  }
  check_linear<TestType, 530, 300>(520);
}

namespace {

// A product with weights of 8 bits is one with what they stand for.
template <int Out, int In>
void check_int8(int rows) {
  INFO("rows " << rows << ", out " << Out << ", in " << In);
  Buffer scratch;
  eigen::Core core(scratch);
  const Tensor<float, In> x(rows, 1);
  Tensor<float, Out> y(rows, 2), added(rows, 3);
  const support::Parameter2<float, Out, In> w(5);
  const support::RowsOfInt8<Out, In> stored(w.in());
  std::vector<double> expected_sum = added.dense();
  const std::vector<double> expected = support::product_in_double(x, stored);
  std::transform(expected.begin(), expected.end(), expected_sum.begin(), expected_sum.begin(), std::plus<>());
  linear(core, y.rows(), x.in(), stored.weight());
  linear<Write::add>(core, added.rows(), x.in(), stored.weight());
  CHECK(support::relative_error(y.dense(), expected) < 1e-6);
  CHECK(support::relative_error(added.dense(), expected_sum) < 1e-6);
  CHECK(y.padding_is_zero());
  if constexpr (Out > 20) {
    Tensor<float, 17> part(rows, 4);
    linear(core, part.rows(), x.in(), stored.weight().template row_block<3, 17>());
    for (int t = 0; t < rows; ++t)
      for (int o = 0; o < 17; ++o) CHECK(std::abs(part(t, o) - y(t, o + 3)) < 1e-5);
  }
}

}  // namespace

namespace {

// Both operands in 16 bits: the sum is of what they are.
template <int Out, int In>
void check_bfloat16(int rows) {
  INFO("rows " << rows << ", out " << Out << ", in " << In);
  Buffer scratch;
  eigen::Core core(scratch);
  const Tensor<float, In> x(rows, 1);
  const Tensor<float, In> w(Out, 5);
  Tensor<float, Out> y(rows, 2);
  const auto in_16_bits = [](const Tensor<float, In>& values) {
    const auto from = values.in();
    return std::vector<BFloat16>(from.data, from.data + static_cast<std::ptrdiff_t>(from.rows) * from.stride);
  };
  const std::vector<BFloat16> stored_x = in_16_bits(x);
  std::vector<BFloat16> stored_w = in_16_bits(w);
  stored_w.resize(stored_w.size() + row_alignment);
  std::vector<double> expected(static_cast<std::size_t>(rows * Out));
  for (int t = 0; t < rows; ++t)
    for (int o = 0; o < Out; ++o)
      for (int i = 0; i < In; ++i)
        expected[static_cast<std::size_t>(t * Out + o)] +=
            static_cast<double>(stored_x[static_cast<std::size_t>(t * padded(In) + i)]) *
            static_cast<double>(stored_w[static_cast<std::size_t>(o * padded(In) + i)]);
  linear(core, y.rows(), Rows<const BFloat16, In>{stored_x.data(), rows},
         Weight<BFloat16, Out, In>{stored_w.data(), nullptr});
  CHECK(support::relative_error(y.dense(), expected) < 1e-6);
  CHECK(y.padding_is_zero());

  std::vector<BFloat16> rounded(static_cast<std::size_t>(rows * padded(Out)));
  linear(core, Rows<BFloat16, Out>{rounded.data(), rows}, Rows<const BFloat16, In>{stored_x.data(), rows},
         Weight<BFloat16, Out, In>{stored_w.data(), nullptr});
  for (int t = 0; t < rows; ++t)
    for (int o = 0; o < Out; ++o)
      CHECK(rounded[static_cast<std::size_t>(t * padded(Out) + o)].bits == BFloat16(static_cast<float>(y(t, o))).bits);
}

}  // namespace

TEST_CASE("large linear layers in 16 bits") {
  for (const int rows : {1, 3, 8, 9, 50, 130}) {
    check_bfloat16<65, 257>(rows);
    check_bfloat16<40, 272>(rows);
#ifndef MAMBA_TEST_FEW_MODELS
    check_bfloat16<3, 256>(rows);
    check_bfloat16<200, 1100>(rows);
#endif
  }
  check_bfloat16<70, 300>(520);
}

TEST_CASE("linear layers with weights of 8 bits") {
  for (const int rows : {1, 2, 3, 4, 7, 8, 9, 64, 130}) {
    check_int8<80, 48>(rows);
    check_int8<33, 260>(rows);
#ifndef MAMBA_TEST_FEW_MODELS
    check_int8<1, 1>(rows);
    check_int8<3, 17>(rows);
    check_int8<200, 384>(rows);
    check_int8<40, 1100>(rows);
#endif
  }
}

TEST_CASE("a row of 8 bits is nearest to its numbers") {
  support::Parameter2<float, 5, 40> w(1);
  for (int j = 0; j < 40; ++j) {
    w.at(1, j) = 0;
    w.at(2, j) *= 1e-36F;
    w.at(3, j) *= 1e30F;
  }
  w.at(4, 7) = HUGE_VALF;
  const support::RowsOfInt8<5, 40> stored(w.in());
  for (const int column : {0, 7, 39}) {
    support::Parameter2<float, 2, 40> broken(2);
    broken.at(0, column) = NAN;
    const support::RowsOfInt8<2, 40> as(broken.in());
    for (int j = 0; j < 40; ++j) CHECK_FALSE(as(0, j) == as(0, j));
    for (int j = 0; j < 40; ++j) CHECK(std::abs(as(1, j) - broken(1, j)) < 0.005);
  }
  for (const int row : {0, 3}) {
    float largest = 0;
    for (int j = 0; j < 40; ++j) largest = (std::max)(largest, std::abs(w.at(row, j)));
    for (int j = 0; j < 40; ++j) CHECK(std::abs(stored(row, j) - w(row, j)) <= 0.5001 / 127 * largest);
  }
  for (int j = 0; j < 40; ++j) {
    CHECK(stored(1, j) == 0);
    CHECK(stored(2, j) == 0);
    CHECK_FALSE(stored(4, j) == stored(4, j));
  }
}

TEST_CASE("a team of threads changes no bit of a linear layer") {
  constexpr int out = 301, in = 512;
  for (const int rows : {1, 7, 64, 200, 600}) {
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
