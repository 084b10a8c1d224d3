// Runs the network on an NVIDIA GPU at the scope of the whole device. Interventions, and losses of the user's own,
// run this way for all models on the GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

#include <mamba/core/policies.hpp>
#include <mamba/cuda/block/backend.hpp>
#include <mamba/engine/cuda_arenas.hpp>
#include <mamba/engine/cuda_drawn.hpp>
#include <mamba/engine/cuda_grid_runner.hpp>
#include <mamba/engine/cuda_grid_training.hpp>
#include <mamba/engine/engine.hpp>

namespace mamba {

// The runner, and with it cuBLAS's handle, is made when it is first asked for.
template <class A>
class CudaGridEngine : public CudaArenas<A> {
  using Base = CudaArenas<A>;

 protected:
  using Base::gradients_on_device, Base::sum_gradients, Base::weights;

 public:
  using Base::n_layers, Base::queue;
  using typename Base::T;
  // Steps that the host does not watch, where the device can draw the task's samples.
  template <class Task>
  using Training = std::conditional_t<A::trains && drawn_on_device<Task>, CudaGridTraining<A, Task>, NoTraining>;

  explicit CudaGridEngine(const ModelOptions& options) : Base(options), tile_bytes_(options.tile_bytes) {}

 protected:
  // For engines that have no kernels at block scope.
  static const ModelOptions& runs_over_grid(const ModelOptions& options) {
    require(options.scope != Scope::block,
            "this model runs over the whole GPU: it does not fit a thread block, as none of "
            "BFloat16 or Int8Weights does, or its policy is CudaGrid");
    return options;
  }

 public:
  std::size_t memory_bytes() const { return Base::memory_bytes() + (runner_ ? runner_->memory_bytes() : 0); }

  // Made when it is first asked for.
  const std::shared_ptr<GridRunner<A>>& runner() {
    const cuda::OnDevice on(queue()->device());
    if (!runner_) runner_ = std::make_shared<GridRunner<A>>(queue(), tile_bytes_, Base::products());
    return runner_;
  }

  std::size_t bytes_with_gradients(const Batch& batch, Readout readout) const {
    return Base::bytes_of_arenas() + GridRunner<A>::bytes_with_gradients(n_layers(), batch, readout, tile_bytes_);
  }

  template <class Use>
  void logits(const Batch& batch, Readout readout, Use&& use, State<A>* state = nullptr) {
    run([&](auto& runner) { runner.logits(weights(), batch, readout, use, state); });
  }
  void choose(const Batch& batch, const Sampling& sampling, State<A>& state, std::span<std::int32_t> chosen) {
    run([&](auto& runner) { runner.choose(weights(), batch, sampling, state, chosen); });
  }

  // gradients <- those of the loss of the readout rows; returns it.
  double loss_and_gradients(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    return gradients_of(batch, readout, loss);
  }
  // The same with a function of the host's: loss(core, dlogits, logits, number of the first row).
  template <class Loss>
  requires(!std::is_same_v<std::remove_cvref_t<Loss>, CrossEntropy>)
  double loss_and_gradients(const Batch& batch, Readout readout, Loss&& loss) {
    return gradients_of(batch, readout, loss);
  }
  template <class Visitor, class Loss>
  double visited_loss_and_gradients(const Batch& batch, Readout readout, Visitor& visitor, Loss&& loss) {
    return with_gradients([&](auto& runner, T* gradients) {
      return runner.visited_loss_and_gradients(weights(), gradients, batch, readout, visitor, loss);
    });
  }
  template <class Loss>
  double passed_loss_and_gradients(const Batch& batch, Readout readout, Loss&& loss, State<A>& state,
                                   State<A>* of_state) {
    return with_gradients([&](auto& runner, T* gradients) {
      return runner.passed_loss_and_gradients(weights(), gradients, batch, readout, loss, state, of_state);
    });
  }
  template <Reading reading, class Use>
  void blocked_logits(const Batch& batch, std::span<const std::uint8_t> mask, ChosenLayers layers, Use&& use) {
    run([&](auto& runner) { runner.template blocked_logits<reading>(weights(), batch, mask, layers, use); });
  }
  template <class Use>
  void substituted_logits(const Batch& batch, const Batch& reference, std::span<const std::uint8_t> mask,
                          ChosenLayers layers, Use&& use) {
    run([&](auto& runner) { runner.substituted_logits(weights(), batch, reference, mask, layers, use); });
  }
  template <class Visitor, class Use>
  void visited_logits(const Batch& batch, Visitor& visitor, Use&& use) {
    run([&](auto& runner) { runner.visited_logits(weights(), batch, visitor, use); });
  }

 private:
  template <class Body>
  auto run(Body&& body) {
    const cuda::OnDevice on(queue()->device());
    return body(*runner());
  }
  template <class Body>
  double with_gradients(Body&& body) {
    check_has_gradients<A>();
    return run([&](auto& runner) {
      T* const gradients = gradients_on_device();
      const double loss = body(runner, gradients);
      sum_gradients(gradients, 1);
      return loss;
    });
  }
  template <class Loss>
  double gradients_of(const Batch& batch, Readout readout, Loss& loss) {
    return with_gradients([&](auto& runner, T* gradients) {
      return runner.loss_and_gradients(weights(), gradients, batch, readout, loss);
    });
  }

  std::size_t tile_bytes_;
  std::shared_ptr<GridRunner<A>> runner_;  // shared: its deleter is named where it is made alone
};

template <class A>
class Engine<A, CudaGrid> : public CudaGridEngine<A> {
 public:
  explicit Engine(const ModelOptions& options) : CudaGridEngine<A>(Engine::runs_over_grid(options)) {}
};

// Where a configuration does not fit a block.
template <class A>
requires(!cuda::fits_block<A>)
class Engine<A, Cuda> : public CudaGridEngine<A> {
 public:
  explicit Engine(const ModelOptions& options) : CudaGridEngine<A>(Engine::runs_over_grid(options)) {}
};

}  // namespace mamba
