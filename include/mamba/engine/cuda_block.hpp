// Runs the network on an NVIDIA GPU: every block takes tiles through the whole network and back with activations of its
// own, and adds their gradients to a buffer of its own. Every model's header brings it where nvcc compiles.
#pragma once

#include <algorithm>
#include <vector>

#include <mamba/core/policies.hpp>
#include <mamba/cuda/kernels/tiles.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/cuda_grid.hpp>
#include <mamba/engine/cuda_state.hpp>
#include <mamba/network/head_loss.hpp>

namespace mamba {

template <class A>
requires(cuda::fits_block<A>) class Engine<A, Cuda> : public CudaGridEngine<A> {
  using Base = CudaGridEngine<A>;
  using Base::device_, Base::launched, Base::n_layers_, Base::queue_, Base::size_, Base::sum_gradients, Base::weights;

 public:
  using Base::loss_and_gradients;
  using typename Base::Arena, typename Base::T;

  // Throws Error when there is no such device or it is too old. Where the device's blocks have too little memory for this way of
  // running, it runs as CudaGrid does.
  explicit Engine(const ModelOptions& options) : Base(options) {
    if constexpr (!runs_anywhere) {
      int available = 0;
      cuda::check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_), "cudaDeviceGetAttribute");
      by_grid_ = available < static_cast<int>(shared_bytes);
    }
  }

  std::size_t memory_bytes() const {
    std::size_t sum = Base::memory_bytes();
    for (const auto* buffer : {&workspaces_, &buffers_, &indices_, &places_, &logits_, &shares_, &labels_, &loss_}) sum += buffer->bytes();
    return sum;
  }

  // Steps of training that the host does not watch, at block scope; see cuda_training.hpp.
  template <class Task>
  class Training;
  bool trains_itself() const { return !by_grid_; }

  // use(number of the first row, logits: Rows<const T, Vp>) for all readout rows of the batch, on this thread. state, where
  // given: where the sequences begin and, afterwards, end.
  template <class Use>
  void logits(const Batch& batch, Readout readout, Use&& use, State<A>* state = nullptr) {
    if constexpr (!runs_anywhere)
      if (by_grid_) return Base::logits(batch, readout, use, state);
    const cuda::OnDevice on(device_);
    const Call call = prepare(batch, readout, false);
    constexpr int stride = padded(network::HeadActivations<A>::Vp);
    logits_.reserve(static_cast<std::size_t>(call.readouts) * stride * sizeof(T));
    cuda::StateArguments<A> states;
    if (state) {
      state_.begin(*state);
      states = {state_.from(0), state_.positions()};
    }
    launch(cuda::forward_tiles<A>, call.blocks, call.arguments, states, logits_.template as<T>());
    launched("forward_tiles");
    logits_host_.resize(static_cast<std::size_t>(call.readouts) * stride);
    logits_.download(logits_host_.data(), logits_host_.size());
    if (state) state_.advance(*state, batch);
    use(0, Rows<const T, A::config.padded_vocab_size()>{logits_host_.data(), call.readouts});
  }

  // gradients <- those of the cross-entropy of the readout rows; returns it.
  double loss_and_gradients(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    if constexpr (!runs_anywhere)
      if (by_grid_) return Base::loss_and_gradients(batch, readout, loss);
    const cuda::OnDevice on(device_);
    const Call call = prepare(batch, readout, true);
    labels_.upload(loss.labels, static_cast<std::size_t>(call.readouts));
    const CrossEntropy on_device{labels_.template as<int>(), loss.classes, loss.weight};
    loss_.upload(&on_device, 1);
    buffers_.reserve(static_cast<std::size_t>(call.blocks) * size_ * sizeof(T));
    shares_.reserve(static_cast<std::size_t>(call.arguments.tiles) * sizeof(double));
    launch(cuda::train_tiles<A, CrossEntropy>, call.blocks, call.arguments, buffers_.template as<T>(), size_, shares_.template as<double>(),
           loss_.template as<CrossEntropy>(), nullptr);
    launched("train_tiles");
    sum_gradients(buffers_.template as<T>(), call.blocks);
    shares_host_.resize(static_cast<std::size_t>(call.arguments.tiles));
    shares_.download(shares_host_.data(), shares_host_.size());
    double sum = 0;
    for (const double share : shares_host_) sum += share;
    return sum;
  }

 private:
  static constexpr std::size_t shared_bytes = cuda::tile_shared_bytes<A>;
  static constexpr bool runs_anywhere = shared_bytes <= std::size_t{99} << 10;  // every device from 8.0 on has as much

  struct Call {
    cuda::TileArguments<A> arguments;
    int blocks, readouts;
  };

  template <class Kernel>
  static void allow_shared_memory(Kernel* kernel) {
    cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), "cudaFuncSetAttribute");
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int blocks, const Arguments&... arguments) const {
    allow_shared_memory(kernel);
    kernel<<<blocks, cuda::Block::threads, shared_bytes, queue_->stream()>>>(arguments...);
  }

  // Tiles of 128 tokens, one buffer for each multiprocessor of the largest devices.
  static Partition partition_of(const Batch& batch, std::size_t parameter_bytes) {
    return Partition::of(batch, parameter_bytes, {.tile_tokens = 128, .tiles_per_buffer = 1, .most_buffers = 132, .most_bytes = std::size_t{8} << 30});
  }

  // Uploads the batch, has all memory there.
  Call prepare(const Batch& batch, Readout readout, bool with_backward) {
    const Partition partition = partition_of(batch, size_ * sizeof(T));
    places_host_.clear(), firsts_.clear(), tokens_.clear(), times_.clear(), readouts_.clear();
    cuda::Requirements requirements;
    network::MixerOf<A>::reserve(requirements, with_backward);
    std::size_t activation_bytes = 0;
    int readout_count = 0;
    for (int i = 0; i < partition.tiles; ++i) {
      const int begin = partition.first_sequence(i), end = partition.first_sequence(i + 1);
      cuda::TilePlace place{
          static_cast<int>(firsts_.size()), end - begin, static_cast<int>(tokens_.size()), static_cast<int>(readouts_.size()), 0, readout_count, begin, 0};
      int row = 0;
      for (int s = begin; s < end; ++s) {
        firsts_.push_back(row);
        const int length = batch.length_of(s);
        tokens_.insert(tokens_.end(), batch.tokens_of(s), batch.tokens_of(s) + length);
        for (int t = 0; t < length; ++t) times_.push_back(t);
        const int from = readout == Readout::last ? length - 1 : 0, to = readout == Readout::predecessors ? length - 1 : length;
        for (int t = from; t < to; ++t) readouts_.push_back(row + t);
        row += length;
      }
      firsts_.push_back(row);
      network::check_tile_size<A>(row);
      place.readouts = static_cast<int>(readouts_.size()) - place.readout;
      readout_count += place.readouts;
      if (with_backward) place.boundary_states = network::MixerOf<A>::kept_states(requirements, {firsts_.data() + place.first, place.sequences});
      activation_bytes = (std::max)(activation_bytes, network::Activations<A>(nullptr, n_layers_, row, place.boundary_states, with_backward).bytes());
      places_host_.push_back(place);
    }
    const int blocks = with_backward ? partition.buffers : (std::min)(partition.tiles, 264);
    const std::size_t workspace_bytes = (activation_bytes + requirements.global_bytes + 255) / 256 * 256;
    workspaces_.reserve(workspace_bytes * static_cast<std::size_t>(blocks));
    indices_host_.clear();
    for (const auto* list : {&firsts_, &tokens_, &times_, &readouts_}) indices_host_.insert(indices_host_.end(), list->begin(), list->end());
    indices_.upload(indices_host_.data(), indices_host_.size());
    places_.upload(places_host_.data(), places_host_.size());
    const int* const at = indices_.template as<int>();
    return {{weights(), places_.template as<cuda::TilePlace>(), at, at + firsts_.size(), at + firsts_.size() + tokens_.size(),
             at + firsts_.size() + 2 * tokens_.size(), partition.tiles, workspaces_.template as<std::byte>(), workspace_bytes, activation_bytes, 0},
            blocks,
            readout_count};
  }

  bool by_grid_ = false;
  CudaState<A> state_{queue_};
  cuda::DeviceBuffer workspaces_{queue_}, buffers_{queue_}, indices_{queue_}, places_{queue_}, logits_{queue_}, shares_{queue_}, labels_{queue_}, loss_{queue_};
  std::vector<cuda::TilePlace> places_host_;
  std::vector<int> firsts_, tokens_, times_, readouts_, indices_host_;
  std::vector<double> shares_host_;
  std::vector<T> logits_host_;
};

}  // namespace mamba

#include <mamba/engine/cuda_training.hpp>
