// The probes of probes.hpp for activations that lie on the device.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
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
template <class T>
void replace_masked_rows(const Queue& queue, MatrixView<T> to, MatrixView<const T> from, const std::uint8_t* mask) {
  replace_rows<<<static_cast<unsigned>(to.rows()), Block::threads, 0, queue.stream()>>>(to, from, mask);
  check(cudaGetLastError(), "replace_rows");
}

// A matrix without what lies between its rows, from the one memory to the other.
template <class T>
void copy_matrix(const Queue& queue, MatrixView<T> to, MatrixView<const T> from, cudaMemcpyKind way) {
  const auto bytes = [](std::ptrdiff_t elements) { return static_cast<std::size_t>(elements) * sizeof(T); };
  if (to.rows() == 0) return;
  check(cudaMemcpy2DAsync(to.data(), bytes(to.stride()), from.data(), bytes(from.stride()), bytes(to.cols()), static_cast<std::size_t>(to.rows()), way,
                          queue.stream()),
        "cudaMemcpy2DAsync");
  if (way != cudaMemcpyDeviceToDevice) queue.wait();
}

}  // namespace cuda

// FunctionProbe: the visitor gets the rows on the host; what it changes goes back.
template <class Visitor, class T, bool gradients = false>
class CudaFunctionProbe : public network::NoProbe {
 public:
  CudaFunctionProbe(const cuda::Queue& queue, Visitor& visitor, std::span<const int> where) : queue_(&queue), visitor_(&visitor), where_(where) {}

  void layer(int l) { layer_ = l; }
  template <Point point>
  void visit(MatrixView<T> rows) {
    if constexpr (!gradients) call(point, rows);
  }
  template <Point point>
  void visit_gradient(MatrixView<T> rows) {
    if constexpr (gradients) call(point, rows);
  }

 private:
  void call(Point point, MatrixView<T> rows) {
    values_.resize(static_cast<std::size_t>(rows.rows() * rows.cols()));
    const MatrixView<T> on_host(values_.data(), rows.rows(), rows.cols(), rows.cols());
    cuda::copy_matrix<T>(*queue_, on_host, rows, cudaMemcpyDeviceToHost);
    before_ = values_;
    (*visitor_)(point, layer_, on_host, where_);
    if (std::memcmp(before_.data(), values_.data(), values_.size() * sizeof(T)) != 0) cuda::copy_matrix<T>(*queue_, rows, on_host, cudaMemcpyHostToDevice);
  }

  const cuda::Queue* queue_;
  Visitor* visitor_;
  std::span<const int> where_;
  std::vector<T> values_, before_;
  int layer_ = 0;
};

// BlockingProbe. mask, kept: (T) on the device; kept is 1 up to a sequence's last masked row.
template <Reading reading>
class CudaBlockingProbe : public network::NoProbe {
 public:
  static constexpr bool restores_rows = reading == Reading::downstream;

  CudaBlockingProbe(const cuda::Queue& queue, const std::uint8_t* mask, const std::uint8_t* kept, ChosenLayers layers)
      : queue_(&queue), mask_(mask), kept_(kept), layers_(layers) {}

  void layer(int l) { rows_ = {layers_.contains(l) ? mask_ : nullptr}; }
  BlockedRows blocked_rows() const { return rows_; }
  template <class T>
  void restore(MatrixView<T> y, MatrixView<T> unblocked) const {
    cuda::replace_masked_rows<T>(*queue_, y, unblocked, kept_);
  }

 private:
  const cuda::Queue* queue_;
  const std::uint8_t *mask_, *kept_;
  ChosenLayers layers_;
  BlockedRows rows_;
};

// RecordingProbe and SubstitutingProbe: one layer's record behind the other's.
template <class T>
class CudaRecordingProbe : public network::NoProbe {
 public:
  CudaRecordingProbe(const cuda::Queue& queue, cuda::DeviceBuffer& record, int n_layers) : queue_(&queue), record_(&record), n_layers_(n_layers) {}

  void layer(int l) { layer_ = l; }
  template <Point point>
  void visit(MatrixView<T> rows) {
    if constexpr (point == Point::conv_output) {
      const std::ptrdiff_t size = rows.rows() * rows.cols();
      record_->reserve(static_cast<std::size_t>(n_layers_ * size) * sizeof(T));
      cuda::copy_matrix<T>(*queue_, {record_->template as<T>() + layer_ * size, rows.rows(), rows.cols(), rows.cols()}, rows, cudaMemcpyDeviceToDevice);
    }
  }

 private:
  const cuda::Queue* queue_;
  cuda::DeviceBuffer* record_;
  int n_layers_, layer_ = 0;
};
template <class T>
class CudaSubstitutingProbe : public network::NoProbe {
 public:
  // mask: (T) on the device
  CudaSubstitutingProbe(const cuda::Queue& queue, const cuda::DeviceBuffer& record, const std::uint8_t* mask, ChosenLayers layers)
      : queue_(&queue), record_(&record), mask_(mask), layers_(layers) {}

  void layer(int l) { layer_ = l; }
  template <Point point>
  void visit(MatrixView<T> rows) {
    if constexpr (point == Point::conv_output) {
      if (!layers_.contains(layer_)) return;
      const T* const recorded = record_->template as<T>() + layer_ * rows.rows() * rows.cols();
      cuda::replace_masked_rows<T>(*queue_, rows, {recorded, rows.rows(), rows.cols(), rows.cols()}, mask_);
    }
  }

 private:
  const cuda::Queue* queue_;
  const cuda::DeviceBuffer* record_;
  const std::uint8_t* mask_;
  ChosenLayers layers_;
  int layer_ = 0;
};

}  // namespace mamba
