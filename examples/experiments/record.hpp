// What an older record means.
#pragma once

#include <string_view>

#include <mamba/io/json.hpp>

namespace runs {

using mamba::io::Json;

// What older records do not mention, and what held before there was a choice.
inline const Json::Members& younger_options() {
  static const Json::Members all{{"head", "tied"},      {"gamma_except", Json::Elements{}},
                                 {"labels", "modulo"},  {"rate_changes", "epoch"},
                                 {"products", "exact"}, {"scope", "auto"},
                                 {"shards", 1}};
  return all;
}

// What a record says by not mentioning an option; null where it must mention it.
inline Json unmentioned(std::string_view key) {
  for (const auto& [name, value] : younger_options())
    if (name == key) return value;
  return {};
}

}  // namespace runs
