// Training steps of larger models by Trainer (AdamW, clipping), beside loss and gradients of such a batch alone, both
// of the last token's logits: training_step/cuda/<precision>/<model>/<batch>/<length>. The row's time is the step's;
// counters: gradients_ms, and how many times as long the step takes.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cuda_readings.hpp"

namespace mamba::bench {

// Tokens without meaning: the cost does not depend on them.
struct MadeUpTokens {
  static constexpr bool draws_on_device = true;
  int length, vocab_size;
  MAMBA_HOST_DEVICE std::int64_t train_samples() const { return 64; }
  MAMBA_HOST_DEVICE std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    for (int t = 0; t < length; ++t) ids[t] = token(index * length + t);
    return token(index);
  }

 private:
  MAMBA_HOST_DEVICE std::int32_t token(std::int64_t i) const {
    return static_cast<std::int32_t>(i * 7919 % vocab_size);
  }
};

// Batch and length as the benchmark's arguments say.
template <const Config& config, int n_layers, class... Policies>
void step_and_gradients(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  constexpr int calls = 4;  // of a reading
  const auto batch = static_cast<int>(state.range(0)), length = static_cast<int>(state.range(1));
  MambaForComposite<config, Cuda, Policies...> model({.n_layers = n_layers, .seed = 1});
  const MadeUpTokens task{length, config.vocab_size};
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch) * static_cast<std::size_t>(length)), labels;
  for (int s = 0; s < batch; ++s)
    labels.push_back(task.train_sample(s, ids.data() + static_cast<std::ptrdiff_t>(s) * length));
  // Gradients and the optimiser's update are under way when a call returns.
  const auto wait = [] { cuda::check(cudaDeviceSynchronize(), "training"); };
  const auto gradients_alone = [&] {
    for (int i = 0; i < calls; ++i) model.loss_and_gradients(ids, labels);
    wait();
  };
  gradients_alone();
  DeviceTimer timer;
  timer.start();
  gradients_alone();
  const double gradients = timer.stop() / calls;

  Trainer trainer(model, task, {.batch_size = batch, .schedule = {.total = 1'000'000}});
  const auto steps = [&] { trainer.run(calls), wait(); };
  steps();
  const double step = time_readings(state, calls, steps);
  state.counters["gradients_ms"] = gradients;
  state.counters["step_over_gradients"] = step / gradients;
  state.counters["tokens/s"] = 1e3 * batch * length / step;
  state.counters["held_bytes"] = static_cast<double>(model.memory_bytes());
}

// As the hub's mamba-130m and mamba2-130m, and a narrower one, as backbones without a language model's head have it.
inline constexpr Config mamba1_130M{.vocab_size = 50277, .d_model = 768, .d_state = 16},
    mamba2_130M{.vocab_size = 50277, .d_model = 768, .d_state = 128, .pad_vocab_size_multiple = 16},
    narrow{.vocab_size = 1000, .d_model = 384, .d_state = 16};

// The rows of a precision; true.
template <class Precision>
bool add_steps() {
  const auto add = [](const std::string& model, void (*row)(benchmark::State&), int batch, int length) {
    benchmark::RegisterBenchmark(("training_step/cuda/" + std::string(precision_name<Precision>) + "/" + model).c_str(),
                                 row)
        ->Args({batch, length})
        ->UseManualTime()
        ->Iterations(5)
        ->Unit(benchmark::kMillisecond);
  };
  add("mamba1_130M", step_and_gradients<mamba1_130M, 24, Precision>, 8, 2048);
  add("mamba2_130M", step_and_gradients<mamba2_130M, 24, Precision, Mamba2<64>>, 8, 2048);
  add("mamba1_24x384", step_and_gradients<narrow, 24, Precision>, 8, 1300);
  return true;
}

}  // namespace mamba::bench
