// The rows of weight matrices as products over the whole device read them, whatever they are stored in.
#pragma once

#include <cstdint>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>

namespace mamba::cuda::detail {

// Rows of one length, and what the sum of a row's products is times.
template <class S>
struct StoredRows {
  const S* data;

  __device__ ComputeOf<S> factor(int /*row*/) const { return 1; }
};
template <>
struct StoredRows<std::int8_t> {
  const std::int8_t* data;
  const float* scale;

  __device__ float factor(int row) const { return scale[row]; }
};

template <class S, int R, int C, int OfRows, int First>
StoredRows<S> stored_rows(Weight<S, R, C, OfRows, First> w) {
  if constexpr (requires { w.scale; }) return {w.value, w.scale};
  else return {w.value};
}

// What a lane asks for of a row at once, as it comes: 16 bytes, of whole numbers of 8 bits 8.
template <class S>
struct Stretch {
  static constexpr int quads = 1;
  Quad<S> numbers;

  __device__ void load(const S* from) { numbers = load4(from); }
  __device__ Quad<S> quad(int) const { return numbers; }
};
template <>
struct Stretch<BFloat16> {
  static constexpr int quads = 2;
  uint4 words;

  __device__ void load(const BFloat16* from) { words = *reinterpret_cast<const uint4*>(from); }
  __device__ Quad<float> quad(int i) const {
    const unsigned first = i == 0 ? words.x : words.z, second = i == 0 ? words.y : words.w;
    return {{lower_half(first), upper_half(first), lower_half(second), upper_half(second)}};
  }
};
template <>
struct Stretch<std::int8_t> {
  static constexpr int quads = 2;
  uint2 words;

  __device__ void load(const std::int8_t* from) { words = *reinterpret_cast<const uint2*>(from); }
  __device__ Quad<float> quad(int i) const { return quad_of_bytes(i == 0 ? words.x : words.y); }
};

}  // namespace mamba::cuda::detail
