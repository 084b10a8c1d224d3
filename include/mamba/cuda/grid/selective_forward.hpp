// Mamba-1's scan over the grid (scan.hpp), forward.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/selective_pieces.hpp>
#include <mamba/cuda/grid/selective_tile.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// What a block has of a stretch in shared memory; y takes delta's place.
template <class S, int N>
struct SelectiveStage {
  using L = SelectiveTile<ComputeOf<S>, N>;
  ComputeOf<S> delta[L::steps * L::channels];
  S u[L::steps * L::channels], b[L::steps * L::tile], c[L::steps * L::tile];
};

// What may stand before and behind a step, with it in one kernel: delta is what becomes step sizes with its bias, and o
// the output gated. (A long scan is no faster so: its blocks have less of their time for what they wait for in turn.)
struct StepAlone {
  static constexpr bool gates = false;
  struct Early {};  // what a lane asks for before the kernel's turn comes

  __device__ Early early(int) const { return {}; }
  template <class Inputs>
  __device__ auto step_size(const Inputs& in, int row, int e, Early) const {
    using T = typename Inputs::T;
    return e < Inputs::E ? in.delta[row][e] : T(0);
  }
};
template <class S, int E>
struct StepAndGate {
  static constexpr bool gates = true;
  using T = ComputeOf<S>;
  struct Early {};
  Weight<T, 1, E> bias;
  Rows<const S, E> z;
  Rows<S, E> o;

  __device__ Early early(int) const { return {}; }
  __device__ T of_pi(T pi, int e) const { return e < E ? math::softplus(pi + bias.value[e]) : T(0); }
  template <class Inputs>
  __device__ T step_size(const Inputs& in, int row, int e, Early) const {
    return of_pi(e < E ? in.delta[row][e] : T(0), e);
  }
  __device__ void gate(int row, int e, T y) const { o[row][e] = y * math::silu(static_cast<T>(z[row][e])); }
  Rows<S, E> output() const { return o; }
};

// In place of which rows a scan forgets: it gives nothing but the states at the ends.
struct StatesAlone : NoRows {};

// y <- the recurrence; a block takes some channels of one sequence, and while it walks along a stretch of it the next
// one comes. boundaries: null, or the states that are kept; states: null, or those that sequences begin from and end
// with.
template <class S, class T, int E, int N, class Blocked>
__global__ void __launch_bounds__(SelectiveTile<T, N>::threads)
    selective_scan_forward(SelectiveInputs<S, E, N> in, Rows<T, E> y, T* boundaries, T* states, Sequences sequences,
                           Blocked rows) {
  begin_kernel();
  using L = SelectiveTile<T, N>;
  using Stage = SelectiveStage<S, N>;
  constexpr bool gives_rows = !std::is_same_v<Blocked, StatesAlone>;
  constexpr int slices = (E + L::channels - 1) / L::channels;
  extern __shared__ __align__(128) std::byte shared[];
  Stage* const stages = reinterpret_cast<Stage*>(shared);
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
        Stage& stage = stages[turn];
        const int count = min(L::steps, end - row);
        stage_rows<L::threads, L::steps, L::channels>(stage.delta, in.delta, row, count, first_channel);
        stage_rows<L::threads, L::steps, L::channels>(stage.u, in.u, row, count, first_channel);
        stage_rows<L::threads, L::steps, L::tile>(stage.b, in.b, row, count, tile);
        if constexpr (gives_rows) stage_rows<L::threads, L::steps, L::tile>(stage.c, in.c, row, count, tile);
      }
      commit_copies();
    };
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
      Stage& stage = stages[turn];
      if (boundaries && row > begin && e < E) {
        T* const kept = boundaries + kept_state<L::steps>(begin, row - begin) * in.state_size;
#pragma unroll
        for (int i = 0; i < L::states; ++i)
          if (n0 + i < N) kept[in.state_offset(e, n0 + i)] = h[i];
      }
      const int count = min(L::steps, end - row);
      // So many steps' sums over the lanes are shared out; beyond the sequence's end everything is zero but the state.
      constexpr int at_once = 4;
      using Share = SumShare<at_once, L::lanes>;
      const auto walk = [&](int first, auto all_exist) {
        T sums[at_once];
#pragma unroll
        for (int k = 0; k < at_once; ++k) {
          const int t = first + k;
          const bool exists = decltype(all_exist)::value || t < count;
          const T step = stage.delta[t * L::channels + L::channel()], u = stage.u[t * L::channels + L::channel()];
          const auto b = load4(stage.b + t * L::tile + L::first_state());
          Quad<T> c{};
          if constexpr (gives_rows) c = load4(stage.c + t * L::tile + L::first_state());
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
          const int at = (first + own + k) * L::channels + L::channel();
          stage.delta[at] = (tile == 0 ? skip * static_cast<T>(stage.u[at]) : T(0)) + sums[k];
        }
      };
#pragma unroll 2
      for (int first = 0; first + at_once <= count; first += at_once) walk(first, std::true_type{});
      if (count % at_once != 0) walk(count / at_once * at_once, std::false_type{});
      __syncthreads();
#pragma unroll 4
      for (int i = thread(); gives_rows && i < count * L::channels; i += L::threads) {
        const int column = first_channel + i % L::channels;
        if (column >= E) continue;
        T& out = y[row + i / L::channels][column];
        out = tile == 0 ? stage.delta[i] : out + stage.delta[i];
      }
      __syncthreads();  // before the next stretch but one takes its place
    }
#pragma unroll
    for (int i = 0; i < L::states; ++i)
      if (state && e < E && n0 + i < N) state[in.state_offset(e, n0 + i)] = h[i];
  }
}

// A step of every sequence, whose state is given: a group of lanes for each channel.
template <class S, class T, int E, int N, class Around>
__global__ void __launch_bounds__(SelectiveTile<T, N>::threads)
    selective_step(SelectiveInputs<S, E, N> in, Rows<T, E> y, T* states, Sequences sequences, Around around) {
  using L = SelectiveTile<T, N>;
  constexpr int slices = (E + L::channels - 1) / L::channels;
  const int s = static_cast<int>(blockIdx.x) / slices,
            e = static_cast<int>(blockIdx.x) % slices * L::channels + L::channel();
  const auto early = around.early(e);
  begin_kernel();
  const int row = sequences.begin(s);
  const bool exists = e < E;
  const T step = around.step_size(in, row, e, early);
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
  if constexpr (Around::gates) around.gate(row, e, in.skip(e) * u + sum);
  else y[row][e] = in.skip(e) * u + sum;
}

// Blocks that take some channels of a sequence each.
template <class T, int E, int N>
inline constexpr int selective_slices = (E + SelectiveTile<T, N>::channels - 1) / SelectiveTile<T, N>::channels;
template <class T, int E, int N>
int selective_blocks(Sequences sequences) {
  return sequences.count * selective_slices<T, E, N>;
}

template <class S, class T, int E, int N, class Around>
void selective_forward_step(Grid& be, const SelectiveInputs<S, E, N>& in, Rows<T, E> y, T* states, Sequences sequences,
                            const Around& around) {
  if constexpr (std::is_same_v<Around, StepAlone>) clear_padding(be, y);
  else clear_padding(be, around.output());
  be.launch_shaped("selective_step", selective_step<S, T, E, N, Around>,
                   {selective_blocks<T, E, N>(sequences), SelectiveTile<T, N>::threads, 0}, in, y, states, sequences,
                   around);
}

// Whether every sequence has one row, for none is empty.
template <class X, int C>
bool is_step(Rows<X, C> rows, Sequences sequences) {
  return rows.rows == sequences.count;
}

template <class S, class T, int E, int N, class Blocked>
void selective_forward(Grid& be, const SelectiveInputs<S, E, N>& in, Rows<T, E> y, T* boundaries, T* states,
                       Sequences sequences, Blocked rows) {
  if constexpr (std::is_same_v<Blocked, NoRows>)
    if (states && !boundaries && is_step(y, sequences))
      return selective_forward_step(be, in, y, states, sequences, StepAlone{});
  clear_padding(be, y);
  const auto run = [&](Sequences of, T* to_keep, T* from, auto which) {
    be.launch_shaped(
        "selective_scan_forward", selective_scan_forward<S, T, E, N, decltype(which)>,
        {selective_blocks<T, E, N>(of), SelectiveTile<T, N>::threads, shared_memory<SelectiveStage<S, N>, 2>}, in, y,
        to_keep, from, of, which);
  };
  if constexpr (std::is_same_v<Blocked, NoRows>)
    if (const int length = piece_rows(y.rows, sequences.count, selective_slices<T, E, N>); length > 0) {
      SelectivePieces<T, E, N> pieces(y.rows, sequences.count, length);
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
