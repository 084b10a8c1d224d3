// UTF-8 (RFC 3629): what is valid of it, and characters that are white space or belong to words.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <mamba/core/error.hpp>

namespace mamba::text {

// A character at the beginning of some bytes. size: its bytes; of bytes that are none, those that could have begun one
// (1 to 3), and valid is false. incomplete: the bytes end before it does.
struct Utf8Character {
  char32_t code = 0;
  std::size_t size = 1;
  bool valid = false, incomplete = false;
};

inline Utf8Character first_character(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1, true, false};
  const std::size_t size = lead >= 0xC2 && lead < 0xE0   ? 2
                           : (lead & 0xF0) == 0xE0       ? 3
                           : lead >= 0xF0 && lead < 0xF5 ? 4
                                                         : 0;
  if (size == 0) return {};
  char32_t code = lead & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if (i == bytes.size()) return {0, i, false, true};
    // The second byte's limits keep out what is written longer than need be, surrogates, and what is beyond U+10FFFF.
    const unsigned least = i > 1          ? 0x80
                           : lead == 0xE0 ? 0xA0
                           : lead == 0xF0 ? 0x90
                                          : 0x80,
                   most = i > 1          ? 0xBF
                          : lead == 0xED ? 0x9F
                          : lead == 0xF4 ? 0x8F
                                         : 0xBF;
    if (byte(i) < least || byte(i) > most) return {0, i, false, false};
    code = code << 6 | (byte(i) & 0x3FU);
  }
  return {code, size, true, false};
}

// Bytes at the beginning that are one a character.
inline std::size_t ascii_prefix(std::string_view text) {
  return static_cast<std::size_t>(std::find_if(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; }) -
                                  text.begin());
}

// Throws Error(invalid_argument) with the place of the first byte that is no UTF-8.
inline void check_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    at += ascii_prefix(text.substr(at));
    if (at == text.size()) return;
    const Utf8Character character = first_character(text.substr(at));
    if (!character.valid)
      fail(ErrorKind::invalid_argument, "the text is not valid UTF-8: byte ", at, " of ", text.size());
    at += character.size;
  }
}

inline void append_utf8(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  const auto rest = [&](int shift) { put(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) put(code);
  else if (code < 0x800) put(0xC0 | code >> 6), rest(0);
  else if (code < 0x10000) put(0xE0 | code >> 12), rest(6), rest(0);
  else put(0xF0 | code >> 18), rest(12), rest(6), rest(0);
}

// text += bytes, with U+FFFD for what is no UTF-8: one for each longest stretch that could have begun a character
// (Unicode 15, section 3.9). Unless it is the last, a character that the bytes cut off stays there: returns how many
// bytes were taken.
inline std::size_t append_decoded(std::string& text, std::string_view bytes, bool is_last) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const std::size_t plain = ascii_prefix(bytes.substr(at));
    text.append(bytes.substr(at, plain));
    at += plain;
    if (at == bytes.size()) break;
    const Utf8Character character = first_character(bytes.substr(at));
    if (character.incomplete && !is_last) break;
    if (character.valid) text.append(bytes.substr(at, character.size));
    else append_utf8(text, 0xFFFD);
    at += character.size;
  }
  return at;
}

// Unicode's property White_Space.
inline bool is_white_space(char32_t code) {
  return (code >= 9 && code <= 13) || code == 32 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

// The character before the end of valid text, which is not empty.
inline Utf8Character last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return first_character(text.substr(begin));
}

}  // namespace mamba::text
