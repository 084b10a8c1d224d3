// The walk along sequences (scan.hpp; Mamba-2 in double), forward.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/scan_channels.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda {

namespace detail {

// y <- the recurrence; a block takes some channels of one sequence.
template <class Channels, class T, class Blocked>
__global__ void __launch_bounds__(Block::threads)
    scan_channels(Channels in, Rows<T, Channels::E> y, T* boundaries, T* states, Sequences sequences, Blocked rows) {
  begin_kernel();
  constexpr int E = Channels::E, N = Channels::N;
  using L = LaneLayout<N>;
  constexpr int slices = (E + L::channels - 1) / L::channels;
  const int s = static_cast<int>(blockIdx.x) / slices,
            own = static_cast<int>(blockIdx.x) % slices * L::channels + L::channel();
  const int e = own < E ? own : E - 1;  // all lanes run along: shuffles need them
  const int begin = sequences.begin(s), end = sequences.end(s);
  for (int n0 = L::first_state(); n0 - L::first_state() < N; n0 += L::tile) {
    T rate[L::states], h[L::states];
    T* const state = states ? states + s * Channels::state_size : nullptr;
#pragma unroll
    for (int i = 0; i < L::states; ++i) {
      const int n = n0 + i * L::lanes;
      rate[i] = n < N ? in.rate(e, n) : T(0);
      h[i] = n < N && state ? state[Channels::state_offset(e, n)] : T(0);
    }
    for (int t = begin; t < end; ++t) {
      const T step = in.step(t, e), u = in.u(t, e);
      const bool forgets = rows.blocked(t), keeps = boundaries && t > begin && (t - begin) % grid_scan_chunk == 0;
      T sum = 0;
#pragma unroll
      for (int i = 0; i < L::states; ++i) {
        const int n = n0 + i * L::lanes;
        if (n >= N) continue;
        if (keeps && own < E)
          boundaries[boundary(begin, t - begin) * Channels::state_size + Channels::state_offset(e, n)] = h[i];
        const T carried = t == begin && !state ? T(0) : math::decay(step, rate[i]) * h[i];
        const T next = math::next_state(carried, step * u, in.b(t, e, n));
        sum += in.c(t, e, n) * next;
        h[i] = forgets ? carried : next;
      }
      sum = L::sum(sum);
      if (L::first_state() == 0 && own < E) y[t][e] = (n0 == 0 ? in.skip(e) * u : y[t][e]) + sum;
    }
#pragma unroll
    for (int i = 0; i < L::states; ++i)
      if (const int n = n0 + i * L::lanes; state && n < N && own < E) state[Channels::state_offset(e, n)] = h[i];
  }
}

template <class Channels, class T, class Blocked>
void scan(Grid& be, const Channels& in, Rows<T, Channels::E> y, T* boundaries, T* states, Sequences sequences,
          Blocked rows) {
  constexpr int slices = (Channels::E + LaneLayout<Channels::N>::channels - 1) / LaneLayout<Channels::N>::channels;
  clear_padding(be, y);
  be.launch("scan_channels", scan_channels<Channels, T, Blocked>, sequences.count * slices, 0, in, y, boundaries,
            states, sequences, rows);
}

}  // namespace detail

}  // namespace mamba::cuda
