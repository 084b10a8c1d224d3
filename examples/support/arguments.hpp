// Values on the command line that CLI11 does not know: ranges of tokens ("20..99"), numbers beside words.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <mamba/task/words.hpp>

namespace support {

// The whole number that is all of the text.
template <class T>
std::optional<T> whole(std::string_view text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

inline std::string text_of(mamba::task::TokenRange r) { return std::to_string(r.first) + ".." + std::to_string(r.last); }

// Throws CLI::ValidationError on anything else.
inline mamba::task::TokenRange range_of(const std::string& text) {
  const auto dots = text.find("..");
  const auto first = dots == std::string::npos ? std::nullopt : whole<int>(text.substr(0, dots));
  const auto last = dots == std::string::npos ? std::nullopt : whole<int>(text.substr(dots + 2));
  if (!first || !last) throw CLI::ValidationError("a range is written as FIRST..LAST, for example 20..99; given " + text);
  return {*first, *last};
}

// Checks a seed: CLI11 would take -1, and what is too large, for the largest number there is.
inline const CLI::Validator is_seed(
    [](std::string& text) { return whole<std::uint64_t>(text) ? std::string() : "a seed is a whole number from 0 to 18446744073709551615; given " + text; },
    "UINT64");

// Throws CLI::ValidationError on what is no number.
inline double number_of(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') throw CLI::ValidationError(option + " is a number or 'default'; given " + text);
  return number;
}

// Each value once, where it comes first.
template <class T>
std::vector<T> distinct(const std::vector<T>& values) {
  std::vector<T> seen;
  for (const T& value : values)
    if (std::find(seen.begin(), seen.end(), value) == seen.end()) seen.push_back(value);
  return seen;
}

}  // namespace support
