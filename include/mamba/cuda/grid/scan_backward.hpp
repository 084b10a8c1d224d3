// The walk along sequences (scan.hpp; Mamba-2 in double), backward: gradients, and the sums of what several channels or
// sequences share.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/scan_channels.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda {

namespace detail {

// How a backward pass is shared out: parts of the sequences, and slices of each group's channels.
struct ScanShares {
  int parts, slices;
};
template <class Channels>
ScanShares shares_of(int sequences) {
  constexpr int at_once = LaneLayout<Channels::N>::channels,
                passes = (Channels::E / Channels::groups + at_once - 1) / at_once;
  constexpr int blocks = GridTuning::scan_all_blocks;
  // No more memory for the gradients of b and c than a layer's activations take.
  constexpr int affordable = (std::max)(1, 4 * padded(Channels::E) / (Channels::groups * padded(Channels::N)));
  constexpr int most_parts =
      std::clamp(static_cast<int>(GridTuning::scan_partial_elements / Channels::state_size), 1, blocks);
  const int parts = (std::min)(sequences, most_parts),
            slices = std::clamp(blocks / (parts * Channels::groups), 1, (std::min)(passes, affordable));
  return {(std::max)(1, (std::min)(parts, blocks / (slices * Channels::groups))), slices};
}

// What the backward pass writes beside the gradients themselves, in scratch memory.
template <class Channels, class T>
struct ScanPartials {
  static constexpr int E = Channels::E, N = Channels::N;
  static constexpr std::size_t rate_size = padded(E);
  ScanShares shares;
  T* states;         // (slices, rows, groups, 2, padded(N)): gradients of b and c
  T* rates;          // (parts, E)
  Rows<T, E> skips;  // (parts, E)

  // Over no memory it only counts.
  void carve(Carver& memory, ScanShares s, int rows) {
    shares = s;
    states = memory.take<T>(static_cast<std::size_t>(s.slices) * rows * Channels::groups * 2 * padded(N));
    rates = memory.take<T>(s.parts * rate_size);
    memory.take(skips, s.parts);
  }
  __host__ __device__ T* state_row(int slice, int rows, int t, int group, int which) const {
    return states + (((static_cast<std::size_t>(slice) * rows + t) * Channels::groups + group) * 2 + which) * padded(N);
  }
};

// du, dsteps <- gradients of the channels' inputs and steps, and the partial sums. passed: where sequences began and
// the gradient of where they ended, which becomes that of where they began.
template <class Channels, class T, int Width, class Passed>
__global__ void __launch_bounds__(Block::threads)
    scan_channels_backward(Channels in, Rows<T, Width> du, Rows<T, Channels::E> dsteps,
                           ScanPartials<Channels, T> partials, Rows<const T, Channels::E> dy, const T* boundaries,
                           Sequences sequences, Passed passed) {
  begin_kernel();
  constexpr int E = Channels::E, N = Channels::N, of_group = E / Channels::groups, chunk = grid_scan_chunk;
  using L = LaneLayout<N>;
  constexpr int passes = (of_group + L::channels - 1) / L::channels;
  // Two steps' gradients of b and c by each channel: (2, channels, 2, tile).
  constexpr int of_channel = 2 * L::tile, of_step = L::channels * of_channel;
  T* const exchange = Block{}.scratch<T>();
  int turn = 0;
  const auto [parts, slices] = partials.shares;
  const int slice = static_cast<int>(blockIdx.x) % slices,
            group = static_cast<int>(blockIdx.x) / slices % Channels::groups;
  const int part = static_cast<int>(blockIdx.x) / (slices * Channels::groups);
  const int first_pass = first_of(slice, slices, passes), last_pass = first_of(slice + 1, slices, passes);
  const int first_sequence = first_of(part, parts, sequences.count),
            last_sequence = first_of(part + 1, parts, sequences.count);
  for (int pass = first_pass; pass < last_pass; ++pass) {
    const int of_pass = pass * L::channels + L::channel();
    const bool mine = of_pass < of_group;
    const int e = group * of_group + (mine ? of_pass : of_group - 1);
    T of_skip = 0;
    for (int tile = 0; tile < N; tile += L::tile) {
      const int n0 = tile + L::first_state();
      T rate[L::states], of_rate[L::states] = {};
#pragma unroll
      for (int i = 0; i < L::states; ++i) rate[i] = n0 + i * L::lanes < N ? in.rate(e, n0 + i * L::lanes) : T(0);
      for (int s = first_sequence; s < last_sequence; ++s) {
        const int begin = sequences.begin(s), end = sequences.end(s);
        T from_future[L::states] = {};
        const auto at = [&](int n) { return s * Channels::state_size + Channels::state_offset(e, n); };
        if constexpr (Passed::passes)
#pragma unroll
          for (int i = 0; i < L::states; ++i)
            if (const int n = n0 + i * L::lanes; passed.gradient && n < N) from_future[i] = passed.gradient[at(n)];
        for (int number = (end - begin - 1) / chunk; number >= 0; --number) {
          const int first = begin + number * chunk;
          T h[L::states], carried[chunk][L::states], decays[chunk][L::states];
#pragma unroll
          for (int i = 0; i < L::states; ++i) {
            const int n = n0 + i * L::lanes;
            h[i] =
                number > 0 && n < N
                    ? boundaries[boundary(begin, number * chunk) * Channels::state_size + Channels::state_offset(e, n)]
                    : T(0);
            if constexpr (Passed::passes)
              if (number == 0 && n < N) h[i] = passed.from[at(n)];
          }
#pragma unroll
          for (int k = 0; k < chunk; ++k) {
            if (first + k >= end) continue;
            const T step = in.step(first + k, e), input = step * in.u(first + k, e);
#pragma unroll
            for (int i = 0; i < L::states; ++i) {
              const int n = n0 + i * L::lanes;
              decays[k][i] = !Passed::passes && k == 0 && number == 0 ? T(0) : math::decay(step, rate[i]);
              carried[k][i] = decays[k][i] * h[i];
              h[i] = n < N ? math::next_state(carried[k][i], input, in.b(first + k, e, n)) : T(0);
            }
          }
#pragma unroll
          for (int k = chunk - 1; k >= 0; --k) {
            const int t = first + k;
            if (t >= end) continue;
            const T step = in.step(t, e), u = in.u(t, e), input = mine ? step * u : T(0), g = mine ? dy[t][e] : T(0);
            T* const own = exchange + turn * of_step + L::channel() * of_channel + L::first_state();
            T of_b = 0, of_decay = 0;
#pragma unroll
            for (int i = 0; i < L::states; ++i) {
              const int n = n0 + i * L::lanes;
              const T b = n < N ? in.b(t, e, n) : T(0), c = n < N ? in.c(t, e, n) : T(0);
              const T lambda = math::adjoint(c, g, from_future[i]);
              own[i * L::lanes] = lambda * input;
              own[L::tile + i * L::lanes] = g * math::next_state(carried[k][i], input, b);
              of_b += lambda * b;
              of_decay += lambda * carried[k][i] * rate[i];
              of_rate[i] += lambda * carried[k][i] * step;
              from_future[i] = decays[k][i] * lambda;
            }
            of_b = L::sum(of_b), of_decay = L::sum(of_decay);
            if (mine && L::first_state() == 0) {
              du[t][e] = (tile == 0 ? in.skip(e) * g : du[t][e]) + step * of_b;
              dsteps[t][e] = (tile == 0 ? T(0) : dsteps[t][e]) + T(math::ln2) * of_decay + u * of_b;
              if (tile == 0) of_skip += g * u;
            }
            __syncthreads();
            each(of_channel, [&](int i) {
              const int which = i / L::tile, at = i % L::tile;
              if (tile + at >= N) return;
              T sum = 0;
              for (int channel = 0; channel < L::channels; ++channel)
                sum += exchange[turn * of_step + channel * of_channel + i];
              T* const to = partials.state_row(slice, dy.rows, t, group, which) + tile + at;
              *to = pass == first_pass ? sum : *to + sum;
            });
            turn ^= 1;
          }
        }
        if constexpr (Passed::passes)
#pragma unroll
          for (int i = 0; i < L::states; ++i)
            if (const int n = n0 + i * L::lanes; passed.gradient && mine && n < N)
              passed.gradient[at(n)] = from_future[i];
      }
      T* const rates = partials.rates + part * partials.rate_size;
      T of_all = 0;
#pragma unroll
      for (int i = 0; i < L::states; ++i) of_all += of_rate[i];
      of_all = L::sum(of_all);
      if (mine && L::first_state() == 0) rates[e] += of_all;
    }
    if (mine && L::first_state() == 0) partials.skips[part][e] = of_skip;
  }
}

// A row of `to` for each row, group and kind of the partial sums: db, dc <- their sum over the slices.
template <class Channels, class T, class To>
__global__ void __launch_bounds__(Block::threads)
    sum_state_gradients(To to, ScanPartials<Channels, T> partials, int rows) {
  begin_kernel();
  constexpr int of_row = Channels::groups * 2 * padded(Channels::N);
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int t = static_cast<int>(i / of_row), group = static_cast<int>(i % of_row) / (2 * padded(Channels::N));
  const int which = static_cast<int>(i % of_row) / padded(Channels::N) % 2,
            n = static_cast<int>(i % padded(Channels::N));
  if (t >= rows) return;
  T sum = 0;
  if (n < Channels::N)
    for (int slice = 0; slice < partials.shares.slices; ++slice)
      sum += partials.state_row(slice, rows, t, group, which)[n];
  to.write(t, group, which, n, sum);
}
template <class T, int E, int G, int N>
struct SsdStateGradients {
  Rows<T, E + 2 * G * N> dxbc;
  __device__ void write(int t, int group, int which, int n, T sum) const {
    if (n < N) dxbc[t][E + (which * G + group) * N + n] = sum;
  }
};

// to (rows, H) <- or += the sums of from's (rows, H P) columns over each head's.
template <Write write, class T, int H, int E>
__global__ void __launch_bounds__(Block::threads) sum_heads(Rows<T, H> to, Rows<const T, E> from) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const auto t = static_cast<std::ptrdiff_t>(i / to.stride);
  const int head = static_cast<int>(i % to.stride);
  if (t >= to.rows) return;
  T sum = write == Write::add ? to[t][head] : T(0);
  if (head < H)
    for (int p = 0; p < E / H; ++p) sum += from[t][head * (E / H) + p];
  to[t][head] = sum;
}

template <Write write, class T, int H, int E>
void sum_of_heads(Grid& be, Rows<T, H> to, Rows<const T, E> from) {
  be.launch_over("sum_heads", sum_heads<write, T, H, E>, static_cast<std::size_t>(to.rows) * to.stride, to, from);
}

// to (H) += the sum of the channels' partial sums (parts, E), which are used up.
template <int E, class T, int H>
void add_heads(Grid& be, WeightGradient<T, 1, H> to, T* of_channels, int parts) {
  be.add(WeightGradient<T, 1, E>{of_channels}, PartialGradients<T, 1, E>{of_channels + padded(E), parts - 1});
  sum_of_heads<Write::add>(be, Rows<T, H>{to.value, 1}, Rows<const T, E>{of_channels, 1});
}

// to <- the gradients of b and c; returns the partial sums that are left to add.
template <class Channels, class T, int Width, class To, class Passed>
void scan_backward(Grid& be, const Channels& in, Rows<T, Width> du, Rows<T, Channels::E> dsteps, const To& to,
                   const ScanPartials<Channels, T>& partials, Rows<const T, Channels::E> dy, const T* boundaries,
                   Sequences sequences, Passed passed) {
  using L = LaneLayout<Channels::N>;
  struct Exchange {
    T values[2][L::channels][2][L::tile];
  };
  be.launch("scan_channels_backward", scan_channels_backward<Channels, T, Width, Passed>,
            partials.shares.parts * Channels::groups * partials.shares.slices, shared_memory<Exchange>, in, du, dsteps,
            partials, dy, boundaries, sequences, passed);
  const std::size_t elements = static_cast<std::size_t>(dy.rows) * Channels::groups * 2 * padded(Channels::N);
  be.launch_over("sum_state_gradients", sum_state_gradients<Channels, T, To>, elements, to, partials, dy.rows);
}

}  // namespace detail

}  // namespace mamba::cuda
