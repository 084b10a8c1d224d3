// The rate of decay that a backend keeps beside A_log: A log2(e) with A = -exp(A_log), so that decays are powers of 2
// (scan_step.hpp), and the way back of its gradient.
#pragma once

#include <cmath>

#include <mamba/core/macros.hpp>

namespace mamba::math {

inline constexpr double ln2 = 0.693147180559945309, log2_e = 1.44269504088896341;

// Rounded once.
template <class T>
MAMBA_HOST_DEVICE T rate_of(T a_log) {
  return static_cast<T>(-log2_e * std::exp(static_cast<double>(a_log)));
}

// The gradient with respect to A_log from the one with respect to A: dA_log = A dA, A = ln 2 times the rate.
template <class T>
MAMBA_HOST_DEVICE T rate_backward(T da, T rate) {
  return da * static_cast<T>(ln2 * static_cast<double>(rate));
}

}  // namespace mamba::math
