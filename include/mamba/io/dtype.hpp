// The element types of safetensors files, and their values as a program's numbers: a value that the program's type
// cannot hold is found, never cut off.
#pragma once

#include <mamba/core/requirements.hpp>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mamba/core/storage.hpp>
#include <mamba/core/text.hpp>

namespace mamba::io {

// The bits of an element of this dtype, 0 where the format knows none of that name.
inline unsigned dtype_bits(std::string_view dtype) {
  struct Item {
    std::string_view name;
    unsigned bits;
  };
  static constexpr Item items[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  for (const Item& item : items)
    if (item.name == dtype) return item.bits;
  return 0;
}

template <class T>
concept StoredNumber =
    (std::integral<T> || std::same_as<T, float> || std::same_as<T, double>) && !std::same_as<T, bool>;

// What a file may be made of: those, and brain floats.
template <class T>
concept WrittenNumber = StoredNumber<T> || std::same_as<T, BFloat16>;

// The dtype whose elements are T's.
template <WrittenNumber T>
std::string dtype_of() {
  if constexpr (std::same_as<T, BFloat16>) return "BF16";
  else return joined(std::floating_point<T> ? 'F' : std::is_signed_v<T> ? 'I' : 'U', 8 * sizeof(T));
}

inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16, exponent = bits >> 10 & 31U,
                      fraction = bits & 1023U;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent == 31 ? 255U : exponent + 112U) << 23 | fraction << 13);
}
inline float from_brain(BFloat16 x) { return x; }

// Calls visit(Stored{}, value_of) with the type of which a file's elements of this dtype are, and the function from one
// to its number; false, and no call, where no number is made of them (complex numbers, floats of 8 bits and less).
template <class Visit>
bool visit_dtype(std::string_view dtype, Visit&& visit) {
  const auto same = [](auto x) { return x; };
  if (dtype == "F32") visit(float{}, same);
  else if (dtype == "F64") visit(double{}, same);
  else if (dtype == "F16") visit(std::uint16_t{}, from_half);
  else if (dtype == "BF16") visit(BFloat16{}, from_brain);
  else if (dtype == "I64") visit(std::int64_t{}, same);
  else if (dtype == "U64") visit(std::uint64_t{}, same);
  else if (dtype == "I32") visit(std::int32_t{}, same);
  else if (dtype == "U32") visit(std::uint32_t{}, same);
  else if (dtype == "I16") visit(std::int16_t{}, same);
  else if (dtype == "U16") visit(std::uint16_t{}, same);
  else if (dtype == "I8") visit(std::int8_t{}, same);
  else if (dtype == "U8" || dtype == "BOOL") visit(std::uint8_t{}, same);
  else return false;
  return true;
}

// Gives `to` the value, and says whether it could: an integer must be the same one; a floating-point number may be
// rounded, but a finite one stays finite.
template <StoredNumber To, StoredNumber From>
bool convert(From from, To& to) {
  if constexpr (std::integral<To> && std::integral<From>) {
    if (!std::in_range<To>(from)) return false;
  } else if constexpr (std::integral<To>) {
    // Both bounds are powers of two (or zero): exact in every type.
    const From above = std::ldexp(From{1}, std::numeric_limits<To>::digits),
               below = std::is_signed_v<To> ? -above : From{0};
    if (!(from >= below && from < above && std::trunc(from) == from)) return false;
  }
  to = static_cast<To>(from);
  if constexpr (std::floating_point<To> && std::floating_point<From>) return std::isfinite(to) || !std::isfinite(from);
  return true;
}

// Whether every value of From can be given to a To: then nobody has to look at them first.
template <StoredNumber To, StoredNumber From>
inline constexpr bool always_converts =
    std::same_as<To, From> || (std::floating_point<To> && (std::integral<From> || sizeof(To) >= sizeof(From)));

// "a signed integer of 32 bits"
template <StoredNumber T>
std::string type_text() {
  const std::string bits = joined(" of ", 8 * sizeof(T), " bits");
  return (std::floating_point<T> ? "a floating-point number"
          : std::is_signed_v<T>  ? "a signed integer"
                                 : "an unsigned integer") +
         bits;
}

template <StoredNumber T>
std::string value_text(T value) {
  if constexpr (std::floating_point<T>) return shortest_text(value);
  else return std::to_string(value);
}

}  // namespace mamba::io
