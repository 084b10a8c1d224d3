// Kernels handed to a stream, by the runtime's own function for it: what launches them is plain C++.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include <mamba/cuda/runtime/error.hpp>
#include <mamba/cuda/runtime/function_of.hpp>

namespace mamba::cuda {

// How a kernel is launched.
struct LaunchShape {
  int blocks, threads;
  std::size_t shared_bytes = 0;
};

// Throws Error(device_failed) where a block of the kernel cannot have so much shared memory.
template <class... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...), std::size_t bytes) {
  check(cudaFuncSetAttribute(function_of(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

// Throws Error(device_failed) with the name where it cannot be launched.
template <class... Parameters>
void launch_kernel(const char* name, void (*kernel)(Parameters...), LaunchShape shape, cudaStream_t stream,
                   const std::type_identity_t<Parameters>&... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  const cudaError_t result =
      cudaLaunchKernel(function_of(kernel), dim3(static_cast<unsigned>(shape.blocks)),
                       dim3(static_cast<unsigned>(shape.threads)), pointers, shape.shared_bytes, stream);
  check(result, name);
  check_launch(name, stream);
}

}  // namespace mamba::cuda
