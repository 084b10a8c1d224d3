// A language model of 130 million parameters on the GPU, random weights: <what>/cuda/<precision>/<mixer>_130M/<sizes>.
// gradients: loss and gradients of all positions; prefill: a prompt, and the logits behind it; decode: a token for each
// sequence, with the logits' way to the host; generate: the same with the next tokens chosen on the device;
// gradients_of_lengths and prefill_of_lengths: sequences of different lengths, as long as they are or padded. Timed
// from the host's call to its return.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "cuda_device.hpp"

namespace {

using namespace mamba;

// As the hub's mamba-130m and mamba2-130m; Mamba-3 with Mamba-2's sizes.
inline constexpr Config mamba1_config{.vocab_size = 50277, .d_model = 768, .d_state = 16, .pad_vocab_size_multiple = 8},
    mamba2_config{.vocab_size = 50277, .d_model = 768, .d_state = 128, .pad_vocab_size_multiple = 16};
inline constexpr Mamba3Config heads_of_64{.headdim = 64};
constexpr int n_layers = 24;

std::vector<std::int32_t> tokens(std::size_t count) {
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int32_t>(i * 7919 % 50277);
  return ids;
}

void count(benchmark::State& state, double tokens, std::size_t bytes) {
  state.counters["tokens/s"] =
      benchmark::Counter(tokens * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  state.counters["held_bytes"] = static_cast<double>(bytes);
}

template <const Config& config, Products products, class... Policies>
void gradients(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto batch = static_cast<int>(state.range(0)), length = static_cast<int>(state.range(1));
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1, .products = products});
  const auto ids = tokens(static_cast<std::size_t>(batch) * static_cast<std::size_t>(length));
  model.loss_and_gradients(ids, batch);
  for (auto _ : state) benchmark::DoNotOptimize(model.loss_and_gradients(ids, batch));
  count(state, 1.0 * batch * length, model.memory_bytes());
}

template <const Config& config, Products products, class... Policies>
void prefill(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto batch = static_cast<int>(state.range(0)), length = static_cast<int>(state.range(1));
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1, .products = products});
  const auto ids = tokens(static_cast<std::size_t>(batch) * static_cast<std::size_t>(length));
  auto decoding = model.initial_state(batch);
  model.prefill(ids, batch, decoding);
  for (auto _ : state) benchmark::DoNotOptimize(model.prefill(ids, batch, decoding).data());
  count(state, 1.0 * batch * length, model.memory_bytes());
}

// Sequences of different lengths, 1024 tokens on average: packed, or padded to the longest. Tokens are those that
// exist.
constexpr std::int32_t lengths[] = {701, 2048, 260, 1283, 911, 1531, 449, 1009};
struct SomeSequences {
  static constexpr int batch = static_cast<int>(std::size(lengths)), longest = 2048;
  static constexpr int existing = std::accumulate(std::begin(lengths), std::end(lengths), 0);
  std::vector<std::int32_t> ids = tokens(static_cast<std::size_t>(batch) * longest);
  std::span<const std::int32_t> own_lengths;  // none: padded

  explicit SomeSequences(bool packed) {
    if (packed) own_lengths = lengths;
  }
};

template <const Config& config, class... Policies>
void gradients_of_lengths(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const SomeSequences of(state.range(0) != 0);
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1});
  model.loss_and_gradients(of.ids, of.batch, of.own_lengths);
  for (auto _ : state) benchmark::DoNotOptimize(model.loss_and_gradients(of.ids, of.batch, of.own_lengths));
  count(state, of.existing, model.memory_bytes());
}

template <const Config& config, class... Policies>
void prefill_of_lengths(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const SomeSequences of(state.range(0) != 0);
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1});
  auto decoding = model.initial_state(of.batch);
  model.prefill(of.ids, of.batch, decoding, of.own_lengths);
  for (auto _ : state) benchmark::DoNotOptimize(model.prefill(of.ids, of.batch, decoding, of.own_lengths).data());
  count(state, of.existing, model.memory_bytes());
}

template <const Config& config, Products products, class... Policies>
void decode(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto batch = static_cast<int>(state.range(0));
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1, .products = products});
  const auto ids = tokens(static_cast<std::size_t>(batch));
  auto decoding = model.initial_state(batch);
  model.step(ids, decoding);
  for (auto _ : state) benchmark::DoNotOptimize(model.step(ids, decoding).data());
  count(state, batch, model.memory_bytes());
}

template <const Config& config, class... Policies>
void generate(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto batch = static_cast<int>(state.range(0));
  MambaLMHeadModel<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1});
  auto ids = tokens(static_cast<std::size_t>(batch));
  auto decoding = model.initial_state(batch);
  ids = model.next_tokens(ids, batch, decoding);
  for (auto _ : state) ids = model.next_tokens(ids, batch, decoding);
  count(state, batch, model.memory_bytes());
}

template <const Config& config, class... Policies>
void add_rows(const std::string& mixer) {
  const auto add = [&](const std::string& what, void (*run)(benchmark::State&), const char* precision) {
    return benchmark::RegisterBenchmark((what + "/cuda/" + precision + "/" + mixer + "_130M").c_str(), run)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("gradients", gradients<config, Products::exact, Policies...>, "float")->Args({8, 2048});
  add("gradients", gradients<config, Products::tf32, Policies...>, "tf32")->Args({8, 2048});
  add("prefill", prefill<config, Products::exact, Policies...>, "float")->Args({8, 2048})->Args({1, 16384});
  add("prefill", prefill<config, Products::tf32, Policies...>, "tf32")->Args({8, 2048});
  add("gradients", gradients<config, Products::exact, BFloat16, Policies...>, "bfloat16")->Args({8, 2048});
  add("prefill", prefill<config, Products::exact, BFloat16, Policies...>, "bfloat16")
      ->Args({8, 2048})
      ->Args({1, 16384});
  const auto both = [](benchmark::internal::Benchmark* rows) { rows->ArgName("packed")->Arg(1)->Arg(0); };
  both(add("gradients_of_lengths", gradients_of_lengths<config, Policies...>, "float"));
  both(add("gradients_of_lengths", gradients_of_lengths<config, BFloat16, Policies...>, "bfloat16"));
  both(add("prefill_of_lengths", prefill_of_lengths<config, Policies...>, "float"));
  both(add("prefill_of_lengths", prefill_of_lengths<config, BFloat16, Policies...>, "bfloat16"));
  add("decode", decode<config, Products::exact, Policies...>, "float")->Arg(1)->Arg(8)->Arg(64);
  add("generate", generate<config, Policies...>, "float")->Arg(1)->Arg(8)->Arg(16)->Arg(64)->Arg(256);
  add("generate", generate<config, BFloat16, Policies...>, "bfloat16")->Arg(1)->Arg(8)->Arg(16)->Arg(64)->Arg(256);
  add("generate", generate<config, Int8Weights, Policies...>, "int8")->Arg(1)->Arg(8)->Arg(16)->Arg(64)->Arg(256);
  add("prefill", prefill<config, Products::exact, Int8Weights, Policies...>, "int8")->Args({8, 2048});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_rows<mamba1_config>("mamba1");
  add_rows<mamba2_config, Mamba2<64>>("mamba2");
  add_rows<mamba2_config, Mamba3<heads_of_64>>("mamba3");
  benchmark::RunSpecifiedBenchmarks();
}
