// Mamba-3's recurrence over the grid token by token, for what walks in chunks do not do: in double, which is there for
// checking, and for ranks that do not fit into products.
//
//   h_t = decay_t (h_{t-1} + previous_t k_{t-1} v_{t-1}^T) + at_once_t k_t v_t^T     y_t = q_t h_t + d v_t
//
// A block takes a head along a sequence. States lie in memory; backward, those of a stretch of tokens are computed
// again from the one before it, and then the adjoint goes against time.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/rotary_rows.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

inline constexpr int rotary_stretch = 8;  // tokens between states that are kept

// A head of a sequence: what a token changes of its state (Ns, padded(P)).
template <class Sizes, class X>
struct RotaryScan {
  using T = typename Sizes::Scalar;
  static constexpr int H = Sizes::H, P = Sizes::P, Pp = padded(P), Ns = Sizes::Ns, R = Sizes::R, size = Ns * Pp;
  Rows<const T, H * Ns> keys, queries;  // (T R, H Ns)
  Rows<const T, H> delta, log_decay, mu;
  Rows<const X, Sizes::C> xbc;
  network::RotaryWeights<Sizes> w;

  __device__ T decay(int row, int head) const {
    return math::exp2_nonpositive(log_decay[row][head] * static_cast<T>(math::log2_e));
  }
  __device__ T at_once(int row, int head) const { return mu[row][head] * delta[row][head]; }
  __device__ T previous(int row, int head) const { return rotary_previous(delta, mu, row, head); }
  __device__ T key(int row, int head, int r, int n) const { return keys[row * R + r][head * Ns + n]; }
  __device__ T query(int row, int head, int r, int n) const { return queries[row * R + r][head * Ns + n]; }
  __device__ T value(int row, int head, int r, int p) const {
    return rotary_value<Sizes>(xbc[row], w.mimo_x, head, r, p);
  }
  // The sum over ranks of k v^T at (n, p).
  __device__ T input(int row, int head, int n, int p) const {
    T sum = 0;
    for (int r = 0; r < R; ++r) sum += key(row, head, r, n) * value(row, head, r, p);
    return sum;
  }
  // to <- the state behind a token, given the one before it with all of the token before in it.
  template <class To>
  __device__ void advance(To&& to, const T* from, int row, int head) const {
    const T factor = decay(row, head), now = at_once(row, head);
    for (int i = thread(); i < size; i += Block::threads)
      to(i, i % Pp < P ? factor * from[i] + now * input(row, head, i / Pp, i % Pp) : T(0));
  }
  // What of a token enters one later.
  __device__ T entered(const T* from, int i, int row, int head, T share) const {
    return i % Pp < P ? from[i] + share * input(row, head, i / Pp, i % Pp) : T(0);
  }
};

// y (T, R E) <- outputs; states (sequences, H, Ns, padded(P)) <- those behind the sequences, from those before them
// with what entered of the tokens before. kept: null, or (slots of stretches, H, Ns, padded(P)): those before
// stretches, with all of the token before.
template <class Sizes, class X, class Y, class Blocked, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_scan(Rows<Y, Sizes::R * Sizes::E> y, T* states, T* kept, RotaryScan<Sizes, X> scan, Blocked blocked,
                Sequences sequences) {
  begin_kernel();
  using Scan = RotaryScan<Sizes, X>;
  constexpr int P = Sizes::P, Pp = Scan::Pp, R = Sizes::R, H = Sizes::H;
  const int s = static_cast<int>(blockIdx.x) / H, head = static_cast<int>(blockIdx.x) % H;
  T* const state = states + (static_cast<std::ptrdiff_t>(s) * H + head) * Scan::size;
  const int begin = sequences.begin(s), end = sequences.end(s);
  for (int row = begin; row < end; ++row) {
    if (kept && (row - begin) % rotary_stretch == 0) {
      const int slot = ssd_slot(begin, s, (row - begin) / rotary_stretch, rotary_stretch);
      T* const to = kept + (static_cast<std::ptrdiff_t>(slot) * H + head) * Scan::size;
      for (int i = thread(); i < Scan::size; i += Block::threads) to[i] = state[i];
    }
    scan.advance([&](int i, T x) { state[i] = x; }, state, row, head);
    __syncthreads();
    if (y.data)
      for (int i = thread(); i < R * P; i += Block::threads) {
        const int r = i / P, p = i % P;
        T sum = scan.w.d.value[head] * scan.value(row, head, r, p);
        for (int n = 0; n < Scan::Ns; ++n) sum += scan.query(row, head, r, n) * state[n * Pp + p];
        y[row][(head * R + r) * P + p] = Y(sum);
      }
    __syncthreads();
    const bool cut = blocked.blocked(row);
    if (row + 1 == end && !cut) break;
    const T share = cut ? -scan.at_once(row, head) : scan.previous(row + 1, head);
    for (int i = thread(); i < Scan::size; i += Block::threads) state[i] = scan.entered(state, i, row, head, share);
    __syncthreads();
  }
}

// What the backward pass along a sequence gives, as RotaryGradients says; dvalues (T R, E).
template <class Sizes>
struct RotaryScanGradients {
  using T = typename Sizes::Scalar;
  Rows<T, Sizes::H * Sizes::Ns> dkeys, dqueries;
  Rows<T, Sizes::E> dvalues;
  Rows<T, Sizes::H> dlog_decay, dat_once, dlater;
  T* of_skips;  // (sequences, padded(H))
};

// The sum of what a block's threads have, which all of them get.
template <class T>
__device__ T block_sum(T x) {
  __shared__ T shares[Block::warps];
  x = lane_sum(x);
  __syncthreads();
  if (lane() == 0) shares[warp()] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < Block::warps; ++i) sum += shares[i];
  return sum;
}

// adjoint (sequences, H, Ns, padded(P)): the gradient of the states behind the sequences and, afterwards, of those
// before them with all of the tokens before; states (sequences, H, stretch, Ns, padded(P)): scratch.
template <class Sizes, class X, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_scan_back(RotaryScanGradients<Sizes> gradients, T* adjoint, T* states, const T* kept,
                     Rows<const T, Sizes::R * Sizes::E> dy, RotaryScan<Sizes, X> scan, Sequences sequences) {
  begin_kernel();
  using Scan = RotaryScan<Sizes, X>;
  constexpr int P = Sizes::P, Pp = Scan::Pp, R = Sizes::R, H = Sizes::H, Ns = Sizes::Ns;
  const int s = static_cast<int>(blockIdx.x) / H, head = static_cast<int>(blockIdx.x) % H;
  const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(s) * H + head;
  T* const future = adjoint + at * Scan::size;
  T* const behind = states + at * rotary_stretch * Scan::size;  // each token of the stretch
  const int begin = sequences.begin(s), end = sequences.end(s), count = end - begin;
  double skip = 0;
  for (int stretch = (count + rotary_stretch - 1) / rotary_stretch - 1; stretch >= 0; --stretch) {
    const int first = begin + stretch * rotary_stretch, last = min(first + rotary_stretch, end);
    const T* const before_stretch =
        kept + (static_cast<std::ptrdiff_t>(ssd_slot(begin, s, stretch, rotary_stretch)) * H + head) * Scan::size;
    // The state before a token, with all of the token before.
    const auto before = [&](int row, int i) {
      if (row == first) return before_stretch[i];
      return scan.entered(behind + (row - 1 - first) * Scan::size, i, row - 1, head, scan.previous(row, head));
    };
    for (int row = first; row < last; ++row) {
      T* const to = behind + (row - first) * Scan::size;
      const T factor = scan.decay(row, head), now = scan.at_once(row, head);
      for (int i = thread(); i < Scan::size; i += Block::threads)
        to[i] = i % Pp < P ? factor * before(row, i) + now * scan.input(row, head, i / Pp, i % Pp) : T(0);
      __syncthreads();
    }
    for (int row = last - 1; row >= first; --row) {
      const T* const state = behind + (row - first) * Scan::size;
      const auto of_y = [&](int r, int p) { return dy[row][(head * R + r) * P + p]; };
      // The adjoint takes what the token reads.
      for (int i = thread(); i < Scan::size; i += Block::threads)
        if (i % Pp < P)
          for (int r = 0; r < R; ++r) future[i] += scan.query(row, head, r, i / Pp) * of_y(r, i % Pp);
      __syncthreads();
      const T factor = scan.decay(row, head), now = scan.at_once(row, head);
      const bool has_later = row + 1 < end;  // what enters later has been written below, a token ago
      double of_now = 0, of_decay = 0;
      for (int i = thread(); i < R * Ns; i += Block::threads) {
        const int r = i / Ns, n = i % Ns;
        T of_query = 0, of_key = 0;
        for (int p = 0; p < P; ++p) {
          of_query += state[n * Pp + p] * of_y(r, p);
          of_key += future[n * Pp + p] * scan.value(row, head, r, p);
        }
        of_now += static_cast<double>(of_key) * static_cast<double>(scan.key(row, head, r, n));
        gradients.dqueries[row * R + r][head * Ns + n] = of_query;
        T& to = gradients.dkeys[row * R + r][head * Ns + n];
        to = (has_later ? to : T(0)) + now * of_key;
      }
      for (int i = thread(); i < R * P; i += Block::threads) {
        const int r = i / P, p = i % P;
        T of_value = 0;
        for (int n = 0; n < Ns; ++n) of_value += future[n * Pp + p] * scan.key(row, head, r, n);
        T& to = gradients.dvalues[row * R + r][head * P + p];
        to = (has_later ? to : T(0)) + now * of_value + scan.w.d.value[head] * of_y(r, p);
        skip += static_cast<double>(of_y(r, p)) * static_cast<double>(scan.value(row, head, r, p));
      }
      for (int i = thread(); i < Scan::size; i += Block::threads)
        if (i % Pp < P) of_decay += static_cast<double>(future[i]) * static_cast<double>(before(row, i));
      of_now = block_sum(of_now), of_decay = block_sum(of_decay);
      if (thread() == 0) {
        gradients.dat_once[row][head] = static_cast<T>(of_now);
        gradients.dlog_decay[row][head] = static_cast<T>(static_cast<double>(factor) * of_decay);
      }
      for (int i = thread(); i < Scan::size; i += Block::threads) future[i] *= factor;
      __syncthreads();
      // What the token before has of it.
      if (row == begin) continue;
      const T share = scan.previous(row, head);
      double of_later = 0;
      for (int i = thread(); i < R * Ns; i += Block::threads) {
        const int r = i / Ns, n = i % Ns;
        T of_key = 0;
        for (int p = 0; p < P; ++p) of_key += future[n * Pp + p] * scan.value(row - 1, head, r, p);
        of_later += static_cast<double>(of_key) * static_cast<double>(scan.key(row - 1, head, r, n));
        gradients.dkeys[(row - 1) * R + r][head * Ns + n] = share * of_key;
      }
      for (int i = thread(); i < R * P; i += Block::threads) {
        const int r = i / P, p = i % P;
        T of_value = 0;
        for (int n = 0; n < Ns; ++n) of_value += future[n * Pp + p] * scan.key(row - 1, head, r, n);
        gradients.dvalues[(row - 1) * R + r][head * P + p] = share * of_value;
      }
      of_later = block_sum(of_later);
      if (thread() == 0) gradients.dlater[row - 1][head] = static_cast<T>(of_later);
      __syncthreads();
    }
  }
  skip = block_sum(skip);
  if (thread() == 0) gradients.of_skips[s * padded(H) + head] = static_cast<T>(skip);
}

}  // namespace mamba::cuda::detail
