// What numbers are stored in, apart from what is computed with: brain floats of 16 bits, weights of 8 bits, and which
// arithmetic each stored type has.
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

// As a policy it answers "in which precision?" too, for inference alone: the weights of products and look-ups (the
// matrices between activations, the embedding, the head) are whole numbers from -127 to 127, each row times a scale of
// its own; everything else is float. A product is of floats by these numbers, and summed in float. What files
// hold, and state_dict() gives, are the float weights that the rows were rounded from.
struct Int8Weights {};

template <class Precision>
inline constexpr const char* precision_name = std::is_same_v<Precision, double>        ? "double"
                                              : std::is_same_v<Precision, BFloat16>    ? "bfloat16"
                                              : std::is_same_v<Precision, Int8Weights> ? "int8"
                                                                                       : "float";

// What activations, and weights, of a precision are stored in.
template <class Precision>
struct StorageOf {
  using Activations = Precision;
  using Weights = Precision;
};
template <>
struct StorageOf<Int8Weights> {
  using Activations = float;
  using Weights = std::int8_t;
};

// What numbers stored in this type are computed and summed in.
template <class Stored>
using ComputeOf = std::conditional_t<std::is_same_v<std::remove_cv_t<Stored>, BFloat16> ||
                                         std::is_same_v<std::remove_cv_t<Stored>, std::int8_t>,
                                     float, std::remove_cv_t<Stored>>;

// A row of weights as whole numbers: x is about q scale, off by half a scale at most. A row of numbers so small that a
// float has no room for their reciprocals is zero; of one that has a number which is not finite none is finite.
struct RowOfInt8 {
  static constexpr float most = 127;
  float scale;
  float inverse = 0;  // 0: the whole numbers are 0

  // largest: of the numbers' magnitudes.
  MAMBA_HOST_DEVICE explicit constexpr RowOfInt8(float largest) : scale(largest / most) {
    if (!(largest - largest == 0)) scale = largest - largest;
    else if (largest < 0x1p-100F) scale = 0;
    else inverse = most / largest;
  }
};

}  // namespace mamba
