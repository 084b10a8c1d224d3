// Numbers as text, the same in every locale: messages, files and figures write them with these alone.
#pragma once

#include <mamba/core/requirements.hpp>

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

namespace mamba {

// The shortest decimal that reads back as x; "nan", "inf" and "-inf" for what is no number.
template <std::floating_point T>
std::string shortest_text(T x) {
  char text[64];
  return {text, std::to_chars(text, text + sizeof text, x).ptr};
}

// x to `digits` significant digits, as printf's %g.
inline std::string general_text(double x, int digits = 6) {
  char text[64];
  return {text, std::to_chars(text, text + sizeof text, x, std::chars_format::general, digits).ptr};
}

// x with `decimals` digits behind the point, as printf's %f.
inline std::string fixed_text(double x, int decimals) {
  char text[400];  // the largest double has 309 digits before the point
  return {text, std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, decimals).ptr};
}

// Appends a part of a message: text, a character, a truth, a number.
template <class Part>
void append_text(std::string& text, const Part& part) {
  if constexpr (std::is_same_v<Part, bool>) {
    text += part ? "true" : "false";
  } else if constexpr (std::is_same_v<Part, char>) {
    text += part;
  } else if constexpr (std::is_integral_v<Part>) {
    text += std::to_string(part);
  } else if constexpr (std::is_floating_point_v<Part>) {
    text += general_text(static_cast<double>(part));
  } else {
    text += std::string_view(part);
  }
}

// The parts, one after the other. (Not "text" + std::to_string(n): of that, inlined, g++ 12 warns as of overlapping
// memory.)
template <class... Parts>
std::string joined(const Parts&... parts) {
  std::string text;
  (append_text(text, parts), ...);
  return text;
}

}  // namespace mamba
