// Mamba-2's state-space dual by one thread block (specification, section 7; Dao and Gu 2024, section 6).
//
// Inside a chunk of 8 tokens the quadratic form: y = M x with M = (c b^T) o decays o steps + skip, a lower triangle of
// 8 by 8. Half a warp computes a chunk on its own, without barriers: all loads of b and c are under way at once, and
// sums over columns go by shuffles. Only where a sequence has several chunks, or states come in or go out, a second
// pass (ssd_states.hpp) adds what passes from chunk to chunk.
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/cuda/block/ssd_head.hpp>
#include <mamba/cuda/block/ssd_states.hpp>
#include <mamba/network/mixer.hpp>

namespace mamba::cuda {

namespace detail {

// What Mamba-2's chunks are made of, as a head (ssd_head.hpp) and what passes between chunks (ssd_states.hpp) ask for
// it.
template <class S_>
struct SsdOperands {
  using S = S_;
  using T = typename S::T;

  Rows<const T, S::H> delta;
  Rows<const T, S::C> xbc;
  const T* rates;

  // A head's inputs.
  __device__ void load_inputs(ChunkColumns<T>& to, int first, int rows, int head, int column) const {
    to.template load<S::P, S::x_quads>(xbc[first] + head * S::P, xbc.stride, rows, column);
  }
  __device__ ChunkSteps<T> steps(int first, int rows, int /*end*/, int head) const {
    return {delta, first, rows, head, rates[head]};
  }
  // b and c of a head's group.
  struct Keys {
    const T *b, *c;
    int row_stride, rows;

    __device__ void load_b(ChunkColumns<T>& to, int k) const {
      to.template load<S::N, S::n_quads>(b, row_stride, rows, k * stretch + 4 * half_lane());
    }
    __device__ void load_c(ChunkColumns<T>& to, int k) const {
      to.template load<S::N, S::n_quads>(c, row_stride, rows, k * stretch + 4 * half_lane());
    }
  };
  __device__ Keys keys(int first, int rows, int head) const {
    const int group = head / S::heads;
    return {xbc[first] + S::b_column(group), xbc[first] + S::c_column(group), xbc.stride, rows};
  }
  // What a sequence's state takes in before its first token: nothing.
  template <class State>
  __device__ static void enter(State&, int, int, int, int) {}
};

// Columns of b and c that are kept in registers from c b^T until the gradients need them again: all or none.
template <class S>
inline constexpr bool keeps_bc = sizeof(typename S::T) == 4 && stretches(S::N) <= 2;

// y <- every chunk as if nothing was before it. No barrier.
template <class S, class T, class Blocked>
__device__ __noinline__ void ssd_within_chunks(Block& be, Rows<T, S::E> y, Rows<const T, S::H> delta,
                                               Rows<const T, S::C> xbc, Sequences sequences, const T* rates, const T* d,
                                               Blocked blocked) {
  T* const exchange = be.scratch<T>() + half_warp() * exchange_size;
  each_chunk<S::G>(sequences, [&](int first, int rows, int group) {
    const T* const chunk = xbc[first];
    Dots<T> cb_dots;
#pragma unroll(stretches(S::N) <= 2 ? 2 : 1)
    for (int k = 0; k < stretches(S::N); ++k) {
      const int column = k * stretch + 4 * half_lane();
      ChunkColumns<T> b, c;
      b.template load<S::N, S::n_quads>(chunk + S::b_column(group), xbc.stride, rows, column);
      c.template load<S::N, S::n_quads>(chunk + S::c_column(group), xbc.stride, rows, column);
      cb_dots.add(c, b);
    }
    const auto cb = cb_dots.entries(exchange);
#pragma unroll 1
    for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
      const ChunkSteps<T> steps(delta, first, rows, head, rates[head]);
      exchange_matrix(exchange, ChunkDecays<T>(steps, first, rows, blocked).mixing(cb, d[head]));
      mix_inputs(exchange, y, SsdOperands<S>{delta, xbc, rates}, first, rows, head);
    }
  });
}

inline constexpr int exchange_elements = half_warps * exchange_size;

// Whether a block's shared memory takes what backward exchanges and sums up for every head.
template <class S>
inline constexpr bool ssd_fits_block = exchange_elements + 2 * S::H * half_warps <= Block::shared_elements &&
                                       2 * between_chunks_elements<S> <= Block::shared_elements;

// The gradients of the same; ends with a barrier.
template <class S, class T>
__device__ __noinline__ void ssd_within_chunks_backward(Block& be, Rows<T, S::H> ddelta, Rows<T, S::C> dxbc, T* da,
                                                        T* dd, Rows<const T, S::E> dy, Rows<const T, S::H> delta,
                                                        Rows<const T, S::C> xbc, Sequences sequences, const T* rates,
                                                        const T* d) {
  static_assert(ssd_fits_block<S>, "mamba: a block's shared memory is too small for so many heads");
  T* const exchange = be.scratch<T>() + half_warp() * exchange_size;
  // Every half-warp's share of da and dd, (2, H, half-warps): lanes 0 and 8 add them up.
  T* const shares = be.scratch<T>() + exchange_elements + (half_lane() / 8 * S::H) * half_warps + half_warp();
  if (half_lane() % 8 == 0)
    for (int head = 0; head < S::H; ++head) shares[head * half_warps] = 0;

  constexpr int of_n = stretches(S::N), kept = keeps_bc<S> ? of_n : 1;
  each_chunk<S::G>(sequences, [&](int first, int rows, int group) {
    const T* const chunk = xbc[first];
    ChunkColumns<T> b[kept], c[kept];
    const auto load_bc = [&](int k) {
      const int column = k * stretch + 4 * half_lane();
      b[k % kept].template load<S::N, S::n_quads>(chunk + S::b_column(group), xbc.stride, rows, column);
      c[k % kept].template load<S::N, S::n_quads>(chunk + S::c_column(group), xbc.stride, rows, column);
    };
    Dots<T> cb_dots;
#pragma unroll(kept)
    for (int k = 0; k < of_n; ++k) load_bc(k), cb_dots.add(c[k % kept], b[k % kept]);
    const auto cb = cb_dots.entries(exchange);

    TriangleEntries<T> dcb{};  // the gradient of c b^T: the sum over the group's heads
#pragma unroll 1
    for (int head = group * S::heads; head < (group + 1) * S::heads; ++head) {
      const T rate = rates[head];
      const ChunkSteps<T> steps(delta, first, rows, head, rate);
      const ChunkDecays<T> decays(steps, first, rows, NoRows{});
      const auto yx = output_dots(dy, SsdOperands<S>{delta, xbc, rates}, first, rows, head).entries(exchange);
      exchange_matrix(exchange, decays.mixing(cb, d[head]));
      input_gradients<S>(exchange, dy, first, rows, head, [&](int column, int j, const T(&sums)[4]) {
        if (j < rows) store_columns<S::P, S::x_quads>(dxbc[first + j] + head * S::P, column, sums);
      });

      T of_steps[4], trace = 0;
      const int i = cb.row(), j0 = cb.column();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const T from_lam = yx.at[k] * decays.lam[k];
        of_steps[k] = from_lam * cb.at[k];
        dcb.at[k] += from_lam * decays.delta[k];
        if (j0 + k == i) trace = yx.at[k];
      }
      const StepSums<T> sums(of_steps, decays.delta);
      const int t = sums.token();
      const T delta_t = steps.of(steps.delta, t);
      if (sums.has_exponent() && t < rows)
        ddelta[first + t][head] = sums.of_weight + T(math::ln2) * rate * sums.exponent;
      T of_head[2] = {sums.has_exponent() ? sums.exponent * delta_t : T(0), trace};
      sum_over_lanes<2, half_lanes>(of_head);
      if (half_lane() % 8 == 0) shares[head * half_warps] += of_head[0];
    }

    exchange_matrix(exchange, dcb);
#pragma unroll(kept)
    for (int k = 0; k < of_n; ++k) {
      if constexpr (kept < of_n) load_bc(k);
      const int column = k * stretch + 4 * half_lane();
      lower_times(exchange, b[k % kept], [&](int i, const T(&sums)[4]) {
        if (i < rows) store_columns<S::N, S::n_quads>(dxbc[first + i] + S::c_column(group), column, sums);
      });
      lower_transposed_times(exchange, c[k % kept], [&](int j, const T(&sums)[4]) {
        if (j < rows) store_columns<S::N, S::n_quads>(dxbc[first + j] + S::b_column(group), column, sums);
      });
    }
  });

  __syncthreads();
  const T* const all = be.scratch<T>() + exchange_elements;
  each(2 * S::H, [&](int k) {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < half_warps; ++i) sum += all[k * half_warps + i];
    T& to = k < S::H ? da[k] : dd[k - S::H];
    to += sum;
  });
  __syncthreads();
}

// And where its gradients add up.
template <class S_>
struct SsdGradients : SsdOperands<S_> {
  using S = S_;
  using T = typename S::T;
  static constexpr bool adds_to_keys = true,  // they go where the chunks' own stand
      has_factors = false;

  Rows<T, S::H> ddelta;
  Rows<T, S::C> dxbc;
  T* da;

  // Of b or c of a group: where the gradient of state n begins, in row `row` of the chunk.
  __device__ T* key_gradients(Block&, int /*turn*/, bool of_c, int group, int first, int row, int n) const {
    return dxbc.address(first + row) + (of_c ? S::c_column(group) : S::b_column(group)) + n;
  }
  // Lanes t, t + 8, ... bring that of token t: flow, what the future reads of its input, and its exponent's.
  __device__ void give_steps(const ChunkSteps<T>& steps, int first, int rows, bool /*has_future*/, int head, T flow,
                             T of_exponent) const {
    const T rate = this->rates[head];
    if (lane() < rows)
      ddelta[first + lane() % ssd_chunk][head] += steps.rest * flow + T(math::ln2) * rate * of_exponent;
    const T of_rate = lane_sum<ssd_chunk>(of_exponent * steps.delta);
    if (lane() == 0) da[head] += of_rate;
  }
  // Nothing is left to do for a chunk's keys.
  __device__ void give_keys(Block&, int /*turn*/, int /*first*/, int /*rows*/, bool /*has_future*/,
                            bool /*has_past*/) const {}
};

}  // namespace detail

// y (T, H P) <- the state-space model + skip.
//   delta (T, H); xbc (T, H P + 2 G N); a (H), whose derived weight is the rate A log2(e); d (H)
//   boundaries: (BlockMemory::kept_states(), H, N, P) states kept for the backward pass, or null
//   states: (sequences, H, N, P) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: S's column of a blocked row is cut below the diagonal
template <int G, int N, class T, int E, int H, int C, class Blocked = NoRows>
__device__ void ssd(Block& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, H> delta, Rows<const T, C> xbc,
                    Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d, Blocked rows = {}) {
  using S = detail::Ssd<T, H, E / H, G, N>;
  static_assert(C == S::C);
  detail::clear_padding(y);
  detail::ssd_within_chunks<S>(be, y, delta, xbc, sequences, a.derived, d.value, rows);
  if (__syncthreads_or(states != nullptr || detail::has_several_chunks<S::tokens>(sequences)))
    detail::ssd_between_chunks(y, boundaries, states, detail::SsdOperands<S>{delta, xbc, a.derived}, sequences, rows);
}

// ddelta (T, H), dxbc (T, H P + 2 G N) <- gradients; da (H) += the gradient with respect to a (not A_log), dd (H) +=
// ... boundaries as ssd kept them.
template <int G, int N, class T, int E, int H, int C>
__device__ void ssd_backward(Block& be, Rows<T, H> ddelta, Rows<T, C> dxbc, WeightGradient<T, 1, H> da,
                             WeightGradient<T, 1, H> dd, Rows<const T, E> dy, const T* boundaries,
                             Rows<const T, H> delta, Rows<const T, C> xbc, Sequences sequences, Weight<T, 1, H> a,
                             Weight<T, 1, H> d, network::NoPassedState = {}) {
  using S = detail::Ssd<T, H, E / H, G, N>;
  static_assert(C == S::C);
  detail::clear_padding(ddelta);
  detail::clear_padding(dxbc);
  detail::ssd_within_chunks_backward<S>(be, ddelta, dxbc, da.value, dd.value, dy, delta, xbc, sequences, a.derived,
                                        d.value);
  if (__syncthreads_or(detail::has_several_chunks<S::tokens>(sequences)))
    detail::ssd_between_chunks_backward(be, detail::SsdGradients<S>{{delta, xbc, a.derived}, ddelta, dxbc, da.value},
                                        dy, boundaries, sequences);
}

}  // namespace mamba::cuda
