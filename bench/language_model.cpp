// A language model of 130 million parameters (24 layers, d_model 768, d_state 16, vocabulary 50,280), one token after
// the other: memory is read once a token, and how fast it can be read is measured beside it (machine.cpp).
#include <benchmark/benchmark.h>
#include <memory>

#include <mamba/language_model.hpp>

namespace {

inline constexpr mamba::Config config{.vocab_size = 50280, .d_model = 768, .d_state = 16, .d_conv = 4, .expand = 2};

// Both rows of a number of threads share a model.
mamba::MambaLMHeadModel<config>& model(int threads) {
  static std::unique_ptr<mamba::MambaLMHeadModel<config>> held;
  static int of = -1;
  if (of != threads) {
    held.reset();
    held = std::make_unique<mamba::MambaLMHeadModel<config>>(
        mamba::ModelOptions{.n_layers = 24, .seed = 1, .threads = threads});
    of = threads;
  }
  return *held;
}

void decode(benchmark::State& state) {
  auto& m = model(static_cast<int>(state.range(0)));
  auto decoding = m.initial_state(1);
  const std::int32_t token[] = {42};
  std::size_t weights = 0;
  for (const auto& placed : m.engine().placed()) weights += placed.parameter.size() * sizeof(float);
  m.step(token, decoding);
  for (auto _ : state) benchmark::DoNotOptimize(m.step(token, decoding).data());
  const auto tokens = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] =
      benchmark::Counter(tokens * static_cast<double>(weights), benchmark::Counter::kIsRate);
}

// A prompt of 256 tokens through an empty state.
void prefill(benchmark::State& state) {
  auto& m = model(static_cast<int>(state.range(0)));
  std::vector<std::int32_t> ids(256);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 97 % 50280);
  for (auto _ : state) {
    auto decoding = m.initial_state(1);
    benchmark::DoNotOptimize(m.prefill(ids, 1, decoding).data());
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * 256, benchmark::Counter::kIsRate);
}

BENCHMARK(decode)
    ->Name("decode/cpu/float/mamba1_130M")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(0)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(prefill)
    ->Name("prefill/cpu/float/mamba1_130M/256")
    ->ArgName("threads")
    ->Arg(0)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
