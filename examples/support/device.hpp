// Where a program works, told to who watches.
#pragma once

#include <cstdio>
#include <string>

#include <mamba/model/device.hpp>

namespace support {

// Whether the GPU is to be used, problem_of(index) being what keeps it from that (empty: nothing); says so where "auto"
// falls back to the CPU. Who wants the CPU does not wake the GPU's driver. Throws Error(device_failed) where a GPU was
// asked for by name.
template <class ProblemOf>
bool use_gpu(const mamba::DeviceChoice& choice, ProblemOf&& problem_of) {
  if (choice.kind == mamba::DeviceChoice::Kind::cpu) return false;
  const std::string problem = problem_of(choice.index);
  const bool gpu = choice.use_gpu(problem);
  if (!gpu && choice.kind == mamba::DeviceChoice::Kind::automatic)
    std::fprintf(stderr, "On the CPU: %s\n", problem.c_str());
  return gpu;
}

}  // namespace support
