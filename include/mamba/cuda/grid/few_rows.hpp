// Products of few rows with a weight matrix over the whole device, as decoding has them: the matrix is read once, and
// that is what takes time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/stored_rows.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda::detail {

// S: what weights are stored in.
template <class S>
inline constexpr int most_few_rows = std::is_same_v<S, BFloat16> ? GridTuning::few_stored_rows : GridTuning::few_rows;

// Outputs side by side.
template <class T, int Count>
struct SideBySide {
  T* data[Count];
  int first[Count], stride[Count];

  __device__ T& at(int row, int column) const {
    T* own = data[0] + row * stride[0] + column;
#pragma unroll
    for (int i = 1; i < Count; ++i)
      if (column >= first[i]) own = data[i] + row * stride[i] + column - first[i];
    return *own;
  }
};

template <class T, int... Out>
SideBySide<T, sizeof...(Out)> side_by_side(Beside<T, Out...> y) {
  SideBySide<T, sizeof...(Out)> all;
  for (int i = 0; i < y.count; ++i)
    all.data[i] = y.data[i], all.first[i] = y.first(i), all.stride[i] = padded(y.columns(i));
  return all;
}

// How a product of at most so many rows with a weight (Outputs, In) is shared out. A warp has several outputs at once:
// with one, the rows that are multiplied, not the weights, would be most of what it reads. Where outputs are few,
// several warps meet in a sum, so that the matrix is asked for at once. A block has a share of the outputs, and of a
// large weight, which has more shares than blocks that run at once, one share after the other.
template <class S, int Outputs, int In, int MostRows>
struct FewRowsShape {
  using Tuning = FewRowsTuning;
  static constexpr bool large = static_cast<std::size_t>(Outputs) * padded(In) >= Tuning::large_weight,
                        one_row = MostRows == 1, is_double = sizeof(ComputeOf<S>) > 4;
  static constexpr int least_warps = large && !one_row ? Tuning::least_warps_of_large : Tuning::least_warps;
  static constexpr int outputs_of_warp = [] {
    int count = large ? Tuning::most_outputs_of_large : Tuning::most_outputs;
    while (count > 1 && Outputs / count * Block::warps < least_warps) count /= 2;
    return count;
  }();
  static constexpr int warps_of_sum = [] {
    int count = 1;
    while (count < Block::warps && (Outputs + outputs_of_warp - 1) / outputs_of_warp * count < least_warps) count *= 2;
    return count;
  }();
  static constexpr int outputs_of_share = Block::warps / warps_of_sum * outputs_of_warp,
                       shares = (Outputs + outputs_of_share - 1) / outputs_of_share;
  // Of each of a warp's outputs, the stretches that a lane asks for at once. Of one row with a weight that is not large
  // all of them, if they are few, so that the whole of it is on its way before the kernel's turn comes.
  static constexpr int stretches_of_lane = (padded(In) - 1) / (4 * Stretch<S>::quads * 32 * warps_of_sum) + 1;
  static constexpr int at_once = [] {
    if (!one_row) return 1;
    return large ? Tuning::stretches_of_large : (std::min)(stretches_of_lane, Tuning::most_stretches / outputs_of_warp);
  }();
  // A multiprocessor's blocks that registers are shared out among; double is there for checking.
  static constexpr int blocks_at_once = is_double ? 1 : large ? Tuning::blocks_of_large : Tuning::blocks;
  static constexpr int blocks =
      large ? (std::min)(shares, blocks_at_once* GridTuning::product_multiprocessors) : shares;
};

// Of sums over a warp's lanes, `count` of them (a power of 2, 32 at most), the one whose number is the lane's,
// counted in as many lanes as there are for each: half of them change places at a time.
template <int count, int lanes = 32, class T>
__device__ T sum_of_own(const T (&values)[count]) {
  if constexpr (count == 1) {
    return lane_sum<lanes>(values[0]);
  } else {
    const bool upper = (lane() & lanes / 2) != 0;
    T half[count / 2];
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      const T kept = upper ? values[i + count / 2] : values[i], given = upper ? values[i] : values[i + count / 2];
      half[i] = kept + __shfl_xor_sync(~0U, given, lanes / 2);
    }
    return sum_of_own<count / 2, lanes / 2>(half);
  }
}

// The rows that are multiplied, as they are stored.
template <class S, int In>
struct PlainOperand {
  static constexpr int columns = In;
  static constexpr bool normed = false;
  Rows<const S, In> x;

  MAMBA_HOST_DEVICE int rows() const { return x.rows; }
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

  MAMBA_HOST_DEVICE int rows() const { return x.rows; }
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

  MAMBA_HOST_DEVICE int rows() const { return y.rows; }
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
template <class Y, int Count>
struct PlainResult {
  struct Early {};  // what a lane asks for before it has its sum
  SideBySide<Y, Count> y;
  bool adds;

  __device__ Early early(int, int) const { return {}; }
  template <class T>
  __device__ void take(int row, int output, T sum, Early) const {
    Y& out = y.at(row, output);
    out = adds ? static_cast<T>(out) + sum : sum;
  }
};

// result <- operand w^T, for all rows at once: warps of a block take some of w's rows. What they need of them first is
// on its way before the kernel's turn comes: no product follows a kernel that writes weights at once.
template <int MostRows, int Outputs, class Result, class Operand, class S>
__global__ void __launch_bounds__(Block::threads, FewRowsShape<S, Outputs, Operand::columns, MostRows>::blocks_at_once)
    multiply_few_rows(Result result, Operand x, StoredRows<S> w) {
  using T = ComputeOf<S>;
  using Shape = FewRowsShape<S, Outputs, Operand::columns, MostRows>;
  constexpr int warps = Shape::warps_of_sum, of_warp = Shape::outputs_of_warp, at_once = Shape::at_once,
                stride = padded(Operand::columns), quads = Stretch<S>::quads, apart = 4 * quads * 32 * warps,
                rounds = (stride + at_once * apart - 1) / (at_once * apart), lanes_of_sum = 32 / (of_warp * MostRows);
  __shared__ T sums_of_warps[Block::warps][of_warp][MostRows], squares_of_warps[Block::warps][MostRows];
  const int begin = 4 * quads * (warp() % warps * 32 + lane());  // of the elements of a sum that the lane has
  Stretch<S> coming[of_warp][at_once];
  const auto output_of = [&](int share) { return share * Shape::outputs_of_share + warp() / warps * of_warp; };
  const auto load = [&](int output, int round) {
#pragma unroll
    for (int o = 0; o < of_warp; ++o) {
      const S* const of_output = w.data + static_cast<std::ptrdiff_t>(min(output + o, Outputs - 1)) * stride;
#pragma unroll
      for (int i = 0; i < at_once; ++i)
        if (const int k = begin + (round * at_once + i) * apart; k < stride) coming[o][i].load(of_output + k);
    }
  };
  load(output_of(static_cast<int>(blockIdx.x)), 0);
  begin_kernel();
  const int own = lane() / (lanes_of_sum * MostRows), row = lane() / lanes_of_sum % MostRows;  // the sum that it takes
  constexpr bool loops = Shape::blocks < Shape::shares;
#pragma unroll 1
  for (int share = static_cast<int>(blockIdx.x); share < Shape::shares;
       share += loops ? Shape::blocks : Shape::shares) {
    const int output = output_of(share);
    const bool takes = warp() % warps == 0 && lane() % lanes_of_sum == 0 && row < x.rows() && output + own < Outputs;
    T factor{};
    typename Result::Early early{};
    if (takes) factor = w.factor(output + own), early = result.early(row, output + own);
    T sums[of_warp * MostRows] = {}, squares[MostRows] = {};
#pragma unroll(rounds <= 10 ? rounds : 2)
    for (int round = 0; round < rounds; ++round) {  // what pads rows is zero
      Stretch<S> of_w[of_warp][at_once];
#pragma unroll
      for (int o = 0; o < of_warp; ++o)
#pragma unroll
        for (int i = 0; i < at_once; ++i) of_w[o][i] = coming[o][i];
      if (round + 1 < rounds) load(output, round + 1);
      else if (loops && share + Shape::blocks < Shape::shares) load(output_of(share + Shape::blocks), 0);
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int k = begin + (round * at_once + i) * apart;
        if (k >= stride) break;
#pragma unroll
        for (int q = 0; q < quads; ++q) {
          Quad<T> weights[of_warp];
#pragma unroll
          for (int o = 0; o < of_warp; ++o) weights[o] = of_w[o][i].quad(q);
#pragma unroll
          for (int r = 0; r < MostRows; ++r) {
            if (r >= x.rows()) break;
            const auto of_x = x.load(r, k + 4 * q, squares[r]);
#pragma unroll
            for (int o = 0; o < of_warp; ++o)
#pragma unroll
              for (int j = 0; j < 4; ++j) sums[o * MostRows + r] += weights[o].at[j] * of_x.at[j];
          }
        }
      }
    }
    T sum = sum_of_own(sums), square = 0;
    if constexpr (Operand::normed) square = sum_of_own(squares);
    if constexpr (warps > 1 || Operand::normed) {
      if (lane() % lanes_of_sum == 0) sums_of_warps[warp()][own][row] = sum;
      constexpr int lanes_of_square = 32 / MostRows;
      if (Operand::normed && lane() % lanes_of_square == 0) squares_of_warps[warp()][lane() / lanes_of_square] = square;
      if constexpr (warps > 1) __syncthreads();
      else __syncwarp();
      if (takes) {
        for (int i = 1; i < warps; ++i) sum += sums_of_warps[warp() + i][own][row];
        if constexpr (Operand::normed) {
          square = squares_of_warps[warp()][row];
          for (int i = 1; i < warps; ++i) square += squares_of_warps[warp() + i][row];
        }
      }
    }
    if (takes) {
      sum *= factor;
      if constexpr (Operand::normed) sum *= 1 / std::sqrt(square / T(Operand::columns) + T(math::norm_epsilon));
      result.take(row, output + own, sum, early);
    }
    if constexpr (loops) {  // before the next share's sums take their place
      if constexpr (warps > 1) __syncthreads();
      else __syncwarp();
    }
  }
}

template <int Outputs, class Result, class Operand, class S>
void launch_few(Grid& be, const Result& result, const Operand& x, StoredRows<S> w, int rows) {
  const auto launch = [&](auto most) {
    using Shape = FewRowsShape<S, Outputs, Operand::columns, most>;
    be.launch_shaped("multiply_few_rows", multiply_few_rows<most, Outputs, Result, Operand, S>,
                     {Shape::blocks, Block::threads, 0}, result, x, w);
  };
  if (rows == 1) launch(std::integral_constant<int, 1>());
  else launch(std::integral_constant<int, most_few_rows<S>>());
}

template <Write write, class Y, class X, class S, int In, int... Out>
void multiply_few(Grid& be, Beside<Y, Out...> y, Rows<const X, In> x, StoredRows<S> w) {
  launch_few<Beside<Y, Out...>::all_columns>(be, PlainResult<Y, sizeof...(Out)>{side_by_side(y), write == Write::add},
                                             PlainOperand<X, In>{x}, w, x.rows);
}

}  // namespace mamba::cuda::detail
