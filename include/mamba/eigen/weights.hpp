// Work on whole arenas of parameters: derived weights, sums of gradients, norms, the optimiser's update.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// Whether products read a weight's transpose (linear.hpp).
inline bool has_transpose(const Parameter& p) {
  return p.derived == Derived::transpose && p.columns() < Tuning::least_columns_of_streamed_weight;
}

// derived <- what the parameter's declaration asks for (Derived), where something reads it.
template <class T>
void derive(T* derived, const T* value, const Parameter& p) {
  if (p.derived == Derived::transpose && !has_transpose(p)) return;
  const std::ptrdiff_t row = padded(p.columns()), column = padded(p.rows());
  for (std::ptrdiff_t i = 0; i < p.rows(); ++i)
    for (std::ptrdiff_t j = 0; j < p.columns(); ++j) {
      if (p.derived == Derived::transpose) derived[j * column + i] = value[i * row + j];
      if (p.derived == Derived::rate) derived[i * row + j] = math::rate_of(value[i * row + j]);
    }
}

// stored <- the parameter as kernels read it, derived <- its transpose where something reads one, where storage is not
// what is computed with.
template <class S, class T>
void store(S* stored, S* derived, const T* value, const Parameter& p) {
  const std::ptrdiff_t row = padded(p.columns()), column = padded(p.rows());
  const bool transposed = has_transpose(p);
  for (std::ptrdiff_t i = 0; i < p.rows(); ++i)
    for (std::ptrdiff_t j = 0; j < p.columns(); ++j) {
      const S x = value[i * row + j];
      stored[i * row + j] = x;
      if (transposed) derived[j * column + i] = x;
    }
}
// stored, scales (rows) <- the parameter in 8 bits.
inline void store(std::int8_t* stored, float* scales, const float* value, const Parameter& p) {
  const std::ptrdiff_t row = padded(p.columns());
  for (std::ptrdiff_t i = 0; i < p.rows(); ++i) {
    const float* const from = value + i * row;
    float largest = 0;  // or what is not finite
    for (std::ptrdiff_t j = 0; j < p.columns(); ++j) {
      const float size = std::fabs(from[j]);
      if (!(size <= largest)) largest = size;
      if (std::isnan(size)) break;
    }
    const RowOfInt8 as(largest);
    scales[i] = as.scale;
    for (std::ptrdiff_t j = 0; j < p.columns(); ++j)
      stored[i * row + j] = as.inverse > 0 ? static_cast<std::int8_t>(std::nearbyint(from[j] * as.inverse)) : 0;
  }
}

// Gradients with respect to what is derived become gradients with respect to the parameter.
template <class T>
void derive_backward(T* gradient, const T* derived, const Parameter& p) {
  if (p.derived != Derived::rate) return;
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(p.rows()) * padded(p.columns());
  for (std::ptrdiff_t i = 0; i < count; ++i) gradient[i] = math::rate_backward(gradient[i], derived[i]);
}

// sum[first .. last) <- the sum of the buffers there, in their order; first and last are multiples of row_alignment.
template <class T>
void sum_buffers(T* sum, const T* const* buffers, int count, std::size_t first, std::size_t last) {
  using V = Vector<T>;
  for (std::size_t i = first; i < last; i += V::width) {
    V total = V::load(buffers[0] + i);
    for (int b = 1; b < count; ++b) total = total + V::load(buffers[b] + i);
    total.store(sum + i);
  }
}

// The sum of the squares in double.
template <class T>
double sum_of_squares(const T* x, std::size_t count) {
  double lanes[8] = {};
  for (std::size_t i = 0; i < count; i += 8)
    for (std::size_t k = 0; k < 8; ++k) lanes[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

template <class T>
void scale(T* x, std::size_t count, T factor) {
  using V = Vector<T>;
  for (std::size_t i = 0; i < count; i += V::width) (V::load(x + i) * V::broadcast(factor)).store(x + i);
}

template <class T>
void adamw(T* parameters, T* mean, T* square, const T* gradients, std::size_t count, const math::AdamWStep& step) {
  using V = Vector<T>;
  for (std::size_t i = 0; i < count; i += V::width) {
    V p = V::load(parameters + i), m = V::load(mean + i), s = V::load(square + i);
    math::adamw(p, m, s, V::load(gradients + i), step);
    p.store(parameters + i), m.store(mean + i), s.store(square + i);
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
