// One primitive of the GPU's backend at a time, on one thread block, beside the CPU's.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/backend.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/cuda/runtime/launch.hpp>

#include "support/primitives.hpp"

namespace support {

inline void need_device() {
  if (mamba::cuda::device_count() == 0) SKIP("no CUDA device");
}

// Numbers in -1 .. 1 that float holds exactly, so that both precisions compute the same.
template <class T, int Columns>
Tensor<T, Columns> tensor(int rows, std::uint64_t seed, bool positive = false) {
  Tensor<T, Columns> x(rows, seed);
  for (int t = 0; t < rows; ++t)
    for (int c = 0; c < Columns; ++c) {
      const auto value =
          static_cast<T>(static_cast<float>(random_number(seed, static_cast<std::uint64_t>(t * Columns + c))));
      x.at(t, c) = positive ? static_cast<T>(std::abs(value)) : value;
    }
  return x;
}

// A tensor's copy on the device.
template <class T, int Columns>
class OnDevice {
 public:
  explicit OnDevice(Tensor<T, Columns>& host) : host_(host) { buffer_.upload(host.in().data, count()); }
  ~OnDevice() { buffer_.download(host_.rows().data, count()); }
  mamba::Rows<T, Columns> rows() { return {buffer_.template as<T>(), host_.in().rows}; }
  mamba::Rows<const T, Columns> in() { return {buffer_.template as<T>(), host_.in().rows}; }

 private:
  std::size_t count() const {
    return static_cast<std::size_t>(host_.in().rows) * static_cast<std::size_t>(Tensor<T, Columns>::stride);
  }
  Tensor<T, Columns>& host_;
  mamba::cuda::DeviceBuffer buffer_;
};

// Numbers where there should be zeros, for what a primitive has to clear.
template <class T, int Columns>
void poison_padding(Tensor<T, Columns>& x) {
  for (int t = 0; t < x.in().rows; ++t)
    for (int c = Columns; c < Tensor<T, Columns>::stride; ++c) x.at(t, c) = T(1);
}

// Runs a kernel of primitives of T on one block, and waits.
template <class T, class Arguments>
void launch(void (*kernel)(Arguments), const Arguments& arguments) {
  constexpr std::size_t bytes = mamba::cuda::Block::shared_bytes<T>;
  mamba::cuda::allow_shared_memory(kernel, bytes);
  mamba::cuda::launch_kernel("the launch", kernel, {1, mamba::cuda::Block::threads, bytes}, nullptr, arguments);
  mamba::cuda::check(cudaDeviceSynchronize(), "the kernel");
}

}  // namespace support
