// Decoding with billions of parameters, one sequence: generate/cuda/<precision>/<model>. A step reads every weight
// once, which is its floor. The sizes are those of the hub's mamba-1.4b and mamba-2.8b, and about 1.5 billion
// parameters of Mamba-3; the weights are random. The host has the parameters in float, 11 GB for the larger model, and
// making it takes longer than the row's steps.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda_device.hpp"

namespace {

using namespace mamba;

inline constexpr Config of_1400M{.vocab_size = 50280, .d_model = 2048, .d_state = 16},
    of_2800M{.vocab_size = 50280, .d_model = 2560, .d_state = 16};

inline constexpr Config of_1500M{.vocab_size = 128256, .d_model = 2048, .d_state = 128};
inline constexpr Mamba3Config heads_of_64{.headdim = 64};

template <class Precision, const Config& config, int n_layers, class... Policies>
void generate(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  MambaLMHeadModel<config, Cuda, Precision, Policies...> model({.n_layers = n_layers, .seed = 1});
  bench::Work weights;
  for (const auto& placed : model.engine().placed())
    weights.bytes += static_cast<double>(sizeof(typename StorageOf<Precision>::Weights) * placed.parameter.size());
  auto decoding = model.initial_state(1);
  std::vector<std::int32_t> ids{42};
  ids = model.next_tokens(ids, 1, decoding);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (auto _ : state) ids = model.next_tokens(ids, 1, decoding);
  const double milliseconds =
      std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / static_cast<double>(state.iterations());
  const double floor = bench::floor_milliseconds(weights);
  state.counters["tokens/s"] = 1e3 / milliseconds;
  state.counters["weight_bytes"] = weights.bytes;
  state.counters["floor_ms"] = floor;
  state.counters["share_of_floor"] = floor / milliseconds;
  state.counters["held_bytes"] = static_cast<double>(model.memory_bytes());
}

// So many steps that they take some tenths of a second; fewer would have the model made again.
void steps(benchmark::internal::Benchmark* b) { b->UseRealTime()->Iterations(300)->Unit(benchmark::kMillisecond); }

#define MAMBA_ROWS(model, ...)                                                                     \
  BENCHMARK(generate<BFloat16, __VA_ARGS__>)->Name("generate/cuda/bfloat16/" model)->Apply(steps); \
  BENCHMARK(generate<Int8Weights, __VA_ARGS__>)->Name("generate/cuda/int8/" model)->Apply(steps)
MAMBA_ROWS("mamba1_1.4B", of_1400M, 48);
MAMBA_ROWS("mamba1_2.8B", of_2800M, 64);
MAMBA_ROWS("mamba3_1.5B", of_1500M, 48, Mamba3<heads_of_64>);

}  // namespace
