// The variants that the composite task's programs are built with, each in a translation unit of its own
// (examples/CMakeLists.txt lists them).
#pragma once

#include <vector>

#include "composite_run.hpp"

namespace composite_run {

inline constexpr mamba::Config task_config{};

const std::vector<Built>& all_built();

}  // namespace composite_run
