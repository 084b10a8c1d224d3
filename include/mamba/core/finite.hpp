// Numbers that are not finite, wherever they are looked for: losses, logits, weights, gradients, files.
#pragma once

#include <mamba/core/requirements.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>

namespace mamba {

// Whether x is a number: not NaN, not infinite. By its bits, so that it holds whatever a compiler believes of
// arithmetic.
template <class T>
constexpr bool is_finite(T x) {
  static_assert(std::is_floating_point_v<T> && std::numeric_limits<T>::is_iec559);
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits exponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  return (std::bit_cast<Bits>(x) & exponent) != exponent;
}

template <class T>
std::size_t count_nonfinite(std::span<const T> values) {
  std::size_t count = 0;
  for (const T x : values) count += is_finite(x) ? 0 : 1;
  return count;
}

// What a dictionary of tensors holds of them, and the first that does.
struct Nonfinite {
  std::size_t count = 0;
  std::string first;  // a tensor's name; empty where all are finite

  explicit operator bool() const { return count > 0; }
};

// dict: of HostTensors by name, as state_dict() and gradient_dict() return it.
template <class Dict>
Nonfinite nonfinite_in(const Dict& dict) {
  Nonfinite found;
  for (const auto& [name, tensor] : dict) {
    const std::size_t count = count_nonfinite(std::span(tensor.values));
    if (count > 0 && !found) found.first = name;
    found.count += count;
  }
  return found;
}

}  // namespace mamba
