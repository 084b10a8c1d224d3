// How Mamba-1's scan over the grid (scan.hpp) is cut: which lanes hold a channel's states, and what of a sequence lies
// in shared memory at a time.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/tuning.hpp>

namespace mamba::cuda::detail {

// A channel's states lie in the lanes of a group, four neighbours each, tile after tile of them; a block holds as many
// channels as it has groups. Of a sequence it takes `steps` rows at a time, so few that shared memory holds them, and
// keeps the state before each such stretch for the backward pass.
template <class T, int N>
struct SelectiveTile {
  static constexpr int threads = GridTuning::scan_threads, states = 4;
  static constexpr int lanes = N > 64 ? 32 : N > 32 ? 16 : N > 16 ? 8 : N > 8 ? 4 : N > 4 ? 2 : 1;
  static constexpr int tile = lanes * states, channels = threads / lanes, warps = threads / 32;
  static constexpr int channels_of_warp = 32 / lanes;
  static constexpr int stride = channels + 8;  // of step sizes in shared memory: some rows' lie in banks of their own
  static constexpr int sub_steps = 8;          // whose states the backward pass has in registers
  static constexpr int steps =
      std::clamp((std::min)(GridTuning::scan_input_bytes / channels, GridTuning::scan_state_bytes / tile) /
                     static_cast<int>(sizeof(T)),
                 sub_steps, 64);
  static_assert(steps % sub_steps == 0);

  static __device__ int channel() { return thread() / lanes; }  // in the block
  static __device__ int lane_of_channel() { return thread() % lanes; }
  static __device__ int first_state() { return lane_of_channel() * states; }  // in the tile
};

// Which of a call's kept states is the one before step `time` (a multiple of `steps`) of a sequence that begins in row
// `begin`: sequences keep one before every whole stretch but the first, so that no two of them share one.
template <int steps>
__device__ std::size_t kept_state(int begin, int time) {
  return static_cast<std::size_t>(begin / steps + time / steps - 1);
}
inline int most_kept_states(Sequences sequences, int steps) {
  int longest = 0;
  for (int s = 0; s < sequences.count; ++s) longest = (std::max)(longest, sequences.end(s) - sequences.begin(s));
  return longest > steps ? sequences.rows() / steps : 0;
}

// to (Steps, Width) in shared memory, its lines Stride apart, <- columns first .. of `count` rows from row `row` on,
// zeros where there is none. Asynchronous; Width, Stride and first are multiples of 4.
template <int Threads, int Steps, int Width, int Stride = Width, class S, int C>
__device__ void stage_rows(S* to, Rows<const S, C> from, int row, int count, int first) {
  constexpr int vector = sizeof(S) > 4 ? 2 : 4, vectors = Width / vector;
  static_assert(Width % vector == 0);
#pragma unroll 4
  for (int i = thread(); i < Steps * vectors; i += Threads) {
    const int t = i / vectors, column = i % vectors * vector;
    const bool exists = t < count && first + column < Rows<const S, C>::stride;
    copy_async<vector * sizeof(S)>(to + t * Stride + column,
                                   exists ? from.address(row + t) + first + column : from.data, exists);
  }
}

// What a lane has of `Values` sums that `lanes` lanes share out (sum_over_lanes, powers of 2): `held` of them, and
// where there are more lanes than sums, `apart` neighbours the same one.
template <int Values, int lanes>
struct SumShare {
  static constexpr int held = Values > lanes ? Values / lanes : 1, apart = lanes > Values ? lanes / Values : 1;
};

// What Mamba-1's scan reads: of (rows, E) and (rows, N), S being what activations are stored in.
template <class S, int E_, int N_>
struct SelectiveInputs {
  using T = ComputeOf<S>;
  static constexpr int E = E_, N = N_;
  static constexpr std::size_t state_size = static_cast<std::size_t>(E) * padded(N);
  Rows<const T, E> delta;
  Rows<const S, E> u;
  Rows<const S, N> b, c;
  Weight<T, E, N> a;
  Weight<T, 1, E> d;

  __device__ T rate(int e, int n) const { return e < E && n < N ? a.derived[e * a.stride + n] : T(0); }
  __device__ T skip(int e) const { return e < E ? d.value[e] : T(0); }
  __device__ static std::size_t state_offset(int e, int n) { return static_cast<std::size_t>(e) * padded(N) + n; }
};

}  // namespace mamba::cuda::detail
