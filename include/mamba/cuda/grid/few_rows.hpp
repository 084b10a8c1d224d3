// Products of few rows with a weight matrix over the whole device, as decoding has them: the matrix is read once, and
// that is what takes time.
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda::detail {

inline constexpr int most_few_rows = GridTuning::few_rows;

// Outputs side by side.
template <class T, int Count>
struct SideBySide {
  T* data[Count];
  int first[Count], stride[Count];

  __device__ T& at(int row, int column) const {
    int piece = 0;
#pragma unroll
    for (int i = 1; i < Count; ++i)
      if (column >= first[i]) piece = i;
    return data[piece][row * stride[piece] + column - first[piece]];
  }
};

template <class T, int... Out>
SideBySide<T, sizeof...(Out)> side_by_side(Beside<T, Out...> y) {
  SideBySide<T, sizeof...(Out)> all;
  for (int i = 0; i < y.count; ++i)
    all.data[i] = y.data[i], all.first[i] = y.first(i), all.stride[i] = padded(y.columns(i));
  return all;
}

// How many warps share a sum of so many outputs: few outputs have more, so that the matrix is asked for at once.
__host__ __device__ constexpr int warps_of_output(int outputs) {
  int warps = 1;
  while (warps < Block::warps && outputs * warps < GridTuning::few_rows_warps) warps *= 2;
  return warps;
}

// y <- or += x w^T, for all rows of x at once: warps of a block take one of w's rows.
template <Write write, int MostRows, class T, int In, int Outputs, int Count>
__global__ void __launch_bounds__(Block::threads)
    multiply_few_rows(SideBySide<T, Count> y, Rows<const T, In> x, const T* w) {
  constexpr int warps = warps_of_output(Outputs), stride = padded(In), at_once = 4 * 32 * warps;
  __shared__ T shares[Block::warps][MostRows];
  const int output = static_cast<int>(blockIdx.x) * (Block::warps / warps) + warp() / warps;
  const T* const of_output = w + static_cast<std::ptrdiff_t>(min(output, Outputs - 1)) * stride;
  T sums[MostRows] = {};
#pragma unroll 8
  for (int k = 4 * (warp() % warps * 32 + lane()); k < stride; k += at_once) {  // what pads rows is zero
    const auto of_w = load4(of_output + k);
#pragma unroll
    for (int r = 0; r < MostRows; ++r) {
      if (r >= x.rows) break;
      const auto of_x = load4(x.address(r) + k);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[r] += of_w.at[j] * of_x.at[j];
    }
  }
#pragma unroll
  for (int r = 0; r < MostRows; ++r) {
    sums[r] = lane_sum(sums[r]);
    if (lane() == 0) shares[warp()][r] = sums[r];
  }
  if constexpr (warps > 1) __syncthreads();
  else __syncwarp();
  if (warp() % warps != 0 || lane() >= x.rows || output >= Outputs) return;
  T sum = shares[warp()][lane()];
  for (int i = 1; i < warps; ++i) sum += shares[warp() + i][lane()];
  T& out = y.at(lane(), output);
  out = write == Write::add ? out + sum : sum;
}

template <Write write, class T, int In, int... Out>
void multiply_few(Grid& be, Beside<T, Out...> y, Rows<const T, In> x, const T* w) {
  constexpr int count = sizeof...(Out), outputs = Beside<T, Out...>::all_columns;
  const SideBySide<T, count> to = side_by_side(y);
  constexpr int of_block = Block::warps / warps_of_output(outputs);
  const auto launch = [&](auto kernel) {
    be.launch_shaped("multiply_few_rows", kernel, {(outputs + of_block - 1) / of_block, Block::threads, 0}, to, x, w);
  };
  if (x.rows == 1) launch(multiply_few_rows<write, 1, T, In, outputs, count>);
  else launch(multiply_few_rows<write, most_few_rows, T, In, outputs, count>);
}

}  // namespace mamba::cuda::detail
