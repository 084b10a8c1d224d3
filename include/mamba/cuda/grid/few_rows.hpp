// Products of few rows with a weight matrix over the whole device, as decoding has them: the matrix is read once, and
// that is what takes time.
#pragma once

#include <cmath>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/math/activation.hpp>

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

// The rows that are multiplied, as they are stored.
template <class S, int In>
struct PlainOperand {
  static constexpr int columns = In;
  static constexpr bool normed = false;
  Rows<const S, In> x;

  __device__ int rows() const { return x.rows; }
  __device__ Quad<ComputeOf<S>> load(int row, int k, ComputeOf<S>& /*squares*/) const {
    return load4(x.address(row) + k);
  }
};
// x rho weight, rho being 1 / sqrt(mean square of x's row + epsilon): without rho, which the sum is multiplied by when
// the squares are known.
template <class X, int In>
struct NormedOperand {
  using T = ComputeOf<X>;
  static constexpr int columns = In;
  static constexpr bool normed = true;
  Rows<const X, In> x;
  const T* weight;

  __device__ int rows() const { return x.rows; }
  __device__ Quad<T> load(int row, int k, T& squares) const {
    auto of_x = load4(x.address(row) + k);
    const auto of_weight = load4(weight + k);
#pragma unroll
    for (int j = 0; j < 4; ++j) squares += of_x.at[j] * of_x.at[j], of_x.at[j] *= of_weight.at[j];
    return of_x;
  }
};
// The same of y silu(z).
template <class S, int In>
struct GatedNormedOperand {
  using T = ComputeOf<S>;
  static constexpr int columns = In;
  static constexpr bool normed = true;
  Rows<const S, In> y, z;
  const T* weight;

  __device__ int rows() const { return y.rows; }
  __device__ Quad<T> load(int row, int k, T& squares) const {
    auto of_y = load4(y.address(row) + k);
    const auto of_z = load4(z.address(row) + k), of_weight = load4(weight + k);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      of_y.at[j] *= math::silu(of_z.at[j]);
      squares += of_y.at[j] * of_y.at[j], of_y.at[j] *= of_weight.at[j];
    }
    return of_y;
  }
};

// Where the product's outputs go: to rows side by side, which they replace or are added to.
template <Write write, class Y, int Count>
struct PlainResult {
  struct Early {};  // what a lane asks for before it has its sum
  SideBySide<Y, Count> y;

  __device__ Early early(int, int) const { return {}; }
  template <class T>
  __device__ void take(int row, int output, T sum, Early) const {
    Y& out = y.at(row, output);
    out = write == Write::add ? static_cast<T>(out) + sum : sum;
  }
};

// result <- operand w^T, for all rows at once: warps of a block take one of w's rows. What they need of it is on its
// way before the kernel's turn comes: no product follows a kernel that writes weights at once.
template <int MostRows, int Outputs, class Result, class Operand, class S>
__global__ void __launch_bounds__(Block::threads) multiply_few_rows(Result result, Operand x, const S* w) {
  using T = ComputeOf<S>;
  constexpr int warps = warps_of_output(Outputs), stride = padded(Operand::columns), apart = 4 * 32 * warps,
                at_once = 8, values = Operand::normed ? 2 : 1;
  __shared__ T shares[Block::warps][values][MostRows];
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
  const bool takes = warp() % warps == 0 && lane() < x.rows() && output < Outputs;  // a row's sum each
  typename Result::Early early{};
  if (takes) early = result.early(lane(), output);
  T sums[values][MostRows] = {};
  while (first < stride) {  // what pads rows is zero
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int k = first + i * apart;
      if (k >= stride) break;
#pragma unroll
      for (int r = 0; r < MostRows; ++r) {
        if (r >= x.rows()) break;
        const auto of_x = x.load(r, k, sums[values - 1][r]);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[0][r] += of_w[i].at[j] * of_x.at[j];
      }
    }
    first += at_once * apart;
    load(first);
  }
#pragma unroll
  for (int v = 0; v < values; ++v)
#pragma unroll
    for (int r = 0; r < MostRows; ++r) {
      sums[v][r] = lane_sum(sums[v][r]);
      if (lane() == 0) shares[warp()][v][r] = sums[v][r];
    }
  if constexpr (warps > 1) __syncthreads();
  else __syncwarp();
  if (!takes) return;
  T all[values];
#pragma unroll
  for (int v = 0; v < values; ++v) {
    all[v] = shares[warp()][v][lane()];
    for (int i = 1; i < warps; ++i) all[v] += shares[warp() + i][v][lane()];
  }
  if constexpr (Operand::normed) all[0] *= 1 / std::sqrt(all[1] / T(Operand::columns) + T(math::norm_epsilon));
  result.take(lane(), output, all[0], early);
}

template <int Outputs, class Result, class Operand, class S>
void launch_few(Grid& be, const Result& result, const Operand& x, const S* w, int rows) {
  constexpr int of_block = Block::warps / warps_of_output(Outputs);
  const auto launch = [&](auto kernel) {
    be.launch_shaped("multiply_few_rows", kernel, {(Outputs + of_block - 1) / of_block, Block::threads, 0}, result, x,
                     w);
  };
  if (rows == 1) launch(multiply_few_rows<1, Outputs, Result, Operand, S>);
  else launch(multiply_few_rows<most_few_rows<S>, Outputs, Result, Operand, S>);
}

template <Write write, class Y, class S, int In, int... Out>
void multiply_few(Grid& be, Beside<Y, Out...> y, Rows<const S, In> x, const S* w) {
  launch_few<Beside<Y, Out...>::all_columns>(be, PlainResult<write, Y, sizeof...(Out)>{side_by_side(y)},
                                             PlainOperand<S, In>{x}, w, x.rows);
}

}  // namespace mamba::cuda::detail
