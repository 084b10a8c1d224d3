// Products with weight matrices over the whole device, by cuBLAS (specification, section 1), those of few rows by a
// kernel of our own. cuBLAS's matrices are column-major: rows of ours are columns of its, and every product is written
// transposed.
#pragma once

#include <type_traits>
#include <utility>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda {

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

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear(Grid& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  if (x.rows <= detail::most_few_rows) detail::multiply_few<write>(be, beside(y), x, w.value);
  else
    be.products().gemm(CUBLAS_OP_T, CUBLAS_OP_N, Out, x.rows, In, w.value, w.stride, x.data, x.stride,
                       T(write == Write::add), y.data, y.stride);
  if constexpr (write == Write::set) detail::clear_padding(be, y);
}
// The same where W's rows belong to several outputs.
template <Write write = Write::set, class T, int... Out, int In, int All>
void linear(Grid& be, Beside<T, Out...> y, Rows<const T, In> x, Weight<T, All, In> w) {
  static_assert(All == y.all_columns);
  const bool few = x.rows <= detail::most_few_rows;
  if (few) detail::multiply_few<write>(be, y, x, w.value);
  detail::each_piece(y, [&](auto piece, auto first) {
    if (few) detail::clear_padding(be, piece);
    else linear<write>(be, piece, x, w.template row_block<first.value, decltype(piece)::columns>());
  });
}

// dx (T, In) <- or += dy (T, Out) W. W's padding, which is zero, becomes dx's.
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear_backward(Grid& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  be.products().gemm(CUBLAS_OP_N, CUBLAS_OP_N, padded(In), dy.rows, Out, w.value, w.stride, dy.data, dy.stride,
                     T(write == Write::add), dx.data, dx.stride);
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
  be.products().gemm(CUBLAS_OP_N, CUBLAS_OP_T, padded(In), Out, x.rows, x.data, x.stride, dy.data, dy.stride, T(1),
                     dw.value, dw.stride);
}

template <class T, int... Out, int In, int All>
void linear_weight_backward(Grid& be, WeightGradient<T, All, In> dw, Beside<const T, Out...> dy, Rows<const T, In> x) {
  static_assert(All == dy.all_columns);
  detail::each_piece(dy, [&](auto piece, auto first) {
    linear_weight_backward(be, dw.template row_block<first.value, decltype(piece)::columns>(), piece, x);
  });
}

}  // namespace mamba::cuda
