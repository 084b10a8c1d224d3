// Whole steps on the GPU, from drawing the batch to AdamW: training_step/cuda/float/<mixer>/<layers>/<batch>. Timed by the
// device's events over many steps that the host does not watch. With a floor: all float lanes busy, from the operations of
// the scan alone.
#include <benchmark/benchmark.h>

#include <mamba/composite.hpp>

namespace {

using namespace mamba;

inline constexpr Config config{};

// Milliseconds on the device between start() and stop().
class DeviceTimer {
 public:
  DeviceTimer() { cuda::check(cudaEventCreate(&begin_), "cudaEventCreate"), cuda::check(cudaEventCreate(&end_), "cudaEventCreate"); }
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;
  ~DeviceTimer() { cudaEventDestroy(begin_), cudaEventDestroy(end_); }

  void start() { cuda::check(cudaEventRecord(begin_), "cudaEventRecord"); }
  double stop() {
    cuda::check(cudaEventRecord(end_), "cudaEventRecord");
    cuda::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// A token costs a layer of Mamba-1 about 240,000 operations of the float lanes, forward and backward: 8,192 states, each
// with an exponential.
double floor_milliseconds(double tokens, int layers) {
  int multiprocessors = 0, kilohertz = 0;
  cuda::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  cuda::check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0), "cudaDeviceGetAttribute");
  return 240'000.0 * tokens * layers / (128.0 * multiprocessors * kilohertz);
}

template <class... Policies>
void training_step(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  constexpr int steps = 50;  // of a reading
  const auto layers = static_cast<int>(state.range(0)), batch = static_cast<int>(state.range(1));
  const task::CompositeFunction task;
  MambaForComposite<config, Cuda, Policies...> model({.n_layers = layers, .gamma = 1.0});
  Trainer trainer(model, task, {.batch_size = batch, .schedule = {.total = 1'000'000}});
  trainer.run(steps);
  DeviceTimer timer;
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
    state.counters["share_of_floor"] = floor_milliseconds(8.0 * batch, layers) / milliseconds;
}

// The logits of a batch, with the way of tokens and logits to and from the device.
template <class... Policies>
void forward(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto layers = static_cast<int>(state.range(0)), batch = static_cast<int>(state.range(1));
  const task::CompositeFunction task;
  MambaForComposite<config, Cuda, Policies...> model({.n_layers = layers, .gamma = 1.0});
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch) * 8);
  for (int i = 0; i < batch; ++i) task.train_sample(i, ids.data() + static_cast<std::size_t>(i) * 8);
  DeviceTimer timer;
  for (auto _ : state) {
    timer.start();
    benchmark::DoNotOptimize(model(ids, batch).data());
    state.SetIterationTime(timer.stop() / 1e3);
  }
}

void sizes(benchmark::internal::Benchmark* b) { b->ArgNames({"layers", "batch"})->UseManualTime()->Unit(benchmark::kMillisecond); }

BENCHMARK(training_step<Mamba1>)->Name("training_step/cuda/float/mamba1")->Apply(sizes)->Args({2, 256})->Args({2, 2048})->Args({5, 2048})->Args({7, 2048});
BENCHMARK(training_step<Mamba2<>>)->Name("training_step/cuda/float/mamba2")->Apply(sizes)->Args({2, 256})->Args({2, 2048})->Args({5, 2048});
BENCHMARK(forward<Mamba1>)->Name("forward/cuda/float/mamba1")->Apply(sizes)->Args({2, 2048});
BENCHMARK(forward<Mamba2<>>)->Name("forward/cuda/float/mamba2")->Apply(sizes)->Args({2, 2048});

}  // namespace
