// Training steps and forward passes of the composite task's model: training_step/cuda/float/<mixer>/<layers>/<batch>,
// with a floor: all float lanes busy, from the operations of the scan alone.
#include "cuda_training.hpp"

namespace {

using namespace mamba;

inline constexpr Config config{};

template <class... Policies>
void training_step(benchmark::State& state) {
  bench::training_step<config, task::CompositeFunction, Cuda, Policies...>(state);
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
  bench::time_readings(state, 1, [&] { benchmark::DoNotOptimize(model(ids, batch).data()); });
}

BENCHMARK(training_step<Mamba1>)
    ->Name("training_step/cuda/float/mamba1")
    ->Apply(bench::layers_and_batch)
    ->Args({2, 256})
    ->Args({2, 2048})
    ->Args({5, 2048})
    ->Args({7, 2048});
BENCHMARK(training_step<Mamba2<>>)
    ->Name("training_step/cuda/float/mamba2")
    ->Apply(bench::layers_and_batch)
    ->Args({2, 256})
    ->Args({2, 2048})
    ->Args({5, 2048})
    ->Args({7, 2048});
BENCHMARK(training_step<Mamba3<>>)
    ->Name("training_step/cuda/float/mamba3")
    ->Apply(bench::layers_and_batch)
    ->Args({2, 256})
    ->Args({2, 2048})
    ->Args({5, 2048})
    ->Args({7, 2048});
BENCHMARK(forward<Mamba1>)->Name("forward/cuda/float/mamba1")->Apply(bench::layers_and_batch)->Args({2, 2048});
BENCHMARK(forward<Mamba2<>>)->Name("forward/cuda/float/mamba2")->Apply(bench::layers_and_batch)->Args({2, 2048});
BENCHMARK(forward<Mamba3<>>)->Name("forward/cuda/float/mamba3")->Apply(bench::layers_and_batch)->Args({2, 2048});

}  // namespace
