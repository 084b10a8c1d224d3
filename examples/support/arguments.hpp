// Values on the command line that CLI11 does not know: ranges of tokens ("20..99"), numbers beside words.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <mamba/task/words.hpp>

namespace support {

inline std::string text_of(mamba::task::TokenRange r) { return std::to_string(r.first) + ".." + std::to_string(r.last); }

// Throws CLI::ValidationError on anything else.
inline mamba::task::TokenRange range_of(const std::string& text) {
  int first = 0, last = 0, used = 0;
  if (std::sscanf(text.c_str(), "%d..%d%n", &first, &last, &used) != 2 || static_cast<std::size_t>(used) != text.size())
    throw CLI::ValidationError("a range is written as FIRST..LAST, for example 20..99; given " + text);
  return {first, last};
}

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
