// The recurrence of both mixers over the whole device, forward and backward (specification, sections 2.7, 5 and 7), for
// any number of channels and states and any length.
//
//   h_t = 2^(step_t rate) h_{t-1} + (step_t u_t) b_t      y_t = c_t . h_t + d u_t
//
// Mamba-1 (selective_*.hpp), and Mamba-2 in double or with very many states (scan_*.hpp): some lanes of a warp hold the
// states of one channel, or a tile of them if there are many, and walk along a sequence. Blocks share out sequences and
// channels. What channels share (the gradients of b and c) and what sequences share (those of rates and skips) is added
// up in partial sums, whose number follows from the sizes alone. Mamba-2 in float and 16 bits goes by chunks (ssd.hpp).
#pragma once

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/rowwise.hpp>
#include <mamba/cuda/grid/scan_backward.hpp>
#include <mamba/cuda/grid/scan_channels.hpp>
#include <mamba/cuda/grid/scan_forward.hpp>
#include <mamba/cuda/grid/selective_backward.hpp>
#include <mamba/cuda/grid/selective_forward.hpp>
#include <mamba/cuda/grid/ssd.hpp>

namespace mamba::cuda {

// --- Mamba-1; shapes and meanings are those of selective_scan.hpp --------------------------------------------------

template <class S, class T, int E, int N, class Blocked = NoRows>
void selective_scan(Grid& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, E> delta, Rows<const S, E> u,
                    Rows<const S, N> b, Rows<const S, N> c, Sequences sequences, Weight<T, E, N> a, Weight<T, 1, E> d,
                    Blocked rows = {}) {
  detail::selective_forward(be, detail::SelectiveInputs<S, E, N>{delta, u, b, c, a, d}, detail::ScanRows<T, E>{y},
                            boundaries, states, sequences, rows);
}
// o <- the scan's output gated by z, with step sizes softplus(r w^T + bias) (network/fused.hpp). A step of not too many
// sequences is one kernel, whose step sizes are never written down.
template <class S, class W, class T, int E, int N, int R>
void linear_scan_gated(Grid& be, Rows<S, E> o, Rows<T, E> y, Rows<T, E> pi, T* states, Rows<const S, R> r,
                       Weight<W, E, R> w, Weight<T, 1, E> bias, Rows<const S, E> u, Rows<const S, E> z,
                       Rows<const S, N> b, Rows<const S, N> c, Sequences sequences, Weight<T, E, N> a,
                       Weight<T, 1, E> d) {
  const detail::SelectiveInputs<S, E, N> inputs{in(pi), u, b, c, a, d};
  const detail::GatedScanRows<S, E> gated{o, z};
  const detail::StepsProjected<S, W, E, R, N> projected{r, w, bias};
  if (is_token_step<W>(be, r.rows, sequences))
    return detail::selective_forward_step(be, inputs, projected, gated, states, sequences);
  T* const no_boundaries = nullptr;
  if constexpr (detail::StepsProjected<S, W, E, R, N>::of_stretches)
    if (r.rows != sequences.count &&
        detail::piece_rows(r.rows, sequences.count, detail::selective_slices<T, E, N>) == 0) {
      detail::clear_padding(be, o);
      return detail::selective_scan_all(be, inputs, projected, gated, no_boundaries, states, sequences, NoRows{});
    }
  linear(be, pi, r, w);
  step_sizes(be, pi, pi, bias);
  if (r.rows == sequences.count) {  // a step of many sequences
    detail::selective_forward_step(be, inputs, detail::StepsGiven{}, gated, states, sequences);
  } else if constexpr (N <= detail::SelectiveTile<T, N>::tile) {
    detail::selective_forward(be, inputs, gated, no_boundaries, states, sequences, NoRows{});
  } else {
    detail::selective_forward(be, inputs, detail::ScanRows<T, E>{y}, no_boundaries, states, sequences, NoRows{});
    gate(be, o, in(y), z);
  }
}

template <class S, class T, int E, int N, class Passed = network::NoPassedState>
void selective_scan_backward(Grid& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc,
                             WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, Rows<const T, E> dy,
                             const T* boundaries, T* /*carry*/, Rows<const T, E> delta, Rows<const S, E> u,
                             Rows<const S, N> b, Rows<const S, N> c, Sequences sequences, Weight<T, E, N> a,
                             Weight<T, 1, E> d, Passed passed = {}) {
  detail::selective_backward(be, detail::SelectiveInputs<S, E, N>{delta, u, b, c, a, d}, du, ddelta, db, dc, da, dd, dy,
                             boundaries, sequences, passed);
}

// --- Mamba-2; shapes and meanings are those of ssd.hpp --------------------------------------------------------------

template <int G, int N, class S, class T, int E, int H, int C, class Blocked = NoRows>
void ssd(Grid& be, Rows<S, E> y, T* boundaries, T* states, Rows<const T, H> delta, Rows<const S, C> xbc,
         Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d, Blocked rows = {}) {
  if constexpr (detail::ssd_runs_in_chunks<S, T, N>) {
    using Shape = detail::SsdShape<S, H, E / H, G, N>;
    detail::ssd_in_chunks<Shape>(be, y, states, {delta, {}, xbc, a, d, detail::first_term_of(be.precision())},
                                 sequences, rows);
  } else {
    detail::scan(be, detail::SsdChannels<T, H, E / H, G, N>{delta, xbc, a, d}, y, boundaries, states, sequences, rows);
  }
}

// The same with step sizes that pi becomes with its bias (network/fused.hpp), which delta is for where they are not
// computed on the way.
template <int G, int N, class S, class T, int E, int H, int C>
void ssd_of_steps(Grid& be, Rows<S, E> y, T* states, Rows<T, H> delta, Rows<T, H> pi, Weight<T, 1, H> bias,
                  Rows<const S, C> xbc, Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d) {
  if constexpr (detail::ssd_runs_in_chunks<S, T, N>) {
    using Shape = detail::SsdShape<S, H, E / H, G, N>;
    detail::ssd_in_chunks<Shape>(be, y, states, {in(pi), bias, xbc, a, d, detail::first_term_of(be.precision())},
                                 sequences, NoRows{});
  } else {
    step_sizes(be, delta, pi, bias);
    ssd<G, N>(be, y, static_cast<T*>(nullptr), states, in(delta), xbc, sequences, a, d);
  }
}

template <int G, int N, class S, class T, int E, int H, int C, class Passed = network::NoPassedState>
void ssd_backward(Grid& be, Rows<T, H> ddelta, Rows<T, C> dxbc, WeightGradient<T, 1, H> da, WeightGradient<T, 1, H> dd,
                  Rows<const T, E> dy, const T* boundaries, Rows<const T, H> delta, Rows<const S, C> xbc,
                  Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d, Passed passed = {}) {
  if constexpr (detail::ssd_runs_in_chunks<S, T, N>) {
    using Shape = detail::SsdShape<S, H, E / H, G, N>;
    detail::ssd_in_chunks_backward<Shape>(
        be, ddelta, dxbc, da, dd, dy, {delta, {}, xbc, a, d, detail::first_term_of(be.precision())}, sequences, passed);
  } else {
    using Channels = detail::SsdChannels<T, H, E / H, G, N>;
    const auto shares = detail::shares_of<Channels>(sequences.count);
    detail::ScanPartials<Channels, T> partials;
    Rows<T, E> dsteps;
    be.carve_zeroed([&](Carver& memory) { partials.carve(memory, shares, dy.rows), memory.take(dsteps, dy.rows); });
    detail::clear_padding(be, dxbc);
    detail::scan_backward(be, Channels{delta, xbc, a, d}, dxbc, dsteps, detail::SsdStateGradients<T, E, G, N>{dxbc},
                          partials, dy, boundaries, sequences, passed);
    detail::sum_of_heads<Write::set>(be, ddelta, in(dsteps));
    detail::add_heads<E>(be, da, partials.rates, shares.parts);
    detail::add_heads<E>(be, dd, partials.skips.data, shares.parts);
  }
}

}  // namespace mamba::cuda
