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
#include <mamba/eigen/chunk.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
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

  // One chunk's operands, copied into rows of whole vectors, and what is computed from them: of a group, which its
  // heads share, and of a head.
  struct Scratch {
    T *b, *c, *g;                // (Q, N), (Q, N), (Q, Q): c b^T
    T* state;                    // (H, N, P) carried between chunks
    T* x;                        // (Q, P)
    T *s, *lam;                  // (Q, Q): S and its decays, zero above the diagonal
    Exponents<T> gamma;          // (Q) cumulative log2 of the decay
    T *rise, *fall, *weight;     // (Q): 2^gamma; 2^(gamma_last - gamma); the same times delta
    T *y, *scaled_n, *scaled_p;  // (Q, P), (Q, N), (Q, P)
    // backward only
    T *dy, *dx, *t, *m;            // (Q, P), (Q, P), (Q, Q), (Q, Q)
    T *db, *dc;                    // (Q, N) of a group
    T *transposed, *read, *carry;  // (P, N), (Q, N), (H, N, P)
  };
  // What a group's heads share, and what a head has beside it.
  static void carve_shared(Scratch& k, Carver& memory) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    for (T** p : {&k.b, &k.c}) *p = take(Q * Np);
    k.g = take(Q * Qp);
    k.state = take(state_size);
  }
  static void carve_own(Scratch& k, Carver& memory, bool backward) {
    const auto take = [&](std::ptrdiff_t count) { return memory.template take<T>(static_cast<std::size_t>(count)); };
    k.scaled_n = take(Q * Np);
    for (T** p : {&k.x, &k.y, &k.scaled_p}) *p = take(Q * Pp);
    for (T** p : {&k.s, &k.lam}) *p = take(Q * Qp);
    k.gamma = {take(Qp), take(Qp)};
    for (T** p : {&k.rise, &k.fall, &k.weight}) *p = take(Qp);
    if (!backward) return;
    for (T** p : {&k.dy, &k.dx}) *p = take(Q * Pp);
    for (T** p : {&k.t, &k.m}) *p = take(Q * Qp);
    for (T** p : {&k.db, &k.dc, &k.read}) *p = take(Q * Np);
    k.transposed = take(static_cast<std::ptrdiff_t>(P) * Np);
    k.carry = take(state_size);
  }

  // The rows of a chunk that row i reads.
  static constexpr auto up_to_itself = [](int i) { return i; };

  // gamma, lam, s = lam g with blocked columns cut, weight, rise of one head of a chunk.
  template <class Blocked, int Heads>
  static void decays(const Scratch& k, Rows<const T, Heads> delta, int first, int q, int head, T rate, Blocked rows) {
    double sum = 0;
    for (int i = 0; i < q; ++i)
      k.gamma.set(i, sum += static_cast<double>(delta[first + i][head]) * static_cast<double>(rate));
    for (int i = q; i < Qp; ++i) k.gamma.set(i, sum);
    for (int i = 0; i < q; ++i) {
      k.gamma.decays(k.lam + i * Qp, i, i + 1);
      std::fill(k.lam + i * Qp + i + 1, k.lam + i * Qp + Qp, T(0));
      for (int l = 0; l < i; ++l)
        if (rows.blocked(first + l)) k.lam[i * Qp + l] = 0;
      for (int l = 0; l < Qp; l += V::width)
        (V::load(k.lam + i * Qp + l) * V::load(k.g + i * Qp + l)).store(k.s + i * Qp + l);
    }
    for (int i = 0; i < q; ++i) {
      k.fall[i] = k.gamma.decay(q - 1, i);
      k.weight[i] = rows.blocked(first + i) ? T(0) : k.fall[i] * delta[first + i][head];
      k.rise[i] = math::exp2_nonpositive(k.gamma.number[i]);
    }
  }

  // state (N, P) <- rise of the whole chunk * state + sum over j of weight_j b_j x_j^T.
  static void advance(T* state, const Scratch& k, int q) {
    const V fall = V::broadcast(k.rise[q - 1]);
    for (std::ptrdiff_t i = 0; i < head_state; i += V::width) (fall * V::load(state + i)).store(state + i);
    scale_rows(k.scaled_p, k.x, k.weight, Pp, q);
    product<Write::add, P>(state, Pp, N, k.b, 1, Np, k.scaled_p, Pp, q);
  }
};

}  // namespace detail

// Has the core hold what ssd, or ssd_backward too, works in.
template <class Core, class T, int H, int P, int G, int N>
void reserve(Core& core, network::SsdSizes<T, H, P, G, N>, bool with_backward) {
  detail::ScratchOfWorkers<detail::Ssd<T, H, P, G, N>>(core, with_backward);
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
  const detail::ScratchOfWorkers<S> scratch(core, false);
  const auto& shared = scratch.first();
  for (int s = 0; s < sequences.count; ++s) {
    const int end = sequences.end(s);
    T* const carried = states ? states : shared.state;
    if (!states && end - sequences.begin(s) > S::Q) std::fill_n(carried, S::state_size, T(0));
    for (int first = sequences.begin(s); first < end; first += S::Q) {
      const int q = (std::min)(S::Q, end - first);
      const bool has_past = states || first > sequences.begin(s), has_future = states || first + q < end;
      if (boundaries && first > sequences.begin(s)) boundaries = std::copy_n(carried, S::state_size, boundaries);
      for (int group = 0; group < G; ++group) {
        detail::gather_columns<N>(shared.b, xbc[first] + E + group * N, xbc.stride, q);
        detail::gather_columns<N>(shared.c, xbc[first] + E + (G + group) * N, xbc.stride, q);
        detail::dots(shared.g, S::Qp, shared.c, shared.b, S::Np, q, S::up_to_itself);
        constexpr long long work_of_head = N * S::P * 3;  // of a token
        share_out_to_workers(core, S::heads, q * S::heads * work_of_head, [&](int number, int worker) {
          const auto k = scratch.of(worker);
          const int head = group * S::heads + number;
          T* const state = carried + head * S::head_state;
          detail::gather_columns<S::P>(k.x, xbc[first] + head * S::P, xbc.stride, q);
          S::decays(k, delta, first, q, head, a.derived[head], rows);
          for (int j = 0; j < q; ++j) k.y[j] = delta[first + j][head];
          detail::scale_rows(k.scaled_p, k.x, k.y, S::Pp, q);
          detail::product<Write::set, S::P>(k.y, S::Pp, q, k.s, S::Qp, 1, k.scaled_p, S::Pp, q);
          if (has_past) {
            detail::scale_rows(k.scaled_n, k.c, k.rise, S::Np, q);
            detail::product<Write::add, S::P>(k.y, S::Pp, q, k.scaled_n, S::Np, 1, state, S::Pp, N);
          }
          for (int i = 0; i < q; ++i)
            for (int p = 0; p < S::P; ++p)
              y[first + i][head * S::P + p] = k.y[i * S::Pp + p] + d.value[head] * k.x[i * S::Pp + p];
          if (has_future) S::advance(state, k, q);
        });
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
  const detail::ScratchOfWorkers<S> scratch(core, true);
  const auto& k = scratch.first();
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
        detail::gather_columns<N>(k.b, xbc[first] + E + group * N, xbc.stride, q);
        detail::gather_columns<N>(k.c, xbc[first] + E + (G + group) * N, xbc.stride, q);
        detail::dots(k.g, S::Qp, k.c, k.b, S::Np, q, S::up_to_itself);
        std::fill_n(k.db, q * S::Np, T(0));
        std::fill_n(k.dc, q * S::Np, T(0));
        for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
          T* const carry =
              k.carry + head * S::head_state;  // the gradient of the state behind this chunk, then before it
          const T rate = a.derived[head];
          detail::gather_columns<S::P>(k.x, xbc[first] + head * S::P, xbc.stride, q);
          detail::gather_columns<S::P>(k.dy, dy[first] + head * S::P, dy.stride, q);
          S::decays(k, delta, first, q, head, rate, NoRows{});
          const auto delta_at = [&](int i) { return delta[first + i][head]; };

          // Inside the chunk: t = dy x^T, dS = t delta, m = dS lam, the gradient of c b^T.
          detail::dots(k.t, S::Qp, k.dy, k.x, S::Pp, q, S::up_to_itself);
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
            detail::transpose_state<N, S::P>(k.transposed, carry);
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
              ddelta_head[j] += static_cast<double>(k.fall[j] * flow);
              dgamma[j] -= e;
              dgamma[q - 1] += e;
            }
            detail::scale_rows(k.scaled_n, k.b, k.weight, S::Np, q);
            detail::product<Write::add, S::P>(k.dx, S::Pp, q, k.scaled_n, S::Np, 1, carry, S::Pp, N);
          }
          // Through the state before it: read by rise_i c_i, and handed on.
          if (past) {
            const T* const before = past + head * S::head_state;
            detail::transpose_state<N, S::P>(k.transposed, before);
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
            detail::scale_rows(k.scaled_n, k.c, k.rise, S::Np, q);
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
