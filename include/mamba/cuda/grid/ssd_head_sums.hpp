// What a head's sums over a chunk are, of which the gradients of its step sizes, rate and skip are made
// (ssd_backward.hpp).
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/math/rate.hpp>

namespace mamba::cuda::detail {

// In the shares of those who had them.
template <class Shape>
struct SsdHeadSums {
  using Sum = SsdSum<typename Shape::Stored>;
  static constexpr int rows = Shape::rows;

  Sum taken[Shape::state_units][rows];      // from the state before
  Sum given[Shape::state_units][rows];      // to the state behind, but for a step size
  Sum pairs_taken[Shape::row_units][rows];  // from rows of a unit's columns
  Sum pairs_given[Shape::row_units][rows];  // to rows of a unit's rows, but for a step size
  Sum through[Shape::state_units];
  float diagonal[rows], skip[rows];  // W_ii D_ii, D_ii
};

// The same of a lane's rows, which are one or two, given what a row's input enters by for later rows; and what passes
// their decays. A row's share of that is what it takes less what it gives to rows; all that rows before give to the
// state behind passes it, as what goes through the chunk does. A warp's lanes add up what those behind and before have.
template <class Shape>
struct SsdRowSums {
  static constexpr int of_lane = SsdExponents<typename Shape::Stored, Shape::rows>::of_lane;
  double given[of_lane] = {}, passes[of_lane] = {}, skip = 0;

  static __device__ int row(int i) { return of_lane * lane() + i; }

  template <class WeightOf>
  __device__ SsdRowSums(const SsdHeadSums<Shape>& sums, float of_chunk, WeightOf&& weight_of) {
    double own[of_lane] = {}, given_behind[of_lane] = {}, behind_it = 0, before_it = 0, through = 0;
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const int t = row(i);
      if (t >= Shape::rows) break;
      double taken = 0, to_rows = 0, behind = 0;
      for (int n = 0; n <= t / unit_side; ++n) taken += static_cast<double>(sums.pairs_taken[n][t]);
      for (int m = t / unit_side; m < Shape::row_units; ++m) to_rows += static_cast<double>(sums.pairs_given[m][t]);
      for (int w = 0; w < Shape::state_units; ++w)
        taken += static_cast<double>(sums.taken[w][t]), behind += static_cast<double>(sums.given[w][t]);
      const auto weight = static_cast<double>(weight_of(t));
      own[i] = taken - weight * to_rows, given_behind[i] = weight * behind;
      given[i] = to_rows + behind;
      skip += static_cast<double>(sums.skip[t]);
      behind_it += own[i], before_it += given_behind[i];
    }
    const double all_own = behind_it, all_given = before_it;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double more = __shfl_down_sync(~0U, behind_it, offset), less = __shfl_up_sync(~0U, before_it, offset);
      if (lane() + offset < 32) behind_it += more;
      if (lane() >= offset) before_it += less;
    }
    behind_it -= all_own, before_it -= all_given;
    for (int w = 0; w < Shape::state_units; ++w) through += static_cast<double>(sums.through[w]);
    through *= static_cast<double>(of_chunk);
#pragma unroll
    for (int i = of_lane - 1; i >= 0; --i) behind_it += own[i], passes[i] = behind_it + through;
#pragma unroll
    for (int i = 0; i < of_lane; ++i) passes[i] += before_it, before_it += given_behind[i];
  }
};

// ddelta, and of_rates, of_skips (slots, padded(H)), from a head's sums: by one warp.
template <class Shape>
__device__ void ssd_head_sums(const SsdHeadSums<Shape>& head_sums,
                              const SsdDecays<typename Shape::Stored, Shape::rows>& decays,
                              Rows<float, Shape::H> ddelta, float* of_rates, float* of_skips, float rate,
                              const SsdStretch& chunk, int slot, int head) {
  const SsdRowSums<Shape> sums(head_sums, decays.of_chunk, [&](int t) { return decays.delta[t]; });
  const double a = math::ln2 * static_cast<double>(rate);
  double of_rate = 0;
#pragma unroll
  for (int i = 0; i < sums.of_lane; ++i) {
    const int t = sums.row(i);
    if (t >= chunk.count) break;
    const double of_step = sums.given[i] + static_cast<double>(head_sums.diagonal[t]);
    ddelta.address(chunk.first + t)[head] = static_cast<float>(of_step + a * sums.passes[i]);
    of_rate += static_cast<double>(decays.delta[t]) * sums.passes[i];
  }
  of_rate = lane_sum(of_rate);
  const double skip = lane_sum(sums.skip);
  if (lane() == 0) {
    of_rates[slot * padded(Shape::H) + head] = static_cast<float>(of_rate);
    of_skips[slot * padded(Shape::H) + head] = static_cast<float>(skip);
  }
}

}  // namespace mamba::cuda::detail
