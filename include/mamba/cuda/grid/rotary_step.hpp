// A single token of every sequence of Mamba-3's, whose states are given.
#pragma once

#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/rotary_rows.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// y (T, R E) <- the tokens' outputs, states <- the next ones. A block takes a head's channels, and its groups of
// threads share out the states. keys, queries (T R, H Ns) are the tokens' own, history has those of the tokens before.
template <class Sizes, class Y, class X, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_step(Rows<Y, Sizes::R * Sizes::E> y, T* states, const T* history, Rows<const T, Sizes::H * Sizes::Ns> keys,
                Rows<const T, Sizes::H * Sizes::Ns> queries, Rows<const T, Sizes::H> delta,
                Rows<const T, Sizes::H> log_decay, Rows<const T, Sizes::H> mu, Rows<const X, Sizes::C> xbc,
                network::RotaryWeights<Sizes> w, Sequences sequences) {
  begin_kernel();
  constexpr int P = Sizes::P, Ns = Sizes::Ns, R = Sizes::R, H = Sizes::H, width = padded(P) < 64 ? padded(P) : 64,
                widths = (P + width - 1) / width, groups = Block::threads / width;
  __shared__ T shares[groups][width];
  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % widths * width;
  index /= widths;
  const int head = index % H, s = index / H, row = sequences.begin(s);
  const int column = thread() % width, p = p0 + column, own = thread() / width;
  const T* const last_keys = history + s * Sizes::history_size + Sizes::angles_size + head * R * Ns;
  const T* const last_x = history + s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size;
  const T decay = math::exp2_nonpositive(log_decay[row][head] * static_cast<T>(math::log2_e)),
          at_once = mu[row][head] * delta[row][head], previous = rotary_previous(delta, mu, row, head);
  T now[R], before[R], sums[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    now[r] = p < P ? at_once * rotary_value<Sizes>(xbc[row], w.mimo_x, head, r, p) : T(0);
    before[r] = p < P ? previous * rotary_value<Sizes>(last_x, w.mimo_x, head, r, p) : T(0);
    sums[r] = 0;
  }
  if (own < groups && p < padded(P)) {
    T* const state = states + s * Sizes::state_size + (static_cast<std::ptrdiff_t>(head) * Ns) * padded(P) + p;
    constexpr int at_a_time = R == 1 ? 16 : 4;  // states that are asked for together
    for (int first = own; first < Ns; first += at_a_time * groups) {
      T h[at_a_time];
#pragma unroll
      for (int i = 0; i < at_a_time; ++i)
        if (const int n = first + i * groups; n < Ns) h[i] = state[static_cast<std::ptrdiff_t>(n) * padded(P)];
#pragma unroll
      for (int i = 0; i < at_a_time; ++i) {
        const int n = first + i * groups;
        if (n >= Ns) continue;
#pragma unroll
        for (int r = 0; r < R; ++r) h[i] += last_keys[r * Ns + n] * before[r];
        h[i] *= decay;
#pragma unroll
        for (int r = 0; r < R; ++r) h[i] += keys[row * R + r][head * Ns + n] * now[r];
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] += queries[row * R + r][head * Ns + n] * h[i];
        state[static_cast<std::ptrdiff_t>(n) * padded(P)] = h[i];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (r > 0) __syncthreads();
    if (own < groups) shares[own][column] = sums[r];
    __syncthreads();
    if (own != 0 || p >= P) continue;
    T sum = sums[r];
    for (int i = 1; i < groups; ++i) sum += shares[i][column];
    y[row][(head * R + r) * P + p] = Y(sum + w.d.value[head] * rotary_value<Sizes>(xbc[row], w.mimo_x, head, r, p));
  }
}

// The memory of a call: the tokens' keys and queries.
template <class Sizes>
struct RotaryStepMemory {
  Rows<typename Sizes::Scalar, Sizes::H * Sizes::Ns> keys, queries;
  void carve(Carver& memory, int sequences) {
    memory.take(keys, sequences * Sizes::R), memory.take(queries, sequences * Sizes::R);
  }
};

// What histories keep of keys: the tokens' own.
template <class Sizes, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_keep_keys(T* history, Rows<const T, Sizes::H * Sizes::Ns> keys, Sequences sequences) {
  begin_kernel();
  constexpr int Ns = Sizes::Ns, R = Sizes::R;
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Sizes::keys_size), at = static_cast<int>(i % Sizes::keys_size);
  if (s >= sequences.count) return;
  const int n = at % Ns, r = at / Ns % R, head = at / Ns / R;
  history[s * Sizes::history_size + Sizes::angles_size + at] = keys[sequences.begin(s) * R + r][head * Ns + n];
}

}  // namespace mamba::cuda::detail
