// What some backends do in one pass over their rows: one primitive where a backend has it; these are for the others, which run on
// the host.
#pragma once

#include <mamba/core/views.hpp>

namespace mamba::network {

// The step sizes: pi (T, C) += bias (C), delta (T, C) <- softplus(pi).
template <class Backend, class T, int C>
void step_sizes(Backend& be, Rows<T, C> delta, Rows<T, C> pi, Weight<T, 1, C> bias) {
  add_bias(be, pi, bias);
  softplus(be, delta, in(pi));
}
// dpi (T, C) <- ddelta softplus'(pi), which may be the same place; dbias (C) += its sum over the rows.
template <class Backend, class T, int C>
void step_sizes_backward(Backend& be, Rows<T, C> dpi, WeightGradient<T, 1, C> dbias, Rows<const T, C> ddelta, Rows<const T, C> pi) {
  softplus_backward(be, dpi, ddelta, pi);
  add_bias_backward(be, dbias, in(dpi));
}

// o (T, E) <- the norm over groups of y silu(z), which g (T, E) keeps where the backward pass needs it; rho as rms_norm's.
template <int Groups, class Backend, class T, int E>
void gated_norm(Backend& be, Rows<T, E> o, Rows<T, E> g, T* rho, Rows<const T, E> y, Rows<const T, E> z, Weight<T, 1, E> w) {
  gate(be, g, y, z);
  rms_norm<Groups>(be, o, rho, in(g), w);
}
// dy, dz (T, E) <- the gradients through it, dw (E) += the weight's; dg (T, E) is scratch.
template <int Groups, class Backend, class T, int E>
void gated_norm_backward(Backend& be, Rows<T, E> dy, Rows<T, E> dz, Rows<T, E> dg, WeightGradient<T, 1, E> dw, Rows<const T, E> d_o, Rows<const T, E> g,
                         const T* rho, Rows<const T, E> y, Rows<const T, E> z, Weight<T, 1, E> w) {
  zero(be, dg);
  rms_norm_backward<Groups>(be, dg, dw, d_o, rho, g, w);
  gate_backward(be, dy, dz, in(dg), y, z);
}

}  // namespace mamba::network
