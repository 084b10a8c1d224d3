// The CUDA runtime's errors as exceptions that say what failed.
#pragma once

#include <cuda_runtime.h>

#include <mamba/core/error.hpp>

namespace mamba::cuda {

// Throws Error(device_failed) with the call's name and the runtime's reason.
inline void check(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // what was recorded is told here, and not again
  fail(ErrorKind::device_failed, "CUDA: ", call, " failed: ", cudaGetErrorString(result));
}

}  // namespace mamba::cuda
