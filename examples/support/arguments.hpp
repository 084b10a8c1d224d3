// Command lines: how programs read theirs, and values that CLI11 does not know: ranges of tokens ("20..99"), numbers
// beside words.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/task/words.hpp>
#include <mamba/version.hpp>

#include "exit_codes.hpp"
#include "numbers.hpp"

namespace support {

// What all programs' command lines have: --help with the exit codes and every option's default, --version.
class CommandLine : public CLI::App {
 public:
  explicit CommandLine(std::string about) : CLI::App(std::move(about)) {
    footer(exit_code_help);
    set_version_flag("--version", MAMBA_VERSION);
    option_defaults()->always_capture_default();
  }
};

// The value of --NAME before the others are read: their defaults depend on it.
inline std::string early_option(int argc, char** argv, const std::string& name, std::string value) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == name && i + 1 < argc) value = argv[i + 1];
    if (argument.starts_with(name + "=")) value = argument.substr(name.size() + 1);
  }
  return value;
}

// Whether --NAME, which has no value, is there: the same.
inline bool has_flag(int argc, char** argv, std::string_view name) {
  return std::find(argv + 1, argv + argc, name) != argv + argc;
}

// Reads the command line, then calls finish(), which may throw CLI::ParseError for what CLI11 cannot know. Returns the
// exit code where the program ends here: what was asked for is told, or why the line is refused. An empty word is no
// value of any option, but of those in may_be_empty: it is what an unset variable leaves behind.
template <class F>
std::optional<int> parse(CLI::App& app, int argc, char** argv, F&& finish,
                         const std::vector<std::string>& may_be_empty = {}) {
  const auto refuse_empty = [&](const std::string& option) {
    if (std::find(may_be_empty.begin(), may_be_empty.end(), option) == may_be_empty.end())
      throw CLI::ValidationError(option + " is given without a value: it is empty");
  };
  try {
    for (int i = 1; i < argc; ++i)  // CLI11 would take the next argument for its value
      if (const std::string_view argument = argv[i];
          argument.starts_with("--") && argument.find('=') == argument.size() - 1)
        throw CLI::ValidationError(std::string(argument.substr(0, argument.size() - 1)) +
                                   " is given without a value: it is empty");
    app.parse(argc, argv);
    for (const CLI::Option* option : app.get_options())
      for (const std::string& value : option->results())
        if (value.empty()) refuse_empty(option->get_name());
    finish();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? done : usage;
  }
  return std::nullopt;
}
inline std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  return parse(app, argc, argv, [] {});
}

inline std::string text_of(mamba::task::TokenRange r) {
  return std::to_string(r.first) + ".." + std::to_string(r.last);
}

// Throws CLI::ValidationError on anything else.
inline mamba::task::TokenRange range_of(const std::string& text) {
  const auto dots = text.find("..");
  const auto first = dots == std::string::npos ? std::nullopt : whole<int>(text.substr(0, dots));
  const auto last = dots == std::string::npos ? std::nullopt : whole<int>(text.substr(dots + 2));
  if (!first || !last)
    throw CLI::ValidationError("a range is written as FIRST..LAST, for example 20..99; given " + text);
  return {*first, *last};
}

// Checks a seed: CLI11 would take -1, and what is too large, for the largest number there is.
inline const CLI::Validator is_seed(
    [](std::string& text) {
      return whole<std::uint64_t>(text) ? std::string()
                                        : "a seed is a whole number from 0 to 18446744073709551615; given " + text;
    },
    "UINT64");

// Throws CLI::ValidationError on what is no number.
inline double number_of(const std::string& option, const std::string& text) {
  const auto value = number(text);
  if (!value) throw CLI::ValidationError(option + " is a number or 'default'; given " + text);
  return *value;
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
