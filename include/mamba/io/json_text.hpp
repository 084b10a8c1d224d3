// The text of JSON's strings and integers: what the reader, the value and messages about files share.
#pragma once

#include <mamba/core/requirements.hpp>

#include <charconv>
#include <concepts>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace mamba::io {

// The number of bytes of the character of UTF-8 that begins at `at`, 0 where none does: no overlong forms, no
// surrogates, nothing beyond U+10FFFF.
inline std::size_t utf8_size(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U; };
  const unsigned lead = byte(0);
  const std::size_t size = at >= text.size()              ? 0
                           : lead < 0x80                  ? 1
                           : lead >= 0xC2 && lead <= 0xDF ? 2
                           : lead >= 0xE0 && lead <= 0xEF ? 3
                           : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                          : 0;
  for (std::size_t i = 1; i < size; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) || (lead == 0xF0 && byte(1) < 0x90) ||
      (lead == 0xF4 && byte(1) > 0x8F))
    return 0;
  return size;
}

// Appends s as a string of JSON. Any bytes give valid JSON: control characters are escaped, and a byte that is no UTF-8
// becomes U+FFFD.
inline void append_json_string(std::string& text, std::string_view s) {
  constexpr const char* hex = "0123456789abcdef";
  text += '"';
  for (std::size_t at = 0; at < s.size();) {
    const char c = s[at];
    const auto byte = static_cast<unsigned char>(c);
    const std::size_t size = utf8_size(s, at);
    if (size == 0) text += "\xEF\xBF\xBD";
    else if (c == '"' || c == '\\') (text += '\\') += c;
    else if (c == '\n') text += "\\n";
    else if (byte < 0x20 || byte == 0x7F) ((text += "\\u00") += hex[byte >> 4]) += hex[byte & 15];
    else text += s.substr(at, size);
    at += size == 0 ? 1 : size;
  }
  text += '"';
}

// Text from a file as a message shows it: in quotes, control characters escaped, cut after about `most` bytes.
inline std::string in_quotes(std::string_view text, std::size_t most = 100) {
  std::size_t shown = 0;
  while (shown < text.size() && shown < most) shown += utf8_size(text, shown) == 0 ? 1 : utf8_size(text, shown);
  std::string result;
  append_json_string(result, text.substr(0, shown));
  return shown < text.size() ? result + "..." : result;
}

// The integer that the text writes, if Int can hold it: digits alone, behind a minus sign where there is one. -0 is
// none: it is the zero of a floating-point number.
template <std::integral Int>
std::optional<Int> integer_of(std::string_view text) {
  Int n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc{} || end != text.data() + text.size() || text == "-0") return std::nullopt;
  return n;
}

}  // namespace mamba::io
