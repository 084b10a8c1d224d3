// Whole steps on the GPU, from drawing the batch to AdamW: training_step/cuda/float/<mixer>/<layers>/<batch>. Timed by
// the device's events over many steps that the host does not watch. With a floor: all float lanes busy, from the
// operations of the scan alone. training_step_inverse is the inverse sequence task's (d_model 128, 29 tokens).
#include <benchmark/benchmark.h>

#include "cuda_device.hpp"

namespace {

using namespace mamba;

inline constexpr Config composite_config{}, inverse_config{.vocab_size = 1000, .d_model = 128};

// A token costs a layer of Mamba-1 about 240,000 operations of the float lanes, forward and backward: 8,192 states,
// each with an exponential; with other sizes as many for each state.
double floor_milliseconds(const Config& config, double tokens, int layers) {
  return bench::floor_milliseconds(
      {.lane_ops = 240'000.0 / 8192 * config.d_inner() * config.d_state * tokens * layers});
}

template <const Config& config, class Task, class... Policies>
void training_step(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  constexpr int steps = 50;  // of a reading
  const auto layers = static_cast<int>(state.range(0)), batch = static_cast<int>(state.range(1));
  const Task task;
  MambaForComposite<config, Cuda, Policies...> model({.n_layers = layers, .gamma = 1.0});
  Trainer trainer(model, task, {.batch_size = batch, .schedule = {.total = 1'000'000}});
  trainer.run(steps);
  bench::DeviceTimer timer;
  double milliseconds = 0;
  for (auto _ : state) {
    timer.start();
    trainer.run(steps);
    const double reading = timer.stop() / steps;
    milliseconds += reading;
    state.SetIterationTime(reading / 1e3);
  }
  milliseconds /= static_cast<double>(state.iterations());
  state.counters["sequences/s"] = 1e3 * batch / milliseconds;
  if constexpr (std::is_same_v<typename decltype(model)::Architecture::Mixer, Mamba1>)
    state.counters["share_of_floor"] = floor_milliseconds(config, 1.0 * task.length * batch, layers) / milliseconds;
}

// The logits of a batch, with the way of tokens and logits to and from the device.
template <class... Policies>
void forward(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto layers = static_cast<int>(state.range(0)), batch = static_cast<int>(state.range(1));
  const task::CompositeFunction task;
  MambaForComposite<composite_config, Cuda, Policies...> model({.n_layers = layers, .gamma = 1.0});
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch) * 8);
  for (int i = 0; i < batch; ++i) task.train_sample(i, ids.data() + static_cast<std::size_t>(i) * 8);
  bench::DeviceTimer timer;
  for (auto _ : state) {
    timer.start();
    benchmark::DoNotOptimize(model(ids, batch).data());
    state.SetIterationTime(timer.stop() / 1e3);
  }
}

// A reading is of 50 steps and counts as one, so how many readings there are is not left to the clock.
void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"layers", "batch"})->UseManualTime()->Iterations(20)->Unit(benchmark::kMillisecond);
}

template <class... Policies>
void composite_step(benchmark::State& state) {
  training_step<composite_config, task::CompositeFunction, Policies...>(state);
}
template <class... Policies>
void inverse_step(benchmark::State& state) {
  training_step<inverse_config, task::InverseSequence, Policies...>(state);
}

BENCHMARK(composite_step<Mamba1>)
    ->Name("training_step/cuda/float/mamba1")
    ->Apply(sizes)
    ->Args({2, 256})
    ->Args({2, 2048})
    ->Args({5, 2048})
    ->Args({7, 2048});
BENCHMARK(composite_step<Mamba2<>>)
    ->Name("training_step/cuda/float/mamba2")
    ->Apply(sizes)
    ->Args({2, 256})
    ->Args({2, 2048})
    ->Args({5, 2048})
    ->Args({7, 2048});
BENCHMARK(inverse_step<Mamba1>)->Name("training_step_inverse/cuda/float/mamba1")->Apply(sizes)->Args({2, 1024});
BENCHMARK(inverse_step<Mamba2<>>)->Name("training_step_inverse/cuda/float/mamba2")->Apply(sizes)->Args({2, 1024});
BENCHMARK(forward<Mamba1>)->Name("forward/cuda/float/mamba1")->Apply(sizes)->Args({2, 2048});
BENCHMARK(forward<Mamba2<>>)->Name("forward/cuda/float/mamba2")->Apply(sizes)->Args({2, 2048});

}  // namespace
