// What a training on the device knows of itself, without asking the host.
#pragma once

#include <mamba/math/planned_step.hpp>

namespace mamba::cuda {

// In device memory.
struct TrainingState {
  long long planned = 0;      // the plan's steps
  long long next = 0;         // the number of the one under way; it changes when all else of it is done
  math::PlannedStep step{};   // the one under way, for the kernel that changes the number
  bool stopped = false;       // for good, at a loss or gradient that is not finite; its step changes nothing
  double loss = 0, norm = 0;  // of the last step
  double loss_sum = 0;        // over samples, from where the host left it
  long long samples = 0, done = 0;
};

// Null: no training, which cannot stop.
__device__ inline bool has_stopped(const TrainingState* training) { return training && training->stopped; }

}  // namespace mamba::cuda
