// Training on the GPU without the host, at the scope that the engine says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <mamba/engine/cuda_block_training.hpp>
#include <mamba/engine/cuda_grid_training.hpp>

namespace mamba {

// Task: as Trainer's, and its train_sample() runs on the device.
template <class A, class Task>
class CudaTraining {
  using Arena = typename CudaArenas<A>::Arena;

 public:
  // Engine: CudaBlockEngine<A>, to which it holds a reference. Throws Error when the task's sequences are not the
  // model's, or the device's memory does not suffice.
  template <class Engine>
  CudaTraining(Engine& engine, const Task& task, int batch, std::uint64_t seed, double clip) {
    if (engine.trains_by_grid(batch, task.length)) by_grid_.emplace(engine, task, batch, seed, clip);
    else by_block_.emplace(engine, task, batch, seed, clip);
  }

  long most_steps() const { return by_grid_ ? by_grid_->most_steps() : by_block_->most_steps(); }
  std::size_t memory_bytes() const { return by_grid_ ? by_grid_->memory_bytes() : by_block_->memory_bytes(); }

  // As CudaBlockTraining's and CudaGridTraining's.
  cuda::TrainingState run(std::span<const math::PlannedStep> plan, Arena& mean, Arena& square, double loss_sum) {
    return by_grid_ ? by_grid_->run(plan, mean, square, loss_sum) : by_block_->run(plan, mean, square, loss_sum);
  }

 private:
  std::optional<CudaBlockTraining<A, Task>> by_block_;
  std::optional<CudaGridTraining<A, Task>> by_grid_;
};

}  // namespace mamba
