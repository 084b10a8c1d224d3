// The GPUs of this machine: how many there are, whether models run on them, which one a call is on.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include <mamba/cuda/runtime/error.hpp>

namespace mamba::cuda {

inline int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) cudaGetLastError(), count = 0;
  return count;
}

// Why models cannot run on this device; empty if they can.
inline std::string device_problem(int device) {
  const int count = device_count();
  if (count == 0) return "CUDA: no device";
  if (device < 0 || device >= count)
    return "CUDA: device " + std::to_string(device) + " is not in 0.." + std::to_string(count - 1);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  if (properties.major >= 8) return "";
  return std::string("CUDA: ") + properties.name + " has compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + "; 8.0 is needed";
}

// The current device of a thread, for as long as a call lasts.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    const cudaError_t result = cudaSetDevice(device);
    if (result != cudaSuccess) go_back();  // a device without memory for a context is the current one all the same
    check(result, "cudaSetDevice");
    changed_ = true;
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) go_back();
  }

 private:
  // Errors are dropped: there is nobody to report them to, and the next call must not be blamed for them.
  void go_back() const {
    if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
  }

  int before_ = 0;
  bool changed_ = false;
};

}  // namespace mamba::cuda
