// The device's instructions on the emulated machine, with the same results up to the order of sums: in place of the
// library's header of this name, which describes them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

namespace mamba::cuda::detail {

namespace emulated {

// Of TF32 the tensor cores read 11 bits of a float's fraction; the rest is cut off.
inline float tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000U); }
inline float lower(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
inline float upper(std::uint32_t word) { return std::bit_cast<float>(word & 0xFFFF0000U); }
inline std::uint32_t rounded(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return x != x ? 0x7FFFU : (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16;
}

}  // namespace emulated

inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[2][2], const std::uint32_t (&b)[2]) {
  struct Operands {
    float left[2][2], right[2];
  } own;
  for (unsigned i = 0; i < 2; ++i)
    own.left[i][0] = emulated::tf32(a[i][0]), own.left[i][1] = emulated::tf32(a[i][1]),
    own.right[i] = emulated::tf32(b[i]);
  const auto all = emulation::exchange(own);
  const unsigned lane = emulation::lane();
  double sums[2][2] = {{d[0], d[1]}, {d[2], d[3]}};
  for (unsigned k = 0; k < 8; ++k) {
    const auto& left = all[lane / 4 * 4 + k % 4].left;
    for (unsigned j = 0; j < 2; ++j) {
      const double right = all[(lane % 4 * 2 + j) * 4 + k % 4].right[k / 4];
      for (unsigned i = 0; i < 2; ++i) sums[i][j] += static_cast<double>(left[i][k / 4]) * right;
    }
  }
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned j = 0; j < 2; ++j) d[2 * i + j] = static_cast<float>(sums[i][j]);
}
inline void multiply(float (&d)[4], const std::uint32_t (&a)[2][2], const std::uint32_t (&b)[2]) {
  for (float& x : d) x = 0;
  multiply_add(d, a, b);
}

inline void multiply_add_bfloat16(float& d0, float& d1, float& d2, float& d3, std::uint32_t a0, std::uint32_t a1,
                                  std::uint32_t a2, std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
  struct Operands {
    std::uint32_t left[2][2], right[2];  // left: (half of columns, half of rows)
  } const own{{{a0, a1}, {a2, a3}}, {b0, b1}};
  const auto all = emulation::exchange(own);
  const unsigned lane = emulation::lane();
  float* const d[2][2] = {{&d0, &d1}, {&d2, &d3}};
  double sums[2][2] = {{d0, d1}, {d2, d3}};
  for (unsigned k = 0; k < 16; k += 2) {
    const auto& left = all[lane / 4 * 4 + k % 8 / 2].left[k / 8];
    for (unsigned j = 0; j < 2; ++j) {
      const std::uint32_t right = all[(lane % 4 * 2 + j) * 4 + k % 8 / 2].right[k / 8];
      for (unsigned i = 0; i < 2; ++i)
        sums[i][j] += static_cast<double>(emulated::lower(left[i])) * static_cast<double>(emulated::lower(right)) +
                      static_cast<double>(emulated::upper(left[i])) * static_cast<double>(emulated::upper(right));
    }
  }
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned j = 0; j < 2; ++j) *d[i][j] = static_cast<float>(sums[i][j]);
}

template <bool transposed>
void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto rows = emulation::exchange(row);
  const unsigned lane = emulation::lane();
  for (unsigned m = 0; m < 4; ++m) {
    std::uint16_t pair[2];
    for (unsigned j = 0; j < 2; ++j) {
      unsigned r = lane / 4, c = lane % 4 * 2 + j;
      if constexpr (transposed) std::swap(r, c);
      std::memcpy(&pair[j], static_cast<const std::uint16_t*>(rows[8 * m + r]) + c, sizeof pair[j]);
    }
    to[m] = static_cast<std::uint32_t>(pair[1]) << 16 | pair[0];
  }
}

inline unsigned transposed(unsigned pair) {
  const auto pairs = emulation::exchange(pair);
  const unsigned lane = emulation::lane();
  unsigned turned = 0;
  for (unsigned j = 0; j < 2; ++j) {
    const unsigned r = lane % 4 * 2 + j, c = lane / 4;
    turned |= (pairs[r * 4 + c / 2] >> (16 * (c % 2)) & 0xFFFFU) << (16 * j);
  }
  return turned;
}

inline unsigned bfloat16_pair(float lower, float upper) {
  return emulated::rounded(upper) << 16 | emulated::rounded(lower);
}

template <int Bytes>
void copy_async(void* shared, const void* global, bool exists) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  emulation::copy_later(shared, global, Bytes, exists);
}
inline void commit_copies() { emulation::end_copies(); }
template <int Pending>
void wait_for_copies() {
  emulation::make_copies(Pending);
}

inline float rounded_product(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
inline double rounded_product(double a, double b) {
  double product = a * b;
  asm volatile("" : "+m"(product));  // for the compiler may join it with a sum
  return product;
}

inline void begin_kernel() {}

}  // namespace mamba::cuda::detail
