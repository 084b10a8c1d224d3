// The backward pass of a chunk of Mamba-3's recurrence for one head (specification, section 14.6): inside the chunk,
// through the state behind it and through the state before it.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/chunk.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rotary_chunk.hpp>
#include <mamba/eigen/simd.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

template <class Sizes>
struct RotaryBackward {
  using S = RotarySsd<Sizes>;
  using T = typename S::T;
  using V = typename S::V;
  using Scratch = typename S::Scratch;
  static constexpr int P = S::P, R = S::R, Ns = S::Ns, Pp = S::Pp, Qp = S::Qp;

  // The gradients of a chunk's tokens, sums of differences that nearly cancel: with respect to gamma, and to what their
  // inputs enter by, at once and for all later tokens.
  struct Sums {
    double gamma[S::Q] = {}, at_once[S::Q] = {}, later[S::Q] = {};
  };

  // Sets k.dq, k.dk and k.dv of n rows, of k.dy; returns the skip's gradient.
  static T inside(const Scratch& k, Sums& sums, int n, T skip) {
    dots(k.t, Qp, k.dy, k.v, Pp, n, S::up_to_own_token);
    // t = dy v^T; m, the gradient of q k^T.
    for (int i = 0; i < n; ++i) {
      const int token = i / R, of_token = token * R;
      for (int j = 0; j < of_token; ++j) {
        const int at = i * Qp + j;
        k.m[at] = k.t[at] * k.later[j] * k.lam[at];
        const double weighed = static_cast<double>(k.m[at]) * static_cast<double>(k.g[at]);
        sums.gamma[token] += weighed;
        sums.gamma[j / R] -= weighed;
        sums.later[j / R] += static_cast<double>(k.t[at] * k.g[at] * k.lam[at]);
      }
      for (int j = of_token; j < of_token + R; ++j) {
        const int at = i * Qp + j;
        k.m[at] = k.t[at] * k.at_once[j];
        sums.at_once[token] += static_cast<double>(k.t[at] * k.g[at]);
      }
      std::fill(k.m + i * Qp + of_token + R, k.m + i * Qp + Qp, T(0));
    }
    product<Write::set, P>(k.dv, Pp, n, k.s, 1, Qp, k.dy, Pp, n);
    product<Write::set, Ns>(k.dq, Ns, n, k.m, Qp, 1, k.k, Ns, n);
    product<Write::set, Ns>(k.dk, Ns, n, k.m, 1, Qp, k.q, Ns, n);
    const V direct = V::broadcast(skip);
    T of_skip = 0;
    for (int i = 0; i < n; ++i) {
      V sum = V::zero();
      for (int p = i * Pp; p < (i + 1) * Pp; p += V::width) {
        const V g = V::load(k.dy + p);
        multiply_add(direct, g, V::load(k.dv + p)).store(k.dv + p);
        sum = multiply_add(g, V::load(k.v + p), sum);
      }
      of_skip += sum.sum();
    }
    return of_skip;
  }

  // Adds to k.dk and k.dv what comes from the state behind the chunk, whose gradient is carry (Ns, P): it grew by
  // fall_j later_j k_j v_j^T.
  static void from_future(const Scratch& k, Sums& sums, int n, const T* carry) {
    const int last = n / R - 1;
    transpose_state<Ns, P>(k.transposed, carry);
    product<Write::set, Ns>(k.read, Ns, n, k.v, Pp, 1, k.transposed, Ns, P);
    for (int j = 0; j < n; ++j) {
      const T weight = k.fall[j] * k.later[j];
      k.y[j] = weight;
      V sum = V::zero();
      for (int i = j * Ns; i < (j + 1) * Ns; i += V::width) {
        const V read = V::load(k.read + i);
        multiply_add(V::broadcast(weight), read, V::load(k.dk + i)).store(k.dk + i);
        sum = multiply_add(read, V::load(k.k + i), sum);
      }
      const T flow = sum.sum();
      sums.later[j / R] += static_cast<double>(k.fall[j] * flow);
      const auto weighed = static_cast<double>(weight * flow);
      sums.gamma[j / R] -= weighed;
      sums.gamma[last] += weighed;
    }
    scale_rows(k.scaled_n, k.k, k.y, Ns, n);
    product<Write::add, P>(k.dv, Pp, n, k.scaled_n, Ns, 1, carry, Pp, Ns);
  }

  // Adds to k.dq what comes from the state before the chunk (Ns, P), which is read by rise_i q_i; carry <- that state's
  // gradient, from what it is behind the chunk if there is a future.
  static void to_past(const Scratch& k, Sums& sums, int n, const T* before, T* carry, bool has_future) {
    const int last = n / R - 1;
    transpose_state<Ns, P>(k.transposed, before);
    product<Write::set, Ns>(k.read, Ns, n, k.dy, Pp, 1, k.transposed, Ns, P);
    for (int i = 0; i < n; ++i) {
      const V rise = V::broadcast(k.rise[i]);
      V sum = V::zero();
      for (int c = i * Ns; c < (i + 1) * Ns; c += V::width) {
        const V read = rise * V::load(k.read + c);
        (V::load(k.dq + c) + read).store(k.dq + c);
        sum = multiply_add(read, V::load(k.q + c), sum);
      }
      sums.gamma[i / R] += static_cast<double>(sum.sum());
    }
    const V decayed = V::broadcast(k.rise[n - 1]);
    V sum = V::zero();
    for (std::ptrdiff_t i = 0; i < S::head_state; i += V::width) {
      const V g = has_future ? decayed * V::load(carry + i) : V::zero();
      sum = multiply_add(g, V::load(before + i), sum);
      g.store(carry + i);
    }
    sums.gamma[last] += static_cast<double>(sum.sum());
    scale_rows(k.scaled_n, k.q, k.rise, Ns, n);
    product<Write::add, P>(carry, Pp, Ns, k.scaled_n, 1, Ns, k.dy, Pp, n);
  }

  // The gradients of a head's steps, decays' logarithms and weights from row `first` on, a chunk of q tokens of a
  // sequence that ends at `end`; of_previous: of what the token before it passes on.
  template <int H>
  static void to_steps(Rows<T, H> ddelta, Rows<T, H> dlog_decay, Rows<T, H> dmu, const Sums& sums, double of_previous,
                       Rows<const T, H> delta, Rows<const T, H> mu, int first, int q, int end, int head) {
    const auto step = [&](int row) { return static_cast<double>(delta[row][head]); };
    const auto weight = [&](int row) { return static_cast<double>(mu[row][head]); };
    double of_decay = 0;
    for (int t = q - 1; t >= 0; --t) {
      const int row = first + t;
      of_decay += sums.gamma[t];
      dlog_decay[row][head] = static_cast<T>(of_decay);
      // Of what enters one token later the later one's step and weight decide.
      const double at_once = sums.at_once[t] + sums.later[t], before_it = t > 0 ? sums.later[t - 1] : of_previous;
      ddelta[row][head] = static_cast<T>(weight(row) * at_once + (1 - weight(row)) * before_it);
      dmu[row][head] = static_cast<T>(step(row) * (at_once - before_it));
    }
    if (const int next = first + q; next < end) {
      ddelta[next][head] += static_cast<T>((1 - weight(next)) * sums.later[q - 1]);
      dmu[next][head] -= static_cast<T>(step(next) * sums.later[q - 1]);
    }
  }
};

}  // namespace detail

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
