// One step of the selective scan for one state, and its adjoint (specification, sections 2.7 and 5).
//
//   h_t = a_t h_{t-1} + (delta_t u_t) B_t,  a_t = exp(delta_t A)      y_t = sum over states of C_t h_t
//
// `carried` is a_t h_{t-1}, the part of the state that comes from the past.
#pragma once

#include <cmath>

#include <mamba/math/activation.hpp>

namespace mamba::math {

// e^x for x <= 0, where a backend has something better than exp.
MAMBA_HOST_DEVICE MAMBA_INLINE float exp_nonpositive(float x) { return std::exp(x); }
MAMBA_HOST_DEVICE MAMBA_INLINE double exp_nonpositive(double x) { return std::exp(x); }

MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V decay(V delta, V a) {
  return exp_nonpositive(delta * a);
}

MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V next_state(V carried, V delta_u, V b) {
  return multiply_add(delta_u, b, carried);
}

// The adjoint lambda_t = C_t dy_t + a_{t+1} lambda_{t+1}, given that last product as `from_future`.
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V adjoint(V c, V dy, V from_future) {
  return multiply_add(c, dy, from_future);
}

}  // namespace mamba::math
