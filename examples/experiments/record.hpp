// What an older record means.
#pragma once

#include <string_view>

#include <mamba/io/json.hpp>

namespace runs {

using mamba::io::Json;

// What a record says by not mentioning an option: what held before there was a choice.
inline Json unmentioned(std::string_view key) {
  if (key == "head") return "tied";
  if (key == "gamma_except") return Json::Elements{};
  if (key == "labels") return "modulo";
  if (key == "rate_changes") return "epoch";
  return Json();
}

}  // namespace runs
