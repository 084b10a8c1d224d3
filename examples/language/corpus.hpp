// The texts that a model learns from, as tokens, and the part of them that it is tried on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/core/error.hpp>

#include "encoding.hpp"
#include "support/text_file.hpp"

namespace language {

struct Corpus {
  std::vector<std::int32_t> training, held_out;
  std::size_t training_bytes = 0, held_out_bytes = 0;

  // A number that another text, or another way to cut it, hardly has (FNV-1a).
  std::string fingerprint() const {
    std::uint64_t hash = 0xCBF29CE484222325;
    const auto add = [&](std::uint64_t value) {
      for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (value >> (8 * byte) & 0xFF)) * 0x100000001B3;
    };
    for (const auto* part : {&training, &held_out}) {
      add(part->size());
      for (const std::int32_t token : *part) add(static_cast<std::uint32_t>(token));
    }
    constexpr const char* digits = "0123456789abcdef";
    std::string text;
    for (int at = 60; at >= 0; at -= 4) text += digits[hash >> at & 15];
    return text;
  }
};

namespace detail {

// Where the part begins that is held out: behind a line's end where one is near, else between two characters.
inline std::size_t cut_of(std::string_view text, double share) {
  const auto cut = static_cast<std::size_t>(static_cast<double>(text.size()) * (1 - share));
  constexpr std::size_t near = 4096, longest_character = 4;
  const std::size_t left = text.size() - cut, line = text.find('\n', cut);
  if (line != std::string_view::npos && line - cut < std::min(near, left / 2)) return line + 1;
  std::size_t at = cut;
  while (at < text.size() && at < cut + longest_character && (text[at] & 0xC0) == 0x80) ++at;
  if (at == cut + longest_character) return cut;  // no characters of UTF-8
  return at;
}

}  // namespace detail

// Reads the files, one behind the other; the last `share` of all is held out. Throws Error(bad_file) that names a file
// that cannot be read, is empty or, where there is a tokenizer, is not UTF-8, with the place.
inline Corpus read_corpus(const std::vector<std::filesystem::path>& files, const Encoding& encoding, double share) {
  std::string text;
  for (const auto& file : files) {
    const std::string own = support::read_text(file);
    if (own.empty()) mamba::fail(mamba::ErrorKind::bad_file, file.string(), " is empty: there is nothing to learn");
    if (!encoding.is_bytes()) support::from_file(file, [&] { mamba::text::check_utf8(own); });
    text += own;
  }
  const std::string_view all = text;
  const std::size_t cut = detail::cut_of(all, share);
  Corpus corpus{encoding.encode(all.substr(0, cut), false), encoding.encode(all.substr(cut), false), cut,
                all.size() - cut};
  return corpus;
}

}  // namespace language
