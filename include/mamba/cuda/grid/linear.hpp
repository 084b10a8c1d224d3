// Products with weight matrices over the whole device, by cuBLAS (specification, section 1). Its matrices are
// column-major: rows of ours are columns of its, and every product is written transposed.
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/runtime/error.hpp>

namespace mamba::cuda {

namespace detail {

template <class T, int C>
void clear_padding(Grid& be, Rows<T, C> x) {
  constexpr std::size_t columns = static_cast<std::size_t>(C), stride = static_cast<std::size_t>(Rows<T, C>::stride);
  if constexpr (columns != stride)
    check(cudaMemset2DAsync(x.data + columns, stride * sizeof(T), 0, (stride - columns) * sizeof(T),
                            static_cast<std::size_t>(x.rows), be.stream()),
          "cudaMemset2DAsync");
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear(Grid& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  be.products().gemm(CUBLAS_OP_T, CUBLAS_OP_N, Out, x.rows, In, w.value, w.stride, x.data, x.stride,
                     T(write == Write::add), y.data, y.stride);
  if constexpr (write == Write::set) detail::clear_padding(be, y);
}

// dx (T, In) <- or += dy (T, Out) W. W's padding, which is zero, becomes dx's.
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
void linear_backward(Grid& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  be.products().gemm(CUBLAS_OP_N, CUBLAS_OP_N, padded(In), dy.rows, Out, w.value, w.stride, dy.data, dy.stride,
                     T(write == Write::add), dx.data, dx.stride);
}

// dW (Out, In) += dy^T x.
template <class T, int Out, int In>
void linear_weight_backward(Grid& be, WeightGradient<T, Out, In> dw, Rows<const T, Out> dy, Rows<const T, In> x) {
  be.products().gemm(CUBLAS_OP_N, CUBLAS_OP_T, padded(In), Out, x.rows, x.data, x.stride, dy.data, dy.stride, T(1),
                     dw.value, dw.stride);
}

}  // namespace mamba::cuda
