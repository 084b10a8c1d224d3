// Mamba-1's scan over the grid (scan.hpp), forward.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/selective_pieces.hpp>
#include <mamba/cuda/grid/selective_steps.hpp>
#include <mamba/cuda/grid/selective_tile.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// Where y goes: to rows, or gated by z.
template <class S_, int E>
struct ScanRows {
  using S = S_;
  static constexpr bool gates = false;
  Rows<S, E> to;

  __device__ void put(int row, int e, ComputeOf<S> y) const { to[row][e] = y; }
};
template <class S_, int E>
struct GatedScanRows {
  using S = S_;
  static constexpr bool gates = true;
  Rows<S, E> to;
  Rows<const S, E> z;

  static __device__ ComputeOf<S> gated(ComputeOf<S> y, ComputeOf<S> z) { return y * math::silu(z); }
  __device__ void put(int row, int e, ComputeOf<S> y) const { to[row][e] = gated(y, z[row][e]); }
};

// What a block has in shared memory: step sizes, whose place y takes, and the other inputs of two stretches. b and c,
// which all channels read, are there as numbers that are computed with, too.
template <class S, int elements, bool gates>
struct OfGate {};
template <class S, int elements>
struct OfGate<S, elements, true> {
  S z[elements];
};
template <class S, class T, int elements>
struct OfStates {
  alignas(16) T b[elements], c[elements];
};
template <class T, int elements>
struct OfStates<T, T, elements> {};
template <class S, int N, class Steps, bool gates>
struct SelectiveStage
    : OfStates<S, ComputeOf<S>, SelectiveTile<ComputeOf<S>, N>::steps * SelectiveTile<ComputeOf<S>, N>::tile> {
  using T = ComputeOf<S>;
  using L = SelectiveTile<T, N>;
  static constexpr int elements = L::steps * L::channels, of_states = L::steps * L::tile;
  static constexpr bool converts = !std::is_same_v<S, T>;
  struct alignas(16) Turn : OfGate<S, elements, gates> {
    S u[elements], b[of_states], c[of_states];
  };
  typename Steps::template Memory<L, T> steps;
  Turn turns[2];

  // b and c of a stretch.
  template <bool with_c>
  __device__ void convert(int turn) {
#pragma unroll
    for (int i = 4 * thread(); i < of_states; i += 4 * L::threads) {
      store4(this->b + i, load4(turns[turn].b + i));
      if constexpr (with_c) store4(this->c + i, load4(turns[turn].c + i));
    }
  }
  __device__ const T* of_b(int turn) const {
    if constexpr (converts) return this->b;
    else return turns[turn].b;
  }
  __device__ const T* of_c(int turn) const {
    if constexpr (converts) return this->c;
    else return turns[turn].c;
  }
};

// In place of which rows a scan forgets: it gives nothing but the states at the ends.
struct StatesAlone : NoRows {};

// output <- the recurrence's y; a block takes some channels of one sequence, and while it walks along a stretch of it
// the next one comes. boundaries: null, or the states that are kept; states: null, or those that sequences begin from
// and end with.
template <class S, class T, int E, int N, class Steps, class Output, class Blocked>
__global__ void __launch_bounds__(SelectiveTile<T, N>::threads)
    selective_scan_forward(SelectiveInputs<S, E, N> in, Steps steps, Output output, T* boundaries, T* states,
                           Sequences sequences, Blocked rows) {
  begin_kernel();
  using L = SelectiveTile<T, N>;
  using Stage = SelectiveStage<S, N, Steps, Output::gates>;
  static_assert(!(Output::gates || Steps::projects) || N <= L::tile, "a stretch is met once");
  constexpr bool gives_rows = !std::is_same_v<Blocked, StatesAlone>;
  constexpr int slices = (E + L::channels - 1) / L::channels;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  const int s = static_cast<int>(blockIdx.x) / slices,
            first_channel = static_cast<int>(blockIdx.x) % slices * L::channels;
  const int e = first_channel + L::channel();
  const int begin = sequences.begin(s), end = sequences.end(s);
  T* const state = states ? states + s * in.state_size : nullptr;
  const T skip = in.skip(e);
  for (int tile = 0; tile < N; tile += L::tile) {
    const int n0 = tile + L::first_state();
    const auto fetch = [&](int row, int turn) {
      if (row < end) {
        auto& of = stage.turns[turn];
        const int count = min(L::steps, end - row);
        steps.template fetch<L>(stage.steps, turn, in, row, count, first_channel);
        stage_rows<L::threads, L::steps, L::channels>(of.u, in.u, row, count, first_channel);
        stage_rows<L::threads, L::steps, L::tile>(of.b, in.b, row, count, tile);
        if constexpr (gives_rows) stage_rows<L::threads, L::steps, L::tile>(of.c, in.c, row, count, tile);
        if constexpr (gives_rows && Output::gates)
          stage_rows<L::threads, L::steps, L::channels>(of.z, output.z, row, count, first_channel);
      }
      commit_copies();
    };
    if constexpr (Steps::projects)
      if (begin < end) {
        steps.fetch_w(stage.steps, first_channel);
        steps.fetch_r(stage.steps, begin, min(L::steps, end - begin));
      }
    fetch(begin, 0);
    T rate[L::states], h[L::states];
#pragma unroll
    for (int i = 0; i < L::states; ++i) {
      rate[i] = in.rate(e, n0 + i);
      h[i] = state && e < E && n0 + i < N ? state[in.state_offset(e, n0 + i)] : T(0);
    }
    int turn = 0;
    for (int row = begin; row < end; row += L::steps, turn ^= 1) {
      fetch(row + L::steps, turn ^ 1);
      wait_for_copies<1>();
      __syncthreads();
      const auto& of = stage.turns[turn];
      T* const delta = stage.steps.of(turn);
      const T *const of_b = stage.of_b(turn), *const of_c = stage.of_c(turn);
      if constexpr (Steps::projects) steps.project(stage.steps);
      if constexpr (Stage::converts) stage.template convert<gives_rows>(turn);
      if constexpr (Steps::projects || Stage::converts) __syncthreads();
      if constexpr (Steps::projects) {  // nobody reads r any more
        if (const int next = row + L::steps; next < end) steps.fetch_r(stage.steps, next, min(L::steps, end - next));
        commit_copies();
      }
      if (boundaries && row > begin && e < E) {
        T* const kept = boundaries + kept_state<L::steps>(begin, row - begin) * in.state_size;
#pragma unroll
        for (int i = 0; i < L::states; ++i)
          if (n0 + i < N) kept[in.state_offset(e, n0 + i)] = h[i];
      }
      const int count = min(L::steps, end - row);
      // So many steps' sums over the lanes are shared out; beyond the sequence's end everything is zero but the state.
      constexpr int at_once = 8;
      using Share = SumShare<at_once, L::lanes>;
      const auto walk = [&](int first, auto all_exist) {
        T sums[at_once];
#pragma unroll
        for (int k = 0; k < at_once; ++k) {
          const int t = first + k;
          const bool exists = decltype(all_exist)::value || t < count;
          const T step = delta[t * L::stride + L::channel()], u = of.u[t * L::channels + L::channel()];
          const auto b = load4(of_b + t * L::tile + L::first_state());
          Quad<T> c{};
          if constexpr (gives_rows) c = load4(of_c + t * L::tile + L::first_state());
          const bool forgets = exists && rows.blocked(row + t);
          sums[k] = 0;
#pragma unroll
          for (int i = 0; i < L::states; ++i) {
            const T carried = math::decay(step, rate[i]) * h[i];
            const T next = math::next_state(carried, step * u, b.at[i]);
            sums[k] += c.at[i] * next;
            if (exists) h[i] = forgets ? carried : next;
          }
        }
        if constexpr (!gives_rows) return;
        const int own = sum_over_lanes<at_once, L::lanes>(sums);
        __syncwarp();
        if (L::lane_of_channel() % Share::apart != 0) return;
#pragma unroll
        for (int k = 0; k < Share::held; ++k) {
          const int t = first + own + k;
          const T of_skip = tile == 0 ? skip * static_cast<T>(of.u[t * L::channels + L::channel()]) : T(0);
          delta[t * L::stride + L::channel()] = of_skip + sums[k];
        }
      };
#pragma unroll 1
      for (int first = 0; first + at_once <= count; first += at_once) walk(first, std::true_type{});
      if (count % at_once != 0) walk(count / at_once * at_once, std::false_type{});
      __syncthreads();
#pragma unroll 4
      for (int i = 4 * thread(); gives_rows && i < count * L::channels; i += 4 * L::threads) {
        const int column = first_channel + i % L::channels;
        if (column >= E) continue;
        auto* const to = output.to[row + i / L::channels] + column;
        auto y = load4(static_cast<const T*>(delta + i / L::channels * L::stride + i % L::channels));
        if constexpr (Output::gates) {
          const auto z = load4(of.z + i);
#pragma unroll
          for (int j = 0; j < 4; ++j) y.at[j] = Output::gated(y.at[j], z.at[j]);
        } else if (tile > 0) {
          add_to(y, load4(static_cast<const T*>(to)));
        }
        if constexpr (E % 4 != 0)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (column + j >= E) y.at[j] = 0;  // whatever the padding's inputs are
        store4(to, y);
      }
      __syncthreads();  // before the next stretch but one takes its place
    }
#pragma unroll
    for (int i = 0; i < L::states; ++i)
      if (state && e < E && n0 + i < N) state[in.state_offset(e, n0 + i)] = h[i];
  }
}

// A step of every sequence, whose state is given: a group of lanes for each channel.
template <class S, class T, int E, int N, class Steps, class Output>
__global__ void __launch_bounds__(SelectiveTile<T, N>::threads)
    selective_step(SelectiveInputs<S, E, N> in, Steps steps, Output output, T* states, Sequences sequences) {
  using L = SelectiveTile<T, N>;
  constexpr int slices = (E + L::channels - 1) / L::channels;
  const int s = static_cast<int>(blockIdx.x) / slices,
            e = static_cast<int>(blockIdx.x) % slices * L::channels + L::channel();
  const auto early = steps.early(e);
  begin_kernel();
  const int row = sequences.begin(s);
  const bool exists = e < E;
  const T step = steps.size(in, row, e, early);
  const T u = exists ? static_cast<T>(in.u[row][e]) : T(0);
  T* const state = states + s * in.state_size + in.state_offset(e, 0);
  T sum = 0;
#pragma unroll
  for (int tile = 0; tile < N; tile += L::tile) {
    const int n0 = tile + L::first_state();
    if (exists && n0 < padded(N)) {
      const auto b = load4(in.b[row] + n0), c = load4(in.c[row] + n0);
      auto h = load4(static_cast<const T*>(state) + n0);
#pragma unroll
      for (int i = 0; i < L::states; ++i) {
        h.at[i] = math::next_state(math::decay(step, in.rate(e, n0 + i)) * h.at[i], step * u, b.at[i]);
        sum += c.at[i] * h.at[i];
      }
      store4(state + n0, h);
    }
  }
#pragma unroll
  for (int offset = L::lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0U, sum, offset);
  if (!exists || L::lane_of_channel() != 0) return;
  output.put(row, e, in.skip(e) * u + sum);
}

// Blocks that take some channels of a sequence each.
template <class T, int E, int N>
inline constexpr int selective_slices = (E + SelectiveTile<T, N>::channels - 1) / SelectiveTile<T, N>::channels;
template <class T, int E, int N>
int selective_blocks(Sequences sequences) {
  return sequences.count * selective_slices<T, E, N>;
}

template <class S, class T, int E, int N, class Steps, class Output>
void selective_forward_step(Grid& be, const SelectiveInputs<S, E, N>& in, const Steps& steps, const Output& output,
                            T* states, Sequences sequences) {
  clear_padding(be, output.to);
  be.launch_shaped("selective_step", selective_step<S, T, E, N, Steps, Output>,
                   {selective_blocks<T, E, N>(sequences), SelectiveTile<T, N>::threads, 0}, in, steps, output, states,
                   sequences);
}

template <class S, class T, int E, int N, class Steps, class Output, class Blocked>
void selective_scan_all(Grid& be, const SelectiveInputs<S, E, N>& in, const Steps& steps, const Output& output,
                        T* boundaries, T* states, Sequences sequences, Blocked rows) {
  using Stage = SelectiveStage<S, N, Steps, Output::gates>;
  be.launch_shaped("selective_scan_forward", selective_scan_forward<S, T, E, N, Steps, Output, Blocked>,
                   {selective_blocks<T, E, N>(sequences), SelectiveTile<T, N>::threads, shared_memory<Stage>}, in,
                   steps, output, boundaries, states, sequences, rows);
}
template <class S, class T, int E, int N, class Output, class Blocked>
void selective_forward(Grid& be, const SelectiveInputs<S, E, N>& in, const Output& output, T* boundaries, T* states,
                       Sequences sequences, Blocked rows) {
  const int count = output.to.rows;
  if constexpr (std::is_same_v<Blocked, NoRows>)
    if (states && !boundaries && count == sequences.count)  // a row of each, for none is empty
      return selective_forward_step(be, in, StepsGiven{}, output, states, sequences);
  clear_padding(be, output.to);
  const auto run = [&](Sequences of, T* to_keep, T* from, auto which) {
    selective_scan_all(be, in, StepsGiven{}, output, to_keep, from, of, which);
  };
  if constexpr (std::is_same_v<Blocked, NoRows>)
    if (const int length = piece_rows(count, sequences.count, selective_slices<T, E, N>); length > 0) {
      SelectivePieces<T, E, N> pieces(count, sequences.count, length);
      be.carve([&](Carver& memory) { pieces.carve(memory, false); });
      begin_pieces(be, pieces, in.delta, sequences);
      be.zero(pieces.states, static_cast<std::size_t>(pieces.slots) * pieces.state_size);
      run(pieces.as_sequences(), nullptr, pieces.states, StatesAlone{});
      be.launch_over("pass_states_of_pieces", pass_states_of_pieces<SelectiveTile<T, N>::steps, T, E, N>,
                     static_cast<std::size_t>(sequences.count) * pieces.state_size, pieces, boundaries, states, in.a,
                     sequences);
      return run(pieces.as_sequences(), boundaries, pieces.states, NoRows{});
    }
  run(sequences, boundaries, states, rows);
}

}  // namespace mamba::cuda::detail
