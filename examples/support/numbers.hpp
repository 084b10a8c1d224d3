// Numbers that are all of a text, and text in columns, the same in every locale.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace support {

namespace detail {
template <class T>
std::optional<T> parsed(std::string_view text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}
}  // namespace detail

// The whole number that is all of the text, where T can hold it.
template <class T>
std::optional<T> whole(std::string_view text) {
  return detail::parsed<T>(text);
}

// The number that is all of the text, "nan" and "inf" included.
inline std::optional<double> number(std::string_view text) { return detail::parsed<double>(text); }

// The text at the right of a column.
inline std::string at_right(const std::string& text, std::size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

}  // namespace support
