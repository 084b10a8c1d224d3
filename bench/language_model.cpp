// A language model of 130 million parameters (24 layers, d_model 768, vocabulary 50,280; Mamba-2: d_state 128, heads of
// 64), one token after the other, and a prompt: memory is read once a token, and how fast it can be read is measured
// beside it (machine.cpp). In each precision that weights can be stored in.
#include <benchmark/benchmark.h>
#include <memory>

#include <mamba/language_model.hpp>

namespace {

template <class Mixer, class Precision>
using Model = mamba::MambaLMHeadModel<
    mamba::Config{.vocab_size = 50280, .d_model = 768, .d_state = std::is_same_v<Mixer, mamba::Mamba1> ? 16 : 128},
    Mixer, Precision>;
using Heads = mamba::Mamba2<64>;

// Rows of one kind and number of threads share a model.
template <class M>
M& model(int threads) {
  static std::unique_ptr<M> held;
  static int of = -1;
  if (of != threads || !held) {
    held.reset();
    held = std::make_unique<M>(mamba::ModelOptions{.n_layers = 24, .seed = 1, .threads = threads});
    of = threads;
  }
  return *held;
}

// Bytes that a token reads.
template <class M>
std::size_t weight_bytes(const M& m) {
  using Stored = typename M::Architecture::WeightStorage;
  std::size_t sum = 0;
  for (const auto& placed : m.engine().placed())
    sum += placed.parameter.size() *
           (placed.parameter.template in_storage<Stored>() ? sizeof(Stored) : sizeof(typename M::Scalar));
  return sum;
}

template <class M>
void decode(benchmark::State& state) {
  auto& m = model<M>(static_cast<int>(state.range(0)));
  auto decoding = m.initial_state(1);
  const std::int32_t token[] = {42};
  m.step(token, decoding);
  for (auto _ : state) benchmark::DoNotOptimize(m.step(token, decoding).data());
  const auto tokens = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] =
      benchmark::Counter(tokens * static_cast<double>(weight_bytes(m)), benchmark::Counter::kIsRate);
}

// A prompt of so many tokens through an empty state.
template <class M>
void prefill(benchmark::State& state) {
  auto& m = model<M>(static_cast<int>(state.range(0)));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(state.range(1)));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 97 % 50280);
  for (auto _ : state) {
    auto decoding = m.initial_state(1);
    benchmark::DoNotOptimize(m.prefill(ids, 1, decoding).data());
  }
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(ids.size()), benchmark::Counter::kIsRate);
}

}  // namespace

#define MAMBA_ROWS(name, ...)            \
  BENCHMARK(decode<Model<__VA_ARGS__>>)  \
      ->Name("decode/cpu/" name)         \
      ->ArgName("threads")               \
      ->Arg(1)                           \
      ->Arg(0)                           \
      ->UseRealTime()                    \
      ->Unit(benchmark::kMillisecond);   \
  BENCHMARK(prefill<Model<__VA_ARGS__>>) \
      ->Name("prefill/cpu/" name)        \
      ->ArgNames({"threads", "length"})  \
      ->Args({0, 256})                   \
      ->UseRealTime()                    \
      ->Unit(benchmark::kMillisecond)
MAMBA_ROWS("float/mamba1_130M", mamba::Mamba1, float);
MAMBA_ROWS("bfloat16/mamba1_130M", mamba::Mamba1, mamba::BFloat16);
MAMBA_ROWS("int8/mamba1_130M", mamba::Mamba1, mamba::Int8Weights);
MAMBA_ROWS("float/mamba2_130M", Heads, float);
MAMBA_ROWS("bfloat16/mamba2_130M", Heads, mamba::BFloat16);
MAMBA_ROWS("int8/mamba2_130M", Heads, mamba::Int8Weights);
