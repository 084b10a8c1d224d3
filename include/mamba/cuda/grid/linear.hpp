// Products with weight matrices over the whole device (specification, section 1): those of few rows, and those of float
// that are to be exact, by kernels of our own, the others by cuBLAS.
#pragma once

#include <type_traits>
#include <utility>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/product.hpp>

namespace mamba::cuda {

// Up to so many rows cuBLAS has no part in linear(), so that a graph can hold it.
template <class T>
inline constexpr int most_step_rows = std::is_same_v<T, float> ? GridTuning::step_rows : GridTuning::few_rows;

namespace detail {

template <class T, int C>
__global__ void __launch_bounds__(Block::threads) clear_padding_of_rows(Rows<T, C> x) {
  constexpr int width = Rows<T, C>::stride - C;
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  if (i / width < static_cast<std::size_t>(x.rows)) x[static_cast<std::ptrdiff_t>(i / width)][C + i % width] = 0;
}
template <class T, int C>
void clear_padding(Grid& be, Rows<T, C> x) {
  constexpr int width = Rows<T, C>::stride - C;
  if constexpr (width > 0)
    be.launch_over("clear_padding_of_rows", clear_padding_of_rows<T, C>, static_cast<std::size_t>(x.rows) * width, x);
}

// f(rows, std::integral_constant of its first column) for each of several matrices side by side.
template <class T, int... Columns, class F>
void each_piece(Beside<T, Columns...> pieces, F&& f) {
  [&]<int... piece>(std::integer_sequence<int, piece...>) {
    (f(pieces.template get<piece>(), std::integral_constant<int, Beside<T, Columns...>::first(piece)>()), ...);
  }(std::make_integer_sequence<int, sizeof...(Columns)>());
}

// c <- or += a b; a's lines lie along the result's rows or along the sum, b's along its columns or along the sum.
// without_cublas: as recorded kernels must be.
template <Along along_a, Along along_b, class T>
void multiply(Grid& be, Lines<T> c, Lines<const T> a, Lines<const T> b, ProductSizes sizes, Write write,
              bool without_cublas = false) {
  if constexpr (std::is_same_v<T, float>)
    if (without_cublas || (be.precision() == Products::exact && sizes.depth >= tensor_core_depth))
      return multiply_exactly<along_a, along_b>(be, SideBySide<T, 1>{{c.data}, {0}, {c.stride}}, a, b, sizes, write);
  // Its matrices are column-major: rows of ours are columns of its, and the product is written transposed.
  const auto transposed = [](Along along) { return along == Along::sum ? CUBLAS_OP_T : CUBLAS_OP_N; };
  be.products().gemm(transposed(along_b), along_a == Along::sum ? CUBLAS_OP_N : CUBLAS_OP_T, sizes.columns, sizes.rows,
                     sizes.depth, b.data, b.stride, a.data, a.stride, T(write == Write::add), c.data, c.stride);
}

template <class T, int C>
Lines<T> lines(Rows<T, C> x) {
  return {x.data, x.stride};
}
template <class T, int R, int C, int OfRows, int First>
Lines<const T> lines(Weight<T, R, C, OfRows, First> w) {
  return {w.value, w.stride};
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear(Grid& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  using detail::Along, detail::lines;
  if (x.rows <= detail::most_few_rows) detail::multiply_few<write>(be, beside(y), x, w.value);
  else
    detail::multiply<Along::sum, Along::sum>(be, lines(y), lines(x), lines(w), {x.rows, Out, In}, write,
                                             x.rows <= most_step_rows<T>);
  if constexpr (write == Write::set) detail::clear_padding(be, y);
}
// The same where W's rows belong to several outputs.
template <Write write = Write::set, class T, int... Out, int In, int All>
void linear(Grid& be, Beside<T, Out...> y, Rows<const T, In> x, Weight<T, All, In> w) {
  using detail::Along, detail::lines;
  static_assert(All == y.all_columns);
  // All at once where W's way from memory is what takes time.
  const bool at_once = x.rows <= most_step_rows<T>;
  if (x.rows <= detail::most_few_rows) {
    detail::multiply_few<write>(be, y, x, w.value);
  } else if constexpr (std::is_same_v<T, float>) {
    if (at_once)
      detail::multiply_exactly<Along::sum, Along::sum>(be, detail::side_by_side(y), lines(x), lines(w),
                                                       {x.rows, All, In}, write);
  }
  detail::each_piece(y, [&](auto piece, auto first) {
    if (!at_once) linear<write>(be, piece, x, w.template row_block<first.value, decltype(piece)::columns>());
    else if constexpr (write == Write::set) detail::clear_padding(be, piece);
  });
}

// dx (T, In) <- or += dy (T, Out) W. W's padding, which is zero, becomes dx's.
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear_backward(Grid& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  using detail::Along, detail::lines;
  detail::multiply<Along::sum, Along::result>(be, lines(dx), lines(dy), lines(w), {dy.rows, padded(In), Out}, write);
}

template <Write write, class T, int... Out, int In, int All>
void linear_backward(Grid& be, Rows<T, In> dx, Beside<const T, Out...> dy, Weight<T, All, In> w) {
  static_assert(All == dy.all_columns);
  detail::each_piece(dy, [&](auto piece, auto first) {
    constexpr Write own = first.value == 0 ? write : Write::add;
    linear_backward<own>(be, dx, piece, w.template row_block<first.value, decltype(piece)::columns>());
  });
}

// dW (Out, In) += dy^T x.
template <class T, int Out, int In>
void linear_weight_backward(Grid& be, WeightGradient<T, Out, In> dw, Rows<const T, Out> dy, Rows<const T, In> x) {
  using detail::Along, detail::lines;
  detail::multiply<Along::result, Along::result>(be, {dw.value, dw.stride}, lines(dy), lines(x),
                                                 {Out, padded(In), x.rows}, Write::add);
}

template <class T, int... Out, int In, int All>
void linear_weight_backward(Grid& be, WeightGradient<T, All, In> dw, Beside<const T, Out...> dy, Rows<const T, In> x) {
  static_assert(All == dy.all_columns);
  detail::each_piece(dy, [&](auto piece, auto first) {
    linear_weight_backward(be, dw.template row_block<first.value, decltype(piece)::columns>(), piece, x);
  });
}

}  // namespace mamba::cuda
