// One step of a training as it is planned before it runs.
#pragma once

#include <cstdint>

#include <mamba/math/adamw.hpp>

namespace mamba::math {

// Which samples it shows and how it updates the parameters.
struct PlannedStep {
  math::AdamWStep update;
  std::int64_t first_sample;  // in the epoch's order
  std::uint32_t epoch;
  int sequences;
};

}  // namespace mamba::math
