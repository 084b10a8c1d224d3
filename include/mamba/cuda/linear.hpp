// Products with weight matrices by one thread block (specification, section 1).
#pragma once

#include <type_traits>

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>

namespace mamba::cuda {

namespace detail {

// How an operand lies in memory: along the rows of the result (or its columns), or along the sum.
enum class Along { result, sum };

// c (rows, Columns) <- or += sum over k < depth of a(row, k) b(k, column).
//   a: Along::sum: a[row * a_stride + k]; Along::result: a[k * a_stride + row]. b: Along::sum: b[column * b_stride + k], Along::result:
//   b[k * b_stride + column]. Strides are multiples of 4 elements; the columns of c up to the next multiple of 16 are set to 0.
template <Write write, int Columns, Along a_along, Along b_along, class T>
__device__ __noinline__ void product(Block& be, T* c, int c_stride, int rows, const T* a, int a_stride, const T* b, int b_stride, int depth) {
  constexpr int TN = Columns > 32 ? 4 : Columns > 16 ? 2 : 1, TM = 8;  // the results of a thread
  constexpr int BN = 16 * TN, BM = 16 * TM, BK = 16, a_row = BM + 4, b_row = BN + 4;
  T* const as = be.scratch<T>();  // (BK, BM)
  T* const bs = as + BK * a_row;  // (BK, BN)
  const int tx = thread() % 16, ty = thread() / 16;
  for (int first_row = 0; first_row < rows; first_row += BM)
    for (int first_column = 0; first_column < Columns; first_column += BN) {
      T sums[TM][TN] = {};
      for (int k0 = 0; k0 < depth; k0 += BK) {
        if constexpr (a_along == Along::sum) {
          each(BM * BK / 4, [&](int i) {
            const int m = i / (BK / 4), k = i % (BK / 4) * 4;
            Quad<T> q{};
            if (first_row + m < rows && k0 + k < depth) q = load4(a + static_cast<std::ptrdiff_t>(first_row + m) * a_stride + k0 + k);
#pragma unroll
            for (int j = 0; j < 4; ++j) as[(k + j) * a_row + m] = k0 + k + j < depth ? q.at[j] : T(0);
          });
        } else {
          each(BK * BM / 4, [&](int i) {
            const int k = i / (BM / 4), m = i % (BM / 4) * 4;
            Quad<T> q{};
            if (k0 + k < depth && first_row + m < rows) q = load4(a + static_cast<std::ptrdiff_t>(k0 + k) * a_stride + first_row + m);
            store4(as + k * a_row + m, q);
          });
        }
        if constexpr (b_along == Along::sum) {
          each(BN * BK / 4, [&](int i) {
            const int n = i / (BK / 4), k = i % (BK / 4) * 4;
            Quad<T> q{};
            if (first_column + n < Columns && k0 + k < depth) q = load4(b + static_cast<std::ptrdiff_t>(first_column + n) * b_stride + k0 + k);
#pragma unroll
            for (int j = 0; j < 4; ++j) bs[(k + j) * b_row + n] = q.at[j];
          });
        } else {
          each(BK * BN / 4, [&](int i) {
            const int k = i / (BN / 4), n = i % (BN / 4) * 4;
            Quad<T> q{};
            if (k0 + k < depth && first_column + n < Columns) q = load4(b + static_cast<std::ptrdiff_t>(k0 + k) * b_stride + first_column + n);
            store4(bs + k * b_row + n, q);
          });
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < BK; ++k) {
          T am[TM], bn[TN];
#pragma unroll
          for (int i = 0; i < TM; i += 4) {
            const auto q = load4(as + k * a_row + ty * TM + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) am[i + j] = q.at[j];
          }
          if constexpr (TN == 4) {
            const auto q = load4(bs + k * b_row + tx * 4);
#pragma unroll
            for (int j = 0; j < 4; ++j) bn[j] = q.at[j];
          } else {
#pragma unroll
            for (int j = 0; j < TN; ++j) bn[j] = bs[k * b_row + tx * TN + j];
          }
#pragma unroll
          for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; ++j) sums[i][j] += am[i] * bn[j];
        }
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const int row = first_row + ty * TM + i;
        if (row >= rows) continue;
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          const int column = first_column + tx * TN + j;
          if (column >= padded(Columns)) continue;
          T* const at = c + static_cast<std::ptrdiff_t>(row) * c_stride + column;
          const T sum = column < Columns ? sums[i][j] : T(0);
          *at = write == Write::add ? *at + sum : sum;
        }
      }
    }
  __syncthreads();
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class T, int Out, int In, int OfRows, int First>
__device__ void linear(Block& be, Rows<T, Out> y, Rows<const T, In> x, Weight<T, Out, In, OfRows, First> w) {
  detail::product<write, Out, detail::Along::sum, detail::Along::sum>(be, y.data, y.stride, x.rows, x.data, x.stride, w.value, w.stride, In);
}

// dx (T, In) <- or += dy (T, Out) W.
template <Write write, class T, int Out, int In, int OfRows, int First>
__device__ void linear_backward(Block& be, Rows<T, In> dx, Rows<const T, Out> dy, Weight<T, Out, In, OfRows, First> w) {
  detail::product<write, In, detail::Along::sum, detail::Along::result>(be, dx.data, dx.stride, dy.rows, dy.data, dy.stride, w.value, w.stride, Out);
}

// dW (Out, In) += dy^T x.
template <class T, int Out, int In>
__device__ void linear_weight_backward(Block& be, WeightGradient<T, Out, In> dw, Rows<const T, Out> dy, Rows<const T, In> x) {
  detail::product<Write::add, In, detail::Along::result, detail::Along::result>(be, dw.value, dw.stride, Out, dy.data, dy.stride, x.data, x.stride, x.rows);
}

}  // namespace mamba::cuda
