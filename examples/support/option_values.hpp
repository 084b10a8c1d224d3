// The values of options as records have them: numbers, ranges of tokens, words of a few.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include <mamba/core/config.hpp>
#include <mamba/io/json.hpp>
#include <mamba/task/composite_function.hpp>
#include <mamba/task/words.hpp>
#include <mamba/train/trainer.hpp>

namespace support {

using mamba::io::Json;

// "--eval-every" -> "eval_every", as config.json names it.
inline std::string key_of(std::string_view option) {
  std::string key(option.substr(2));
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

// The names of an option's values, in their order, where it is one of a few.
inline constexpr std::array<const char*, 2> names_of(mamba::task::Labels) { return {"modulo", "sum"}; }
inline constexpr std::array<const char*, 2> names_of(mamba::Products) { return {"exact", "tf32"}; }
inline constexpr std::array<const char*, 3> names_of(mamba::Scope) { return {"auto", "block", "grid"}; }
inline constexpr std::array<const char*, 2> names_of(mamba::RateChanges) { return {"epoch", "step"}; }

template <class T>
const char* name_of_value(T value) {
  return names_of(value)[static_cast<std::size_t>(value)];
}

template <class T>
Json json_of(const T& field) {
  if constexpr (std::is_enum_v<T>) return name_of_value(field);
  else if constexpr (std::is_same_v<T, mamba::task::TokenRange>) return Json::Elements{field.first, field.last};
  else if constexpr (std::is_same_v<T, std::optional<double>>) return field ? Json(*field) : Json();
  else if constexpr (std::is_same_v<T, long>) return static_cast<std::int64_t>(field);
  else return field;
}

template <class T>
void set_from_json(T& field, const Json& json) {
  if constexpr (std::is_enum_v<T>) {
    const auto names = names_of(field);
    const auto found = std::find(names.begin(), names.end(), json.string());
    if (found == names.end()) {
      std::string all;
      for (const char* const name : names) all += (all.empty() ? "" : ", ") + std::string(name);
      mamba::fail(mamba::ErrorKind::bad_file, "one of these is expected: ", all, "; given ", json.string());
    }
    field = static_cast<T>(found - names.begin());
  } else if constexpr (std::is_same_v<T, mamba::task::TokenRange>) {
    const Json::Elements& ends = json.elements();
    if (ends.size() != 2)
      mamba::fail(mamba::ErrorKind::bad_file, "a range of tokens has two ends; given ", json.dump());
    field = {ends[0].integer<int>(), ends[1].integer<int>()};
  } else if constexpr (std::is_same_v<T, bool>) {
    field = json.boolean();
  } else if constexpr (std::is_same_v<T, std::string>) {
    field = json.string();
  } else if constexpr (std::is_floating_point_v<T>) {
    field = json.number();
  } else {
    field = json.integer<T>();
  }
}

}  // namespace support
