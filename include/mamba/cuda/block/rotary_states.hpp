// What passes between the chunks of Mamba-3's sequences on the GPU, as ssd_states.hpp asks for it, and what a sequence
// remembers beside its states (specification, sections 14.4 to 14.6).
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/rotary_chunk.hpp>
#include <mamba/cuda/block/rotary_gradients.hpp>
#include <mamba/cuda/block/rotary_keys.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/cuda/block/ssd_head.hpp>
#include <mamba/cuda/block/ssd_states.hpp>

namespace mamba::cuda::detail {

// Where a sequence's history has its last token's keys (H, R, Ns) and x (E).
template <class S>
struct RotaryHistory {
  static constexpr std::ptrdiff_t size = static_cast<std::ptrdiff_t>(S::Sizes::history_size),
                                  keys = static_cast<std::ptrdiff_t>(S::Sizes::angles_size),
                                  x = keys + static_cast<std::ptrdiff_t>(S::Sizes::keys_size);
};

template <class S_>
struct RotaryOperands : RotaryInputs<S_> {
  using S = S_;
  using T = typename S::T;

  const T* history;  // (sequences, history_size) where there are states

  __device__ RotarySteps<T> steps(int first, int rows, int end, int head) const {
    return {static_cast<const RotaryInputs<S>&>(*this), first, rows, end, head};
  }
  struct Keys {
    RotaryKeys<S> of;
    int head;

    __device__ void load_b(ChunkColumns<T>& to, int k) const { of.template load_turned<false>(to, k, head); }
    __device__ void load_c(ChunkColumns<T>& to, int k) const { of.template load_turned<true>(to, k, head); }
  };
  __device__ Keys keys(int first, int rows, int head) const {
    Keys keys{{*this, first, rows, head / S::heads_of_group}, head};
    keys.of.take_norms();
    return keys;
  }
  // The part of the last input that enters one token later: a sequence's state takes it in before its first token.
  __device__ void enter(StateColumns<S>& state, int sequence, int begin, int head, int p) const {
    const T* const own = history + sequence * RotaryHistory<S>::size;
    const T previous = (1 - this->mu[begin][head]) * this->delta[begin][head];
#pragma unroll 1
    for (int r = 0; r < S::R; ++r) {
      const T* const last = own + RotaryHistory<S>::keys + (head * S::R + r) * S::Sizes::Ns;
      T v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[j] = p + j < S::P ? previous * own[RotaryHistory<S>::x + head * S::P + p + j] : T(0);
        if constexpr (S::multiple) v[j] *= p + j < S::P ? this->factors(head, r)[p + j] : T(0);
      }
      StateColumns<S>::each_state([&](int k, int i, int n) {
        const T key = n < S::N ? last[S::place(n)] : T(0);
#pragma unroll
        for (int j = 0; j < 4; ++j) state.at[k][i][j] += key * v[j];
      });
    }
  }
};

// Where the sequences' histories keep their last token's keys and x.
template <class S, class T>
__device__ __noinline__ void keep_rotary_history(RotaryInputs<S> of, T* history, Sequences sequences) {
  const int items = sequences.count * S::groups;
#pragma unroll 1
  for (int pair = 2 * warp(); pair < items; pair += half_warps) {
    const int item = pair + lane() / half_lanes, s = item < items ? item / S::groups : 0, group = item % S::groups;
    const int end = sequences.end(s), rows = item < items && sequences.begin(s) < end ? S::R : 0;
    RotaryKeys<S> keys(of, rows ? end - 1 : 0, rows, group);
    keys.take_norms();
    T* const own = history + s * RotaryHistory<S>::size;
#pragma unroll 1
    for (int head = group * S::heads_of_group; head < (group + 1) * S::heads_of_group; ++head) {
#pragma unroll 1
      for (int k = 0; k < stretches(S::N); ++k) {
        ChunkColumns<T> last;
        keys.template load_turned<false>(last, k, head);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (const int n = RotaryKeys<S>::column(k) + j; rows > 0 && n < S::N) {
#pragma unroll
            for (int r = 0; r < S::R; ++r)
              own[RotaryHistory<S>::keys + (head * S::R + r) * S::Sizes::Ns + S::place(n)] = last.at[r][j];
          }
      }
      for (int p = half_lane(); rows > 0 && p < S::P; p += half_lanes)
        own[RotaryHistory<S>::x + head * S::P + p] = of.xbc[end - 1][head * S::P + p];
    }
  }
  __syncthreads();
}

// What backward has of a block's global memory: two states, two chunks' gradients of keys and queries that come from
// their states, (2, 8, H, N) each, shares of the weights' gradients.
template <class S>
struct RotaryMemory {
  static constexpr std::ptrdiff_t of_keys = static_cast<std::ptrdiff_t>(2) * ssd_chunk * S::H * S::N,
                                  slots = 2 * S::state_size, shares = slots + 2 * of_keys,
                                  elements = shares + RotaryShares<S>::global_elements;
};

// The most ranks of a head. Of eight in double, what ptxas 13.0 makes of ssd_between_chunks does not end: lanes that
// have states wait for those that have none (at -O1 it ends, and on the tests' own machine it does).
template <class T>
inline constexpr int most_ranks = sizeof(T) == 8 ? ssd_chunk / 2 : ssd_chunk;

// Whether a chunk has the ranks of a token, and a block's shared memory takes what backward exchanges.
template <class S>
inline constexpr bool rotary_fits_block =
    S::R <= most_ranks<typename S::T> && RotaryShares<S>::shared_begin <= Block::shared_elements;

// And where the gradients go.
template <class S_>
struct RotaryGradientsOf : RotaryOperands<S_> {
  using S = S_;
  using T = typename S::T;
  static constexpr bool adds_to_keys = false,  // they go to the chunk's slot first
      has_factors = S::multiple;

  Rows<T, S::H> ddelta, dlog_decay, dmu;
  Rows<T, S::C> dxbc;
  RotaryKeyGradients<S> keys_to;

  static __device__ T* shares_in(Block& be) { return reinterpret_cast<T*>(be.global) + RotaryMemory<S>::shares; }

  __device__ T* slot(Block& be, int turn) const {
    return reinterpret_cast<T*>(be.global) + RotaryMemory<S>::slots + turn * RotaryMemory<S>::of_keys;
  }
  static __device__ std::ptrdiff_t in_slot(bool of_c, int row, int head) {
    return (static_cast<std::ptrdiff_t>(of_c ? ssd_chunk : 0) + row) * (S::H * S::N) + head * S::N;
  }
  __device__ T* key_gradients(Block& be, int turn, bool of_c, int head, int /*first*/, int row, int n) const {
    return slot(be, turn) + in_slot(of_c, row, head) + n;
  }

  // The sum of what a token's rows bring, given where a row's stands in half a warp.
  template <class LaneOf>
  static __device__ T sum_of_token(T value, int token, LaneOf&& lane_of) {
    T sum = 0;
#pragma unroll
    for (int r = 0; r < S::R; ++r) sum += __shfl_sync(~0U, value, lane_of(token * S::R + r), half_lanes);
    return sum;
  }

  // The gradients of a chunk's tokens by themselves, of their weights' sums; own: lanes i and 8 + i know the sums of
  // their entries of row i where its token sees itself.
  __device__ void set_steps(const RotarySteps<T>& steps, const StepSums<T>& sums, T own, int first, int rows,
                            int head) const {
    const int row = sums.token() % ssd_chunk, t = row / S::R, before_t = t > 0 ? t - 1 : 0;
    const auto lane_of = [](int i) { return i % ssd_chunk / 4 * 8 + i % 4; };  // that knows column i's sums
    own += __shfl_xor_sync(~0U, own, 8);
    const T of_column = sums.of_column(), later = sum_of_token(of_column, t, lane_of),
            before = sum_of_token(of_column, before_t, lane_of),
            at_once = sum_of_token(own, t, [](int i) { return i % ssd_chunk; }) + later,
            before_it = t > 0 ? before : T(0), share = steps.of(steps.mu, row), step = steps.of(steps.delta, row);
    if (!sums.has_exponent() || row >= rows || row % S::R != 0) return;
    ddelta[first + t][head] = share * at_once + (1 - share) * before_it;
    dmu[first + t][head] = step * (at_once - before_it);
    dlog_decay[first + t][head] = sums.exponent;
  }
  // += what passes between chunks (SsdGradients); of what enters one token later the later one's step and weight
  // decide.
  __device__ void give_steps(const RotarySteps<T>& steps, int first, int rows, bool has_future, int head, T flow,
                             T of_exponent) const {
    const int row = lane() % ssd_chunk, t = row / S::R, before_t = t > 0 ? t - 1 : 0, token = first + t;
    const auto lane_of = [](int i) { return i % ssd_chunk; };
    const T of_row = steps.rest * flow, later = sum_of_token(of_row, t, lane_of),
            before = sum_of_token(of_row, before_t, lane_of), before_it = t > 0 ? before : T(0);
    if (lane() >= rows || row % S::R != 0) return;
    ddelta[token][head] += steps.mu * later + (1 - steps.mu) * before_it;
    dmu[token][head] += steps.delta * (later - before_it);
    dlog_decay[token][head] += of_exponent;
    if (row + S::R == rows && has_future) {
      ddelta[token + 1][head] += (1 - this->mu[token + 1][head]) * later;
      dmu[token + 1][head] -= this->delta[token + 1][head] * later;
    }
  }
  // x's gradients += and the factors' += what the future has of a head's inputs, from what it reads by the keys of the
  // lane's row and two channels from p on (StateColumns::Read); returns the inputs' products with what it reads.
  template <class Read>
  __device__ T add_to_inputs(const Read& read, const RotarySteps<T>& steps, int first, int rows, int head,
                             int p) const {
    const int row = Read::row(), token = row / S::R, rank = row % S::R, channel = p + Read::channel();
    const auto lane_of = [](int i) { return i % ssd_chunk * 2 + half_lane() % 2; };
    const T weight = steps.of(steps.weight, row);
    T flow = 0;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const bool exists = row < rows && channel + j < S::P;
      const int e = head * S::P + channel + j;
      const T x = exists ? this->xbc[first + token][e] : T(0),
              factor = exists ? this->factors(head, rank)[channel + j] : T(0), dv = weight * read.at[j];
      flow += x * factor * read.at[j];
      const T of_x = sum_of_token(dv * factor, token, lane_of);
      if (exists && rank == 0) dxbc[first + token][e] += of_x;
      T of_factor = 0;
#pragma unroll
      for (int t = 0; t < S::tokens; ++t) of_factor += __shfl_sync(~0U, dv * x, lane_of(t * S::R + rank), half_lanes);
      if (exists && token == 0) keys_to.shares.of_factors(head, rank)[channel + j] += of_factor;
    }
    return flow;
  }
  // The slot's gradients of a chunk's keys and queries, behind the barrier that completes them. Warps behind those that
  // have steps to give take the groups.
  __device__ void give_keys(Block& be, int turn, int first, int rows, bool has_future, bool has_past) const {
    const int own = (warp() + Block::warps - S::H % Block::warps) % Block::warps;
#pragma unroll 1
    for (int pair = 2 * own; pair < S::groups; pair += half_warps) {
      const int item = pair + lane() / half_lanes, group = item < S::groups ? item : 0;
      RotaryKeys<S> of(*this, first, item < S::groups ? rows : 0, group);
      of.take_norms();
      struct Both {
        ChunkColumns<T> keys, queries;
      };
#pragma unroll 1
      for (int head = group * S::heads_of_group; head < (group + 1) * S::heads_of_group; ++head)
        keys_to.give(of, group, head, true, true, [&](int k, ChunkColumns<T>& dk, ChunkColumns<T>& dq) {
          const int row_stride = S::H * S::N, column = RotaryKeys<S>::column(k);
          constexpr bool quads = S::N % 4 == 0;
          dk.template load<S::N, quads>(slot(be, turn) + in_slot(false, 0, head), row_stride,
                                        has_future ? of.rows() : 0, column);
          dq.template load<S::N, quads>(slot(be, turn) + in_slot(true, 0, head), row_stride, has_past ? of.rows() : 0,
                                        column);
          Both both;
          of.template load<false>(both.keys, k), of.template load<true>(both.queries, k);
          of.turn(both.keys, both.queries, k, head);
          return both;
        });
    }
  }
};

}  // namespace mamba::cuda::detail
