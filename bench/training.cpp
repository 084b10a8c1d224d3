// Whole steps of the composite task's model: training/cpu/float/<layers>/<batch>/<threads>, 0 threads being all cores.
#include <benchmark/benchmark.h>

#include <mamba/composite.hpp>

namespace {

inline constexpr mamba::Config config{};

// Ids and labels of the task itself.
struct Data {
  std::vector<std::int32_t> ids, labels;
  explicit Data(int batch) : ids(static_cast<std::size_t>(batch) * 8), labels(static_cast<std::size_t>(batch)) {
    const mamba::task::CompositeFunction task;
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = task.train_sample(static_cast<std::int64_t>(i), ids.data() + 8 * i);
  }
};

template <class Scalar>
struct Setup {
  mamba::MambaForComposite<config, Scalar> model;
  Data data;
  explicit Setup(const benchmark::State& state)
      : model({.n_layers = static_cast<int>(state.range(0)), .gamma = 1.0, .threads = static_cast<int>(state.range(2))}),
        data(static_cast<int>(state.range(1))) {}

  void count(benchmark::State& state) const {
    const auto sequences = static_cast<double>(state.iterations() * state.range(1));
    state.counters["sequences/s"] = benchmark::Counter(sequences, benchmark::Counter::kIsRate);
    state.counters["tokens/s"] = benchmark::Counter(8 * sequences, benchmark::Counter::kIsRate);
    state.counters["held_bytes"] = static_cast<double>(model.memory_bytes());
  }
};

template <class Scalar>
void training_step(benchmark::State& state) {
  Setup<Scalar> s(state);
  mamba::AdamW optimizer(s.model);
  for (auto _ : state) {
    benchmark::DoNotOptimize(s.model.loss_and_gradients(s.data.ids, s.data.labels));
    mamba::clip_grad_norm(s.model, 1.0);
    optimizer.step();
  }
  s.count(state);
}

template <class Scalar>
void forward(benchmark::State& state) {
  Setup<Scalar> s(state);
  for (auto _ : state) benchmark::DoNotOptimize(s.model(s.data.ids, static_cast<int>(state.range(1))).data());
  s.count(state);
}

BENCHMARK(training_step<float>)
    ->Name("training_step/cpu/float")
    ->ArgNames({"layers", "batch", "threads"})
    ->ArgsProduct({{2}, {128, 256, 2048}, {1, 0}})
    ->Args({5, 2048, 0})
    ->Args({7, 2048, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(training_step<double>)
    ->Name("training_step/cpu/double")
    ->ArgNames({"layers", "batch", "threads"})
    ->Args({2, 256, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(forward<float>)
    ->Name("forward/cpu/float")
    ->ArgNames({"layers", "batch", "threads"})
    ->ArgsProduct({{2}, {256, 2048}, {1, 0}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
