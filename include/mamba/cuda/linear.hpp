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
  constexpr int a_quads = BM * BK / 4 / Block::threads, b_quads = (BN * BK / 4 + Block::threads - 1) / Block::threads;  // of a thread
  static_assert(BM * BK / 4 % Block::threads == 0);
  T* const as = be.scratch<T>();  // (BK, BM)
  T* const bs = as + BK * a_row;  // (BK, BN)
  const int tx = thread() % 16, ty = thread() / 16;
  for (int first_row = 0; first_row < rows; first_row += BM)
    for (int first_column = 0; first_column < Columns; first_column += BN) {
      // The next stretch of the sum is on its way from memory while this one is multiplied.
      Quad<T> next_a[a_quads], next_b[b_quads];
      const auto fetch = [&](int k0) {
#pragma unroll
        for (int i = 0; i < a_quads; ++i) {
          const int at = thread() + i * Block::threads;
          next_a[i] = {};
          if constexpr (a_along == Along::sum) {
            const int m = at / (BK / 4), k = at % (BK / 4) * 4;
            if (first_row + m < rows && k0 + k < depth) next_a[i] = load4(a + static_cast<std::ptrdiff_t>(first_row + m) * a_stride + k0 + k);
#pragma unroll
            for (int j = 1; j < 4; ++j)
              if (k0 + k + j >= depth) next_a[i].at[j] = 0;
          } else {
            const int k = at / (BM / 4), m = at % (BM / 4) * 4;
            if (k0 + k < depth && first_row + m < rows) next_a[i] = load4(a + static_cast<std::ptrdiff_t>(k0 + k) * a_stride + first_row + m);
          }
        }
#pragma unroll
        for (int i = 0; i < b_quads; ++i) {
          const int at = thread() + i * Block::threads;
          next_b[i] = {};
          if constexpr (b_along == Along::sum) {
            const int n = at / (BK / 4), k = at % (BK / 4) * 4;
            if (n < BN && first_column + n < Columns && k0 + k < depth)
              next_b[i] = load4(b + static_cast<std::ptrdiff_t>(first_column + n) * b_stride + k0 + k);
          } else {
            const int k = at / (BN / 4), n = at % (BN / 4) * 4;
            if (k < BK && k0 + k < depth && first_column + n < Columns)
              next_b[i] = load4(b + static_cast<std::ptrdiff_t>(k0 + k) * b_stride + first_column + n);
          }
        }
      };
      const auto put = [&] {
#pragma unroll
        for (int i = 0; i < a_quads; ++i) {
          const int at = thread() + i * Block::threads;
          if constexpr (a_along == Along::sum) {
            const int m = at / (BK / 4), k = at % (BK / 4) * 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) as[(k + j) * a_row + m] = next_a[i].at[j];
          } else {
            store4(as + at / (BM / 4) * a_row + at % (BM / 4) * 4, next_a[i]);
          }
        }
#pragma unroll
        for (int i = 0; i < b_quads; ++i) {
          const int at = thread() + i * Block::threads;
          if (at >= BN * BK / 4) continue;
          if constexpr (b_along == Along::sum) {
            const int n = at / (BK / 4), k = at % (BK / 4) * 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) bs[(k + j) * b_row + n] = next_b[i].at[j];
          } else {
            store4(bs + at / (BN / 4) * b_row + at % (BN / 4) * 4, next_b[i]);
          }
        }
      };
      T sums[TM][TN] = {};
      fetch(0);
      for (int k0 = 0; k0 < depth; k0 += BK) {
        put();
        __syncthreads();
        if (k0 + BK < depth) fetch(k0 + BK);
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
