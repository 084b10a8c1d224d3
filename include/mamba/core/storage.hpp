// What numbers are stored in, apart from what is computed with: brain floats of 16 bits, and which arithmetic each
// stored type has.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <mamba/core/macros.hpp>

namespace mamba {

// The upper half of a float: its exponent and 8 bits of its significand. As a policy it answers "in which precision?":
// weights and activations are stored in it, everything is computed and summed in float, and the parameters that an
// optimiser changes (the master weights), its means and the gradients are float, too. On a GPU what a product
// multiplies is rounded to it.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  // The nearest, ties to even; a NaN stays a NaN.
  MAMBA_HOST_DEVICE constexpr BFloat16(float x) : bits(rounded(x)) {}
  // Exactly.
  MAMBA_HOST_DEVICE constexpr operator float() const {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
#ifdef __CUDA_ARCH__
    return __uint_as_float(wide);
#else
    return std::bit_cast<float>(wide);
#endif
  }

 private:
  MAMBA_HOST_DEVICE static constexpr std::uint16_t rounded(float given) {
#ifdef __CUDA_ARCH__
    std::uint16_t half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(given));
    return half;
#else
    const auto x = std::bit_cast<std::uint32_t>(given);
    if ((x & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>(x >> 16 | 0x40U);
    return static_cast<std::uint16_t>((x + 0x7FFFU + (x >> 16 & 1U)) >> 16);
#endif
  }
};

template <class Stored>
inline constexpr const char* precision_name = std::is_same_v<Stored, double>     ? "double"
                                              : std::is_same_v<Stored, BFloat16> ? "bfloat16"
                                                                                 : "float";

// What numbers stored in this type are computed and summed in.
template <class Stored>
using ComputeOf =
    std::conditional_t<std::is_same_v<std::remove_cv_t<Stored>, BFloat16>, float, std::remove_cv_t<Stored>>;

}  // namespace mamba
