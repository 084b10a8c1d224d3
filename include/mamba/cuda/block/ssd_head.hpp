// What a head does in a chunk of time on the GPU, whatever its triangle of 8 by 8 is made of: its outputs, the
// gradients of its inputs and of its steps (specification, sections 7 and 14.4).
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// y <- m v for a head's columns of a chunk, m as exchange_matrix left it, v its inputs as `of` loads them.
template <class Operands, class S = typename Operands::S, class T = typename S::T>
__device__ void mix_inputs(const T* matrix, Rows<T, S::Y> y, const Operands& of, int first, int rows, int head) {
#pragma unroll 1
  for (int column = 4 * half_lane(); column < stretches(S::P) * stretch; column += stretch) {
    ChunkColumns<T> v;
    of.load_inputs(v, first, rows, head, column);
    lower_times<S::R>(matrix, v, [&](int i, const T(&sums)[4]) {
      if (i < rows) store_columns<S::P, S::x_quads>(S::output(y, first, i, head), column, sums);
    });
  }
}

// A head's columns of a chunk of outputs, or of their gradients.
template <class S, class T>
__device__ void load_outputs(ChunkColumns<T>& to, Rows<const T, S::Y> y, int first, int rows, int head, int column) {
  if constexpr (S::R == 1) to.template load<S::P, S::x_quads>(y[first] + head * S::P, y.stride, rows, column);
  else to.template load_rows<S::P, S::x_quads>([&](int i) { return S::output(y, first, i, head); }, rows, column);
}

// dv = m^T dy, likewise, which to(column, row, four columns of dv) takes for every row, one column after the other.
template <class S, class T, class To>
__device__ void input_gradients(const T* matrix, Rows<const T, S::Y> dy, int first, int rows, int head, To&& to) {
#pragma unroll 1
  for (int column = 4 * half_lane(); column < stretches(S::P) * stretch; column += stretch) {
    ChunkColumns<T> g;
    load_outputs<S>(g, dy, first, rows, head, column);
    lower_transposed_times<S::R>(matrix, g, [&](int j, const T(&sums)[4]) { to(column, j, sums); });
  }
}

// The triangle dy v^T, m's gradient.
template <class Operands, class S = typename Operands::S, class T = typename S::T>
__device__ ChunkDots<T, S::R> output_dots(Rows<const T, S::Y> dy, const Operands& of, int first, int rows, int head) {
  ChunkDots<T, S::R> dots;
#pragma unroll 1
  for (int column = 4 * half_lane(); column < stretches(S::P) * stretch; column += stretch) {
    ChunkColumns<T> g, v;
    load_outputs<S>(g, dy, first, rows, head, column);
    of.load_inputs(v, first, rows, head, column);
    dots.add(g, v);
  }
  return dots;
}

// The gradients of a chunk's steps, from those of every entry's column's weight. W is these times the weights. The
// decay of step t lies between every j < t and i >= t: its exponent's gradient is the sum of W over that rectangle.
template <class T>
struct StepSums {
  T of_weight;  // lanes 4 to 7 of 8: the sum over the rows of column token()
  T exponent;   // the same lanes: of token()'s exponent; in the others the sum over their column's rows

  static __device__ bool has_exponent() { return half_lane() % 8 >= 4; }
  static __device__ int token() { return TriangleEntries<T>::column() + half_lane() % 4; }
  // The gradient of the weight of column token(), in all lanes.
  __device__ T of_column() const { return has_exponent() ? of_weight : exponent; }

  // of_entries: the lane's entries' gradients; weights: of their columns. Sums over rows j < t first, then, with those
  // for the weights themselves, over the lanes' rows.
  __device__ StepSums(const T (&of_entries)[4], const T (&weights)[4]) {
    T sums[8], left = 0;
    const int i = TriangleEntries<T>::row(), j0 = TriangleEntries<T>::column();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums[k] = of_entries[k];
      sums[4 + k] = left;
      left += of_entries[k] * weights[k];
    }
    left = __shfl_xor_sync(~0U, left, 8);
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[4 + k] = j0 + k <= i ? sums[4 + k] + (j0 > 0 ? left : T(0)) : T(0);
    sum_over_lanes<8, 8>(sums);
    exponent = sums[0];
    of_weight = __shfl_xor_sync(~0U, exponent, 4);
  }
};

}  // namespace mamba::cuda::detail
