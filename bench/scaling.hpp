// How a training step and decoding grow with each size of a model and of its input: what is measured, for one mixer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mamba/composite.hpp>

#include "support/progress.hpp"

namespace scaling {

inline constexpr mamba::Config base{};  // the composite task's sizes, from which each axis departs

// What is measured, but for the sizes that are template arguments.
struct Plan {
  std::vector<int> batches{1, 4, 16, 64, 256, 1024, 4096};
  std::vector<int> lengths{8, 32, 128, 512, 2048, 8192, 32768, 65536};
  std::vector<int> layer_counts{1, 2, 4, 8, 16};
  int tokens = 65536;       // a step's, whatever the sequences' length
  int batch = 256;          // where the batch does not vary
  double budget = 1;        // seconds of repeats for each point
  std::size_t repeats = 3;  // at least
  int threads = 1;

  // Every line has its ends, and every model that was compiled runs.
  static Plan quick() {
    return {.batches = {1, 16, 256},
            .lengths = {8, 128, 1024},
            .layer_counts = {1, 4},
            .tokens = 1024,
            .batch = 16,
            .budget = 0,
            .repeats = 1};
  }
};

// The input of one point, and the model's depth; the length of decoding is what the sequence has had before.
struct Shape {
  int layers = 2, batch = 1, length = 8;
};

struct Measurement {
  std::string axis;
  int value;
  std::string mixer, work;
  double seconds, tokens;  // of a training step or of a decoding step
  std::size_t bytes;
};

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

template <class Mixer>
class Measure {
 public:
  explicit Measure(const Plan& plan) : plan_(plan) {}

  std::vector<Measurement> all() {
    for (const int batch : plan_.batches) both<base>("batch", batch, {.batch = batch}, {.batch = batch});
    for (const int length : plan_.lengths)
      both<base>("length", length, {.batch = plan_.tokens / length, .length = length}, {.length = length});
    for (const int length : plan_.lengths) training<base>("sequence", length, {.length = length});
    states(std::integer_sequence<int, 8, 16, 32, 64, 128, 256>());
    widths(std::integer_sequence<int, 16, 32, 64, 128, 256>());
    for (const int layers : plan_.layer_counts)
      both<base>("layers", layers, {.layers = layers, .batch = plan_.batch}, {.layers = layers});
    return std::move(results_);
  }

 private:
  template <int... d_state>
  void states(std::integer_sequence<int, d_state...>) {
    (both<mamba::Config{.d_state = d_state}>("d_state", d_state, {.batch = plan_.batch}, {}), ...);
  }
  template <int... d_model>
  void widths(std::integer_sequence<int, d_model...>) {
    (both<mamba::Config{.d_model = d_model}>("d_model", d_model, {.batch = plan_.batch}, {}), ...);
  }

  template <mamba::Config config>
  void both(const char* axis, int value, Shape trained, Shape decoded) {
    training<config>(axis, value, trained);
    decoding<config>(axis, value, decoded);
  }

  // A new model for each point: what it holds afterwards is what this point needs.
  template <mamba::Config config>
  auto model_of(int layers) const {
    return mamba::MambaForComposite<config, Mixer>({.n_layers = layers, .gamma = 1.0, .threads = plan_.threads});
  }

  template <mamba::Config config>
  void training(const char* axis, int value, Shape shape) {
    auto model = model_of<config>(shape.layers);
    const auto ids = some_tokens(shape.batch * shape.length), labels = some_tokens(shape.batch);
    const double seconds = median_seconds(plan_, [&] {
      model.engine().parameters_changed();  // as by the optimiser that follows a step
      model.loss_and_gradients(ids, labels);
    });
    add({axis, value, Mixer::name, "training", seconds, static_cast<double>(ids.size()), model.memory_bytes()});
  }

  template <mamba::Config config>
  void decoding(const char* axis, int value, Shape shape) {
    auto model = model_of<config>(shape.layers);
    auto state = model.initial_state(shape.batch);
    constexpr int piece = 64;  // a prompt in pieces needs no more memory than one of them
    for (int t = 0; t < shape.length; t += piece)
      model.prefill(some_tokens(shape.batch * std::min(piece, shape.length - t)), shape.batch, state);
    const auto tokens = some_tokens(shape.batch);
    const double seconds = median_seconds(plan_, [&] { model.step(tokens, state); });
    add({axis, value, Mixer::name, "decoding", seconds, static_cast<double>(shape.batch),
         model.memory_bytes() + state.bytes()});
  }

  void add(Measurement m) {
    std::fprintf(stderr, "%s %s, %s %d: %.3g ms a step, %.3g us a token, %.3g MB\n", m.mixer.c_str(), m.work.c_str(),
                 m.axis.c_str(), m.value, 1e3 * m.seconds, 1e6 * m.seconds / m.tokens,
                 1e-6 * static_cast<double>(m.bytes));
    results_.push_back(std::move(m));
  }

  Plan plan_;
  std::vector<Measurement> results_;
};

// A translation unit each: these are 10 models.
std::vector<Measurement> measure_mamba1(const Plan& plan);
std::vector<Measurement> measure_mamba2(const Plan& plan);

}  // namespace scaling
