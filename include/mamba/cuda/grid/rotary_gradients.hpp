// What Mamba-3's chunks read and give where their gradients are computed as Mamba-2's are (ssd_backward.hpp): those of
// keys and queries, of decays, and of how much of an input enters at once and later.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/rotary_direction.hpp>
#include <mamba/cuda/grid/ssd_backward.hpp>
#include <mamba/cuda/grid/ssd_head_sums.hpp>

namespace mamba::cuda::detail {

template <class Shape_>
struct RotaryGradients : RotaryWalks<Shape_> {
  using Shape = Shape_;
  using typename RotaryWalks<Shape>::S;
  using typename RotaryWalks<Shape>::Decays;
  using HeadSums = SsdHeadSums<Shape>;
  static constexpr int R = Shape::R, H = Shape::H;
  Rows<const float, R * Shape::E> dy;
  Rows<float, Shape::keys> dkeys, dqueries;     // (T R, H Ns)
  Rows<float, H> dlog_decay, dat_once, dlater;  // (T, H); dat_once: of what enters at once, and so later, too
  float* of_skips;                              // (slots, padded(H)), which are zero

  __device__ const S* b_line(int row, int head) const { return this->key_line(row, head); }
  __device__ const S* c_line(int row, int head) const { return this->query_line(row, head); }
  template <int threads, class Tile>
  __device__ void stage_x(Tile tile, int row, int count, int head, int p) const {
    this->template stage_values<threads>(tile, row, count, head, p);
  }
  template <int threads, class Tile>
  __device__ void stage_dy(Tile tile, int row, int count, int head, int p) const {
    this->template stage_outputs<threads, 1>(tile, dy, row, count, head, p);
  }
  static __device__ float of_row(const Decays& decays, int j) { return decays.later[j]; }
  static __device__ float weight(const Decays& decays, float decayed, int i, int j) {
    return decayed * (RotaryGradients::same_token(i, j) ? decays.at_once[j] : decays.later[j]);
  }
  static __device__ bool passes_decay(int i, int j) { return j / R < i / R; }
  __device__ float* db(int row, int head) const { return dkeys.address(row) + head * Shape::N; }
  __device__ float* dc(int row, int head) const { return dqueries.address(row) + head * Shape::N; }

  // The sums of a chunk's tokens: by one warp.
  __device__ void finish(const HeadSums& head_sums, const Decays& decays, const SsdStretch& chunk, int slot,
                         int head) const {
    SsdRowSums<Shape> sums(head_sums, decays.of_chunk, [&](int t) { return decays.later[t]; });
    constexpr int of_lane = SsdRowSums<Shape>::of_lane;
    double of_own_token[of_lane] = {};
#pragma unroll
    for (int i = 0; i < of_lane; ++i)
      if (const int t = sums.row(i); t < Shape::rows) of_own_token[i] = static_cast<double>(head_sums.diagonal[t]);
    if constexpr (R > 1) {  // a token's ranks: in neighbouring lanes, or in one
      constexpr int together = R < of_lane ? R : of_lane;
#pragma unroll
      for (int i = 0; i < of_lane; i += together) {
#pragma unroll
        for (int k = 1; k < together; ++k) sums.given[i] += sums.given[i + k], of_own_token[i] += of_own_token[i + k];
        sums.given[i] = lane_sum<R / together>(sums.given[i]);
        of_own_token[i] = lane_sum<R / together>(of_own_token[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const int t = sums.row(i);
      if (t >= chunk.count || t % R != 0) continue;
      const int token = (chunk.first + t) / R;
      dlog_decay.address(token)[head] = static_cast<float>(sums.passes[i]);
      dat_once.address(token)[head] = static_cast<float>(of_own_token[i] + sums.given[i]);
      dlater.address(token)[head] = static_cast<float>(sums.given[i]);
    }
    const double skip = lane_sum(sums.skip);
    if (lane() == 0) of_skips[slot * padded(H) + head] = static_cast<float>(skip);
  }
};

}  // namespace mamba::cuda::detail
