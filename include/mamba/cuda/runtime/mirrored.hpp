// An array that host and device share, copied when one asks for what the other wrote.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>
#include <utility>

#include <mamba/core/memory.hpp>
#include <mamba/cuda/runtime/buffer.hpp>

namespace mamba::cuda {

// An array that host and device both see, zeros at first: copied when one asks for what the other has written, and in
// the memory of neither before it is asked for there. A copy goes its own way.
class Mirrored {
 public:
  Mirrored(QueuePointer queue, std::size_t bytes) : queue_(std::move(queue)), bytes_(bytes), device_(queue_) {}
  Mirrored(const Mirrored& other) : Mirrored(other.queue_, other.bytes_) { take(other); }
  // Of one size, on one queue: copied where it lies, and nothing is allocated.
  Mirrored& operator=(const Mirrored& other) {
    if (this == &other) return *this;
    if (queue_ != other.queue_ || bytes_ != other.bytes_) return *this = Mirrored(other);
    take(other);
    return *this;
  }
  Mirrored(Mirrored&&) noexcept = default;
  Mirrored& operator=(Mirrored&&) noexcept = default;

  // The host's: to read, or to write as well.
  template <class T>
  const T* as() const {
    host_.reserve(bytes_);
    if (newest_ == Newest::device) device_.download(host_.as<std::byte>(), bytes_), newest_ = Newest::both;
    return host_.as<T>();
  }
  template <class T>
  T* as() {
    std::as_const(*this).as<T>();
    newest_ = Newest::host;
    return host_.as<T>();
  }
  // The device's.
  template <class T>
  const T* on_device() const {
    device_.reserve(bytes_);
    if (newest_ == Newest::host) device_.upload(host_.as<std::byte>(), bytes_), newest_ = Newest::both;
    return device_.as<T>();
  }
  template <class T>
  T* on_device() {
    std::as_const(*this).on_device<T>();
    newest_ = Newest::device;
    return device_.as<T>();
  }
  // From now on in the order of another queue, perhaps on another device.
  void move_to(const QueuePointer& queue) {
    if (queue == queue_) return;
    as<std::byte>();
    queue_ = queue;
    device_ = DeviceBuffer(queue);
  }
  // Zeros, where it lies.
  void clear() {
    if (device_.bytes() > 0) {
      check(cudaMemsetAsync(device_.data(), 0, bytes_, queue_->stream()), "cudaMemsetAsync");
      newest_ = Newest::device;
    } else if (host_.bytes() > 0) {
      std::memset(host_.data(), 0, bytes_);
      newest_ = Newest::host;
    }
  }
  // For who writes all of it, in pieces: zeros on the device, and the host's memory is given back; then bytes from an
  // offset on. Returns when the piece is there.
  void begin_upload() {
    device_.reserve(bytes_);
    clear();
    host_ = Buffer();
  }
  void upload(std::size_t offset, const void* from, std::size_t size) {
    check(cudaMemcpyAsync(static_cast<std::byte*>(device_.data()) + offset, from, size, cudaMemcpyHostToDevice,
                          queue_->stream()),
          "cudaMemcpyAsync to the device");
    queue_->wait();
  }
  std::size_t bytes() const { return device_.bytes(); }  // of the device

 private:
  enum class Newest { both, host, device };

  // What is on the device is copied there.
  void take(const Mirrored& other) {
    if (other.newest_ == Newest::both && other.device_.bytes() == 0 && other.host_.bytes() == 0) {
      clear();  // the other's zeros are nowhere yet
    } else if (other.newest_ == Newest::host || other.device_.bytes() == 0) {
      host_ = other.host_;
      newest_ = Newest::host;
    } else {
      device_.reserve(bytes_);
      check(cudaMemcpyAsync(device_.data(), other.device_.data(), bytes_, cudaMemcpyDeviceToDevice, queue_->stream()),
            "cudaMemcpyAsync");
      newest_ = Newest::device;
    }
  }

  QueuePointer queue_;
  std::size_t bytes_;
  mutable Buffer host_;
  mutable DeviceBuffer device_;
  mutable Newest newest_ = Newest::both;
};

}  // namespace mamba::cuda
