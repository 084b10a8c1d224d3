// Ranges of tokens on the command line: "20..99".
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

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

}  // namespace support
