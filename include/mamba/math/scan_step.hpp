// One step of the selective scan for one state, and its adjoint (specification, sections 2.7 and 5).
//
//   h_t = a_t h_{t-1} + (delta_t u_t) B_t,  a_t = exp(delta_t A)      y_t = sum over states of C_t h_t
//
// Decays are powers of 2: `rate` is A log2(e), rounded once, and saves the exponential its range reduction. What is a
// gradient with respect to an exponent takes the factor ln 2.
//
// `carried` is a_t h_{t-1}, the part of the state that comes from the past.
#pragma once

#include <mamba/math/activation.hpp>
#include <mamba/math/rate.hpp>

namespace mamba::math {

MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V decay(V delta, V rate) {
  return exp2_nonpositive(delta * rate);
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
