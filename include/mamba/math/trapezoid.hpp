// How Mamba-3's decays come from the input (specification, section 14.3): the rate is a = -max(f(u), floor).
#pragma once

#include <mamba/core/macros.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::math {

// The floor: -a is at least so much.
inline constexpr double least_rate = 1e-4;

// f(u) = 1 + u from 0 on, 1 / (1 - u) below; softplus_rate: softplus(u), as files before June 2026 mean it.
template <bool softplus_rate, class T>
MAMBA_HOST_DEVICE MAMBA_INLINE T rate_of_input(T u) {
  if constexpr (softplus_rate) return softplus(u);
  else return u >= 0 ? 1 + u : 1 / (1 - u);
}
template <bool softplus_rate, class T>
MAMBA_HOST_DEVICE MAMBA_INLINE T rate_of_input_derivative(T u) {
  if constexpr (softplus_rate) return softplus_derivative(u);
  else return u >= 0 ? T(1) : 1 / ((1 - u) * (1 - u));
}

}  // namespace mamba::math
