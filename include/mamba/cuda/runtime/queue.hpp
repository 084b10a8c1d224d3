// An engine's own stream on its device.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include <mamba/cuda/runtime/device.hpp>

namespace mamba::cuda {

// A device and the order in which what one owner hands to it is done: every launch, copy and product of an engine goes
// here. It waits for no other, and no other for it, so that models in several threads do not know of each other.
class Queue {
 public:
  explicit Queue(int device) : device_(device) {
    const OnDevice on(device);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() { cudaStreamDestroy(stream_); }

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
};
using QueuePointer = std::shared_ptr<const Queue>;

}  // namespace mamba::cuda
