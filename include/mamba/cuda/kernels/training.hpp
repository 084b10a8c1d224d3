// What comes before and after the tiles in a step of training that the host does not watch.
#pragma once

#include <cmath>

#include <mamba/core/random.hpp>
#include <mamba/cuda/kernels/arena.hpp>
#include <mamba/cuda/kernels/training_state.hpp>
#include <mamba/network/head_loss.hpp>
#include <mamba/network/tile.hpp>

namespace mamba::cuda {

// Where batches lie: two take turns where the next one is drawn beside a step. All their sequences are of one length.
struct DrawnBatch {
  int* tokens;                 // (turns, batch, length)
  int* labels;                 // (turns, batch)
  CrossEntropy* loss;          // (turns), or null: it is known before
  network::TileRange* ranges;  // (turns, tiles)
  int batch, tiles, per_tile, boundary_states;
  int turns = 2;
};

// Draws the sequences of the plan's step that is so far ahead of the one under way, if there is one, from (seed, epoch,
// index), and cuts them into tiles; notes the one under way. Needs a thread for each sequence.
template <class Task>
__global__ void draw_batch(DrawnBatch drawn, Task task, std::uint64_t seed, const math::PlannedStep* plan,
                           TrainingState* training, int ahead) {
  const long long number = training->next + ahead;
  const int turn = static_cast<int>(number % drawn.turns), i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (training->stopped) return;
  if (i == 0) training->step = plan[training->next];
  if (number >= training->planned) return;
  const math::PlannedStep step = plan[number];
  if (i < step.sequences) {
    const Permutation order(static_cast<std::uint64_t>(task.train_samples()), seed, step.epoch);
    const auto sample = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(step.first_sample + i)));
    const std::ptrdiff_t sequence = static_cast<std::ptrdiff_t>(turn) * drawn.batch + i;
    drawn.labels[sequence] = task.train_sample(sample, drawn.tokens + sequence * task.length);
  }
  if (i < drawn.tiles) {
    const int first = i * drawn.per_tile, count = max(0, min(step.sequences - first, drawn.per_tile));
    drawn.ranges[turn * drawn.tiles + i] = {0,     count, first * task.length,  0, count,
                                            first, first, drawn.boundary_states};
  }
  if (i == 0 && drawn.loss) drawn.loss[turn].weight = 1.0 / step.sequences;
}

// sum <- that of the numbers, in a fixed order; by one block. A template, for each source has its own.
template <class Number>
__global__ void __launch_bounds__(Block::threads) add_up(double* sum, const Number* numbers, int count) {
  double own = 0;
  for (int i = detail::thread(); i < count; i += Block::threads) own += numbers[i];
  detail::leave_block_sum(sum, own);
}

// Ends the plan's step under way: clips the gradients to the norm `clip`, updates parameters and rates; or stops the
// training. squares (square_count) and shares (tiles) as the kernels before left them.
template <class T>
__global__ void finish_step(T* parameters, T* derived, T* mean, T* square, T* gradients, const double* squares,
                            int square_count, const double* shares, int tiles, double clip, ArenaElements elements,
                            TrainingState* training) {
  __shared__ double sums[2];
  if (__syncthreads_or(training->stopped)) return;  // all warps or none: block 0 may be stopping it now
  if (detail::warp() < 2) {                         // every block for itself: they are few numbers
    const double* const from = detail::warp() == 0 ? shares : squares;
    const int count = detail::warp() == 0 ? tiles : square_count;
    double sum = 0;
    for (int i = detail::lane(); i < count; i += 32) sum += from[i];
    sum = detail::lane_sum(sum);
    if (detail::lane() == 0) sums[detail::warp()] = sum;
  }
  __syncthreads();
  const double loss = sums[0], norm = std::sqrt(sums[1]), factor = clip / (norm + 1e-6);
  const bool finite = std::isfinite(loss) && std::isfinite(norm);
  const math::AdamWStep update = training->step.update;
  if (finite)
    elements.visit([&](std::size_t at, Kind kind) {
      if (!kind.trained) return;
      auto g = detail::load4(static_cast<const T*>(gradients) + at);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (factor < 1) g.at[j] *= static_cast<T>(factor);
        math::adamw(parameters[at + j], mean[at + j], square[at + j], g.at[j], update);
        if (kind.rate) derived[at + j] = math::rate_of(parameters[at + j]);
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
