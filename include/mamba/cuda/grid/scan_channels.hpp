// What the walk along sequences (scan.hpp; Mamba-2 in double) runs over: where channels have their numbers, and where
// their states lie.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/tuning.hpp>

namespace mamba::cuda {

// The steps between states that the walk keeps for the backward pass.
inline constexpr int grid_scan_chunk = GridTuning::scan_chunk;

namespace detail {

// How a channel's states lie in the lanes of a warp: state n0 + lane + lanes i, tile after tile of them.
template <int N>
struct LaneLayout {
  static constexpr int lanes = N > 16 ? 32 : N > 8 ? 16 : 8;
  static constexpr int states = (std::min)(4, (N + lanes - 1) / lanes), tile = lanes * states;
  static constexpr int channels = Block::threads / lanes;  // of a block at once

  static __device__ int channel() { return thread() / lanes; }
  static __device__ int first_state() { return thread() % lanes; }
  template <class T>
  static __device__ T sum(T x) {
    return lane_sum<lanes>(x);
  }
};

// Where Mamba-2's channels have their numbers: H heads of P channels, G groups of heads that share b and c; xbc's
// columns are x, b and c. state_offset() is that of a state among a sequence's.
template <class T, int H, int P, int G, int N_>
struct SsdChannels {
  static constexpr int E = H * P, N = N_, groups = G, C = E + 2 * G * N;
  static constexpr std::size_t state_size = static_cast<std::size_t>(H) * N * padded(P);
  Rows<const T, H> delta;
  Rows<const T, C> xbc;
  Weight<T, 1, H> a, d;

  __device__ T step(int t, int e) const { return delta[t][e / P]; }
  __device__ T u(int t, int e) const { return xbc[t][e]; }
  __device__ T b(int t, int e, int n) const { return xbc[t][E + e / (E / G) * N + n]; }
  __device__ T c(int t, int e, int n) const { return xbc[t][E + (G + e / (E / G)) * N + n]; }
  __device__ T rate(int e, int) const { return a.derived[e / P]; }
  __device__ T skip(int e) const { return d.value[e / P]; }
  __device__ static std::size_t state_offset(int e, int n) {
    return (static_cast<std::size_t>(e / P) * N + n) * padded(P) + e % P;
  }
};

// Which of a call's kept states is the one before step `time` of a sequence that begins in row `begin`: sequences keep
// one before every whole chunk but the first, so that no two of them share one.
__device__ inline std::size_t boundary(int begin, int time) {
  return static_cast<std::size_t>(begin / grid_scan_chunk + time / grid_scan_chunk - 1);
}

}  // namespace detail

}  // namespace mamba::cuda
