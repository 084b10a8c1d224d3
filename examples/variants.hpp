// The variants that the composite task's programs are built with, each in a translation unit of its own
// (examples/CMakeLists.txt lists them).
#pragma once

#include <string>
#include <vector>

#include "composite_run.hpp"

namespace composite_run {

inline constexpr mamba::Config task_config{};

const std::vector<Built>& all_built();
const std::vector<Built>& all_built_for_gpus();  // none without a CUDA compiler

// Why the latter cannot run here on GPU number `index`; empty if they can.
std::string gpu_problem(int index);

}  // namespace composite_run
