// Numbers as text, the same in every locale: messages, files and figures write them with these alone.
#pragma once

#include <mamba/core/requirements.hpp>

#include <charconv>
#include <concepts>
#include <initializer_list>
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

// A part of a message: text, a character, a truth, a number. Text stays the caller's. One type for all, so that
// each message needs only an array of parts, and no function instantiated for its types.
class MessagePart {
 public:
  template <class T>
  MessagePart(const T& part) {
    if constexpr (std::is_same_v<T, bool>) text_ = part ? "true" : "false";
    else if constexpr (std::is_same_v<T, char>) kind_ = Kind::character, character_ = part;
    else if constexpr (std::is_signed_v<T> && std::is_integral_v<T>) kind_ = Kind::integer, integer_ = part;
    else if constexpr (std::is_integral_v<T>) kind_ = Kind::natural, natural_ = part;
    else if constexpr (std::is_floating_point_v<T>) kind_ = Kind::real, real_ = static_cast<double>(part);
    else text_ = std::string_view(part);
  }

  void append_to(std::string& message) const {
    switch (kind_) {
      case Kind::text:
        message += text_;
        break;
      case Kind::character:
        message += character_;
        break;
      case Kind::integer:
        message += std::to_string(integer_);
        break;
      case Kind::natural:
        message += std::to_string(natural_);
        break;
      case Kind::real:
        message += general_text(real_);
        break;
    }
  }

 private:
  enum class Kind { text, character, integer, natural, real };

  Kind kind_ = Kind::text;
  std::string_view text_;
  union {
    char character_;
    long long integer_ = 0;
    unsigned long long natural_;
    double real_;
  };
};

// The parts, one after the other. (Not "text" + std::to_string(n): of that, inlined, g++ 12 warns as of overlapping
// memory.)
inline std::string joined(std::initializer_list<MessagePart> parts) {
  std::string text;
  for (const MessagePart& part : parts) part.append_to(text);
  return text;
}
template <class... Parts>
std::string joined(const Parts&... parts) {
  return joined({MessagePart(parts)...});
}

}  // namespace mamba
