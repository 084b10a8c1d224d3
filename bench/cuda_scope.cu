// Both scopes of a GPU at the same sizes, from which the rule of sizes was drawn (engine/cuda_scope.hpp,
// cuda::ScopeTuning): <call>/<scope>/<mixer>/<d_model>/<batch>/<length>, two layers, vocabulary 256. Timed from the
// host's call to its return. Counter `rule`: 1 where a model that is asked nowhere in particular runs at this scope.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_device.hpp"

namespace {

using namespace mamba;

inline constexpr Config small_mamba1{.vocab_size = 256, .d_model = 32, .d_state = 16},
    small_mamba2{.vocab_size = 256, .d_model = 32, .d_state = 64},
    large_mamba1{.vocab_size = 256, .d_model = 128, .d_state = 16},
    large_mamba2{.vocab_size = 256, .d_model = 128, .d_state = 64};

template <Config config, class Backend, class... Policies>
void run(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  const auto kind = static_cast<CallKind>(state.range(0));
  const auto batch = static_cast<int>(state.range(1)), length = static_cast<int>(state.range(2));
  MambaLMHeadModel<config, Backend, Policies...> model({.n_layers = 2, .seed = 1});
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch) * static_cast<std::size_t>(length));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7919 % 256);
  auto decoding = model.initial_state(batch);
  const auto call = [&] {
    if (kind == CallKind::gradients) model.loss_and_gradients(ids, batch);
    else if (kind == CallKind::forward) model.prefill(ids, batch, decoding);
    else model.step(ids, decoding);
  };
  call();
  for (auto _ : state) call();
  using Rule = ScopeRule<Resolve<config, Backend, Policies...>>;
  state.counters["rule"] =
      Rule::prefers_grid(1.0 * batch * length, length, kind) == std::is_same_v<Backend, CudaGrid> ? 1 : 0;
}

template <Config config, class Backend, class... Policies>
void add_rows(const std::string& name) {
  const auto add = [&](const char* what, CallKind kind, auto... sizes) {
    auto* const rows = benchmark::RegisterBenchmark((what + name).c_str(), run<config, Backend, Policies...>);
    rows->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"", "batch", "length"});
    for (const auto& [batch, length] : {sizes...}) rows->Args({static_cast<int>(kind), batch, length});
  };
  using Size = std::pair<int, int>;
  add("step/", CallKind::step, Size{1, 1}, Size{8, 1}, Size{64, 1});
  for (const CallKind kind : {CallKind::forward, CallKind::gradients})
    add(kind == CallKind::forward ? "forward/" : "gradients/", kind, Size{1, 64}, Size{1, 1024}, Size{8, 256},
        Size{32, 32}, Size{256, 8}, Size{1024, 32});
}
// With the same sizes at both.
template <Config config, class... Policies>
void add_scopes(const std::string& name) {
  add_rows<config, CudaBlock, Policies...>("block/" + name + "/d_model:" + std::to_string(config.d_model));
  add_rows<config, CudaGrid, Policies...>("grid/" + name + "/d_model:" + std::to_string(config.d_model));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_scopes<small_mamba1>("mamba1"), add_scopes<large_mamba1>("mamba1");
  add_scopes<small_mamba2, Mamba2<64>>("mamba2"), add_scopes<large_mamba2, Mamba2<64>>("mamba2");
  benchmark::RunSpecifiedBenchmarks();
}
