// Device memory with an owner.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <optional>
#include <utility>

#include <mamba/cuda/runtime/queue.hpp>

namespace mamba::cuda {

// How often this program has taken memory on a device: steps that take none leave it as it is.
inline std::atomic<long>& device_allocations() {
  static std::atomic<long> count{0};
  return count;
}

// Bytes on a queue's device, in its order; without a queue on the device that is current, in the order of the default
// stream. Grows by reallocation (contents are lost), never shrinks; what it gets is zeroed.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(QueuePointer queue = {}) : queue_(std::move(queue)) {}
  explicit DeviceBuffer(std::size_t bytes) { reserve(bytes); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : queue_(std::move(other.queue_)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() { release(); }

  void reserve(std::size_t bytes) {
    if (bytes <= bytes_) return;
    release();
    std::optional<OnDevice> on;
    if (queue_) on.emplace(queue_->device());
    ++device_allocations();
    if (const cudaError_t result = cudaMalloc(&data_, bytes); result != cudaSuccess) {
      data_ = nullptr;
      if (result == cudaErrorMemoryAllocation) out_of_memory(bytes);
      check(result, "cudaMalloc");
    }
    bytes_ = bytes;
    check(cudaMemsetAsync(data_, 0, bytes, stream()), "cudaMemsetAsync");
  }

  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  template <class T>
  void upload(const T* from, std::size_t count) {
    reserve(count * sizeof(T));
    check(cudaMemcpyAsync(data_, from, count * sizeof(T), cudaMemcpyHostToDevice, stream()),
          "cudaMemcpyAsync to the device");
  }
  // Returns when it is there.
  template <class T>
  void download(T* to, std::size_t count) const {
    check(cudaMemcpyAsync(to, data_, count * sizeof(T), cudaMemcpyDeviceToHost, stream()),
          "cudaMemcpyAsync from the device");
    check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
  }

 private:
  cudaStream_t stream() const { return queue_ ? queue_->stream() : nullptr; }

  void release() {
    if (!data_) return;
    cudaStreamSynchronize(stream());  // who frees it may come before who uses it is done
    cudaFree(std::exchange(data_, nullptr));
    bytes_ = 0;
  }

  [[noreturn]] static void out_of_memory(std::size_t bytes) {
    cudaGetLastError();
    std::size_t available = 0, all = 0;
    check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo");
    fail(ErrorKind::device_failed, "CUDA: ", bytes, " bytes of device memory are needed; ", available, " of ", all,
         " are free. A smaller batch, or a smaller ModelOptions::tile_bytes for models that run over the whole device, "
         "takes less");
  }

  QueuePointer queue_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace mamba::cuda
