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

// After a kernel's launch on a stream: throws where it could not be launched. With MAMBA_CHECKED it waits for the
// kernel, so that what goes wrong inside is told by its name.
inline void check_launch(const char* kernel, [[maybe_unused]] cudaStream_t stream) {
  check(cudaGetLastError(), kernel);
#ifdef MAMBA_CHECKED
  check(cudaStreamSynchronize(stream), kernel);
#endif
}

}  // namespace mamba::cuda
