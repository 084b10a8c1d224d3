// Primitives one behind the other that some backends have in one piece, which saves passes over the rows. A backend
// says so itself:
//   fuses_steps       it has step_sizes and step_sizes_backward
//   fuses_gated_norm  it has gated_norm and gated_norm_backward
//   fuses_recurrence  it has linear_scan_gated, ssd_of_steps and rotary_of_tokens, for calls that leave nothing of
//                     what lies between
//   fuses_token_steps it has what a layer's step, one token of each sequence, is made of: normed_linear,
//                     normed_products, normed_linear_conv, gated_normed_linear, linear_scan_gated
#pragma once

#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/conv.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/probe.hpp>

namespace mamba::network {

// Whether calls that go on from a state, behind which no backward pass comes, have the recurrence in one piece (of
// Mamba-3 those of single tokens).
template <class Backend, class Probe>
inline constexpr bool fuses_recurrence = Backend::fuses_recurrence && std::is_same_v<Probe, NoProbe>;

// The same of whole layers in such steps. The convolution's value alone does not say what the linear bypass adds.
template <class A, class Backend, class Probe>
inline constexpr bool fuses_token_steps =
    Backend::fuses_token_steps && std::is_same_v<Probe, NoProbe> && MixerOf<A>::has_step &&
    bypass_of<typename A::ConvResidual>() != Bypass::linear;

// Where what in_proj gives goes in such a step, by the number of its first column: z (T, E), what becomes u (T, C) by
// the convolution, and of Mamba-2 pi (T, H), which becomes step sizes.
template <class S, int E, int C, int H>
struct InnerRows {
  using T = ComputeOf<S>;
  static constexpr int z_first = H > 0 ? 0 : C, u_first = H > 0 ? E : 0, pi_first = E + C;
  Rows<S, E> z;
  Rows<S, C> u;
  Rows<T, H> pi;

  // What no convolution is for.
  MAMBA_HOST_DEVICE void place(int row, int column, T value) const {
    if (column < z_first + E) z[row][column - z_first] = value;
    else if constexpr (H > 0) pi[row][column - pi_first] = value;
  }
};

// The step sizes: pi (T, C) += bias (C), delta (T, C) <- softplus(pi).
MAMBA_COMPOSITION
template <class Backend, class T, int C>
MAMBA_HOST_DEVICE void steps_forward(Backend& be, Rows<T, C> delta, Rows<T, C> pi, Weight<T, 1, C> bias) {
  if constexpr (Backend::fuses_steps) {
    step_sizes(be, delta, pi, bias);
  } else {
    add_bias(be, pi, bias);
    softplus(be, delta, in(pi));
  }
}
// dpi (T, C) <- ddelta softplus'(pi), which may be the same memory; dbias (C) += its sum over the rows.
MAMBA_COMPOSITION
template <class Backend, class P, class T, int C>
MAMBA_HOST_DEVICE void steps_backward(Backend& be, Rows<P, C> dpi, WeightGradient<T, 1, C> dbias,
                                      Rows<const T, C> ddelta, Rows<const T, C> pi) {
  if constexpr (Backend::fuses_steps) {
    step_sizes_backward(be, dpi, dbias, ddelta, pi);
  } else {
    softplus_backward(be, dpi, ddelta, pi);
    add_bias_backward(be, dbias, in(dpi));
  }
}

// o (T, E) <- the norm over groups of y silu(z), which g (T, E) keeps where the backward pass needs it; rho as
// rms_norm's.
MAMBA_COMPOSITION
template <int Groups, class Backend, class S, class T, int E>
MAMBA_HOST_DEVICE void gated_norm_forward(Backend& be, Rows<S, E> o, Rows<S, E> g, T* rho, Rows<const S, E> y,
                                          Rows<const S, E> z, Weight<T, 1, E> w) {
  if constexpr (Backend::fuses_gated_norm) {
    gated_norm<Groups>(be, o, g, rho, y, z, w);
  } else {
    gate(be, g, y, z);
    rms_norm<Groups>(be, o, rho, in(g), w);
  }
}
// dy, dz (T, E) <- the gradients through it, dw (E) += the weight's; dg (T, E) is scratch.
MAMBA_COMPOSITION
template <int Groups, class Backend, class S, class T, int E>
MAMBA_HOST_DEVICE void gated_norm_reverse(Backend& be, Rows<T, E> dy, Rows<T, E> dz, Rows<T, E> dg,
                                          WeightGradient<T, 1, E> dw, Rows<const T, E> d_o, Rows<const S, E> g,
                                          const T* rho, Rows<const S, E> y, Rows<const S, E> z, Weight<T, 1, E> w) {
  if constexpr (Backend::fuses_gated_norm) {
    gated_norm_backward<Groups>(be, dy, dz, dg, dw, d_o, g, rho, y, z, w);
  } else {
    zero(be, dg);
    rms_norm_backward<Groups>(be, dg, dw, d_o, rho, g, w);
    gate_backward(be, dy, dz, in(dg), y, z);
  }
}

}  // namespace mamba::network
