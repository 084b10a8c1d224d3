// Products of few rows with a weight matrix over the whole device, as decoding has them: the matrix is read once, and
// that is what takes time.
#pragma once

#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda::detail {

template <class S>
inline constexpr int most_few_rows = std::is_same_v<S, BFloat16> ? GridTuning::few_stored_rows : GridTuning::few_rows;

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

// y <- or += x w^T, for all rows of x at once: warps of a block take one of w's rows. What they need of it is on its
// way before the kernel's turn comes, for no kernel of a graph writes weights.
template <Write write, int MostRows, class Y, class S, int In, int Outputs, int Count>
__global__ void __launch_bounds__(Block::threads)
    multiply_few_rows(SideBySide<Y, Count> y, Rows<const S, In> x, const S* w) {
  using T = ComputeOf<S>;
  constexpr int warps = warps_of_output(Outputs), stride = padded(In), apart = 4 * 32 * warps, at_once = 8;
  __shared__ T shares[Block::warps][MostRows];
  const int output = static_cast<int>(blockIdx.x) * (Block::warps / warps) + warp() / warps;
  const S* const of_output = w + static_cast<std::ptrdiff_t>(min(output, Outputs - 1)) * stride;
  Quad<T> of_w[at_once];
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      if (const int k = first + i * apart; k < stride) of_w[i] = load4(of_output + k);
  };
  int first = 4 * (warp() % warps * 32 + lane());
  load(first);
  begin_kernel();
  T sums[MostRows] = {};
  while (first < stride) {  // what pads rows is zero
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int k = first + i * apart;
      if (k >= stride) break;
#pragma unroll
      for (int r = 0; r < MostRows; ++r) {
        if (r >= x.rows) break;
        const auto of_x = load4(x.address(r) + k);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[r] += of_w[i].at[j] * of_x.at[j];
      }
    }
    first += at_once * apart;
    load(first);
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
  Y& out = y.at(lane(), output);
  out = write == Write::add ? static_cast<T>(out) + sum : sum;
}

template <Write write, class Y, class S, int In, int... Out>
void multiply_few(Grid& be, Beside<Y, Out...> y, Rows<const S, In> x, const S* w) {
  constexpr int count = sizeof...(Out), outputs = Beside<Y, Out...>::all_columns;
  const SideBySide<Y, count> to = side_by_side(y);
  constexpr int of_block = Block::warps / warps_of_output(outputs);
  const auto launch = [&](auto kernel) {
    be.launch_shaped("multiply_few_rows", kernel, {(outputs + of_block - 1) / of_block, Block::threads, 0}, to, x, w);
  };
  if (x.rows == 1) launch(multiply_few_rows<write, 1, Y, S, In, outputs, count>);
  else launch(multiply_few_rows<write, most_few_rows<S>, Y, S, In, outputs, count>);
}

}  // namespace mamba::cuda::detail
