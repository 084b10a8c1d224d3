// Whole training steps on the GPU, from drawing the batch to AdamW, timed by the device's events over many steps: those
// that the device draws itself the host does not watch.
#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <type_traits>

#include "cuda_readings.hpp"

namespace mamba::bench {

// The float lanes' floor: a token costs a layer of Mamba-1 about 240,000 operations, forward and backward: 8,192
// states, each with an exponential; with other sizes as many for each state.
inline double floor_of_scans(const Config& config, double tokens, int layers) {
  return floor_milliseconds({.lane_ops = 240'000.0 / 8192 * config.d_inner() * config.d_state * tokens * layers});
}

// Of layers and batch as the benchmark's arguments say.
template <const Config& config, class Task, class... Policies>
void training_step(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  constexpr int steps = 50;  // of a reading
  const auto layers = static_cast<int>(state.range(0)), batch = static_cast<int>(state.range(1));
  const Task task;
  MambaForComposite<config, Policies...> model({.n_layers = layers, .gamma = 1.0});
  Trainer trainer(model, task, {.batch_size = batch, .schedule = {.total = 1'000'000}});
  const auto run = [&] {
    trainer.run(steps);
    cuda::check(cudaDeviceSynchronize(), "training");  // steps that the host leads end with work for the device
  };
  run();
  const double milliseconds = time_readings(state, steps, run);
  state.counters["sequences/s"] = 1e3 * batch / milliseconds;
  if constexpr (std::is_same_v<typename decltype(model)::Architecture::Mixer, Mamba1>)
    state.counters["share_of_floor"] = floor_of_scans(config, 1.0 * task.length * batch, layers) / milliseconds;
}

// A reading is of 50 steps and counts as one, so how many readings there are is not left to the clock.
inline void layers_and_batch(benchmark::internal::Benchmark* b) {
  b->ArgNames({"layers", "batch"})->UseManualTime()->Iterations(20)->Unit(benchmark::kMillisecond);
}

}  // namespace mamba::bench
