// Products with weight matrices by one thread block (specification, section 1).
#pragma once

#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/product.hpp>

namespace mamba::cuda {

namespace detail {

// The products that make up one with several matrices side by side: f(number, columns, first row of the weight) gives
// each.
template <Along a_along, Along b_along, class T, int... Columns, class F>
__device__ void multiply_pieces(Block& be, Write write, bool one_result, Beside<T, Columns...> pieces, F&& f) {
  multiply<a_along, b_along, pieces.count, std::remove_const_t<T>>(
      be, write, one_result, [&](int i) { return f(i, pieces.columns(i), pieces.first(i)); });
}

template <class T, int... Out, int In>
__device__ void linear(Block& be, Write write, Beside<T, Out...> y, Rows<const T, In> x, const T* w) {
  multiply_pieces<Along::sum, Along::sum>(be, write, false, y, [&](int i, int columns, int first) {
    return Product<T>{y.data[i], padded(columns),        x.rows,     columns, x.data,
                      x.stride,  w + first * padded(In), padded(In), In};
  });
}
template <class T, int... Out, int In>
__device__ void linear_backward(Block& be, Write write, Rows<T, In> dx, Beside<const T, Out...> dy, const T* w) {
  multiply_pieces<Along::sum, Along::result>(be, write, true, dy, [&](int i, int columns, int first) {
    return Product<T>{dx.data,    dx.stride, dy.rows, In, dy.data[i], padded(columns), w + first * padded(In),
                      padded(In), columns};
  });
}
template <class T, int... Out, int In>
__device__ void linear_weight_backward(Block& be, T* dw, Beside<const T, Out...> dy, Rows<const T, In> x) {
  multiply_pieces<Along::result, Along::result>(be, Write::add, false, dy, [&](int i, int columns, int first) {
    return Product<T>{dw + first * padded(In), padded(In), columns,  In,    dy.data[i],
                      padded(columns),         x.data,     x.stride, x.rows};
  });
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
__device__ void linear(Block& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  detail::linear(be, write, beside(y), x, w.value);
}
// The same where W's rows belong to several outputs.
template <Write write = Write::set, class T, int... Out, int In, int All>
__device__ void linear(Block& be, Beside<T, Out...> y, Rows<const T, In> x, Weight<T, All, In> w) {
  static_assert(All == y.all_columns);
  detail::linear(be, write, y, x, w.value);
}

// dx (T, In) <- or += dy (T, Out) W.
template <Write write, class T, int Out, int In, int OfRows, int First>
__device__ void linear_backward(Block& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  detail::linear_backward(be, write, dx, beside(dy), w.value);
}
template <Write write, class T, int... Out, int In, int All>
__device__ void linear_backward(Block& be, Rows<T, In> dx, Beside<const T, Out...> dy, Weight<T, All, In> w) {
  static_assert(All == dy.all_columns);
  detail::linear_backward(be, write, dx, dy, w.value);
}

// dW (Out, In) += dy^T x.
template <class T, int Out, int In>
__device__ void linear_weight_backward(Block& be, WeightGradient<T, Out, In> dw, Rows<const T, Out> dy,
                                       Rows<const T, In> x) {
  detail::linear_weight_backward(be, dw.value, beside(dy), x);
}
template <class T, int... Out, int In, int All>
__device__ void linear_weight_backward(Block& be, WeightGradient<T, All, In> dw, Beside<const T, Out...> dy,
                                       Rows<const T, In> x) {
  static_assert(All == dy.all_columns);
  detail::linear_weight_backward(be, dw.value, dy, x);
}

}  // namespace mamba::cuda
