// What comes before and after the tiles in a step of training that the host does not watch.
#pragma once

#include <cmath>

#include <mamba/core/random.hpp>
#include <mamba/cuda/kernels.hpp>
#include <mamba/cuda/training_state.hpp>
#include <mamba/model/loss.hpp>

namespace mamba::cuda {

// Where a step's batch lies. All its sequences are of one length.
struct DrawnBatch {
  int* tokens;  // (batch, length)
  int* labels;
  CrossEntropy* loss;
  TilePlace* places;
  int tiles, per_tile, boundary_states;
};

// Begins the plan's next step: draws its sequences from (seed, epoch, index), cuts them into tiles. Needs a thread for each
// sequence.
template <class Task>
__global__ void draw_batch(DrawnBatch batch, Task task, std::uint64_t seed, const PlannedStep* plan, TrainingState* training) {
  if (training->stopped) return;
  const PlannedStep step = plan[training->next];
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < step.sequences) {
    const Permutation order(static_cast<std::uint64_t>(task.train_samples()), seed, step.epoch);
    const auto sample = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(step.first_sample + i)));
    batch.labels[i] = task.train_sample(sample, batch.tokens + static_cast<std::ptrdiff_t>(i) * task.length);
  }
  if (i < batch.tiles) {
    const int first = i * batch.per_tile, count = max(0, min(step.sequences - first, batch.per_tile));
    batch.places[i] = {0, count, first * task.length, 0, count, first, first, batch.boundary_states};
  }
  if (i == 0) {
    batch.loss->weight = 1.0 / step.sequences;
    training->step = step;
  }
}

// Ends the step: clips the gradients to the norm `clip`, updates parameters and rates; or stops the training. squares
// (square_count) and shares (tiles) as the kernels before left them.
template <class T>
__global__ void finish_step(T* parameters, T* derived, T* mean, T* square, T* gradients, const double* squares, int square_count, const double* shares,
                            int tiles, double clip, ArenaPlace place, TrainingState* training) {
  __shared__ double sums[2];
  if (__syncthreads_or(training->stopped)) return;  // all warps or none: block 0 may be stopping it now
  if (detail::warp() < 2) {                         // every block for itself: they are few numbers
    const double* const from = detail::warp() == 0 ? shares : squares;
    const int count = detail::warp() == 0 ? tiles : square_count;
    double sum = 0;
    for (int i = detail::lane(); i < count; i += 32) sum += from[i];
    sum = detail::warp_sum(sum);
    if (detail::lane() == 0) sums[detail::warp()] = sum;
  }
  __syncthreads();
  const double loss = sums[0], norm = std::sqrt(sums[1]), factor = clip / (norm + 1e-6);
  const bool finite = std::isfinite(loss) && std::isfinite(norm);
  const math::AdamWStep update = training->step.update;
  if (finite)
    place.visit([&](std::size_t at, Kind kind) {
      if (!kind.trained) return;
      auto g = detail::load4(static_cast<const T*>(gradients) + at);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (factor < 1) g.at[j] *= static_cast<T>(factor);
        math::adamw(parameters[at + j], mean[at + j], square[at + j], g.at[j], update);
        if (kind.rate) derived[at + j] = detail::rate_of(parameters[at + j]);
      }
      if (factor < 1) detail::store4(gradients + at, g);
    });
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  training->loss = loss, training->norm = norm;
  ++training->next;
  if (!finite) {
    training->stopped = true;
    return;
  }
  training->loss_sum += loss * training->step.sequences;
  training->samples += training->step.sequences;
  ++training->done;
}

}  // namespace mamba::cuda
