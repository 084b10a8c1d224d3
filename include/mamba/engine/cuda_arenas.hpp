// A model's arenas on an NVIDIA GPU and what the optimiser does to them: the part that its engines share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/cuda/kernels/arena.hpp>
#include <mamba/cuda/runtime/launch.hpp>
#include <mamba/cuda/runtime/mirrored.hpp>
#include <mamba/engine/arena.hpp>
#include <mamba/engine/cuda_state.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

template <class A>
class CudaArenas : public Arenas<A, cuda::Mirrored> {
  using Base = Arenas<A, cuda::Mirrored>;
  using Base::derived_, Base::gradients_, Base::n_layers_, Base::parameters_, Base::size_, Base::stale_;
  using S = typename A::WeightStorage;
  using Pointers = WeightPointers<S, typename A::Scalar>;
  static constexpr bool stores_apart = !std::is_same_v<S, typename A::Scalar>,
                        in_8_bits = std::is_same_v<S, std::int8_t>;

 public:
  using Base::placed;
  using typename Base::Arena, typename Base::T;

  // Throws Error when there is no such device, or it is too old.
  explicit CudaArenas(const ModelOptions& options)
      : CudaArenas(options, std::make_shared<const cuda::Queue>(checked_device(options.device))) {}

  std::size_t memory_bytes() const { return Base::memory_bytes() + stored_.bytes() + scales_.bytes() + kept_.bytes(); }
  // The arenas, all of them in the device's memory: what a call with gradients needs whatever its batch.
  std::size_t bytes_of_arenas() const {
    return 3 * (size_ + row_alignment) * sizeof(T) + (stores_apart ? size_ * sizeof(S) : 0);
  }
  const cuda::QueuePointer& queue() const { return queue_; }
  Products products() const { return products_; }

  // The same on the device: rows come to a piece of the host's memory and go up from there, and the host's own copy,
  // where it has one, is given back.
  template <class Source>
  void replace_parameters(Source&& source) {
    constexpr std::size_t most = std::size_t{1} << 21;  // elements of a piece, unless a row is longer
    const cuda::OnDevice on(queue_->device());
    stale_ = true;
    std::vector<T> piece;
    parameters_.begin_upload();
    for (const PlacedParameter& p : placed()) {
      const auto rows = static_cast<std::size_t>(p.parameter.rows()),
                 stride = static_cast<std::size_t>(padded(p.parameter.columns())),
                 at_once = (std::max)(std::size_t{1}, most / stride);
      for (std::size_t row = 0; row < rows; row += at_once) {
        const std::size_t now = (std::min)(at_once, rows - row);
        piece.assign(now * stride, T(0));
        source.read(p, row, now, piece.data());
        parameters_.upload((p.offset + row * stride) * sizeof(T), piece.data(), piece.size() * sizeof(T));
      }
    }
  }

  // The Euclidean norm of the trained parameters' gradients, summed in double in a fixed order.
  double gradient_norm() {
    const cuda::OnDevice on(queue_->device());
    launch("sum_squares", cuda::sum_squares<T>, elements().blocks(), squares_on_device(),
           std::as_const(gradients_).template on_device<T>(), elements());
    squares_.download(squares_host_.data(), squares_host_.size());
    double sum = 0;
    for (const double square : squares_host_) sum += square;
    return std::sqrt(sum);
  }

  void scale_gradients(double factor) {
    const cuda::OnDevice on(queue_->device());
    launch("scale", cuda::scale<T>, elements().blocks(), gradients_.template on_device<T>(), static_cast<T>(factor),
           elements());
  }

  // gradients += those that were kept.
  void keep_gradients() {
    const cuda::OnDevice on(queue_->device());
    kept_.reserve(size_ * sizeof(T));
    cuda::check(cudaMemcpyAsync(kept_.data(), std::as_const(gradients_).template on_device<T>(), size_ * sizeof(T),
                                cudaMemcpyDeviceToDevice, queue_->stream()),
                "cudaMemcpyAsync");
  }
  void add_kept_gradients() {
    const cuda::OnDevice on(queue_->device());
    launch("add_gradients", cuda::add_gradients<T>, elements().blocks(), gradients_.template on_device<T>(),
           kept_.template as<T>(), elements());
  }

  // One AdamW update of the trained parameters; mean and square are arenas.
  void adamw(Arena& mean, Arena& square, const math::AdamWStep& step) {
    const cuda::OnDevice on(queue_->device());
    launch("adamw", cuda::adamw<T>, elements().blocks(), parameters_.template on_device<T>(),
           mean.template on_device<T>(), square.template on_device<T>(),
           std::as_const(gradients_).template on_device<T>(), step, elements());
    stale_ = true;
  }

  // --- for engines, on the queue's device, which is current --------------------------------------------------------

  // The weights, the derived ones and the stored ones renewed if the parameters have changed.
  network::ModelWeights<A> weights() {
    const T* const values = std::as_const(parameters_).template on_device<T>();
    if (stale_) {
      launch("derive_rates", cuda::derive_rates<T>, elements().blocks(), derived_.template on_device<T>(), values,
             elements());
      if constexpr (in_8_bits) store_rows(values);
      else store_weights([&](auto... kernel_and_arguments) { launch("store_values", kernel_and_arguments...); });
      stale_ = false;
    }
    const T* const derived = std::as_const(derived_).template on_device<T>();
    if constexpr (in_8_bits) {
      return {{values, derived, stored_.template as<S>(), scales_.template as<float>()}, n_layers_};
    } else if constexpr (stores_apart) {
      const S* const stored = stored_.template as<S>();
      return {{values, derived, stored, stored}, n_layers_};  // what is derived of stored ones is the CPU's
    } else {
      return {{values, derived}, n_layers_};
    }
  }

  // Renews the weights as kernels read them, where they are stored apart: launch_it(kernel, blocks, arguments...).
  template <class Launch>
  void store_weights(Launch&& launch_it) const {
    if constexpr (stores_apart)
      launch_it(cuda::store_values<S, T>, elements().blocks(), stored_.template as<S>(),
                std::as_const(parameters_).template on_device<T>(), elements());
  }

  // The arenas to be written by kernels: the host's copies are old from now on.
  T* parameters_on_device() { return parameters_.template on_device<T>(); }
  T* derived_on_device() { return derived_.template on_device<T>(); }
  T* gradients_on_device() { return gradients_.template on_device<T>(); }
  // As many sums of squares as any kernel leaves.
  double* squares_on_device() const { return squares_.template as<double>(); }
  cuda::ArenaElements elements() const { return {size_ / 4, kinds_.template as<cuda::Kind>()}; }

  // gradients <- the sum of `count` buffers of their size, of which they may be the only one; those of the rates turned
  // into A_log's.
  void sum_gradients(const T* buffers, int count) {
    launch("sum_buffers", cuda::sum_buffers<T>, cuda::BufferSum::blocks(elements(), count), gradients_on_device(),
           buffers, count, std::as_const(derived_).template on_device<T>(), squares_on_device(), elements(), nullptr);
  }

 private:
  CudaArenas(const ModelOptions& options, cuda::QueuePointer queue)
      : Base(options.n_layers, [queue](std::size_t bytes) { return cuda::Mirrored(queue, bytes); }),
        queue_(std::move(queue)),
        products_(options.products),
        kinds_(queue_),
        squares_(queue_),
        stored_(queue_),
        scales_(queue_),
        kept_(queue_) {
    std::vector<cuda::Kind> kinds;
    for (const PlacedParameter& p : placed())
      kinds.insert(kinds.end(), p.parameter.arena_size() / 4,
                   cuda::Kind{p.parameter.trained, p.parameter.derived == Derived::rate});
    kinds_.upload(kinds.data(), kinds.size());
    squares_.reserve(static_cast<std::size_t>(cuda::BufferSum::blocks(elements(), 1 << 20)) * sizeof(double));
    squares_host_.resize(static_cast<std::size_t>(elements().blocks()));
    if (stores_apart) stored_.reserve(size_ * sizeof(S));
    if constexpr (in_8_bits) scales_.reserve(Pointers::scale_at(size_) * sizeof(float));
    queue_->wait();  // what was handed over goes out of scope
  }

  // The rows that kernels read in 8 bits, anew.
  void store_rows(const T* values) const {
    for (const PlacedParameter& p : placed())
      if (const int rows = p.parameter.rows(); p.parameter.template in_storage<S>())
        launch("store_in_8_bits", cuda::store_in_8_bits<T>, cuda::RowsOfInt8::blocks(rows),
               stored_.template as<S>() + p.offset, scales_.template as<float>() + Pointers::scale_at(p.offset),
               values + p.offset, rows, padded(p.parameter.columns()));
  }

  static int checked_device(int device) {
    if (const std::string problem = cuda::device_problem(device); !problem.empty())
      fail(ErrorKind::device_failed, problem);
    return device;
  }

  template <class... Parameters>
  void launch(const char* name, void (*kernel)(Parameters...), int blocks,
              const std::type_identity_t<Parameters>&... arguments) const {
    cuda::launch_kernel(name, kernel, {blocks, cuda::Block::threads}, queue_->stream(), arguments...);
  }

  cuda::QueuePointer queue_;
  Products products_;
  cuda::DeviceBuffer kinds_, squares_;
  cuda::DeviceBuffer stored_;  // what kernels read where it is not what they compute with
  cuda::DeviceBuffer scales_;  // of rows of 8 bits
  cuda::DeviceBuffer kept_;    // earlier gradients, to be added
  std::vector<double> squares_host_;
};

}  // namespace mamba
