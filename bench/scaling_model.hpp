// What is measured of a model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <mamba/composite.hpp>

#include "scaling.hpp"
#include "support/progress.hpp"

namespace scaling {

#ifdef __CUDACC__
using Backend = mamba::Cuda;
#else
using Backend = mamba::Cpu;
#endif

// The median seconds of a call. Calls too short for the clock are timed several at a time.
template <class F>
double median_seconds(const Plan& plan, F&& call) {
  const auto timed = [&](int calls) {
    const double start = support::seconds_now();
    for (int i = 0; i < calls; ++i) call();
    return (support::seconds_now() - start) / calls;
  };
  call();  // allocates
  const int calls = std::clamp(static_cast<int>(0.002 / timed(1)), 1, 10000);
  std::vector<double> times;
  for (const double start = support::seconds_now();
       times.size() < plan.repeats || support::seconds_now() - start < plan.budget;)
    times.push_back(timed(calls));
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Tokens without meaning: the cost does not depend on them.
inline std::vector<std::int32_t> some_tokens(int count) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(base.vocab_size));
  return ids;
}

// A new model for each point: what it holds afterwards is what this point needs.
template <mamba::Config config, class Mixer>
auto model_of(const Plan& plan, int layers) {
  return mamba::MambaForComposite<config, Backend, Mixer>({.n_layers = layers, .gamma = 1.0, .threads = plan.threads});
}

template <mamba::Config config, class Mixer>
Measured training(const Plan& plan, Shape shape) {
  auto model = model_of<config, Mixer>(plan, shape.layers);
  const auto ids = some_tokens(shape.batch * shape.length), labels = some_tokens(shape.batch);
  const double seconds = median_seconds(plan, [&] {
    model.engine().parameters_changed();  // as by the optimiser that follows a step
    model.loss_and_gradients(ids, labels);
  });
  return {seconds, static_cast<double>(ids.size()), model.memory_bytes()};
}

template <mamba::Config config, class Mixer>
Measured decoding(const Plan& plan, Shape shape) {
  auto model = model_of<config, Mixer>(plan, shape.layers);
  auto state = model.initial_state(shape.batch);
  constexpr int piece = 64;  // a prompt in pieces needs no more memory than one of them
  for (int t = 0; t < shape.length; t += piece)
    model.prefill(some_tokens(shape.batch * std::min(piece, shape.length - t)), shape.batch, state);
  const auto tokens = some_tokens(shape.batch);
  const double seconds = median_seconds(plan, [&] { model.step(tokens, state); });
  return {seconds, static_cast<double>(shape.batch), model.memory_bytes() + state.bytes()};
}

template <class Mixer, mamba::Config config>
Model model() {
  return {Mixer::name, config, training<config, Mixer>, decoding<config, Mixer>};
}
template <class Mixer, int... d_state, int... d_model>
std::vector<Model> models_of(std::integer_sequence<int, d_state...>, std::integer_sequence<int, d_model...>) {
  return {model<Mixer, mamba::Config{.d_state = d_state}>()..., model<Mixer, mamba::Config{.d_model = d_model}>()...};
}
// The base's sizes, and those that differ in one.
template <class Mixer>
std::vector<Model> models_of() {
  return models_of<Mixer>(std::integer_sequence<int, 8, 16, 32, 64, 128, 256>(),
                          std::integer_sequence<int, 16, 64, 128, 256>());
}

}  // namespace scaling
