// Models whose weights and activations are stored in 16 bits beside the same models in float, on any backend.
#pragma once

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>

namespace support {

inline constexpr int bfloat16_batch = 48;

struct BFloat16Samples {
  std::vector<std::int32_t> ids, labels;
  BFloat16Samples() : ids(bfloat16_batch * 8), labels(bfloat16_batch) {
    const mamba::task::CompositeFunction task;
    for (std::size_t i = 0; i < bfloat16_batch; ++i)
      labels[i] = task.train_sample(static_cast<std::int64_t>(i), ids.data() + 8 * i);
  }
};

// |a - b| / |a|, by Euclidean norms.
template <class Values>
double distance(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y), size += x * x;
  }
  return std::sqrt(difference / size);
}

// A stored number is off by 2^-8 of itself at most, by less than this on the mean; through two layers it becomes some
// times that.
inline constexpr double bfloat16_unit = 0x1p-9;

// Logits, the loss and every tensor's gradient on the backend, by float's on the CPU.
template <class Backend, mamba::Config c, class... Policies>
void check_bfloat16(const char* name) {
  INFO(name);
  constexpr double unit = bfloat16_unit;
  const BFloat16Samples samples;
  const mamba::ModelOptions options{.n_layers = 2, .gamma = 0.6, .seed = 5, .threads = 2};
  mamba::MambaForComposite<c, float, Policies...> exact(options);
  mamba::MambaForComposite<c, Policies..., mamba::BFloat16, Backend> model(options);
  static_assert(std::is_same_v<typename decltype(model)::Scalar, float>);
  CHECK(model.state_dict().at("backbone.embedding.weight").values ==
        exact.state_dict().at("backbone.embedding.weight").values);  // the master weights are float

  CHECK(distance(exact.logits(samples.ids, bfloat16_batch).values(),
                 model.logits(samples.ids, bfloat16_batch).values()) < 8 * unit);
  const double loss = exact.loss_and_gradients(samples.ids, samples.labels);
  CHECK(std::abs(model.loss_and_gradients(samples.ids, samples.labels) / loss - 1) < unit);
  // How well a tensor's gradient is determined at all: by float's, of weights that are rounded as the stored ones.
  auto rounded_weights = exact.state_dict();
  for (auto& [tensor, weights] : rounded_weights)
    for (float& x : weights.values) x = mamba::BFloat16(x);
  const auto gradients = exact.gradient_dict(), of_stored = model.gradient_dict();
  exact.load_state_dict(rounded_weights);
  exact.loss_and_gradients(samples.ids, samples.labels);
  const auto of_rounded = exact.gradient_dict();
  for (const auto& [tensor, gradient] : gradients) {
    INFO(tensor);
    const double off = distance(gradient.values, of_stored.at(tensor).values),
                 sensitivity = distance(gradient.values, of_rounded.at(tensor).values);
    CAPTURE(sensitivity);
    CHECK(off < 12 * unit + 6 * sensitivity);
    CHECK(off > 0);
  }
}

// Models of all kinds of shapes and policies.
template <class Backend>
void check_bfloat16_variants() {
  constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};
  constexpr mamba::Config odd{.vocab_size = 101, .d_model = 24, .d_state = 5, .d_conv = 3};
  // Rows that end in the middle of a vector, and heads and states that are no multiples of four.
  constexpr mamba::Config narrow{.vocab_size = 101, .d_model = 18, .d_state = 5, .expand = 1};
  check_bfloat16<Backend, narrow, mamba::Mamba1>("mamba1, narrow");
  check_bfloat16<Backend, narrow, mamba::Mamba2<6>>("mamba2, narrow");
  check_bfloat16<Backend, config, mamba::Mamba1>("mamba1");
  check_bfloat16<Backend, odd, mamba::Mamba1>("mamba1, odd sizes");
  check_bfloat16<Backend, config, mamba::Mamba1, mamba::FrozenOnesConv>("mamba1, ones");
  check_bfloat16<Backend, config, mamba::Mamba1, mamba::LearnedPosition<8>, mamba::LinearConvResidual>(
      "mamba1, linear residual, positions");
  check_bfloat16<Backend, config, mamba::Mamba1, mamba::SinusoidalPosition, mamba::ConvGate>("mamba1, gate, sinusoids");
  check_bfloat16<Backend, odd, mamba::Mamba1, mamba::UntiedHead>("mamba1, odd sizes, untied");
  check_bfloat16<Backend, config, mamba::Mamba2<>>("mamba2");
  check_bfloat16<Backend, odd, mamba::Mamba2<>>("mamba2, odd sizes");
  check_bfloat16<Backend, config, mamba::Mamba2<16, 2>, mamba::ConvResidual>("mamba2, heads and groups, residual");
}

// Decoding, probes and interventions on the backend.
template <class Backend, class Mixer>
void check_bfloat16_calls() {
  constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};
  constexpr double unit = bfloat16_unit;
  constexpr int batch = bfloat16_batch;
  const BFloat16Samples samples;
  mamba::MambaForComposite<config, Mixer, mamba::BFloat16, Backend> model({.n_layers = 2, .gamma = 0.6, .seed = 5});
  mamba::MambaForComposite<config, Mixer> exact({.n_layers = 2, .gamma = 0.6, .seed = 5});
  auto state = model.initial_state(batch);
  std::vector<std::int32_t> tokens(batch);
  mamba::Matrix<float> last;
  for (std::size_t t = 0; t < 8; ++t) {
    for (std::size_t i = 0; i < batch; ++i) tokens[i] = samples.ids[8 * i + t];
    last = model.step(tokens, state);
  }
  const auto all = model.logits(samples.ids, batch);
  for (std::ptrdiff_t i = 0; i < batch; ++i) CHECK(distance(all.row(8 * i + 7), last.row(i)) < 8 * unit);

  // A visitor gets numbers as they are computed with, and changes what is stored: in the last row of a sequence, for
  // what an earlier one passes on may be less than 16 bits hold.
  const auto before =
      model.visit(samples.ids, batch, [](mamba::Point, int, mamba::MatrixView<float>, std::span<const int>) {});
  const auto after = model.visit(samples.ids, batch, [](mamba::Point point, int, mamba::MatrixView<float> rows, auto) {
    if (point == mamba::Point::conv_output) std::fill(rows.row(7).begin(), rows.row(7).end(), 0.0F);
  });
  CHECK(distance(before.values(), after.values()) > 0);
  CHECK(distance(exact.activations(mamba::Point::conv_output, samples.ids, batch)[1].values(),
                 model.activations(mamba::Point::conv_output, samples.ids, batch)[1].values()) < 8 * unit);

  std::vector<std::uint8_t> mask(samples.ids.size());
  for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
  const std::vector<std::int32_t> reference(samples.ids.rbegin(), samples.ids.rend());
  for (const mamba::Reading reading : {mamba::Reading::strict, mamba::Reading::downstream})
    CHECK(distance(exact.blocked(samples.ids, batch, mask, {}, reading).values(),
                   model.blocked(samples.ids, batch, mask, {}, reading).values()) < 8 * unit);
  CHECK(distance(exact.substituted(samples.ids, reference, batch, mask).values(),
                 model.substituted(samples.ids, reference, batch, mask).values()) < 8 * unit);
}

}  // namespace support
