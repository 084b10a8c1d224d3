// Products with weight matrices by one thread block (specification, section 1).
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/product.hpp>

namespace mamba::cuda {

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
__device__ void linear(Block& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  using detail::Along;
  detail::product<Along::sum, Along::sum>(be, write, y.data, y.stride, x.rows, Out, x.data, x.stride, w.value, w.stride, In);
}

// dx (T, In) <- or += dy (T, Out) W.
template <Write write, class T, int Out, int In, int OfRows, int First>
__device__ void linear_backward(Block& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  using detail::Along;
  detail::product<Along::sum, Along::result>(be, write, dx.data, dx.stride, dy.rows, In, dy.data, dy.stride, w.value, w.stride, Out);
}

// dW (Out, In) += dy^T x.
template <class T, int Out, int In>
__device__ void linear_weight_backward(Block& be, WeightGradient<T, Out, In> dw, Rows<const T, Out> dy, Rows<const T, In> x) {
  using detail::Along;
  detail::product<Along::result, Along::result>(be, Write::add, dw.value, dw.stride, Out, In, dy.data, dy.stride, x.data, x.stride, x.rows);
}

}  // namespace mamba::cuda
