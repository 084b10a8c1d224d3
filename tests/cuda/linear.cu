// The GPU's products against plain loops in double, and how exact they are beside plain FMA.
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/linear.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/runtime/buffer.hpp>

#include "support/parity.hpp"

using namespace mamba;

namespace {

constexpr double poison = std::numeric_limits<double>::quiet_NaN();

// A matrix as products see it, poison at first, with its rows' padding and a row behind it that stays poison.
template <class T>
struct Values {
  int rows, columns, stride = padded(columns);
  std::vector<T> all = std::vector<T>(static_cast<std::size_t>((rows + 1) * stride), static_cast<T>(poison));

  T& operator()(int row, int column) { return all[static_cast<std::size_t>(row * stride + column)]; }
  double operator()(int row, int column) const {
    return static_cast<double>(all[static_cast<std::size_t>(row * stride + column)]);
  }
};

double normal(std::uint64_t seed, std::uint64_t i) {
  return random_normal(random_words(seed, RandomPurpose::task, 97, i));
}

// Numbers that S can hold.
template <class T, class S = T>
Values<T> random_values(int rows, int columns, std::uint64_t seed) {
  Values<T> v{rows, columns};
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < v.stride; ++c)
      v(r, c) = c < columns ? static_cast<T>(static_cast<S>(normal(seed, static_cast<std::uint64_t>(r * columns + c))))
                            : T(0);
  return v;
}

// The three products of a layer, as their functions name the operands.
enum class Product { forward, backward, weight };

MAMBA_COMPOSITION
template <Product product, Write write, int Out, int In, class C, class A, class B, class Backend>
__host__ __device__ void multiply_by(Backend& be, C* c, const A* a, const B* b, int rows) {
  if constexpr (product == Product::forward)
    linear<write>(be, Rows<C, Out>{c, rows}, Rows<const A, In>{a, rows}, Weight<B, Out, In>{b});
  else if constexpr (product == Product::backward)
    linear_backward<write>(be, Rows<C, In>{c, rows}, Rows<const A, Out>{a, rows}, Weight<B, Out, In>{b});
  else
    linear_weight_backward(be, WeightGradient<C, Out, In>{c}, Rows<const A, Out>{a, rows}, Rows<const B, In>{b, rows});
}

template <Product product, Write write, int Out, int In, class T>
__global__ void __launch_bounds__(cuda::Block::threads) multiply(T* c, const T* a, const T* b, int rows) {
  cuda::Block be;
  multiply_by<product, write, Out, In>(be, c, a, b, rows);
}

template <Scope scope, Product product, Write write, int Out, int In, class C, class A, class B>
void multiply_on_device(Values<C>& c, const Values<A>& a, const Values<B>& b, int rows) {
  const cuda::QueuePointer queue = scope == Scope::grid ? std::make_shared<cuda::Queue>(0) : nullptr;
  cuda::DeviceBuffer on_device[]{cuda::DeviceBuffer(queue), cuda::DeviceBuffer(queue), cuda::DeviceBuffer(queue)};
  on_device[0].upload(c.all.data(), c.all.size()), on_device[1].upload(a.all.data(), a.all.size()),
      on_device[2].upload(b.all.data(), b.all.size());
  if constexpr (scope == Scope::grid) {
    cuda::Grid be(queue);
    multiply_by<product, write, Out, In>(be, on_device[0].as<C>(), on_device[1].as<A>(), on_device[2].as<B>(), rows);
    queue->wait();
  } else {
    const auto kernel = multiply<product, write, Out, In, C>;
    constexpr std::size_t shared = cuda::Block::shared_bytes<C>;
    cuda::allow_shared_memory(kernel, shared);
    cuda::launch_kernel("the product", kernel, {1, cuda::Block::threads, shared}, nullptr, on_device[0].as<C>(),
                        on_device[1].as<A>(), on_device[2].as<B>(), rows);
  }
  cuda::check(cudaMemcpy(c.all.data(), on_device[0].data(), c.all.size() * sizeof(C), cudaMemcpyDeviceToHost),
              "the product");
}

// An operand's element that belongs to row (or column) `index` of the result and element k of the sum.
template <class T>
double element(const Values<T>& v, bool index_is_row, int index, int k) {
  return index_is_row ? v(index, k) : v(k, index);
}

// How far sums of so many terms may be off, over the sum of their sizes. Those of 16 bits are summed by the tensor
// cores, which cut off where they should round.
template <class C, class B>
double bound_of(int depth) {
  constexpr bool of_halves = std::is_same_v<B, BFloat16>;
  constexpr auto epsilon = static_cast<double>(std::numeric_limits<ComputeOf<B>>::epsilon());
  return (of_halves ? 2 + depth / 8.0 : 2 + std::sqrt(depth) / 4) * epsilon +
         (std::is_same_v<C, BFloat16> ? 0x1p-8 : 0);
}

template <Scope scope, Product product, Write write, class C, int Out, int In, class A = C, class B = C>
void check_product(int rows) {
  INFO("product " << static_cast<int>(product) << (write == Write::add ? ", added" : "") << ", rows " << rows
                  << ", out " << Out << ", in " << In);
  constexpr bool forward = product == Product::forward, weight = product == Product::weight;
  const int depth = forward ? In : weight ? rows : Out;
  const auto a = random_values<A, B>(rows, forward ? In : Out, 1);
  const auto b = random_values<B>(weight ? rows : Out, In, 2);
  auto c = random_values<C>(weight ? Out : rows, forward ? Out : In, 3);
  const auto before = c;
  if (write == Write::set) c = {c.rows, c.columns};
  multiply_on_device<scope, product, write, Out, In>(c, a, b, rows);

  double worst = 0;  // over what rounding may do to sums of such terms
  bool padding_is_zero = true, behind_is_untouched = true;
  for (int i = 0; i < c.rows; ++i) {
    for (int j = 0; j < c.columns; ++j) {
      double sum = write == Write::add ? before(i, j) : 0, terms = std::abs(sum);
      for (int k = 0; k < depth; ++k) {
        const double term = element(a, !weight, i, k) * element(b, forward, j, k);
        sum += term, terms += std::abs(term);
      }
      const double error = std::abs(std::as_const(c)(i, j) - sum) / terms;
      worst = error <= worst ? worst : error;  // not a number stays
    }
    for (int j = c.columns; j < c.stride; ++j) padding_is_zero &= std::as_const(c)(i, j) == 0;
  }
  for (int j = 0; j < c.stride; ++j) behind_is_untouched &= std::isnan(std::as_const(c)(c.rows, j));
  CHECK(worst < bound_of<C, B>(depth));
  CHECK(padding_is_zero);
  CHECK(behind_is_untouched);
}

template <class T, int Out, int In, Scope scope = Scope::block>
void check_layer(std::initializer_list<int> all_rows = {1, 2, 8, 31, 64, 100, 128, 200}) {
  for (const int rows : all_rows) {
    check_product<scope, Product::forward, Write::set, T, Out, In>(rows);
    check_product<scope, Product::forward, Write::add, T, Out, In>(rows);
    check_product<scope, Product::backward, Write::set, T, Out, In>(rows);
    check_product<scope, Product::backward, Write::add, T, Out, In>(rows);
    check_product<scope, Product::weight, Write::add, T, Out, In>(rows);
  }
}

// The same of 16 bits: forward into either type, backward from gradients in float, which these numbers hold exactly.
template <int Out, int In>
void check_stored_layer(std::initializer_list<int> all_rows) {
  for (const int rows : all_rows) {
    check_product<Scope::grid, Product::forward, Write::set, BFloat16, Out, In>(rows);
    check_product<Scope::grid, Product::forward, Write::add, BFloat16, Out, In>(rows);
    check_product<Scope::grid, Product::forward, Write::set, float, Out, In, BFloat16, BFloat16>(rows);
    check_product<Scope::grid, Product::forward, Write::add, float, Out, In, BFloat16, BFloat16>(rows);
    check_product<Scope::grid, Product::backward, Write::set, float, Out, In, float, BFloat16>(rows);
    check_product<Scope::grid, Product::backward, Write::add, float, Out, In, float, BFloat16>(rows);
    check_product<Scope::grid, Product::weight, Write::add, float, Out, In, float, BFloat16>(rows);
  }
}

// The relative rms errors of y = x W^T on the device and by one FMA after the other, both in float.
template <Scope scope, int Depth>
void compare_with_fma(const Values<float>& x, const Values<float>& w) {
  Values<float> y{x.rows, w.rows};
  multiply_on_device<scope, Product::forward, Write::set, 128, Depth>(y, x, w, x.rows);
  std::vector<double> here, plain, exact;
  for (int i = 0; i < y.rows; ++i)
    for (int j = 0; j < y.columns; ++j) {
      float sum = 0;
      double exact_sum = 0;
      for (int k = 0; k < Depth; ++k) {
        sum = std::fma(static_cast<float>(x(i, k)), static_cast<float>(w(j, k)), sum);
        exact_sum += x(i, k) * w(j, k);
      }
      here.push_back(std::as_const(y)(i, j)), plain.push_back(sum), exact.push_back(exact_sum);
    }
  const double error = support::relative_error(here, exact), fma_error = support::relative_error(plain, exact);
  INFO("depth " << Depth << ": error " << error << ", by FMA " << fma_error);
  CHECK(error <= 1.2 * fma_error);
}

template <int Depth, Scope scope = Scope::block>
void check_accuracy() {
  auto x = random_values<float>(128, Depth, 4), w = random_values<float>(128, Depth, 5);
  {
    INFO("normal operands");
    compare_with_fma<scope, Depth>(x, w);
  }
  {
    INFO("positive operands");
    auto px = x, pw = w;
    for (float& v : px.all) v = std::abs(v);
    for (float& v : pw.all) v = std::abs(v);
    compare_with_fma<scope, Depth>(px, pw);
  }
  {
    INFO("sums that cancel");  // the second half takes all but a thousandth of the first away
    for (int i = 0; i < 128; ++i)
      for (int k = Depth / 2; k < Depth / 2 * 2; ++k) {
        x(i, k) = x(i, k - Depth / 2);
        w(i, k) = static_cast<float>(w(i, k - Depth / 2) * (1e-3 * static_cast<double>(w(i, k)) - 1));
      }
    compare_with_fma<scope, Depth>(x, w);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA: products of all shapes", "", float, double) {
  support::need_backend();
  check_layer<TestType, 1, 1>();
  check_layer<TestType, 2, 64>();
  check_layer<TestType, 64, 2>();
  check_layer<TestType, 3, 31>();
  check_layer<TestType, 16, 8>();
  check_layer<TestType, 8, 16>();
  check_layer<TestType, 31, 3>();
  check_layer<TestType, 64, 32>();
  check_layer<TestType, 32, 100>();
  check_layer<TestType, 128, 64>();
  check_layer<TestType, 100, 258>();
  check_layer<TestType, 258, 128>();
  check_layer<TestType, 320, 32>();
  check_layer<TestType, 1, 320>();
}

TEST_CASE("CUDA: products in float are as exact as plain FMA") {
  support::need_backend();
  check_accuracy<2>();
  check_accuracy<16>();
  check_accuracy<32>();
  check_accuracy<64>();
  check_accuracy<128>();
  check_accuracy<256>();
}

// Sizes on both sides of what cuts them: rows of few, of one tile and of many; sums of one panel, and of so many that
// they are shared out.
TEMPLATE_TEST_CASE("CUDA grid: products of all shapes", "", float, double) {
  support::need_backend();
  check_layer<TestType, 1, 1, Scope::grid>({1, 9, 200});
  check_layer<TestType, 3, 31, Scope::grid>({8, 9, 100});
  check_layer<TestType, 32, 100, Scope::grid>({9, 33, 64, 65, 300});
  check_layer<TestType, 100, 258, Scope::grid>({9, 127, 128, 129, 1500});
  check_layer<TestType, 258, 33, Scope::grid>({64, 1500});
  check_layer<TestType, 48, 1030, Scope::grid>({9, 100, 2000});
  check_layer<TestType, 4101, 1030, Scope::grid>({1, 5});
}

TEST_CASE("CUDA grid: products of 16 bits") {
  support::need_backend();
  check_stored_layer<1, 1>({1, 9, 300});
  check_stored_layer<3, 31>({8, 9, 100});
  check_stored_layer<32, 100>({4, 5, 9, 33, 64, 65, 256, 257});
  check_stored_layer<100, 258>({9, 127, 128, 129, 1500});
  check_stored_layer<258, 33>({64, 1500});
  check_stored_layer<48, 1030>({1, 9, 100, 2000});
}

TEST_CASE("CUDA grid: products in float are as exact as plain FMA") {
  support::need_backend();
  check_accuracy<16, Scope::grid>();
  check_accuracy<32, Scope::grid>();
  check_accuracy<64, Scope::grid>();
  check_accuracy<256, Scope::grid>();
  check_accuracy<1000, Scope::grid>();
}
