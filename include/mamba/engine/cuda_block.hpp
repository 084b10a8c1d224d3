// Runs the network on an NVIDIA GPU: every block takes tiles through the whole network and back with activations of its
// own, and adds their gradients to a buffer of its own. Every model's header brings it where nvcc compiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <mamba/core/policies.hpp>
#include <mamba/cuda/kernels/tiles.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/cuda_drawn.hpp>
#include <mamba/engine/cuda_grid.hpp>
#include <mamba/engine/cuda_packed.hpp>
#include <mamba/engine/cuda_scope.hpp>
#include <mamba/engine/cuda_state.hpp>
#include <mamba/engine/cuda_tiles.hpp>
#include <mamba/engine/cuda_training.hpp>
#include <mamba/engine/cuda_visits.hpp>
#include <mamba/engine/packing.hpp>
#include <mamba/network/head_loss.hpp>

namespace mamba {

// by_sizes: over the whole device, where the rule of sizes says so.
template <class A, bool by_sizes>
class CudaBlockEngine : public CudaGridEngine<A> {
  static_assert(network::check_backend<A, cuda::Block>());
  using Base = CudaGridEngine<A>;
  using Tiles = BlockTiles<A>;
  using Base::queue, Base::sum_gradients, Base::weights;

 public:
  using Base::loss_and_gradients, Base::n_layers, Base::size;
  using typename Base::T;
  // Steps that the host does not watch, where the device can draw the task's samples.
  template <class Task>
  using Training = std::conditional_t<drawn_on_device<Task>, CudaTraining<A, Task>, NoTraining>;

  // Throws Error when there is no such device or it is too old. Where the device's blocks have too little memory for
  // this way of running, it runs as CudaGrid does.
  explicit CudaBlockEngine(const ModelOptions& options)
      : Base(options), by_sizes_(by_sizes && options.scope == Scope::by_sizes), by_grid_(options.scope == Scope::grid) {
    if constexpr (!Tiles::runs_anywhere) {
      int available = 0;
      cuda::check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue()->device()),
                  "cudaDeviceGetAttribute");
      if (available < static_cast<int>(Tiles::shared_bytes)) {
        require(options.scope != Scope::block, "a thread block of this device has ", available,
                " bytes of shared memory; at block scope the model needs ", Tiles::shared_bytes);
        by_grid_ = true;
      }
    }
  }

  std::size_t memory_bytes() const {
    std::size_t sum = Base::memory_bytes() + tiles_.bytes();
    for (const auto* buffer : {&workspaces_, &buffers_, &ranges_, &logits_, &shares_, &labels_, &loss_})
      sum += buffer->bytes();
    return sum;
  }

  std::size_t bytes_with_gradients(const Batch& batch, Readout readout) const {
    if (by_grid(batch, CallKind::gradients)) return Base::bytes_with_gradients(batch, readout);
    const Partition partition = Tiles::partition(batch, n_layers());
    std::vector<int> firsts;
    const Sequences tile = equal_sequences(firsts, partition.per_tile, batch.length);
    const std::size_t activations =
        network::Activations<A>(nullptr, n_layers(), tile.rows(), Tiles::kept_states(tile), true).bytes();
    return Base::bytes_of_arenas() + static_cast<std::size_t>(partition.buffers) *
                                         (Tiles::workspace_bytes(activations, true) + size() * sizeof(T));
  }

  // The scope at which Training trains on this device with such batches.
  bool trains_by_grid(int batch, int length) const {
    return by_grid_ || (by_sizes_ && ScopeRule<A>::trains_by_grid(batch, length));
  }

  // use(number of the first row, logits: Rows<const T, Vp>) for all readout rows of the batch, on this thread. state,
  // where given: where the sequences begin and, afterwards, end.
  template <class Use>
  void logits(const Batch& batch, Readout readout, Use&& use, State<A>* state = nullptr) {
    if (by_grid(batch, state && batch.length == 1 ? CallKind::step : CallKind::forward))
      return Base::logits(batch, readout, use, state);
    const cuda::OnDevice on(queue()->device());
    const Call call = prepare(batch, readout, false);
    cuda::StateArguments<A> states;
    if (state) {
      state_.begin(*state);
      states = {state_.from(0), state_.positions()};
    }
    forward(call, states, cuda::NoVisits{});
    const auto logits = downloaded_logits(call);
    use(0, logits);
    if (state) state_.advance(*state, batch);
  }
  void choose(const Batch& batch, const Sampling& sampling, State<A>& state, std::span<std::int32_t> chosen) {
    if (by_grid(batch, batch.length == 1 ? CallKind::step : CallKind::forward))
      Base::choose(batch, sampling, state, chosen);
    else choose_on_host(*this, batch, sampling, state, chosen);
  }
  template <class Visitor, class Use>
  void visited_logits(const Batch& batch, Visitor& visitor, Use&& use) {
    if (by_grid(batch, CallKind::forward)) return Base::visited_logits(batch, visitor, use);
    const cuda::OnDevice on(queue()->device());
    const Call call = prepare(batch, Readout::last, false);
    std::vector<int> where;
    batch_rows(where, batch, 0, batch.batch);
    BlockVisits<T, false>(queue()).each(n_layers(), where, [&](auto visits) { forward(call, {}, visits); }, visitor);
    use(0, downloaded_logits(call));
  }

  // gradients <- those of the cross-entropy of the readout rows; returns it.
  double loss_and_gradients(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    if (by_grid(batch, CallKind::gradients)) return Base::loss_and_gradients(batch, readout, loss);
    const cuda::OnDevice on(queue()->device());
    const Call call = prepare(batch, readout, loss);
    forward_and_backward(call, cuda::NoVisits{});
    return finish(call);
  }
  template <class Visitor, class Loss>
  double visited_loss_and_gradients(const Batch& batch, Readout readout, Visitor& visitor, Loss&& loss) {
    if constexpr (!std::is_same_v<std::remove_cvref_t<Loss>, CrossEntropy>) {  // the host's: only the grid waits for it
      return Base::visited_loss_and_gradients(batch, readout, visitor, loss);
    } else {
      if (by_grid(batch, CallKind::gradients)) return Base::visited_loss_and_gradients(batch, readout, visitor, loss);
      const cuda::OnDevice on(queue()->device());
      const Call call = prepare(batch, readout, loss);
      std::vector<int> where;
      batch_rows(where, batch, 0, batch.batch);
      BlockVisits<T, true>(queue()).each(
          n_layers(), where, [&](auto visits) { forward_and_backward(call, visits); }, visitor);
      return finish(call);
    }
  }

 private:
  static constexpr int Vp = network::HeadActivations<A>::Vp;

  bool by_grid(const Batch& batch, CallKind call) const {
    return by_grid_ || (by_sizes_ && ScopeRule<A>::prefers_grid(batch, call));
  }

  struct Call {
    cuda::TileArguments<A> arguments;
    int blocks, readouts;
  };

  template <class Visits>
  void forward(const Call& call, const cuda::StateArguments<A>& states, Visits visits) {
    logits_.reserve(static_cast<std::size_t>(call.readouts) * padded(Vp) * sizeof(T));
    Tiles::launch("forward_tiles", *queue(), cuda::forward_tiles<A, Visits>, call.blocks, call.arguments, states,
                  logits_.template as<T>(), visits);
  }
  Rows<const T, Vp> downloaded_logits(const Call& call) {
    logits_host_.resize(static_cast<std::size_t>(call.readouts) * padded(Vp));
    logits_.download(logits_host_.data(), logits_host_.size());
    return {logits_host_.data(), call.readouts};
  }

  template <class Visits>
  void forward_and_backward(const Call& call, Visits visits) {
    Tiles::launch("train_tiles", *queue(), cuda::train_tiles<A, CrossEntropy, Visits>, call.blocks, call.arguments,
                  buffers_.template as<T>(), size(), shares_.template as<double>(), loss_.template as<CrossEntropy>(),
                  nullptr, visits);
  }
  // gradients <- the sum of the blocks' shares; returns the loss.
  double finish(const Call& call) {
    sum_gradients(buffers_.template as<T>(), call.blocks);
    shares_host_.resize(static_cast<std::size_t>(call.arguments.tiles));
    shares_.download(shares_host_.data(), shares_host_.size());
    double sum = 0;
    for (const double share : shares_host_) sum += share;
    return sum;
  }

  // With what the backward pass needs.
  Call prepare(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    const Call call = prepare(batch, readout, true);
    labels_.upload(loss.labels, static_cast<std::size_t>(call.readouts));
    loss_host_ = {labels_.template as<int>(), loss.classes, loss.weight};
    loss_.upload(&loss_host_, 1);
    buffers_.reserve(static_cast<std::size_t>(call.blocks) * size() * sizeof(T));
    shares_.reserve(static_cast<std::size_t>(call.arguments.tiles) * sizeof(double));
    return call;
  }

  // Uploads the batch, has all memory there.
  Call prepare(const Batch& batch, Readout readout, bool with_backward) {
    const Partition partition = Tiles::partition(batch, n_layers());
    packed_.clear(), ranges_host_.clear();
    std::size_t activation_bytes = 0;
    int readouts = 0;
    for (int i = 0; i < partition.tiles; ++i) {
      network::TileRange range =
          packed_.append(batch, readout, partition.first_sequence(i), partition.first_sequence(i + 1), readouts);
      const Sequences sequences = packed_.sequences(range);
      network::check_tile_size<A>(sequences.rows());
      if (with_backward) range.boundary_states = Tiles::kept_states(sequences);
      activation_bytes = (std::max)(
          activation_bytes,
          network::Activations<A>(nullptr, n_layers(), sequences.rows(), range.boundary_states, with_backward).bytes());
      readouts += range.readouts;
      ranges_host_.push_back(range);
    }
    const int blocks =
        with_backward ? partition.buffers : (std::min)(partition.tiles, cuda::TileTuning::most_forward_blocks);
    const std::size_t workspace_bytes = Tiles::workspace_bytes(activation_bytes, with_backward);
    workspaces_.reserve(workspace_bytes * static_cast<std::size_t>(blocks));
    tiles_.upload(packed_);
    ranges_.upload(ranges_host_.data(), ranges_host_.size());
    return {{weights(), ranges_.template as<network::TileRange>(), tiles_.firsts(), tiles_.tokens(), tiles_.times(),
             tiles_.readouts(), partition.tiles, workspaces_.template as<std::byte>(), workspace_bytes,
             activation_bytes, 0, Base::products()},
            blocks,
            readouts};
  }

  bool by_sizes_, by_grid_;
  CudaState<A> state_{queue()};
  PackedTiles packed_;
  DeviceTiles tiles_{queue()};
  cuda::DeviceBuffer workspaces_{queue()}, buffers_{queue()}, ranges_{queue()}, logits_{queue()}, shares_{queue()},
      labels_{queue()}, loss_{queue()};
  std::vector<network::TileRange> ranges_host_;
  CrossEntropy loss_host_{};  // like the lists, until the device has read it
  std::vector<double> shares_host_;
  std::vector<T> logits_host_;
};

template <class A>
requires(cuda::fits_block<A>)
class Engine<A, Cuda> : public CudaBlockEngine<A, true> {
 public:
  using CudaBlockEngine<A, true>::CudaBlockEngine;
};
template <class A>
class Engine<A, CudaBlock> : public CudaBlockEngine<A, false> {
  static_assert(cuda::fits_block<A>,
                "mamba: this configuration does not fit a block, as none of BFloat16 or Int8Weights does; Cuda and "
                "CudaGrid run it");

 public:
  // Throws Error, too, where the options ask for the grid.
  explicit Engine(const ModelOptions& options) : CudaBlockEngine<A, false>(options) {
    require(options.scope != Scope::grid,
            "this model's policy is CudaBlock; over the whole GPU Cuda and CudaGrid run it");
  }
};

}  // namespace mamba
