// A chunk of Mamba-3's recurrence on one core (specification, section 14.4): its operands in rows of whole vectors, a
// row being one of a token's R ranks, its decays, and how a state goes past it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/chunk.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rotary_rows.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

template <class Sizes_>
struct RotarySsd {
  using Sizes = Sizes_;
  using Keys = RotaryRows<Sizes>;
  using T = typename Sizes::Scalar;
  static constexpr int H = Sizes::H, P = Sizes::P, G = Sizes::G, N = Sizes::N, R = Sizes::R, Na = Sizes::Na,
                       E = Sizes::E, heads = H / G;
  static constexpr int Q = (std::max)(1, Tuning::ssd_chunk / R), rows = Q * R;  // tokens of a chunk, and its rows
  static constexpr int Ns = Sizes::Ns, Ap = padded(Na);
  static constexpr int Pp = padded(P), Ep = padded(E), Qp = padded(rows);
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(Ns) * Pp, state_size = H * head_state;
  static constexpr std::ptrdiff_t history_size = Sizes::history_size, keys_at = Sizes::angles_size,
                                  x_at = keys_at + static_cast<std::ptrdiff_t>(Sizes::keys_size);
  using V = Vector<T>;
  // The rows of a chunk that row i reads.
  static constexpr auto up_to_own_token = [](int i) { return i / R * R + R - 1; };

  // A chunk's operands in rows of whole vectors, and what is computed from them: of a group, which its heads share, and
  // of a head.
  struct Scratch {
    typename Keys::Weights weights;
    T *b, *c;  // (rows, Ns): b and c, normed
    T* state;  // (H, Ns, P) carried between chunks
    typename Keys::Circle circle;
    T *k, *q, *v;                // (rows, Ns), (rows, Ns), (rows, P): keys, queries, values
    T *g, *s, *lam;              // (rows, rows): q k^T; S and its decays, both zero where a row reads nothing
    Exponents<T> gamma;          // (rows) cumulative log2 of the decay
    T *rise, *fall;              // (rows): its power; the power of what is left to the chunk's end
    T *at_once, *later;          // (rows): how much a row's input enters at once, and how much for all later tokens
    T *y, *scaled_n, *scaled_p;  // (rows, P), (rows, Ns), (rows, P)
    T *last_k, *last_v;          // (R, Ns), (R, P) of the token before
    // backward only
    typename Keys::Weights gradients;
    T *b_raw, *c_raw, *b_rho, *c_rho;  // (rows, Ns), (rows) of a group, before the norm and the norm's factors
    T *db, *dc;                        // (rows, Ns) of a group
    T *dk, *dq, *dv, *dy;              // (rows, Ns), (rows, Ns), (rows, P), (rows, P) of a head
    T *t, *m;                          // (rows, rows)
    T *transposed, *read, *carry;      // (P, Ns), (rows, Ns), (H, Ns, P)
    T* began;                          // (Ns, P) where a head begins
  };
  // What a group's heads share, and what a head has beside it.
  static void carve_shared(Scratch& k, Carver& memory) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    k.weights = carve_weights(memory);
    for (T** p : {&k.b, &k.c}) *p = take(rows * Ns);
    k.state = take(state_size);
  }
  static void carve_own(Scratch& k, Carver& memory, bool backward) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    k.circle = {take(Q * Ap), take(Q * Ap)};
    for (T** p : {&k.k, &k.q, &k.scaled_n}) *p = take(rows * Ns);
    for (T** p : {&k.v, &k.y, &k.scaled_p}) *p = take(rows * Pp);
    for (T** p : {&k.g, &k.s, &k.lam}) *p = take(rows * Qp);
    k.gamma = {take(Qp), take(Qp)};
    for (T** p : {&k.rise, &k.fall, &k.at_once, &k.later}) *p = take(Qp);
    k.last_k = take(R * Ns), k.last_v = take(R * Pp);
    if (!backward) return;
    k.gradients = carve_weights(memory);
    for (T** p : {&k.b_raw, &k.c_raw, &k.db, &k.dc, &k.dk, &k.dq, &k.read}) *p = take(rows * Ns);
    for (T** p : {&k.b_rho, &k.c_rho}) *p = take(rows);
    for (T** p : {&k.dv, &k.dy}) *p = take(rows * Pp);
    for (T** p : {&k.t, &k.m}) *p = take(rows * Qp);
    k.transposed = take(static_cast<std::ptrdiff_t>(Pp) * Ns);
    k.carry = take(state_size);
    k.began = take(head_state);
  }
  static typename Keys::Weights carve_weights(Carver& memory) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    return {take(Ns), take(Ns), take(H * R * Ns), take(H * R * Ns)};
  }

  // v (q R, P) <- a head's inputs: x, for each rank by its own factors.
  template <class From, class Factors>
  static void take_inputs(T* v, const From* x, std::ptrdiff_t x_row, int head, Factors factors, int q) {
    if constexpr (!Sizes::multiple) {
      gather_columns<P>(v, x + head * P, x_row, q);
    } else {
      for (int t = 0; t < q; ++t, x += x_row)
        for (int r = 0; r < R; ++r, v += Pp) {
          for (int p = 0; p < P; ++p) v[p] = static_cast<T>(x[head * P + p]) * factors.row(head)[r * P + p];
          std::fill(v + P, v + Pp, T(0));
        }
    }
  }

  // How a head's inputs enter: at_once and later of the q tokens from row `first` on, of a sequence that ends at `end`.
  template <class Blocked>
  static void parts(const Scratch& k, Rows<const T, H> delta, Rows<const T, H> mu, int first, int q, int end, int head,
                    Blocked blocked) {
    for (int t = 0; t < q; ++t) {
      const int row = first + t;
      const T at_once = mu[row][head] * delta[row][head];
      const T next = row + 1 < end ? (1 - mu[row + 1][head]) * delta[row + 1][head] : T(0);
      for (int r = 0; r < R; ++r) {
        k.at_once[t * R + r] = at_once;
        k.later[t * R + r] = blocked.blocked(row) ? T(0) : at_once + next;
      }
    }
  }

  // gamma, rise, fall, lam, s of one head of a chunk.
  static void decays(const Scratch& k, Rows<const T, H> log_decay, int first, int q, int head) {
    const int n = q * R;
    double sum = 0;
    for (int t = 0; t < q; ++t) {
      sum += static_cast<double>(log_decay[first + t][head]) * math::log2_e;
      for (int r = 0; r < R; ++r) k.gamma.set(t * R + r, sum);
    }
    for (int i = n; i < Qp; ++i) k.gamma.set(i, sum), k.later[i] = 0;
    for (int i = 0; i < n; ++i) {
      const int of_token = i / R * R, behind = of_token + R;  // the columns of its own token
      k.gamma.decays(k.lam + i * Qp, i, behind);
      for (int j = 0; j < behind; j += V::width)
        (V::load(k.lam + i * Qp + j) * V::load(k.later + j) * V::load(k.g + i * Qp + j)).store(k.s + i * Qp + j);
      for (int j = of_token; j < behind; ++j) k.s[i * Qp + j] = k.at_once[j] * k.g[i * Qp + j];
      std::fill(k.lam + i * Qp + behind, k.lam + i * Qp + Qp, T(0));
      std::fill(k.s + i * Qp + behind, k.s + i * Qp + Qp, T(0));
      k.rise[i] = math::exp2_nonpositive(k.gamma.number[i]);
      k.fall[i] = k.gamma.decay(n - 1, i);
    }
  }

  // state (Ns, P) += factor times the outer products of keys (R, Ns) and values (R, P).
  static void enter(T* state, const T* keys, const T* values, T factor) {
    for (int n = 0; n < Ns; ++n)
      for (int r = 0; r < R; ++r) {
        const V weight = V::broadcast(factor * keys[r * Ns + n]);
        for (int p = 0; p < Pp; p += V::width) {
          T* const to = state + static_cast<std::ptrdiff_t>(n) * Pp + p;
          multiply_add(weight, V::load(values + r * Pp + p), V::load(to)).store(to);
        }
      }
  }

  // state (Ns, P) <- what it decays to over the chunk, and the chunk's inputs; scaled_p is scratch.
  static void advance(T* state, const Scratch& k, int n) {
    const V decay = V::broadcast(k.rise[n - 1]);
    for (std::ptrdiff_t i = 0; i < head_state; i += V::width) (decay * V::load(state + i)).store(state + i);
    for (int i = 0; i < n; ++i) k.y[i] = k.fall[i] * k.later[i];
    scale_rows(k.scaled_p, k.v, k.y, Pp, n);
    product<Write::add, P>(state, Pp, Ns, k.k, 1, Ns, k.scaled_p, Pp, n);
  }

  // One token alone: state (Ns, P) <- the next one, k.y (R, P) <- what the queries read of it.
  static void step(T* state, const Scratch& k, T power, T previous) {
    const V decay = V::broadcast(power);
    for (int p = 0; p < Pp; p += V::width) {
      V before[R], now[R], sums[R];
      unroll<R>([&](auto r) MAMBA_INLINE_LAMBDA {
        before[r] = V::broadcast(previous) * V::load(k.last_v + r * Pp + p);
        now[r] = V::broadcast(k.at_once[0]) * V::load(k.v + r * Pp + p);
        sums[r] = V::zero();
      });
      for (int n = 0; n < Ns; ++n) {
        T* const at = state + static_cast<std::ptrdiff_t>(n) * Pp + p;
        V value = V::load(at);
        unroll<R>([&](auto r) MAMBA_INLINE_LAMBDA {
          value = multiply_add(V::broadcast(k.last_k[r * Ns + n]), before[r], value);
        });
        value = decay * value;
        unroll<R>([&](auto r)
                      MAMBA_INLINE_LAMBDA { value = multiply_add(V::broadcast(k.k[r * Ns + n]), now[r], value); });
        value.store(at);
        unroll<R>([&](auto r)
                      MAMBA_INLINE_LAMBDA { sums[r] = multiply_add(V::broadcast(k.q[r * Ns + n]), value, sums[r]); });
      }
      unroll<R>([&](auto r) MAMBA_INLINE_LAMBDA { sums[r].store(k.y + r * Pp + p); });
    }
  }

  // b, c of a group and, of one of its heads, keys, queries and inputs, for q tokens from row `first` on.
  template <class X>
  static void take_group(const Scratch& k, Rows<const X, Sizes::C> xbc, int first, int q, int group, bool backward) {
    const X* const from = xbc[first] + E + group * N;
    Keys::norm_group(k.b, backward ? k.b_raw : nullptr, backward ? k.b_rho : nullptr, from, xbc.stride,
                     k.weights.b_norm, q);
    Keys::norm_group(k.c, backward ? k.c_raw : nullptr, backward ? k.c_rho : nullptr, from + R * G * N, xbc.stride,
                     k.weights.c_norm, q);
  }
  template <class X, class I, int A, class Factors>
  static void take_head(const Scratch& k, Rows<const X, Sizes::C> xbc, Rows<const I, A> turns, int first, int q,
                        int head, Factors mimo_x) {
    Keys::take_circle(k.circle, turns, first, q, head);
    Keys::turn(k.k, k.b, k.weights.b_bias + head * R * Ns, k.circle, q);
    Keys::turn(k.q, k.c, k.weights.c_bias + head * R * Ns, k.circle, q);
    take_inputs(k.v, xbc[first], xbc.stride, head, mimo_x, q);
  }
};

}  // namespace detail

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
