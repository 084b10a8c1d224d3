// An array that host and device share, copied when one asks for what the other wrote.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include <mamba/core/memory.hpp>
#include <mamba/cuda/runtime/buffer.hpp>

namespace mamba::cuda {

// An array that host and device both see: copied when one asks for what the other has written. A copy goes its own way.
class Mirrored {
 public:
  Mirrored(QueuePointer queue, std::size_t bytes) : queue_(std::move(queue)), host_(bytes), device_(queue_) {
    device_.reserve(bytes);
  }
  Mirrored(const Mirrored& other) : Mirrored(other.queue_, other.host_.bytes()) {
    if (other.newest_ == Newest::device) {
      check(cudaMemcpyAsync(device_.data(), other.device_.data(), device_.bytes(), cudaMemcpyDeviceToDevice,
                            queue_->stream()),
            "cudaMemcpyAsync");
    } else {
      host_ = other.host_;
    }
    newest_ = other.newest_ == Newest::device ? Newest::device : Newest::host;
  }
  Mirrored& operator=(const Mirrored& other) { return *this = Mirrored(other); }
  Mirrored(Mirrored&&) noexcept = default;
  Mirrored& operator=(Mirrored&&) noexcept = default;

  // The host's: to read, or to write as well.
  template <class T>
  const T* as() const {
    if (newest_ == Newest::device) device_.download(host_.as<std::byte>(), host_.bytes()), newest_ = Newest::both;
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
    if (newest_ == Newest::host) device_.upload(host_.as<std::byte>(), host_.bytes()), newest_ = Newest::both;
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
    device_.reserve(host_.bytes());
  }
  std::size_t bytes() const { return host_.bytes() + device_.bytes(); }

 private:
  enum class Newest { both, host, device };
  QueuePointer queue_;
  mutable Buffer host_;
  mutable DeviceBuffer device_;
  mutable Newest newest_ = Newest::both;
};

}  // namespace mamba::cuda
