// A model's parameters, gradients and what the optimiser does to them, on an NVIDIA GPU: the part that its engines share.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/cuda/kernels/tiles.hpp>
#include <mamba/cuda/runtime/mirrored.hpp>
#include <mamba/engine/cuda_state.hpp>
#include <mamba/network/network.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

template <class A>
class CudaParameters {
 public:
  using T = typename A::Scalar;
  using Tables = network::Tables<A>;
  using Arena = cuda::Mirrored;  // memory of the parameters' layout

  // Throws Error when there is no such device, or it is too old.
  explicit CudaParameters(const ModelOptions& options)
      : n_layers_(options.n_layers),
        size_(Tables::size(options.n_layers)),
        device_(checked_device(options.device)),
        queue_(std::make_shared<const cuda::Queue>(device_)),
        kinds_(queue_),
        squares_(queue_) {
    const cuda::OnDevice on(device_);
    for (auto* arena : {&parameters_, &derived_, &gradients_}) arena->emplace(queue_, size_ * sizeof(T));
    network::for_each_parameter<A>(n_layers_, [&](PlacedParameter p) { placed_.push_back(std::move(p)); });
    std::vector<cuda::Kind> kinds;
    for (const PlacedParameter& p : placed_)
      kinds.insert(kinds.end(), p.parameter.place() / 4, cuda::Kind{p.parameter.trained, p.parameter.derived == Derived::rate});
    kinds_.upload(kinds.data(), kinds.size());
    squares_.reserve(cuda::BufferSum::blocks(place(), 1 << 20) * sizeof(double));  // as many as any kernel leaves
    squares_host_.resize(place().blocks());
    queue_->wait();  // what was handed over goes out of scope
  }

  const std::vector<PlacedParameter>& placed() const { return placed_; }
  std::size_t size() const { return size_; }
  int n_layers() const { return n_layers_; }

  // Arenas of size() elements, seen from the host. Whoever writes parameters says so afterwards.
  const T* parameters() const { return std::as_const(*parameters_).template as<T>(); }
  T* mutable_parameters() { return parameters_->template as<T>(); }
  T* gradients() { return gradients_->template as<T>(); }
  const T* gradients() const { return std::as_const(*gradients_).template as<T>(); }
  void parameters_changed() { stale_ = true; }
  Arena make_arena() const { return Arena(queue_, size_ * sizeof(T)); }
  State<A> make_state(int batch) const {
    return State<A>(n_layers_, batch, [this](std::size_t bytes) { return cuda::Mirrored(queue_, bytes); });
  }

  // The Euclidean norm of the trained parameters' gradients, summed in double in a fixed order.
  double gradient_norm() {
    const cuda::OnDevice on(device_);
    cuda::sum_squares<<<place().blocks(), cuda::Block::threads, 0, queue_->stream()>>>(squares_.template as<double>(),
                                                                                       std::as_const(*gradients_).template on_device<T>(), place());
    launched("sum_squares");
    squares_.download(squares_host_.data(), squares_host_.size());
    double sum = 0;
    for (const double square : squares_host_) sum += square;
    return std::sqrt(sum);
  }

  void scale_gradients(double factor) {
    const cuda::OnDevice on(device_);
    cuda::scale<<<place().blocks(), cuda::Block::threads, 0, queue_->stream()>>>(gradients_->template on_device<T>(), static_cast<T>(factor), place());
    launched("scale");
  }

  // One AdamW update of the trained parameters; mean and square are arenas.
  void adamw(Arena& mean, Arena& square, const math::AdamWStep& step) {
    const cuda::OnDevice on(device_);
    cuda::adamw<<<place().blocks(), cuda::Block::threads, 0, queue_->stream()>>>(parameters_->template on_device<T>(), mean.template on_device<T>(),
                                                                                 square.template on_device<T>(),
                                                                                 std::as_const(*gradients_).template on_device<T>(), step, place());
    launched("adamw");
    stale_ = true;
  }

  std::size_t memory_bytes() const { return parameters_->bytes() + derived_->bytes() + gradients_->bytes(); }

 protected:
  static void launched(const char* kernel) { cuda::check(cudaGetLastError(), kernel); }

  // The weights on the device, the derived ones renewed if the parameters have changed.
  network::ModelWeights<A> weights() {
    const T* const values = std::as_const(*parameters_).template on_device<T>();
    if (stale_) {
      cuda::derive_rates<<<place().blocks(), cuda::Block::threads, 0, queue_->stream()>>>(derived_->template on_device<T>(), values, place());
      launched("derive_rates");
      stale_ = false;
    }
    return {values, std::as_const(*derived_).template on_device<T>(), n_layers_};
  }

  // gradients <- the sum of `count` buffers of their size, of which they may be the only one; those of the rates turned into A_log's.
  void sum_gradients(const T* buffers, int count) {
    cuda::sum_buffers<<<static_cast<unsigned>(cuda::BufferSum::blocks(place(), count)), cuda::Block::threads, 0, queue_->stream()>>>(
        gradients_->template on_device<T>(), buffers, count, std::as_const(*derived_).template on_device<T>(), squares_.template as<double>(), place(),
        nullptr);
    launched("sum_buffers");
  }

  cuda::ArenaPlace place() const { return {size_ / 4, kinds_.template as<cuda::Kind>()}; }

  int n_layers_;
  std::size_t size_;
  int device_;
  cuda::QueuePointer queue_;
  std::vector<PlacedParameter> placed_;
  std::optional<Arena> parameters_, derived_, gradients_;
  cuda::DeviceBuffer kinds_, squares_;
  std::vector<double> squares_host_;
  bool stale_ = true;

 private:
  static int checked_device(int device) {
    if (const std::string problem = cuda::device_problem(device); !problem.empty()) fail(ErrorKind::device_failed, problem);
    return device;
  }
};

}  // namespace mamba
