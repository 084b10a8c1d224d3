// Mamba-3's recurrence on one core (specification, sections 14.3 to 14.7): keys and queries that are normed, biased and
// turned, an input that enters in two parts, several inputs and outputs of a head on one state.
//
// A chunk of time is evaluated in the quadratic form, as Mamba-2's is (ssd.hpp), a row being one of a token's R ranks.
// Between chunks goes the state with that part of the last input in it that enters one token later; so a chunk's own
// sums know of no other. A token alone that goes on from a state takes one pass over it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/chunk.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rotary_backward.hpp>
#include <mamba/eigen/rotary_chunk.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// How many boundary states the sequences of a tile need.
template <class T, int H, int P, int G, int N, int rank, int Na>
int kept_states(network::RotarySsdSizes<T, H, P, G, N, rank, Na>, Sequences sequences) {
  return states_between_chunks(sequences, detail::RotarySsd<network::RotarySsdSizes<T, H, P, G, N, rank, Na>>::Q);
}
// Has the core hold what rotary_ssd, or rotary_ssd_backward too, works in.
template <class Core, class T, int H, int P, int G, int N, int rank, int Na>
void reserve(Core& core, network::RotarySsdSizes<T, H, P, G, N, rank, Na>, bool with_backward) {
  detail::ScratchOfWorkers<detail::RotarySsd<network::RotarySsdSizes<T, H, P, G, N, rank, Na>>>(core, with_backward);
}

// y (T, R E), for each head its R outputs of P channels <- the state-space model + skip.
//   boundaries: (kept_states(), H, Ns, P) states kept for the backward pass, or null
//   state: where the sequences begin and, afterwards, end, but for the angles in their history, which are trapezoid's;
//     null: they begin at zero
//   delta, log_decay, mu (T, H), turns (T, H Na) as trapezoid gives them; xbc (T, E + 2 R G N)
//   blocked: S's column of a blocked row is cut below the diagonal
template <class Sizes, class Core, class Y, class T, class I, class X, int YC, int H, int A, int C,
          class Blocked = NoRows>
void rotary_ssd(Core& core, Sizes, Rows<Y, YC> y, T* boundaries, network::MixerState<T> state, Rows<const T, H> delta,
                Rows<const T, H> log_decay, Rows<const T, H> mu, Rows<const I, A> turns, Rows<const X, C> xbc,
                Sequences sequences, network::RotaryWeights<Sizes> w, Blocked blocked = {}) {
  using S = detail::RotarySsd<Sizes>;
  constexpr int P = S::P, G = S::G, R = S::R;
  static_assert(YC == R * S::E && C == S::Sizes::C && A == H * S::Na);
  const detail::ScratchOfWorkers<S> scratch(core, false);
  const auto& shared = scratch.first();
  S::Keys::take_weights(shared.weights, w.b_norm, w.c_norm, w.b_bias, w.c_bias);
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s);
    if (begin == end) {
      if (state.states) state.states += S::state_size, state.history += S::history_size;
      continue;
    }
    T* const carried = state.states ? state.states : shared.state;
    if (!state.states && end - begin > S::Q) std::fill_n(carried, S::state_size, T(0));
    const bool token_alone = state.states && end - begin == 1 && std::is_same_v<Blocked, NoRows>;
    for (int first = begin; first < end; first += S::Q) {
      const int q = (std::min)(S::Q, end - first), n = q * R;
      const bool has_past = state.states || first > begin, has_future = state.states || first + q < end;
      if (boundaries && first > begin) boundaries = std::copy_n(carried, S::state_size, boundaries);
      for (int group = 0; group < G; ++group) {
        S::take_group(shared, xbc, first, q, group, false);
        constexpr long long work_of_head = static_cast<long long>(S::Ns) * P * R * 4;  // of a token
        share_out_to_workers(core, S::heads, q * S::heads * work_of_head, [&](int number, int worker) {
          const auto k = scratch.of(worker);
          const int head = group * S::heads + number;
          T* const carry = carried + head * S::head_state;
          S::take_head(k, xbc, turns, first, q, head, w.mimo_x);
          S::parts(k, delta, mu, first, q, end, head, blocked);
          const T previous = (1 - mu[first][head]) * delta[first][head];
          if (state.states && first == begin) {
            std::copy_n(state.history + S::keys_at + head * R * S::Ns, R * S::Ns, k.last_k);
            S::take_inputs(k.last_v, state.history + S::x_at, S::Ep, head, w.mimo_x, 1);
          }
          if (token_alone) {
            S::step(carry, k, math::exp2_nonpositive(log_decay[first][head] * T(math::log2_e)), previous);
          } else {
            detail::dots(k.g, S::Qp, k.q, k.k, S::Ns, n, S::up_to_own_token);
            S::decays(k, log_decay, first, q, head);
            detail::product<Write::set, P>(k.y, S::Pp, n, k.s, S::Qp, 1, k.v, S::Pp, n);
            if (has_past) {
              if (first == begin) S::enter(carry, k.last_k, k.last_v, previous);
              detail::scale_rows(k.scaled_n, k.q, k.rise, S::Ns, n);
              detail::product<Write::add, P>(k.y, S::Pp, n, k.scaled_n, S::Ns, 1, carry, S::Pp, S::Ns);
            }
          }
          for (int i = 0; i < n; ++i)
            for (int p = 0; p < P; ++p)
              y[first + i / R][(head * R + i % R) * P + p] = k.y[i * S::Pp + p] + w.d.value[head] * k.v[i * S::Pp + p];
          if (has_future && !token_alone) S::advance(carry, k, n);
          // What a sequence's history keeps of keys is its last token's.
          if (state.states && first + q == end)
            std::copy_n(k.k + (n - R) * S::Ns, R * S::Ns, state.history + S::keys_at + head * R * S::Ns);
        });
      }
    }
    if (state.states) {
      std::copy_n(xbc[end - 1], S::E, state.history + S::x_at);
      state.states += S::state_size, state.history += S::history_size;
    }
  }
  clear_padding(y);
}

// ddelta, dlog_decay, dmu (T, H), dangles (T, H Na), dxbc (T, E + 2 R G N) <- gradients, dangles with respect to angles
// in radians; dw += those of the weights. dy (T, R E); boundaries as rotary_ssd kept them. passed: where the sequences
// began and the gradients of where they ended (network/mixer.hpp).
template <class Sizes, class Core, class T, class Y, class I, class X, int YC, int H, int A, int C,
          class Passed = network::NoPassedStates>
void rotary_ssd_backward(Core& core, Sizes, Rows<T, H> ddelta, Rows<T, H> dlog_decay, Rows<T, H> dmu,
                         Rows<T, A> dangles, Rows<T, C> dxbc, network::RotaryGradients<Sizes> dw, Rows<const Y, YC> dy,
                         const T* boundaries, Rows<const T, H> delta, Rows<const T, H> log_decay, Rows<const T, H> mu,
                         Rows<const I, A> turns, Rows<const X, C> xbc, Sequences sequences,
                         network::RotaryWeights<Sizes> w, Passed passed = {}) {
  using S = detail::RotarySsd<Sizes>;
  constexpr int P = S::P, G = S::G, R = S::R;
  using Backward = detail::RotaryBackward<Sizes>;
  static_assert(YC == R * S::E && C == S::Sizes::C && A == H * S::Na);
  const detail::ScratchOfWorkers<S> scratch(core, true);
  const auto& k = scratch.first();
  S::Keys::take_weights(k.weights, w.b_norm, w.c_norm, w.b_bias, w.c_bias);
  S::Keys::clear(k.gradients);
  std::fill_n(dangles.data, static_cast<std::ptrdiff_t>(dangles.rows) * dangles.stride, T(0));
  std::fill_n(dxbc.data, static_cast<std::ptrdiff_t>(dxbc.rows) * dxbc.stride, T(0));
  for (Rows<T, H> rows : {ddelta, dlog_decay, dmu}) clear_padding(rows);

  // The gradients of a head's inputs dv (R, P) become x's, dx (E), where wanted, and the factors', whose inputs are x
  // (E).
  const auto give_inputs = [&](T* dx, const auto* x, const T* dv, int head) {
    for (int r = 0; r < R; ++r, dv += S::Pp)
      for (int p = 0; p < P; ++p) {
        const int at = head * P + p;
        if constexpr (!S::Sizes::multiple) {
          if (dx) dx[at] += dv[p];
        } else {
          if (dx) dx[at] += dv[p] * w.mimo_x.row(head)[r * P + p];
          dw.mimo_x.row(head)[r * P + p] += dv[p] * static_cast<T>(x[at]);
        }
      }
  };

  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s), chunks = (end - begin + S::Q - 1) / S::Q;
    const T *began = nullptr, *history = nullptr;
    T *of_end = nullptr, *of_history = nullptr;
    if constexpr (Passed::passes) {
      began = passed.states.from + s * S::state_size, history = passed.history.from + s * S::history_size;
      if (passed.states.gradient) {
        of_end = passed.states.gradient + s * S::state_size;
        of_history = passed.history.gradient + s * S::history_size;
      }
    }
    if (begin == end) continue;
    if (of_end) std::copy_n(of_end, S::state_size, k.carry);
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
      const int first = begin + chunk * S::Q, q = (std::min)(S::Q, end - first), n = q * R;
      const bool has_future = chunk + 1 < chunks || of_end, last = chunk + 1 == chunks;
      for (int group = 0; group < G; ++group) {
        S::take_group(k, xbc, first, q, group, true);
        std::fill_n(k.db, n * S::Ns, T(0));
        std::fill_n(k.dc, n * S::Ns, T(0));
        for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
          // The gradient of the state behind this chunk, then before it.
          T* const carry = k.carry + head * S::head_state;
          S::take_head(k, xbc, turns, first, q, head, w.mimo_x);
          S::parts(k, delta, mu, first, q, end, head, NoRows{});
          detail::dots(k.g, S::Qp, k.q, k.k, S::Ns, n, S::up_to_own_token);
          S::decays(k, log_decay, first, q, head);
          for (int t = 0; t < q; ++t)
            detail::gather_columns<P>(k.dy + t * R * S::Pp, dy[first + t] + head * R * P, P, R);

          typename Backward::Sums sums;
          dw.d.value[head] += Backward::inside(k, sums, n, w.d.value[head]);
          if (has_future) Backward::from_future(k, sums, n, carry);
          const T* before = chunk > 0 ? boundaries + (chunk - 1) * S::state_size + head * S::head_state : nullptr;
          const T previous = (1 - mu[first][head]) * delta[first][head];
          if (chunk == 0 && began) {
            std::copy_n(history + S::keys_at + head * R * S::Ns, R * S::Ns, k.last_k);
            S::take_inputs(k.last_v, history + S::x_at, S::Ep, head, w.mimo_x, 1);
            std::copy_n(began + head * S::head_state, S::head_state, k.began);
            S::enter(k.began, k.last_k, k.last_v, previous);
            before = k.began;
          }
          if (before) Backward::to_past(k, sums, n, before, carry, has_future);

          // What the sequence's end is asked for beside its states: the last token's keys and x.
          if (last && of_history) {
            const T* const of_keys = of_history + S::keys_at + head * R * S::Ns;
            T* const to = k.dk + (n - R) * S::Ns;
            for (int i = 0; i < R * S::Ns; ++i) to[i] += of_keys[i];
            for (int p = 0; p < P; ++p) dxbc[end - 1][head * P + p] += of_history[S::x_at + head * P + p];
          }
          // And its beginning: the keys and x of the token before.
          double of_previous = 0;
          if (chunk == 0 && began) {
            T* const of_keys = of_history ? of_history + S::keys_at + head * R * S::Ns : k.last_k;
            T* const of_x = of_history ? of_history + S::x_at : nullptr;
            if (of_x) std::fill_n(of_x + head * P, P, T(0));
            detail::transpose_state<S::Ns, P>(k.transposed, carry);
            detail::product<Write::set, S::Ns>(k.read, S::Ns, R, k.last_v, S::Pp, 1, k.transposed, S::Ns, P);
            detail::product<Write::set, P>(k.scaled_p, S::Pp, R, k.last_k, S::Ns, 1, carry, S::Pp, S::Ns);
            for (int i = 0; i < R * S::Ns; ++i) {
              of_previous += static_cast<double>(k.read[i]) * static_cast<double>(k.last_k[i]);
              of_keys[i] = previous * k.read[i];
            }
            for (int i = 0; i < R * S::Pp; ++i) k.scaled_p[i] *= previous;
            give_inputs(of_x, history + S::x_at, k.scaled_p, head);
          }

          Backward::to_steps(ddelta, dlog_decay, dmu, sums, of_previous, delta, mu, first, q, end, head);
          S::Keys::turn_backward(k.db, k.gradients.b_bias + head * R * S::Ns, dangles, first, head, k.dk, k.k, k.circle,
                                 q);
          S::Keys::turn_backward(k.dc, k.gradients.c_bias + head * R * S::Ns, dangles, first, head, k.dq, k.q, k.circle,
                                 q);
          for (int t = 0; t < q; ++t) give_inputs(dxbc[first + t], xbc[first + t], k.dv + t * R * S::Pp, head);
        }
        T* const to = dxbc[first] + S::E + group * S::N;
        S::Keys::norm_group_backward(to, dxbc.stride, k.gradients.b_norm, k.db, k.b_raw, k.b_rho, k.weights.b_norm, q);
        S::Keys::norm_group_backward(to + R * G * S::N, dxbc.stride, k.gradients.c_norm, k.dc, k.c_raw, k.c_rho,
                                     k.weights.c_norm, q);
      }
    }
    if (of_end) std::copy_n(k.carry, S::state_size, of_end);
    if (boundaries) boundaries += (chunks - 1) * S::state_size;
  }

  S::Keys::give_weights(dw.b_norm, dw.c_norm, dw.b_bias, dw.c_bias, k.gradients);
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
