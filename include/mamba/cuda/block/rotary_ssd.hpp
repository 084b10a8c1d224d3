// Mamba-3's recurrence by one thread block (specification, sections 14.3 to 14.7): Mamba-2's chunks of 8 rows
// (ssd.hpp), each one of a token's R ranks, with keys and queries of every head's own, which half a warp makes in its
// registers, and with an input that enters in two parts. What enters one token later is in the matrix below its
// diagonal and in the states between chunks; so a chunk's own sums know of no other.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/rotary_chunk.hpp>
#include <mamba/cuda/block/rotary_gradients.hpp>
#include <mamba/cuda/block/rotary_keys.hpp>
#include <mamba/cuda/block/rotary_states.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/cuda/block/ssd_head.hpp>
#include <mamba/cuda/block/ssd_states.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

namespace detail {

// y <- every chunk as if nothing was before it. No barrier.
template <class S, class T, class Blocked>
__device__ __noinline__ void rotary_within_chunks(Block& be, Rows<T, S::Y> y, RotaryInputs<S> of, Sequences sequences,
                                                  Blocked blocked) {
  T* const exchange = be.scratch<T>() + half_warp() * exchange_size;
  each_chunk<S::groups, S::R>(sequences, [&](int first, int rows, int group) {
    RotaryKeys<S> keys(of, first, rows, group);
    HeldKeys<S> held;
    held.begin(keys);
#pragma unroll 1
    for (int head = group * S::heads_of_group; head < (group + 1) * S::heads_of_group; ++head) {
      const auto qk = held.dots(keys, head).entries(exchange);
      const RotarySteps<T> steps(of, first, rows, first + rows / S::R, head);
      exchange_matrix(exchange, steps.template decays<S::R>(first, rows, blocked).mixing(qk, of.d[head]));
      mix_inputs(exchange, y, of, first, rows, head);
    }
  });
}

// The gradients of the same; ends with a barrier.
template <class S, class T>
__device__ __noinline__ void rotary_within_chunks_backward(Block& be, RotaryGradientsOf<S> to, Rows<const T, S::Y> dy,
                                                           Sequences sequences) {
  T* const exchange = be.scratch<T>() + half_warp() * exchange_size;
  each_chunk<S::groups, S::R>(sequences, [&](int first, int rows, int group) {
    const RotaryInputs<S>& of = to;
    RotaryKeys<S> keys(of, first, rows, group);
    HeldKeys<S> held;
    held.begin(keys);
    const int first_head = group * S::heads_of_group;
#pragma unroll 1
    for (int head = first_head; head < first_head + S::heads_of_group; ++head) {
      const auto qk = held.dots(keys, head).entries(exchange);
      const RotarySteps<T> steps(of, first, rows, first + rows / S::R, head);
      const auto decays = steps.template decays<S::R>(first, rows, NoRows{});
      const auto yx = output_dots(dy, of, first, rows, head).entries(exchange);
      exchange_matrix(exchange, decays.mixing(qk, of.d[head]));
      give_inputs(exchange, of, to.dxbc, to.keys_to.shares, dy, first, rows, head);

      TriangleEntries<T> dqk;
      T of_weights[4], own = 0, trace = 0;  // own: where a token sees itself
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const T from_lam = yx.at[k] * decays.lam[k], of_weight = from_lam * qk.at[k];
        const int i = qk.row(), j = qk.column() + k;
        const bool of_token = j / S::R == i / S::R;
        dqk.at[k] = from_lam * decays.delta[k];
        of_weights[k] = of_token ? T(0) : of_weight;
        if (of_token) own += of_weight;
        if (j == i) trace = yx.at[k];
      }
      const StepSums<T> sums(of_weights, decays.delta);
      to.set_steps(steps, sums, own, first, rows, head);
      trace = lane_sum<half_lanes>(trace);
      if (half_lane() == 0) to.keys_to.shares.add_to_d(head, trace);

      exchange_matrix(exchange, dqk);
      struct Both {
        const ChunkColumns<T>&keys, &queries;
      };
      to.keys_to.give(keys, group, head, head > first_head, false,
                      [&](int k, ChunkColumns<T>& dk, ChunkColumns<T>& dq) -> Both {
                        if constexpr (!S::keeps_all) held.load(keys, k, head);
                        const auto &turned = held.keys[k % S::kept], &read = held.queries[k % S::kept];
                        lower_transposed_times<S::R>(exchange, read, [&](int j, const T(&values)[4]) {
#pragma unroll
                          for (int m = 0; m < 4; ++m) dk.at[j][m] = values[m];
                        });
                        lower_times<S::R>(exchange, turned, [&](int i, const T(&values)[4]) {
#pragma unroll
                          for (int m = 0; m < 4; ++m) dq.at[i][m] = values[m];
                        });
                        return {turned, read};
                      });
    }
  });
  __syncthreads();
}

}  // namespace detail

// y (T, R E), for each head its R outputs of P channels <- the state-space model + skip.
//   boundaries: (BlockMemory::kept_states(), H, Ns, P) states kept for the backward pass, or null
//   state: where the sequences begin and, afterwards, end, but for the angles in their history, which are trapezoid's;
//     null: they begin at zero
//   delta, log_decay, mu (T, H), turns (T, H Na) as trapezoid gives them; xbc (T, E + 2 R G N)
//   blocked: S's column of a blocked row is cut below the diagonal
template <class Sizes, class Y, class T, class I, class X, int YC, int H, int A, int C, class Blocked = NoRows>
__device__ void rotary_ssd(Block& be, Sizes, Rows<Y, YC> y, T* boundaries, network::MixerState<T> state,
                           Rows<const T, H> delta, Rows<const T, H> log_decay, Rows<const T, H> mu,
                           Rows<const I, A> turns, Rows<const X, C> xbc, Sequences sequences,
                           network::RotaryWeights<Sizes> w, Blocked blocked = {}) {
  using S = detail::Rotary<Sizes>;
  static_assert(YC == S::Y && C == S::C && A == S::A);
  detail::clear_padding(y);
  const detail::RotaryInputs<S> of(delta, log_decay, mu, turns, xbc, w);
  detail::rotary_within_chunks<S>(be, y, of, sequences, blocked);
  if (!__syncthreads_or(state.states != nullptr || detail::has_several_chunks<S::tokens>(sequences))) return;
  detail::ssd_between_chunks(y, boundaries, state.states, detail::RotaryOperands<S>{of, state.history}, sequences,
                             blocked);
  if (state.states) detail::keep_rotary_history(of, state.history, sequences);
}

// ddelta, dlog_decay, dmu (T, H), dangles (T, H Na), dxbc (T, E + 2 R G N) <- gradients, dangles with respect to angles
// in radians; dw += those of the weights. dy (T, R E); boundaries as rotary_ssd kept them.
template <class Sizes, class T, class Y, class I, class X, int YC, int H, int A, int C>
__device__ void rotary_ssd_backward(Block& be, Sizes, Rows<T, H> ddelta, Rows<T, H> dlog_decay, Rows<T, H> dmu,
                                    Rows<T, A> dangles, Rows<T, C> dxbc, network::RotaryGradients<Sizes> dw,
                                    Rows<const Y, YC> dy, const T* boundaries, Rows<const T, H> delta,
                                    Rows<const T, H> log_decay, Rows<const T, H> mu, Rows<const I, A> turns,
                                    Rows<const X, C> xbc, Sequences sequences, network::RotaryWeights<Sizes> w,
                                    network::NoPassedStates = {}) {
  using S = detail::Rotary<Sizes>;
  static_assert(YC == S::Y && C == S::C && A == S::A);
  static_assert(detail::rotary_fits_block<S>,
                "mamba: a block's shared memory is too small for so many heads, or a chunk for so many ranks");
  detail::clear_padding(ddelta), detail::clear_padding(dlog_decay), detail::clear_padding(dmu);
  detail::clear_padding(dangles), detail::clear_padding(dxbc);
  using To = detail::RotaryGradientsOf<S>;
  const To to{{{delta, log_decay, mu, turns, xbc, w}, nullptr}, ddelta, dlog_decay, dmu, dxbc,
              {dxbc, dangles, {be, To::shares_in(be)}}};
  detail::rotary_within_chunks_backward<S>(be, to, dy, sequences);
  if (__syncthreads_or(detail::has_several_chunks<S::tokens>(sequences)))
    detail::ssd_between_chunks_backward(be, to, dy, boundaries, sequences);
  to.keys_to.shares.add_up(dw);
}

}  // namespace mamba::cuda
