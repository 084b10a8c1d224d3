// Whole steps of the composite task's model, forward passes and decoding; 0 threads are all cores.
#include <benchmark/benchmark.h>

#include <mamba/composite.hpp>

namespace {

inline constexpr mamba::Config config{};

// Ids and labels of the task itself.
struct Data {
  std::vector<std::int32_t> ids, labels;
  explicit Data(int batch) : ids(static_cast<std::size_t>(batch) * 8), labels(static_cast<std::size_t>(batch)) {
    const mamba::task::CompositeFunction task;
    for (std::size_t i = 0; i < labels.size(); ++i)
      labels[i] = task.train_sample(static_cast<std::int64_t>(i), ids.data() + 8 * i);
  }
};

template <class... Policies>
struct Setup {
  mamba::MambaForComposite<config, Policies...> model;
  Data data;
  explicit Setup(const benchmark::State& state)
      : model(
            {.n_layers = static_cast<int>(state.range(0)), .gamma = 1.0, .threads = static_cast<int>(state.range(2))}),
        data(static_cast<int>(state.range(1))) {}

  void count(benchmark::State& state) const {
    const auto sequences = static_cast<double>(state.iterations() * state.range(1));
    state.counters["sequences/s"] = benchmark::Counter(sequences, benchmark::Counter::kIsRate);
    state.counters["tokens/s"] = benchmark::Counter(8 * sequences, benchmark::Counter::kIsRate);
    state.counters["held_bytes"] = static_cast<double>(model.memory_bytes());
  }
};

template <class... Policies>
void training_step(benchmark::State& state) {
  Setup<Policies...> s(state);
  mamba::AdamW optimizer(s.model);
  for (auto _ : state) {
    benchmark::DoNotOptimize(s.model.loss_and_gradients(s.data.ids, s.data.labels));
    mamba::clip_grad_norm(s.model, 1.0);
    optimizer.step();
  }
  s.count(state);
}

template <class... Policies>
void forward(benchmark::State& state) {
  Setup<Policies...> s(state);
  for (auto _ : state) benchmark::DoNotOptimize(s.model(s.data.ids, static_cast<int>(state.range(1))).data());
  s.count(state);
}

// One token after the other, one sequence, one core.
template <class... Policies>
void decode(benchmark::State& state) {
  mamba::MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .threads = 1});
  auto decoding = model.initial_state(1);
  const std::int32_t token[] = {42};
  for (auto _ : state) benchmark::DoNotOptimize(model.step(token, decoding).data());
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  state.counters["state_bytes"] = static_cast<double>(decoding.bytes());
}

using namespace mamba;

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"layers", "batch", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK(training_step<float>)
    ->Name("training_step/cpu/float/mamba1")
    ->Apply(sizes)
    ->ArgsProduct({{2}, {128, 256, 2048}, {1, 0}})
    ->Args({5, 2048, 0})
    ->Args({7, 2048, 0});
BENCHMARK(training_step<double>)->Name("training_step/cpu/double/mamba1")->Apply(sizes)->Args({2, 256, 0});
BENCHMARK(training_step<OnesConv>)->Name("training_step/cpu/float/mamba1_ones")->Apply(sizes)->Args({2, 2048, 0});
BENCHMARK(training_step<LearnedPosition<8>>)
    ->Name("training_step/cpu/float/mamba1_learned_position")
    ->Apply(sizes)
    ->Args({2, 2048, 0});
BENCHMARK(training_step<SinusoidalPosition>)
    ->Name("training_step/cpu/float/mamba1_sinusoidal_position")
    ->Apply(sizes)
    ->Args({2, 2048, 0});
BENCHMARK(training_step<ConvResidual>)
    ->Name("training_step/cpu/float/mamba1_conv_residual")
    ->Apply(sizes)
    ->Args({2, 2048, 0});
BENCHMARK(training_step<ConvGate>)->Name("training_step/cpu/float/mamba1_conv_gate")->Apply(sizes)->Args({2, 2048, 0});
BENCHMARK(training_step<LinearConvResidual>)
    ->Name("training_step/cpu/float/mamba1_linear_conv_residual")
    ->Apply(sizes)
    ->Args({2, 2048, 0});
BENCHMARK(training_step<Mamba2<>>)
    ->Name("training_step/cpu/float/mamba2")
    ->Apply(sizes)
    ->ArgsProduct({{2}, {256, 2048}, {1, 0}})
    ->Args({5, 2048, 0});
BENCHMARK(training_step<Mamba3<>>)
    ->Name("training_step/cpu/float/mamba3")
    ->Apply(sizes)
    ->ArgsProduct({{2}, {256, 2048}, {1, 0}})
    ->Args({5, 2048, 0});
BENCHMARK(forward<float>)->Name("forward/cpu/float/mamba1")->Apply(sizes)->ArgsProduct({{2}, {256, 2048}, {1, 0}});
BENCHMARK(forward<Mamba2<>>)->Name("forward/cpu/float/mamba2")->Apply(sizes)->Args({2, 2048, 0});
BENCHMARK(forward<Mamba3<>>)->Name("forward/cpu/float/mamba3")->Apply(sizes)->Args({2, 2048, 0});
BENCHMARK(decode<float>)->Name("decode/cpu/float/mamba1");
BENCHMARK(decode<Mamba2<>>)->Name("decode/cpu/float/mamba2");
BENCHMARK(decode<Mamba3<>>)->Name("decode/cpu/float/mamba3");

}  // namespace
