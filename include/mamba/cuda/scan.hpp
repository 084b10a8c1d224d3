// The recurrence of both mixers by one thread block, forward and backward (specification, sections 2.7, 5 and 7).
//
//   h_t = 2^(step_t rate) h_{t-1} + (step_t u_t) b_t      y_t = c_t . h_t + d u_t
//
// A group of lanes holds the states of one channel, four neighbouring states and more a lane; time passes in registers.
// Backward recomputes the states of a chunk of time and keeps them, with their decays, in registers; of the forward pass
// only the states at the chunks' boundaries are kept. A Source says where a mixer's steps, rates and rows are.
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>
#include <mamba/cuda/scan_layout.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda {

namespace detail {

// Whether a block's shared memory holds what a mixer's Source stages and exchanges.
template <class Source>
inline constexpr bool scan_fits_block =
    2 * Source::staged_elements <= Block::shared_elements && Source::staged_elements + Source::shared_elements <= ScanLayout<Source::N>::left_elements;

// y <- the recurrence; Source: see selective_scan.hpp and ssd.hpp.
//   boundaries: states kept for the backward pass, or null; states: where the sequences begin and end, or null for zero
template <class Source, class T, class Blocked>
__device__ __noinline__ void scan(Block& be, const Source& source, T* boundaries, T* states, Sequences sequences, Blocked rows) {
  constexpr int E = Source::E;
  using L = ScanLayout<Source::N>;
  constexpr int chunk = L::chunk, ways = E % (4 * L::groups) == 0 ? 4 : 1;  // channels that a group of lanes works on at once
  static_assert(scan_fits_block<Source>, "mamba: a block's shared memory is too small for these sizes");
  int stage = 0;
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s);
    // Where the states are between chunks.
    T* const own = states ? states + s * Source::state_size : reinterpret_cast<T*>(be.global);
    for (int first = begin; first < end; first += chunk) {
      const bool from_zero = first == begin && !states, last = first + chunk >= end;
      const T* before = own;
      T* kept = nullptr;
      if (boundaries && first > begin) before = boundaries + ((first - begin) / chunk - 1) * Source::state_size;
      if (boundaries && !last) kept = boundaries + (first - begin) / chunk * Source::state_size;
      else if (states || !last) kept = own;
      const Source here = source.staged(be.scratch<T>() + stage * Source::staged_elements, first, end - first < chunk ? end - first : chunk);
      stage ^= 1;
      __syncthreads();
      for (int e0 = 0; e0 < E; e0 += L::groups * ways) {
        T rate[ways][L::states], h[ways][L::states], sums[ways * chunk];
#pragma unroll
        for (int w = 0; w < ways; ++w) {
          const int e = L::channel(e0 + w * L::groups) < E ? L::channel(e0 + w * L::groups) : E - 1;  // all lanes run along: shuffles need them
          here.load_rate(rate[w], e);
#pragma unroll
          for (int i = 0; i < L::states; ++i) h[w][i] = 0;
          if (!from_zero) here.load_state(h[w], before, e);
        }
#pragma unroll
        for (int k = 0; k < chunk; ++k) {
          const bool forgets = rows.blocked(first + k < end ? first + k : first);
#pragma unroll
          for (int w = 0; w < ways; ++w) {
            const int e = L::channel(e0 + w * L::groups) < E ? L::channel(e0 + w * L::groups) : E - 1;
            T b[L::states], c[L::states];
            here.load_b(b, k, e);
            here.load_c(c, k, e);
            const T step = here.step(k, e), input = step * here.u(k, e);
            T sum = 0;
#pragma unroll
            for (int i = 0; i < L::states; ++i) {
              const T carried = k == 0 && from_zero ? T(0) : math::decay(step, rate[w][i]) * h[w][i];
              const T next = math::next_state(carried, input, b[i]);
              sum += c[i] * next;
              h[w][i] = forgets ? carried : next;
            }
            sums[w * chunk + k] = sum;
          }
        }
        if (kept)
#pragma unroll
          for (int w = 0; w < ways; ++w)
            if (L::channel(e0 + w * L::groups) < E) here.store_state(kept, h[w], L::channel(e0 + w * L::groups));
        const int owned = sum_over_lanes<ways * chunk, L::width>(sums);
        constexpr int held = ways * chunk > L::width ? ways * chunk / L::width : 1;
        constexpr int copies = L::width > ways * chunk ? L::width / (ways * chunk) : 1;  // lanes with the same sum
#pragma unroll
        for (int i = 0; i < held; ++i) {
          const int w = (owned + i) / chunk, t = first + (owned + i) % chunk, e = L::channel(e0 + w * L::groups);
          if (e < E && t < end && lane() % copies == 0) source.write_y(t, e, sums[i]);
        }
      }
    }
    if (boundaries) boundaries += (end - begin - 1) / chunk * Source::state_size;
  }
  __syncthreads();
}

// The gradients: Source's write_* receive them. carry: one state in global memory, needed when there are boundaries.
template <class Source, class T>
__device__ __noinline__ void scan_backward(Block& be, const Source& source, const T* boundaries, T* carry, Sequences sequences) {
  constexpr int E = Source::E, N = Source::N, of_group = E / Source::groups;
  using L = ScanLayout<N>;
  constexpr int chunk = L::chunk;
  constexpr int partial_row = padded(N), partial_size = 2 * chunk * partial_row;  // of one group of lanes
  T* const partial = be.scratch<T>();
  T* const stage = partial + L::partial_elements;
  static_assert(scan_fits_block<Source>, "mamba: a block's shared memory is too small for these sizes");
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s), chunks = (end - begin + chunk - 1) / chunk;
    for (int number = chunks - 1; number >= 0; --number) {
      const int first = begin + number * chunk;
      const bool has_future = number + 1 < chunks;
      const Source here = source.staged(stage, first, end - first < chunk ? end - first : chunk);
      __syncthreads();
      for (int group = 0; group < Source::groups; ++group) {
        T db[chunk][L::states] = {}, dc[chunk][L::states] = {};
        for (int e0 = group * of_group; e0 < (group + 1) * of_group; e0 += L::groups) {
          const bool mine = of_group % L::groups == 0 || L::channel(e0) < (group + 1) * of_group;
          const int e = mine ? L::channel(e0) : E - 1;
          T rate[L::states], h[L::states], decays[chunk][L::states], carried[chunk][L::states];
          here.load_rate(rate, e);
#pragma unroll
          for (int i = 0; i < L::states; ++i) h[i] = 0;
          if (number > 0) here.load_state(h, boundaries + (number - 1) * Source::state_size, e);
#pragma unroll
          for (int k = 0; k < chunk; ++k) {
            T b[L::states];
            here.load_b(b, k, e);
            const T step = here.step(k, e), input = step * here.u(k, e);
#pragma unroll
            for (int i = 0; i < L::states; ++i) {
              // Before the first step there is nothing to decay, and nobody to hand the adjoint to.
              decays[k][i] = k == 0 && number == 0 ? T(0) : math::decay(step, rate[i]);
              carried[k][i] = decays[k][i] * h[i];
              h[i] = math::next_state(carried[k][i], input, b[i]);
            }
          }
          T from_future[L::states], da[L::states];
#pragma unroll
          for (int i = 0; i < L::states; ++i) from_future[i] = 0, da[i] = 0;
          if (has_future) here.load_state(from_future, static_cast<const T*>(carry), e);
          T sums[2 * chunk];  // of lambda b, then of lambda carried rate
#pragma unroll
          for (int k = chunk - 1; k >= 0; --k) {
            sums[k] = sums[chunk + k] = 0;
            T b[L::states], c[L::states];
            here.load_b(b, k, e);
            here.load_c(c, k, e);
            const T step = here.step(k, e), input = mine ? step * here.u(k, e) : T(0), dy = mine ? here.dy(k, e) : T(0);
#pragma unroll
            for (int i = 0; i < L::states; ++i) {
              const T lambda = math::adjoint(c[i], dy, from_future[i]);
              dc[k][i] += dy * math::next_state(carried[k][i], input, b[i]);
              db[k][i] += lambda * input;
              sums[k] += lambda * b[i];
              const T lambda_carried = lambda * carried[k][i];
              sums[chunk + k] += lambda_carried * rate[i];
              da[i] += lambda_carried * step;
              from_future[i] = decays[k][i] * lambda;
            }
          }
          if (mine) {
            if (number > 0) here.store_state(carry, from_future, e);
            here.add_rate_gradient(da, e);
          }
          const int owned = sum_over_lanes<2 * chunk, L::width>(sums);
          constexpr int held = 2 * chunk > L::width ? 2 * chunk / L::width : 1;
          constexpr int copies = L::width > 2 * chunk ? L::width / (2 * chunk) : 1;
          // The first halving left a step's two sums in lanes that lie half a group apart.
#pragma unroll
          for (int i = 0; i < held; ++i) {
            const int k = owned + i, t = first + k;
            const T of_rate = __shfl_xor_sync(~0U, sums[i], L::width / 2);
            if (mine && k < chunk && t < end && lane() % copies == 0) source.write_channel(t, k, e, sums[i], T(math::ln2) * of_rate);
          }
        }
        // The lane groups' db and dc, in their order.
#pragma unroll
        for (int k = 0; k < chunk; ++k) {
          L::store(partial + L::group() * partial_size + k * partial_row, db[k]);
          L::store(partial + L::group() * partial_size + (chunk + k) * partial_row, dc[k]);
        }
        __syncthreads();
        each(2 * chunk * partial_row, [&](int i) {
          const int row = i / partial_row, n = i % partial_row, t = first + row % chunk;
          if (t >= end) return;
          T sum = 0;
          for (int g = 0; g < L::groups; ++g) sum += partial[g * partial_size + i];
          if (row < chunk) source.write_db(t, group, n, sum);
          else source.write_dc(t, group, n, sum);
        });
        __syncthreads();
      }
      source.end_chunk(first, end);
    }
    boundaries += (chunks - 1) * Source::state_size;
  }
}

// `Count` rows of x from `first` on, in shared memory at `to`; from `rows` on they are zero, which makes a step of size zero
// that changes no state. No barrier.
template <int Count, class T, int C>
__device__ Rows<const T, C> staged_rows(T*& to, Rows<const T, C> x, int first, int rows) {
  T* const copy = to;
  each(Count * x.stride / 4, [&](int i) { store4(copy + 4 * i, 4 * i < rows * x.stride ? load4(x[first] + 4 * i) : Quad<T>{}); });
  to += Count * x.stride;
  return {copy, Count};
}

}  // namespace detail

}  // namespace mamba::cuda
