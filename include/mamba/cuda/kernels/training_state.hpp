// What a training on the device knows of itself, without asking the host.
#pragma once

#include <cstdint>

#include <mamba/math/adamw.hpp>

namespace mamba::cuda {

// A step as the host has planned it.
struct PlannedStep {
  math::AdamWStep update;
  std::int64_t first_sample;  // in the epoch's order
  std::uint32_t epoch;
  int sequences;
};

// In device memory.
struct TrainingState {
  long long planned = 0;      // the plan's steps
  long long next = 0;         // the number of the one under way; it changes when all else of it is done
  PlannedStep step{};         // the one under way, for the kernel that changes the number
  bool stopped = false;       // for good, at a loss or gradient that is not finite; its step changes nothing
  double loss = 0, norm = 0;  // of the last step
  double loss_sum = 0;        // over samples, from where the host left it
  long long samples = 0, done = 0;
};

// Null: no training, which cannot stop.
__device__ inline bool has_stopped(const TrainingState* training) { return training && training->stopped; }

}  // namespace mamba::cuda
