// Rows on a GPU, as the probes (probes.hpp) touch them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/cuda/runtime/launch.hpp>
#include <mamba/engine/probes.hpp>

namespace mamba {

namespace cuda {

// to's rows <- from's where mask (rows) is 1.
template <class T>
__global__ void replace_rows(MatrixView<T> to, MatrixView<const T> from, const std::uint8_t* mask) {
  const std::ptrdiff_t row = blockIdx.x;
  if (mask[row] == 0) return;
  for (std::ptrdiff_t c = threadIdx.x; c < to.cols(); c += Block::threads) to(row, c) = from(row, c);
}

}  // namespace cuda

// HostRows for rows in device memory; masks lie there, too.
class DeviceRows {
 public:
  template <class T>
  using Record = cuda::DeviceBuffer;

  explicit DeviceRows(const cuda::Queue& queue) : queue_(&queue) {}

  // The function gets the rows on the host, as they are computed with; what it changes goes back. Whether it changed
  // any.
  template <class T, class F>
  bool on_host(MatrixView<T> rows, F&& f) {
    const std::size_t bytes = static_cast<std::size_t>(rows.rows() * rows.cols()) * sizeof(T);
    values_.resize(bytes);
    const MatrixView<T> on_host(reinterpret_cast<T*>(values_.data()), rows.rows(), rows.cols(), rows.cols());
    copy<T>(on_host, rows, cudaMemcpyDeviceToHost);
    before_ = values_;
    HostRows().on_host(on_host, f);
    if (values_ == before_) return false;
    copy<T>(rows, on_host, cudaMemcpyHostToDevice);
    return true;
  }
  template <class T>
  void replace(MatrixView<T> to, MatrixView<const T> from, const std::uint8_t* mask) const {
    cuda::launch_kernel("replace_rows", cuda::replace_rows<T>, {static_cast<int>(to.rows()), cuda::Block::threads},
                        queue_->stream(), to, from, mask);
  }
  template <class T>
  void keep(cuda::DeviceBuffer& record, int index, int count, MatrixView<T> rows) const {
    const std::ptrdiff_t size = rows.rows() * rows.cols();
    record.reserve(static_cast<std::size_t>(count * size) * sizeof(T));
    copy<T>({record.as<T>() + index * size, rows.rows(), rows.cols(), rows.cols()}, rows, cudaMemcpyDeviceToDevice);
  }
  template <class T>
  static const T* data(const cuda::DeviceBuffer& record) {
    return record.as<T>();
  }

 private:
  // A matrix without what lies between its rows, from the one memory to the other.
  template <class T>
  void copy(MatrixView<T> to, MatrixView<const T> from, cudaMemcpyKind way) const {
    const auto bytes = [](std::ptrdiff_t elements) { return static_cast<std::size_t>(elements) * sizeof(T); };
    if (to.rows() == 0) return;
    cuda::check(cudaMemcpy2DAsync(to.data(), bytes(to.stride()), from.data(), bytes(from.stride()), bytes(to.cols()),
                                  static_cast<std::size_t>(to.rows()), way, queue_->stream()),
                "cudaMemcpy2DAsync");
    if (way != cudaMemcpyDeviceToDevice) queue_->wait();
  }

  const cuda::Queue* queue_;
  std::vector<std::byte> values_, before_;  // of a visit, kept for the next
};

}  // namespace mamba
