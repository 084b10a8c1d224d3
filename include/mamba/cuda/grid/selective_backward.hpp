// Mamba-1's scan over the grid (scan.hpp), backward.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/selective_pieces.hpp>
#include <mamba/cuda/grid/selective_tile.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/mixer.hpp>

namespace mamba::cuda::detail {

// What the backward pass writes beside the gradients themselves, in scratch memory: of b and c a share for each slice
// of the channels, of rates and skips one for each part of the sequences. How many there are follows from the sizes
// alone.
template <class T, int E, int N>
struct SelectivePartials {
  using L = SelectiveTile<T, N>;
  static constexpr int passes = (E + L::channels - 1) / L::channels;  // of a block's channels over all
  static constexpr std::size_t rate_size = static_cast<std::size_t>(E) * padded(N), state_row_size = 2 * padded(N);

  int parts, slices;
  T* states;         // (slices, rows, 2, padded(N)): gradients of b and c
  T* rates;          // (parts, E, padded(N))
  Rows<T, E> skips;  // (parts, E)

  explicit SelectivePartials(int sequences) {
    // No more memory for the gradients of b and c than a layer's activations take.
    constexpr int affordable = (std::max)(1, 4 * padded(E) / padded(N));
    constexpr int most_parts = std::clamp(static_cast<int>(GridTuning::scan_partial_elements / rate_size), 1, 1024);
    slices = (std::min)(passes, affordable);
    parts = (std::min)({sequences, most_parts, (GridTuning::scan_blocks + slices - 1) / slices});
  }

  // Over no memory it only counts.
  void carve(Carver& memory, int rows) {
    rates = memory.take<T>(parts * rate_size);
    memory.take(skips, parts);
    states = memory.take<T>(static_cast<std::size_t>(slices) * rows * state_row_size);
  }
  __device__ T* state_row(int slice, int rows, int t) const {
    return states + (static_cast<std::size_t>(slice) * rows + t) * state_row_size;
  }
};

// What a block has of a stretch in shared memory; ddelta takes delta's place, and du dy's.
template <class S, int N>
struct SelectiveBackwardStage {
  using T = ComputeOf<S>;
  using L = SelectiveTile<T, N>;
  static constexpr int turns = L::lanes == 32 ? 1 : 2;  // of the exchange, one if it is large
  T delta[L::steps * L::channels], dy[L::steps * L::channels];
  S u[L::steps * L::channels], b[L::steps * L::tile], c[L::steps * L::tile];
  T before[L::steps / L::sub_steps * L::threads * L::states];  // each lane's states before each sub-stretch
  T exchange[turns][L::warps][L::sub_steps][2 * L::tile];      // each warp's gradients of b and c
};

// du, ddelta <- the gradients, and the partial sums. A block takes some sequences, and some channels after others; it
// walks along a sequence from its end, stretch by stretch, and computes the states in it again from the one that is
// kept. passed: where sequences began and the gradient of where they ended, which becomes that of where they began.
template <class Stored, class T, int E, int N, class Passed>
__global__ void __launch_bounds__(SelectiveTile<T, N>::threads)
    selective_scan_backward(SelectiveInputs<Stored, E, N> in, Rows<T, E> du, Rows<T, E> ddelta,
                            SelectivePartials<T, E, N> partials, Rows<const T, E> dy, const T* boundaries,
                            Sequences sequences, Passed passed) {
  begin_kernel();
  using L = SelectiveTile<T, N>;
  using Stage = SelectiveBackwardStage<Stored, N>;
  using Partials = SelectivePartials<T, E, N>;
  constexpr int S = L::states, sub_steps = L::sub_steps;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  const int slice = static_cast<int>(blockIdx.x) % partials.slices,
            part = static_cast<int>(blockIdx.x) / partials.slices;
  const int first_pass = first_of(slice, partials.slices, Partials::passes),
            last_pass = first_of(slice + 1, partials.slices, Partials::passes);
  const int first_sequence = first_of(part, partials.parts, sequences.count),
            last_sequence = first_of(part + 1, partials.parts, sequences.count);
  int turn = 0;
  for (int pass = first_pass; pass < last_pass; ++pass) {
    const int first_channel = pass * L::channels, e = first_channel + L::channel();
    const T skip = in.skip(e);
    T of_skip = 0;
    for (int tile = 0; tile < N; tile += L::tile) {
      const int n0 = tile + L::first_state();
      T rate[S], of_rate[S] = {};
#pragma unroll
      for (int i = 0; i < S; ++i) rate[i] = in.rate(e, n0 + i);
      for (int s = first_sequence; s < last_sequence; ++s) {
        const int begin = sequences.begin(s), end = sequences.end(s);
        T from_future[S] = {};
        const auto at = [&](int i) { return s * in.state_size + in.state_offset(e, n0 + i); };
        if constexpr (Passed::passes)
#pragma unroll
          for (int i = 0; i < S; ++i)
            if (passed.gradient && e < E && n0 + i < N) from_future[i] = passed.gradient[at(i)];
        for (int time = (end - begin - 1) / L::steps * L::steps; time >= 0; time -= L::steps) {
          const int row = begin + time, count = min(L::steps, end - row);
          stage_rows<L::threads, L::steps, L::channels>(stage.delta, in.delta, row, count, first_channel);
          stage_rows<L::threads, L::steps, L::channels>(stage.u, in.u, row, count, first_channel);
          stage_rows<L::threads, L::steps, L::channels>(stage.dy, dy, row, count, first_channel);
          stage_rows<L::threads, L::steps, L::tile>(stage.b, in.b, row, count, tile);
          stage_rows<L::threads, L::steps, L::tile>(stage.c, in.c, row, count, tile);
          commit_copies();
          T h[S];
#pragma unroll
          for (int i = 0; i < S; ++i)
            h[i] = time > 0 && e < E && n0 + i < N
                       ? boundaries[kept_state<L::steps>(begin, time) * in.state_size + in.state_offset(e, n0 + i)]
                       : T(0);
          if constexpr (Passed::passes)
#pragma unroll
            for (int i = 0; i < S; ++i)
              if (time == 0 && e < E && n0 + i < N) h[i] = passed.from[at(i)];
          wait_for_copies<0>();
          __syncthreads();
          const auto input_of = [&](int t) {
            return stage.delta[t * L::channels + L::channel()] *
                   static_cast<T>(stage.u[t * L::channels + L::channel()]);
          };
          // Nothing comes into a sequence's first step, nor is there anything behind its last one, but where states are
          // passed: then what does not exist behind it passes them on.
          const auto decay_of = [&](int t, int i) {
            const bool cut = t >= count || (!Passed::passes && time + t == 0);
            return cut ? T(Passed::passes) : math::decay(stage.delta[t * L::channels + L::channel()], rate[i]);
          };
          const int subs = (count + sub_steps - 1) / sub_steps;
#pragma unroll 1
          for (int sub = 0; sub < subs; ++sub) {
            store4(stage.before + (sub * L::threads + thread()) * S, Quad<T>{h[0], h[1], h[2], h[3]});
            if (sub + 1 == subs) break;
#pragma unroll
            for (int k = 0; k < sub_steps; ++k) {
              const int t = sub * sub_steps + k;
              const T input = input_of(t);
              const auto b = load4(stage.b + t * L::tile + L::first_state());
#pragma unroll
              for (int i = 0; i < S; ++i) h[i] = math::next_state(decay_of(t, i) * h[i], input, b.at[i]);
            }
          }
#pragma unroll 1
          for (int sub = subs - 1; sub >= 0; --sub) {
            const auto before = load4(stage.before + (sub * L::threads + thread()) * S);
            T carried[sub_steps][S], decays[sub_steps][S];
#pragma unroll
            for (int i = 0; i < S; ++i) h[i] = before.at[i];
#pragma unroll
            for (int k = 0; k < sub_steps; ++k) {
              const int t = sub * sub_steps + k;
              const T input = input_of(t);
              const auto b = load4(stage.b + t * L::tile + L::first_state());
#pragma unroll
              for (int i = 0; i < S; ++i) {
                decays[k][i] = decay_of(t, i);
                carried[k][i] = decays[k][i] * h[i];
                h[i] = math::next_state(carried[k][i], input, b.at[i]);
              }
            }
            T of_inputs[2 * sub_steps];  // each step's du and ddelta
#pragma unroll
            for (int k = sub_steps - 1; k >= 0; --k) {
              const int t = sub * sub_steps + k;
              const T step = stage.delta[t * L::channels + L::channel()], u = stage.u[t * L::channels + L::channel()],
                      g = stage.dy[t * L::channels + L::channel()], input = step * u;
              const auto b = load4(stage.b + t * L::tile + L::first_state()),
                         c = load4(stage.c + t * L::tile + L::first_state());
              T of_b = 0, of_decay = 0, of_states[2 * S];
#pragma unroll
              for (int i = 0; i < S; ++i) {
                const T lambda = math::adjoint(c.at[i], g, from_future[i]), of_carried = lambda * carried[k][i];
                of_states[i] = lambda * input;
                of_states[S + i] = g * math::next_state(carried[k][i], input, b.at[i]);
                of_b += lambda * b.at[i];
                of_decay += of_carried * rate[i];
                of_rate[i] += of_carried * step;
                from_future[i] = decays[k][i] * lambda;
              }
              if (tile == 0) of_skip += g * u;
              of_inputs[2 * k] = step * of_b;
              of_inputs[2 * k + 1] = T(math::ln2) * of_decay + u * of_b;
              // Over the channels of the warp; what more lanes than values have twice is written once.
              using Share = SumShare<2 * S, L::channels_of_warp>;
              const int own = sum_over_lanes<2 * S, L::channels_of_warp, L::lanes>(of_states);
              if (lane() / L::lanes % Share::apart == 0) {
#pragma unroll
                for (int i = 0; i < Share::held; ++i) {
                  const int value = own + i;
                  stage.exchange[turn][warp()][k][value / S * L::tile + L::first_state() + value % S] = of_states[i];
                }
              }
            }
            using Share = SumShare<2 * sub_steps, L::lanes>;
            const int own = sum_over_lanes<2 * sub_steps, L::lanes>(of_inputs);
            __syncwarp();
            if (L::lane_of_channel() % Share::apart == 0) {
#pragma unroll
              for (int i = 0; i < Share::held; ++i) {
                const int at = (sub * sub_steps + (own + i) / 2) * L::channels + L::channel();
                if ((own + i) % 2 == 0) stage.dy[at] = (tile == 0 ? skip * stage.dy[at] : T(0)) + of_inputs[i];
                else stage.delta[at] = of_inputs[i];
              }
            }
            __syncthreads();
            for (int i = thread(); i < sub_steps * 2 * L::tile; i += L::threads) {
              const int t = sub * sub_steps + i / (2 * L::tile), which = i / L::tile % 2, n = tile + i % L::tile;
              if (t >= count || n >= N) continue;
              T sum = 0;
#pragma unroll
              for (int w = 0; w < L::warps; ++w) sum += stage.exchange[turn][w][i / (2 * L::tile)][i % (2 * L::tile)];
              T& to = partials.state_row(slice, dy.rows, row + t)[which * padded(N) + n];
              to = pass == first_pass ? sum : to + sum;
            }
            if constexpr (Stage::turns == 1) __syncthreads();
            else turn ^= 1;
          }
          __syncthreads();
          for (int i = thread(); i < count * L::channels; i += L::threads) {
            const int column = first_channel + i % L::channels;
            if (column >= E) continue;
            T& of_u = du[row + i / L::channels][column];
            T& of_delta = ddelta[row + i / L::channels][column];
            of_u = tile == 0 ? stage.dy[i] : of_u + stage.dy[i];
            of_delta = tile == 0 ? stage.delta[i] : of_delta + stage.delta[i];
          }
          __syncthreads();
        }
        if constexpr (Passed::passes)
#pragma unroll
          for (int i = 0; i < S; ++i)
            if (passed.gradient && e < E && n0 + i < N) passed.gradient[at(i)] = from_future[i];
      }
#pragma unroll
      for (int i = 0; i < S; ++i)
        if (e < E && n0 + i < N) partials.rates[part * Partials::rate_size + in.state_offset(e, n0 + i)] = of_rate[i];
    }
    if (e < E && L::lane_of_channel() == 0) partials.skips[part][e] = of_skip;
  }
}

// db, dc <- the sums of the slices' shares.
template <class T, int E, int N>
__global__ void __launch_bounds__(Block::threads)
    sum_selective_gradients(Rows<T, N> db, Rows<T, N> dc, SelectivePartials<T, E, N> partials) {
  begin_kernel();
  constexpr int of_row = 2 * padded(N);
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int t = static_cast<int>(i / of_row), which = static_cast<int>(i % of_row) / padded(N),
            n = static_cast<int>(i % padded(N));
  if (t >= db.rows) return;
  T sum = 0;
  if (n < N)
    for (int slice = 0; slice < partials.slices; ++slice)
      sum += partials.state_row(slice, db.rows, t)[which * padded(N) + n];
  (which == 0 ? db : dc)[t][n] = sum;
}

template <class S, class T, int E, int N, class Passed>
void selective_backward(Grid& be, const SelectiveInputs<S, E, N>& in, Rows<T, E> du, Rows<T, E> ddelta, Rows<T, N> db,
                        Rows<T, N> dc, WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, Rows<const T, E> dy,
                        const T* boundaries, Sequences sequences, Passed passed) {
  using L = SelectiveTile<T, N>;
  constexpr int slices = SelectivePartials<T, E, N>::passes;
  const int length = piece_rows(dy.rows, sequences.count, slices);
  SelectivePieces<T, E, N> pieces(dy.rows, sequences.count, length > 0 ? length : dy.rows + 1);
  SelectivePartials<T, E, N> partials(length > 0 ? pieces.slots : sequences.count);
  be.carve([&](Carver& memory) {
    partials.carve(memory, dy.rows);
    if (length > 0) pieces.carve(memory, true);
  });
  be.zero(partials.rates, partials.parts * partials.rate_size);  // their padding, too, is added up
  be.zero(partials.skips.data, static_cast<std::size_t>(partials.parts) * partials.skips.stride);
  clear_padding(be, ddelta);
  clear_padding(be, du);
  const auto run = [&](Sequences of, auto states) {
    be.launch_shaped("selective_scan_backward", selective_scan_backward<S, T, E, N, decltype(states)>,
                     {partials.parts * partials.slices, L::threads, shared_memory<SelectiveBackwardStage<S, N>>}, in,
                     du, ddelta, partials, dy, boundaries, of, states);
  };
  if (length > 0) {  // twice: what the first run writes beside the gradients of states the second one replaces
    const T* from = nullptr;
    T* gradients = nullptr;
    if constexpr (Passed::passes) from = passed.from, gradients = passed.gradient;
    const network::PassedState<T> of_pieces{pieces.states, pieces.gradients};
    const std::size_t numbers = static_cast<std::size_t>(sequences.count) * pieces.state_size;
    begin_pieces(be, pieces, in.delta, sequences);
    be.zero(pieces.states, static_cast<std::size_t>(pieces.slots) * pieces.state_size);
    be.zero(pieces.gradients, static_cast<std::size_t>(pieces.slots) * pieces.state_size);
    be.launch_over("gather_states_of_pieces", gather_states_of_pieces<L::steps, T, E, N>, numbers, pieces, boundaries,
                   from, sequences);
    run(pieces.as_sequences(), of_pieces);
    be.launch_over("pass_gradients_of_pieces", pass_gradients_of_pieces<T, E, N>, numbers, pieces, gradients, in.a,
                   sequences);
    run(pieces.as_sequences(), of_pieces);
  } else {
    run(sequences, passed);
  }
  be.launch_over("sum_selective_gradients", sum_selective_gradients<T, E, N>,
                 static_cast<std::size_t>(dy.rows) * 2 * padded(N), db, dc, partials);
  be.add(da, PartialGradients<T, E, N>{partials.rates, partials.parts});
  be.add(dd, PartialGradients<T, 1, E>{partials.skips.data, partials.parts});
}

}  // namespace mamba::cuda::detail
