// Bytes as characters, as tokenizer files of byte-level vocabularies write them (Radford et al. 2019, GPT-2): a byte
// that prints in Latin-1 is that character, the others are U+0100 and what follows, in their order.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include <mamba/text/utf8.hpp>

namespace mamba::text {

inline constexpr auto byte_characters = [] {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    characters[byte] = prints ? byte : next++;
  }
  return characters;
}();
// Where the characters are, -1 for those that stand for no byte.
inline constexpr auto bytes_of_characters = [] {
  std::array<short, 0x144> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (short byte = 0; byte < 256; ++byte) bytes[byte_characters[static_cast<std::size_t>(byte)]] = byte;
  return bytes;
}();

// The bytes that a token's characters stand for; none where one of them stands for none. token: valid UTF-8.
inline std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Character character = first_character(token);
    if (character.code >= bytes_of_characters.size() || bytes_of_characters[character.code] < 0) return std::nullopt;
    bytes += static_cast<char>(bytes_of_characters[character.code]);
    token.remove_prefix(character.size);
  }
  return bytes;
}

}  // namespace mamba::text
