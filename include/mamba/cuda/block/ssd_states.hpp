// What passes between the chunks of sequences (specification, sections 7 and 14.4), added to what the chunks did alone:
// each reads the state before it, of (N, P) for every head, and hands it on, decayed and grown by the chunk's x b^T.
// What b, c, the steps and the gradients are, Operands say (SsdOperands, SsdGradients; RotaryOperands,
// RotaryGradientsOf).
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/cuda/block/ssd_head.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// A warp holds 8 channels of a head's state, 4 in each half; a lane holds the states that it has columns of b and c of.
template <class S>
struct StateColumns {
  using T = typename S::T;
  static constexpr int channels = 8, blocks = (S::P + channels - 1) / channels,
                       items = S::H * blocks;  // an item is a head's 8 channels
  T at[stretches(S::N)][4][4] = {};            // stretch, state, channel

  // f(stretch, state of the lane, state's number).
  template <class F>
  static __device__ void each_state(F&& f) {
#pragma unroll
    for (int k = 0; k < stretches(S::N); ++k)
#pragma unroll
      for (int n = 0; n < 4; ++n) f(k, n, k * stretch + 4 * half_lane() + n);
  }
  // Channels p .. p + 3 of the state of a head.
  __device__ void load(const T* state, int p) {
    each_state([&](int k, int i, int n) {
      Quad<T> q{};
      if (n < S::N && p < S::P) q = load4(state + S::place(n) * padded(S::P) + p);
#pragma unroll
      for (int j = 0; j < 4; ++j) at[k][i][j] = q.at[j];
    });
  }
  __device__ void store(T* state, int p) const {
    each_state([&](int k, int i, int n) {
      if (n < S::N && p < S::P) store_quad(state + S::place(n) * padded(S::P) + p, at[k][i]);
    });
  }

  // A chunk's rows of b or c, which load(columns, stretch) loads, times the state. On return the lane's two sums are
  // those of row half_lane() / 2 and of channels 2 (half_lane() % 2) and the next.
  struct Read {
    T at[2];
    static __device__ int row() { return half_lane() / 2; }
    static __device__ int channel() { return half_lane() % 2 * 2; }
  };
  template <class Load>
  __device__ Read read(Load&& load) const {
    T sums[ssd_chunk * 4] = {};
    for_each_stretch(load, [&](int k, int i, int n, T x) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[4 * i + j] += x * at[k][n][j];
    });
    sum_over_lanes<ssd_chunk * 4, half_lanes>(sums);
    return {sums[0], sums[1]};
  }
  // += the outer products of a chunk's rows of b or c and those of `scaled`.
  template <class Load>
  __device__ void grow(Load&& load, const ChunkColumns<T>& scaled) {
    for_each_stretch(load, [&](int k, int i, int n, T x) {
#pragma unroll
      for (int j = 0; j < 4; ++j) at[k][n][j] += x * scaled.at[i][j];
    });
  }
  __device__ void scale(T factor) {
    each_state([&](int k, int i, int) {
#pragma unroll
      for (int j = 0; j < 4; ++j) at[k][i][j] *= factor;
    });
  }

 private:
  // f(stretch, row, state of the lane, value).
  template <class Load, class F>
  static __device__ void for_each_stretch(Load&& load, F&& f) {
#pragma unroll
    for (int k = 0; k < stretches(S::N); ++k) {
      ChunkColumns<T> columns;
      load(columns, k);
#pragma unroll
      for (int i = 0; i < ssd_chunk; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) f(k, i, n, columns.at[i][n]);
    }
  }
};

// Columns of a chunk's rows, which load(columns) loads, each row times its factor, which lanes t, t + 8, ... know.
template <class T, class Load>
__device__ ChunkColumns<T> scaled_rows(Load&& load, T factor) {
  ChunkColumns<T> x;
  load(x);
#pragma unroll
  for (int i = 0; i < ssd_chunk; ++i) {
    const T f = ChunkSteps<T>::of(factor, i);
#pragma unroll
    for (int j = 0; j < 4; ++j) x.at[i][j] *= f;
  }
  return x;
}

// y += what every chunk reads of the state before it. A warp takes 8 channels through a whole sequence.
//   boundaries, states: as ssd's
template <class Operands, class S = typename Operands::S, class T = typename S::T, class Blocked>
__device__ __noinline__ void ssd_between_chunks(Rows<T, S::Y> y, T* boundaries, T* states, Operands operands,
                                                Sequences sequences, Blocked blocked) {
  using Columns = StateColumns<S>;
  int turn = warp();  // the warp's next item, counted from the sequence's first
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s),
              kept = end > begin ? (end - begin - 1) / S::tokens : 0;
    T* const own = states ? states + s * S::state_size : nullptr;
    if (own || kept > 0) {
      for (; turn < Columns::items; turn += Block::warps) {
        const int head = turn / Columns::blocks;
        const int p = turn % Columns::blocks * Columns::channels + lane() / half_lanes * 4;
        Columns state;
        if (own) state.load(own + head * S::head_state, p);
        if (own && begin < end) operands.enter(state, s, begin, head, p);
        for (int first = begin, number = 0; first < end; first += S::tokens, ++number) {
          const int rows = (end - first < S::tokens ? end - first : S::tokens) * S::R;
          auto steps = operands.steps(first, rows, end, head);
          const auto keys = operands.keys(first, rows, head);
          const int row = Columns::Read::row(), channel = p + Columns::Read::channel();
          T* const to = S::output(y, first, row, head) + channel;
          const bool adds[2] = {row < rows && channel < S::P, row < rows && channel + 1 < S::P};
          T sums[2] = {};
          if (number > 0 || own) {
#pragma unroll
            for (int j = 0; j < 2; ++j) sums[j] = adds[j] ? to[j] : T(0);
            const auto read = state.read([&](auto& c, int k) { keys.load_c(c, k); });
            const T rise = steps.of(steps.rise, row);
#pragma unroll
            for (int j = 0; j < 2; ++j) sums[j] += rise * read.at[j];
          }
          const bool hands_on = first + S::tokens < end || own;
          ChunkColumns<T> x;
          if (hands_on) {
            const int t = lane() % ssd_chunk;
            if (t < rows && blocked.blocked(first + t / S::R)) steps.weight = 0;
            x = scaled_rows([&](auto& v) { operands.load_inputs(v, first, rows, head, p); }, steps.weight);
          }
          if (number > 0 && boundaries)
            state.store(boundaries + (number - 1) * S::state_size + head * S::head_state, p);
          if (hands_on) {
            state.scale(steps.fall());
            state.grow([&](auto& b, int k) { keys.load_b(b, k); }, x);
          }
          if (number > 0 || own) {
#pragma unroll
            for (int j = 0; j < 2; ++j)
              if (adds[j]) to[j] = sums[j];
          }
        }
        if (own) state.store(own + head * S::head_state, p);
      }
      turn -= Columns::items;
    }
    if (boundaries) boundaries += kept * S::state_size;
  }
  __syncthreads();
}

// Of an item's 8 channels, for the gradients of the steps: 8 flows into the future, 8 reads of the past, the state's
// way through.
inline constexpr int between_partial_size = 2 * ssd_chunk + 1;

// One chunk's part of the gradients that pass between chunks.
template <class Operands>
struct ChunkBackward {
  using S = typename Operands::S;
  using T = typename S::T;
  using Columns = StateColumns<S>;
  static constexpr int partial_size = between_partial_size;
  static constexpr int n_block = 32, row_items = 2 * S::G * ((S::N + n_block - 1) / n_block);

  Operands operands;
  Rows<const T, S::Y> dy;
  int first, rows, end;  // the sequence's
  int turn;              // of two, in which chunks take turns
  const T* before;       // the state before the chunk, or null at a sequence's beginning
  const T* carry;        // the gradient of the state behind it, or null at its end
  T* handed;             // receives the gradient of the state before it
  T* partials;           // shared (items, partial_size)

  // dx of 8 channels of a head and what their states' gradient is before the chunk.
  __device__ void channels(int item) const {
    const auto xbc = operands.xbc;
    const auto dxbc = operands.dxbc;
    const int head = item / Columns::blocks;
    const int p = item % Columns::blocks * Columns::channels + lane() / half_lanes * 4;
    const auto steps = operands.steps(first, rows, end, head);
    const auto keys = operands.keys(first, rows, head);
    const int row = Columns::Read::row(), channel = p + Columns::Read::channel(), e = head * S::P + channel;
    T flow = 0, reads = 0, through = 0;
    Columns future;
    if (!Operands::has_factors && carry) {
      T dx[2], x[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool mine = row < rows && channel + j < S::P;
        dx[j] = mine ? dxbc[first + row][e + j] : T(0), x[j] = mine ? xbc[first + row][e + j] : T(0);
      }
      future.load(carry + head * S::head_state, p);
      const auto read = future.read([&](auto& b, int k) { keys.load_b(b, k); });
      const T weight = steps.of(steps.weight, row);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        flow += x[j] * read.at[j];
        if (row < rows && channel + j < S::P) dxbc[first + row][e + j] = dx[j] + weight * read.at[j];
      }
    }
    if constexpr (Operands::has_factors)
      if (carry) {
        future.load(carry + head * S::head_state, p);
        flow = operands.add_to_inputs(future.read([&](auto& b, int k) { keys.load_b(b, k); }), steps, first, rows, head,
                                      p);
      }
    if (before) {
      {
        Columns past;
        past.load(before + head * S::head_state, p);
        const auto read = past.read([&](auto& c, int k) { keys.load_c(c, k); });
#pragma unroll
        for (int j = 0; j < 2; ++j)
          if (row < rows && channel + j < S::P) reads += S::output(dy, first, row, head)[channel + j] * read.at[j];
        Columns::each_state([&](int k, int i, int) {
#pragma unroll
          for (int j = 0; j < 4; ++j) through += future.at[k][i][j] * past.at[k][i][j];
        });
      }
      future.scale(steps.fall());
      future.grow([&](auto& c, int k) { keys.load_c(c, k); },
                  scaled_rows([&](auto& g) { load_outputs<S>(g, dy, first, rows, head, p); }, steps.rise));
      future.store(handed + head * S::head_state, p);
    }
    T* const partial = partials + item * partial_size;
    const auto sum_of_channels = [](T x) {
      x += __shfl_xor_sync(~0U, x, 1);
      return x + __shfl_xor_sync(~0U, x, half_lanes);
    };
    flow = sum_of_channels(flow), reads = sum_of_channels(reads);
    through = lane_sum(through);
    if (lane() < half_lanes && lane() % 2 == 0) partial[row] = flow, partial[ssd_chunk + row] = reads;
    if (lane() == 0) partial[2 * ssd_chunk] = through;
  }

  // 32 columns of db, from what the future reads, or of dc, from the past: sums over the channels of the group's heads.
  // 8 lanes take 32 channels of a state's row, the warp 4 rows at a time.
  __device__ void columns(Block& be, int item) const {
    const auto xbc = operands.xbc;
    constexpr int width = 8, at_once = 32 / width, held = n_block / at_once;
    const bool of_c = item % 2 != 0;
    const T* const state = of_c ? before : carry;
    if (!state) return;
    const int group = item / 2 % S::G, n = item / (2 * S::G) * n_block + lane() / width, row = lane() % ssd_chunk;
    T* const to = operands.key_gradients(be, turn, of_c, group, first, row, n);
    T present[held] = {};  // what stands there: on its way while the sums are computed
    if constexpr (Operands::adds_to_keys) {
#pragma unroll
      for (int k = 0; k < held; ++k) present[k] = row < rows && n + k * at_once < S::N ? to[k * at_once] : T(0);
    }
    T sums[held][ssd_chunk] = {};
#pragma unroll 1
    for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
      const auto steps = operands.steps(first, rows, end, head);
      const T* const from = of_c ? dy[first] : xbc[first];
#pragma unroll 1
      for (int p = lane() % width * 4; p - lane() % width * 4 < S::P; p += width * 4) {
        const auto x = scaled_rows(
            [&](auto& v) {
              if constexpr (S::R == 1 && !Operands::has_factors) {
                v.template load<S::P, S::x_quads>(from + head * S::P, of_c ? dy.stride : xbc.stride, rows, p);
              } else {
                if (of_c) load_outputs<S>(v, dy, first, rows, head, p);
                else operands.load_inputs(v, first, rows, head, p);
              }
            },
            of_c ? steps.rise : steps.weight);
#pragma unroll
        for (int k = 0; k < held; ++k) {
          Quad<T> h{};
          if (n + k * at_once < S::N && p < S::P)
            h = load4(state + head * S::head_state + S::place(n + k * at_once) * padded(S::P) + p);
#pragma unroll
          for (int i = 0; i < ssd_chunk; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[k][i] += x.at[i][j] * h.at[j];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < held; ++k) {
      sum_over_lanes<ssd_chunk, width>(sums[k]);
      if (row < rows && n + k * at_once < S::N) to[k * at_once] = present[k] + sums[k][0];
    }
  }

  // What a head's steps are given, from the partial sums of its channels.
  __device__ void steps(int head) const {
    const auto steps = operands.steps(first, rows, end, head);
    const int t = lane() % ssd_chunk;
    T flow = 0, reads = 0, through = 0;
    for (int block = 0; block < Columns::blocks; ++block) {
      const T* const partial = partials + (head * Columns::blocks + block) * partial_size;
      flow += partial[t], reads += partial[ssd_chunk + t], through += partial[2 * ssd_chunk];
    }
    // The decay of step t acts on what t and later rows read of the past, on what came in before t and flows into the
    // future, and on the state's way through.
    T from_past = steps.rise * reads, to_future = steps.weight * flow;
#pragma unroll
    for (int offset = 1; offset < ssd_chunk; offset *= 2) {
      const T later = __shfl_down_sync(~0U, from_past, offset, ssd_chunk),
              earlier = __shfl_up_sync(~0U, to_future, offset, ssd_chunk);
      if (t + offset < ssd_chunk) from_past += later;
      if (t >= offset) to_future += earlier;
    }
    to_future = __shfl_up_sync(~0U, to_future, 1, ssd_chunk);
    const T eta = from_past + (t > 0 ? to_future : T(0)) + steps.fall() * through;
    operands.give_steps(steps, first, rows, carry != nullptr, head, flow, eta);
  }
};

// Of shared memory, for one of the two slots of what backward leaves behind a barrier.
template <class S>
inline constexpr int between_chunks_elements = StateColumns<S>::items * between_partial_size;

// The gradients += what passes between chunks. Sequence after sequence, chunk after chunk from the last: its items are
// shared out among the warps. Block::global: two states, whose gradients are exchanged with every chunk.
template <class Operands, class S = typename Operands::S, class T = typename S::T>
__device__ __noinline__ void ssd_between_chunks_backward(Block& be, Operands operands, Rows<const T, S::Y> dy,
                                                         const T* boundaries, Sequences sequences) {
  using Columns = StateColumns<S>;
  using Backward = ChunkBackward<Operands>;
  constexpr int partials = between_chunks_elements<S>;
  T* const carries = reinterpret_cast<T*>(be.global);
  int turn = 0;  // of the two slots for what passes a barrier
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s),
              kept = end > begin ? (end - begin - 1) / S::tokens : 0;
    for (int number = kept > 0 ? kept : -1; number >= 0; --number, turn ^= 1) {
      const int first = begin + number * S::tokens;
      const Backward chunk{operands,
                           dy,
                           first,
                           (end - first < S::tokens ? end - first : S::tokens) * S::R,
                           end,
                           turn,
                           number > 0 ? boundaries + (number - 1) * S::state_size : nullptr,
                           number < kept ? carries + turn * S::state_size : nullptr,
                           carries + (turn ^ 1) * S::state_size,
                           be.scratch<T>() + turn * partials};
      for (int item = warp(); item < Columns::items + Backward::row_items; item += Block::warps) {
        if (item < Columns::items) chunk.channels(item);
        else chunk.columns(be, item - Columns::items);
      }
      __syncthreads();
      for (int head = warp(); head < S::H; head += Block::warps) chunk.steps(head);
      operands.give_keys(be, turn, first, chunk.rows, number < kept, number > 0);
    }
    boundaries += kept * S::state_size;
  }
  __syncthreads();
}

// Whether a thread's share of the sequences has one of several chunks of so many tokens.
template <int tokens>
__device__ bool has_several_chunks(Sequences sequences) {
  bool several = false;
  each(sequences.count, [&](int s) { several |= sequences.end(s) - sequences.begin(s) > tokens; });
  return several;
}

}  // namespace mamba::cuda::detail
