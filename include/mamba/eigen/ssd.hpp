// Mamba-2's state-space dual on one core (specification, section 7; Dao and Gu 2024, section 6).
//
// A chunk of time is evaluated in the quadratic form, masked before exponentiating; between chunks a state (N, P) is
// carried for each head, so that the cost is linear in the length. All products are those of linear.hpp. A sequence of
// up to one chunk never sees a state.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

inline constexpr int ssd_chunk = Tuning::ssd_chunk;

// How many boundary states the sequences of a tile need.
template <class T, int H, int P, int G, int N>
int kept_states(network::SsdSizes<T, H, P, G, N>, Sequences sequences) {
  return states_between_chunks(sequences, ssd_chunk);
}

namespace detail {

// The sizes of H heads of P channels, G groups, N states; the columns of xbc are x (H P), b (G N), c (G N).
template <class T, int H_, int P_, int G_, int N_>
struct Ssd {
  static constexpr int H = H_, P = P_, G = G_, N = N_, E = H * P, heads = H / G, Q = ssd_chunk;
  static constexpr int Np = padded(N), Pp = padded(P), Qp = padded(Q);
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(N) * Pp, state_size = H * head_state;
  using V = Vector<T>;

  // One chunk's operands, copied into rows of whole vectors, and what is computed from them.
  struct Scratch {
    T *b, *c, *x;                // (Q, N), (Q, N) of a group; (Q, P) of a head
    T *g, *s, *lam;              // (Q, Q): c b^T of a group; S and its decays, zero above the diagonal, of a head
    T *gamma, *weight, *rise;    // (Q): cumulative log2 of the decay; 2^(gamma_last - gamma) delta; 2^gamma
    T *y, *scaled_n, *scaled_p;  // (Q, P), (Q, N), (Q, P)
    T* state;                    // (H, N, P) carried between chunks
    // backward only
    T *dy, *dx, *t, *m;            // (Q, P), (Q, P), (Q, Q), (Q, Q)
    T *db, *dc;                    // (Q, N) of a group
    T *transposed, *read, *carry;  // (P, N), (Q, N), (H, N, P)
  };
  static Scratch carve(Carver& memory, bool backward) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    Scratch k{};
    for (T** p : {&k.b, &k.c, &k.scaled_n}) *p = take(Q * Np);
    for (T** p : {&k.x, &k.y, &k.scaled_p}) *p = take(Q * Pp);
    for (T** p : {&k.g, &k.s, &k.lam}) *p = take(Q * Qp);
    for (T** p : {&k.gamma, &k.weight, &k.rise}) *p = take(Qp);
    k.state = take(state_size);
    if (!backward) return k;
    for (T** p : {&k.dy, &k.dx}) *p = take(Q * Pp);
    for (T** p : {&k.t, &k.m}) *p = take(Q * Qp);
    for (T** p : {&k.db, &k.dc, &k.read}) *p = take(Q * Np);
    k.transposed = take(static_cast<std::ptrdiff_t>(P) * Np);
    k.carry = take(state_size);
    return k;
  }
  template <class Core>
  static Scratch scratch(Core& core, bool backward) {
    Carver counter;
    carve(counter, backward);
    core.scratch.reserve(counter.used());
    Carver memory(core.scratch.data());
    return carve(memory, backward);
  }

  // to (q, stride of whole vectors) <- Columns columns of from, zero-padded.
  template <int Columns, class From>
  static void gather_columns(T* to, const From* from, std::ptrdiff_t from_row, int q) {
    for (int i = 0; i < q; ++i, to += padded(Columns), from += from_row) {
      std::copy_n(from, Columns, to);
      std::fill(to + Columns, to + padded(Columns), T(0));
    }
  }

  // out(i, j) = a_i . b_j for j <= i, zero beyond; rows of `width` columns, a multiple of whole vectors.
  static void dots(T* out, const T* a, const T* b, int width, int q) {
    for (int i = 0; i < q; ++i) {
      for (int j = 0; j <= i; ++j) {
        V sum = V::zero();
        for (int k = 0; k < width; k += V::width)
          sum = multiply_add(V::load(a + i * width + k), V::load(b + j * width + k), sum);
        out[i * Qp + j] = sum.sum();
      }
      std::fill(out + i * Qp + i + 1, out + i * Qp + Qp, T(0));
    }
  }

  // to_i = factor_i from_i, rows of `width`.
  static void scale_rows(T* to, const T* from, const T* factor, int width, int q) {
    for (int i = 0; i < q; ++i) {
      const V f = V::broadcast(factor[i]);
      for (int k = 0; k < width; k += V::width) (f * V::load(from + i * width + k)).store(to + i * width + k);
    }
  }

  // gamma, lam, s = lam g with blocked columns cut, weight, rise of one head of a chunk.
  template <class Blocked, int Heads>
  static void decays(const Scratch& k, Rows<const T, Heads> delta, int first, int q, int head, T rate, Blocked rows) {
    T sum = 0;
    for (int i = 0; i < q; ++i) k.gamma[i] = sum += delta[first + i][head] * rate;
    for (int i = q; i < Qp; ++i) k.gamma[i] = sum;
    for (int i = 0; i < q; ++i) {
      const V gamma = V::broadcast(k.gamma[i]);
      int j = 0;
      for (; j <= i; j += V::width) {
        // Where j > i the exponent would be positive: cut before exponentiating, zeroed below.
        const V difference = gamma - V::load(k.gamma + j);
        exp2_nonpositive(select(difference > V::zero(), V::zero(), difference)).store(k.lam + i * Qp + j);
      }
      std::fill(k.lam + i * Qp + i + 1, k.lam + i * Qp + Qp, T(0));
      for (int l = 0; l < i; ++l)
        if (rows.blocked(first + l)) k.lam[i * Qp + l] = 0;
      for (int l = 0; l < Qp; l += V::width)
        (V::load(k.lam + i * Qp + l) * V::load(k.g + i * Qp + l)).store(k.s + i * Qp + l);
    }
    for (int i = 0; i < q; ++i) {
      k.weight[i] =
          rows.blocked(first + i) ? T(0) : math::exp2_nonpositive(k.gamma[q - 1] - k.gamma[i]) * delta[first + i][head];
      k.rise[i] = math::exp2_nonpositive(k.gamma[i]);
    }
  }

  // state (N, P) <- rise of the whole chunk * state + sum over j of weight_j b_j x_j^T.
  static void advance(T* state, const Scratch& k, int q) {
    const V fall = V::broadcast(k.rise[q - 1]);
    for (std::ptrdiff_t i = 0; i < head_state; i += V::width) (fall * V::load(state + i)).store(state + i);
    scale_rows(k.scaled_p, k.x, k.weight, Pp, q);
    product<Write::add, P>(state, Pp, N, k.b, 1, Np, k.scaled_p, Pp, q);
  }

  // to (P, N) <- the transpose of state (N, P), zero-padded.
  static void transpose(T* to, const T* state) {
    std::fill_n(to, static_cast<std::ptrdiff_t>(P) * Np, T(0));
    for (int n = 0; n < N; ++n)
      for (int p = 0; p < P; ++p)
        to[static_cast<std::ptrdiff_t>(p) * Np + n] = state[static_cast<std::ptrdiff_t>(n) * Pp + p];
  }
};

}  // namespace detail

// Has the core hold what ssd, or ssd_backward too, works in.
template <class Core, class T, int H, int P, int G, int N>
void reserve(Core& core, network::SsdSizes<T, H, P, G, N>, bool with_backward) {
  detail::Ssd<T, H, P, G, N>::scratch(core, with_backward);
}

// y (T, H P) <- the state-space model + skip.
//   delta (T, H); xbc (T, H P + 2 G N); a (H), whose derived weight is the rate A log2(e); d (H)
//   boundaries: (kept_states(), H, N, P) states kept for the backward pass, or null
//   states: (sequences, H, N, P) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: S's column of a blocked row is cut below the diagonal
template <int G, int N, class Core, class Y, class T, class X, int E, int H, int C, class Blocked = NoRows>
void ssd(Core& core, Rows<Y, E> y, T* boundaries, T* states, Rows<const T, H> delta, Rows<const X, C> xbc,
         Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d, Blocked rows = {}) {
  using S = detail::Ssd<T, H, E / H, G, N>;
  static_assert(C == E + 2 * G * N);
  const auto k = S::scratch(core, false);
  for (int s = 0; s < sequences.count; ++s) {
    const int end = sequences.end(s);
    T* const carried = states ? states : k.state;
    if (!states && end - sequences.begin(s) > S::Q) std::fill_n(carried, S::state_size, T(0));
    for (int first = sequences.begin(s); first < end; first += S::Q) {
      const int q = (std::min)(S::Q, end - first);
      const bool has_past = states || first > sequences.begin(s), has_future = states || first + q < end;
      if (boundaries && first > sequences.begin(s)) boundaries = std::copy_n(carried, S::state_size, boundaries);
      for (int group = 0; group < G; ++group) {
        S::template gather_columns<N>(k.b, xbc[first] + E + group * N, xbc.stride, q);
        S::template gather_columns<N>(k.c, xbc[first] + E + (G + group) * N, xbc.stride, q);
        S::dots(k.g, k.c, k.b, S::Np, q);
        for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
          T* const state = carried + head * S::head_state;
          S::template gather_columns<S::P>(k.x, xbc[first] + head * S::P, xbc.stride, q);
          S::decays(k, delta, first, q, head, a.derived[head], rows);
          for (int j = 0; j < q; ++j) k.gamma[j] = delta[first + j][head];
          S::scale_rows(k.scaled_p, k.x, k.gamma, S::Pp, q);
          detail::product<Write::set, S::P>(k.y, S::Pp, q, k.s, S::Qp, 1, k.scaled_p, S::Pp, q);
          if (has_past) {
            S::scale_rows(k.scaled_n, k.c, k.rise, S::Np, q);
            detail::product<Write::add, S::P>(k.y, S::Pp, q, k.scaled_n, S::Np, 1, state, S::Pp, N);
          }
          for (int i = 0; i < q; ++i)
            for (int p = 0; p < S::P; ++p)
              y[first + i][head * S::P + p] = k.y[i * S::Pp + p] + d.value[head] * k.x[i * S::Pp + p];
          if (has_future) S::advance(state, k, q);
        }
      }
    }
    if (states) states += S::state_size;
  }
  clear_padding(y);
}

// ddelta (T, H), dxbc (T, H P + 2 G N) <- gradients; da (H) += the gradient with respect to a (not A_log), dd (H) +=
// ... boundaries as ssd kept them. passed: where the sequences began and the gradient of where they ended, (sequences,
// H, N, P) each (network/mixer.hpp).
template <int G, int N, class Core, class T, class Y, class X, int E, int H, int C,
          class Passed = network::NoPassedState>
void ssd_backward(Core& core, Rows<T, H> ddelta, Rows<T, C> dxbc, WeightGradient<T, 1, H> da,
                  WeightGradient<T, 1, H> dd, Rows<const Y, E> dy, const T* boundaries, Rows<const T, H> delta,
                  Rows<const X, C> xbc, Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d, Passed passed = {}) {
  using S = detail::Ssd<T, H, E / H, G, N>;
  using V = Vector<T>;
  const auto k = S::scratch(core, true);
  clear_padding(dxbc);
  clear_padding(ddelta);
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s), chunks = (end - begin + S::Q - 1) / S::Q;
    const T* began = nullptr;
    T* of_end = nullptr;
    if constexpr (Passed::passes) {
      began = passed.from + s * S::state_size;
      if (passed.gradient) {
        of_end = passed.gradient + s * S::state_size;
        std::copy_n(of_end, S::state_size, k.carry);
      }
    }
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
      const int first = begin + chunk * S::Q, q = (std::min)(S::Q, end - first);
      const T* const past = chunk > 0 ? boundaries + (chunk - 1) * S::state_size : began;
      const bool has_future = chunk + 1 < chunks || of_end;
      for (int group = 0; group < G; ++group) {
        S::template gather_columns<N>(k.b, xbc[first] + E + group * N, xbc.stride, q);
        S::template gather_columns<N>(k.c, xbc[first] + E + (G + group) * N, xbc.stride, q);
        S::dots(k.g, k.c, k.b, S::Np, q);
        std::fill_n(k.db, q * S::Np, T(0));
        std::fill_n(k.dc, q * S::Np, T(0));
        for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
          T* const carry =
              k.carry + head * S::head_state;  // the gradient of the state behind this chunk, then before it
          const T rate = a.derived[head];
          S::template gather_columns<S::P>(k.x, xbc[first] + head * S::P, xbc.stride, q);
          S::template gather_columns<S::P>(k.dy, dy[first] + head * S::P, dy.stride, q);
          S::decays(k, delta, first, q, head, rate, NoRows{});
          const auto delta_at = [&](int i) { return delta[first + i][head]; };

          // Inside the chunk: t = dy x^T, dS = t delta, m = dS lam, the gradient of c b^T.
          S::dots(k.t, k.dy, k.x, S::Pp, q);
          // Differences of sums that nearly cancel: in double.
          double dgamma[S::Q] = {}, ddelta_head[S::Q] = {};
          for (int i = 0; i < q; ++i)
            for (int j = 0; j <= i; ++j) {
              const int at = i * S::Qp + j;
              k.m[at] = k.t[at] * delta_at(j) * k.lam[at];
              const double w = static_cast<double>(k.m[at]) * static_cast<double>(k.g[at]);
              dgamma[i] += w;
              dgamma[j] -= w;
              ddelta_head[j] += static_cast<double>(k.t[at] * k.s[at]);
            }
          for (int i = 0; i < q; ++i) std::fill(k.m + i * S::Qp + i + 1, k.m + i * S::Qp + S::Qp, T(0));
          detail::product<Write::set, S::P>(k.dx, S::Pp, q, k.s, 1, S::Qp, k.dy, S::Pp, q);
          detail::product<Write::add, N>(k.dc, S::Np, q, k.m, S::Qp, 1, k.b, S::Np, q);
          detail::product<Write::add, N>(k.db, S::Np, q, k.m, 1, S::Qp, k.c, S::Np, q);
          T skip = 0;
          for (int i = 0; i < q; ++i) {
            const V scale = V::broadcast(delta_at(i)), direct = V::broadcast(d.value[head]);
            V sum = V::zero();
            for (int p = 0; p < S::Pp; p += V::width) {
              T* const dx = k.dx + i * S::Pp + p;
              const V g = V::load(k.dy + i * S::Pp + p);
              (scale * V::load(dx) + direct * g).store(dx);
              sum = multiply_add(g, V::load(k.x + i * S::Pp + p), sum);
            }
            skip += sum.sum();
          }
          dd.value[head] += skip;

          // Through the state behind the chunk: it grew by weight_j b_j x_j^T.
          if (has_future) {
            S::transpose(k.transposed, carry);
            detail::product<Write::set, N>(k.read, S::Np, q, k.x, S::Pp, 1, k.transposed, S::Np, S::P);
            for (int j = 0; j < q; ++j) {
              const V w = V::broadcast(k.weight[j]);
              V sum = V::zero();
              for (int n = 0; n < S::Np; n += V::width) {
                const V read = V::load(k.read + j * S::Np + n);
                T* const db = k.db + j * S::Np + n;
                multiply_add(w, read, V::load(db)).store(db);
                sum = multiply_add(read, V::load(k.b + j * S::Np + n), sum);
              }
              const T flow = sum.sum();
              const auto e = static_cast<double>(k.weight[j] * flow);
              ddelta_head[j] += static_cast<double>(math::exp2_nonpositive(k.gamma[q - 1] - k.gamma[j]) * flow);
              dgamma[j] -= e;
              dgamma[q - 1] += e;
            }
            S::scale_rows(k.scaled_n, k.b, k.weight, S::Np, q);
            detail::product<Write::add, S::P>(k.dx, S::Pp, q, k.scaled_n, S::Np, 1, carry, S::Pp, N);
          }
          // Through the state before it: read by rise_i c_i, and handed on.
          if (past) {
            const T* const before = past + head * S::head_state;
            S::transpose(k.transposed, before);
            detail::product<Write::set, N>(k.read, S::Np, q, k.dy, S::Pp, 1, k.transposed, S::Np, S::P);
            for (int i = 0; i < q; ++i) {
              const V rise = V::broadcast(k.rise[i]);
              V sum = V::zero();
              for (int n = 0; n < S::Np; n += V::width) {
                const V read = rise * V::load(k.read + i * S::Np + n);
                T* const dc = k.dc + i * S::Np + n;
                (V::load(dc) + read).store(dc);
                sum = multiply_add(read, V::load(k.c + i * S::Np + n), sum);
              }
              dgamma[i] += static_cast<double>(sum.sum());
            }
            const V fall = V::broadcast(k.rise[q - 1]);
            V sum = V::zero();
            for (std::ptrdiff_t i = 0; i < S::head_state; i += V::width) {
              const V g = has_future ? fall * V::load(carry + i) : V::zero();
              sum = multiply_add(g, V::load(before + i), sum);
              g.store(carry + i);
            }
            dgamma[q - 1] += static_cast<double>(sum.sum());
            S::scale_rows(k.scaled_n, k.c, k.rise, S::Np, q);
            detail::product<Write::add, S::P>(carry, S::Pp, N, k.scaled_n, 1, S::Np, k.dy, S::Pp, q);
          }

          double eta = 0, drate = 0;
          for (int i = q - 1; i >= 0; --i) {
            eta += dgamma[i];
            ddelta[first + i][head] = static_cast<T>(ddelta_head[i] + math::ln2 * static_cast<double>(rate) * eta);
            drate += eta * static_cast<double>(delta_at(i));
          }
          da.value[head] += static_cast<T>(drate);
          for (int i = 0; i < q; ++i) std::copy_n(k.dx + i * S::Pp, S::P, dxbc[first + i] + head * S::P);
        }
        for (int i = 0; i < q; ++i) {
          std::copy_n(k.db + i * S::Np, N, dxbc[first + i] + E + group * N);
          std::copy_n(k.dc + i * S::Np, N, dxbc[first + i] + E + (G + group) * N);
        }
      }
    }
    if (of_end) std::copy_n(k.carry, S::state_size, of_end);
    boundaries += (std::max)(0, chunks - 1) * S::state_size;
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
