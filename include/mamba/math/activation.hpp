// Scalar functions and their derivatives (specification, section 1), for one number or a vector of them.
//
// V is float, double or a vector type that finds exp, log1p, select and the operators by its own namespace. These
// functions have no local variables: nvcc refuses a host's vector as one where device code could call the function.
#pragma once

#include <cmath>

#include <mamba/core/macros.hpp>

namespace mamba::math {

inline constexpr double norm_epsilon = 1e-5;  // inside RMSNorm's root (specification, section 1)

// The operations that a number lacks beside a vector.
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE T multiply_add(T a, T b, T c) {
  return a * b + c;
}
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE T select(bool condition, T a, T b) {
  return condition ? a : b;
}

// 1 / x for x > 0
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V inverse(V x) {
  return V(1) / x;
}
MAMBA_HOST_DEVICE MAMBA_INLINE float inverse(float x) {
#ifdef __CUDA_ARCH__
  float inverse;  // the special-function unit alone: within 1 unit in the last place, without the division's branch
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
#else
  return 1 / x;
#endif
}

// 2^x for x <= 0; vectors bring their own.
MAMBA_HOST_DEVICE MAMBA_INLINE float exp2_nonpositive(float x) {
#ifdef __CUDA_ARCH__
  float power;  // the special-function unit alone: within 2 units in the last place, denormal results flushed
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return std::exp2(x);
#endif
}
MAMBA_HOST_DEVICE MAMBA_INLINE double exp2_nonpositive(double x) { return std::exp2(x); }

MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V sigmoid(V x) {
  using std::exp;
  return inverse(V(1) + exp(-x));
}

// silu(x) = x sigma(x)
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V silu(V x) {
  return x * sigmoid(x);
}

// silu'(x) = s (1 + x (1 - s)), given s = sigma(x).
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V silu_derivative(V x, V s) {
  return s * (V(1) + x * (V(1) - s));
}

// softplus(x) = x above 20, else log(1 + e^x)
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V softplus(V x) {
  using std::exp, std::log1p;
  return select(x > V(20), x, log1p(exp(x)));
}
#ifdef __CUDA_ARCH__
// On the device in a third of the instructions of exp and log1p, off by 5 x 2^-23 of it at most, denormal results 0:
// with t = e^-|x|, max(x, 0) + log1p(t), and log1p(t) = 2 artanh(t / (2 + t)), an odd polynomial. e^-|x| is a power of
// 2 whose exponent's rounding is made up for.
__device__ MAMBA_INLINE float softplus(float x) {
  const float away = x < -100.0F ? 100.0F : fabsf(x);
  const float exponent = -away * 1.44269504F;
  const float rest = fmaf(-away, 1.92596303e-8F, fmaf(-away, 1.44269504F, -exponent));
  const float power = exp2_nonpositive(exponent), t = fmaf(power, rest * 0.693147181F, power);
  const float s = t * inverse(2.0F + t), z = s * s;
  const float p = fmaf(z, fmaf(z, fmaf(z, 0.140059933F, 0.140009031F), 0.200107634F), 0.333332092F);
  return x > 20.0F ? x : fmaxf(x, 0.0F) + fmaf(z * p, 2.0F * s, 2.0F * s);
}
#endif
MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE V softplus_derivative(V x) {
  return select(x > V(20), V(1), sigmoid(x));
}

}  // namespace mamba::math
