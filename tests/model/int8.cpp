// Models with weights of 8 bits, beside float models that hold what those stand for.
#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/generate.hpp>

#include "support/reference.hpp"

using namespace mamba;

namespace {

[[maybe_unused]] inline constexpr Mamba3Config of_heads{.headdim = 16, .rotates_all = true};
inline constexpr Mamba3Config of_ranks{.headdim = 20, .rank = 2};
inline constexpr Config config{.vocab_size = 70, .d_model = 40, .d_state = 8};

std::vector<std::int32_t> tokens(int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(i * 29 % 70);
  return ids;
}

// The numbers that a model of Int8Weights computes with.
template <class ModelType>
StateDict<float> as_stored(const ModelType& model) {
  StateDict<float> dict = model.state_dict();
  for (const PlacedParameter& p : model.engine().placed()) {
    if (!p.parameter.template in_storage<std::int8_t>()) continue;
    std::vector<float>& values = dict.at(p.name).values;
    const auto columns = static_cast<std::size_t>(p.parameter.columns());
    for (auto row = values.begin(); row != values.end(); row += static_cast<std::ptrdiff_t>(columns)) {
      float largest = 0;
      for (std::size_t j = 0; j < columns; ++j)
        largest = (std::max)(largest, std::abs(row[static_cast<std::ptrdiff_t>(j)]));
      const RowOfInt8 as(largest);
      for (std::size_t j = 0; j < columns; ++j) {
        float& x = row[static_cast<std::ptrdiff_t>(j)];
        x = std::nearbyint(x * as.inverse) * as.scale;
      }
    }
  }
  return dict;
}

template <class Matrix>
double distance(const Matrix& a, const Matrix& b) {
  double largest = 0, size = 0;
  for (std::size_t i = 0; i < a.values().size(); ++i) {
    largest = (std::max)(largest, static_cast<double>(std::abs(a.values()[i] - b.values()[i])));
    size = (std::max)(size, static_cast<double>(std::abs(b.values()[i])));
  }
  return largest / size;
}

template <class... Policies>
void check_model() {
  MambaLMHeadModel<config, Int8Weights, Policies...> model({.n_layers = 3, .gamma = 0.5, .seed = 3});
  MambaLMHeadModel<config, Policies...> rounded({.n_layers = 3, .draw = false});
  rounded.load_state_dict(as_stored(model));
  const auto ids = tokens(60);
  const auto expected = rounded.logits(ids, 3);
  CHECK(distance(model.logits(ids, 3), expected) < 3e-6);
  CHECK(std::abs(model.loss(ids, 3) - rounded.loss(ids, 3)) < 1e-5);

  // Step by step, by chunks of either way of multiplying, and whole.
  auto state = model.initial_state(1);
  auto other = rounded.initial_state(1);
  CHECK(distance(model.prefill(std::span(ids).first(20), 1, state),
                 rounded.prefill(std::span(ids).first(20), 1, other)) < 3e-6);
  CHECK(distance(model.prefill(std::span(ids).subspan(20, 3), 1, state),
                 rounded.prefill(std::span(ids).subspan(20, 3), 1, other)) < 3e-6);
  CHECK(distance(model.step(std::span(ids).subspan(23, 1), state), rounded.step(std::span(ids).subspan(23, 1), other)) <
        3e-6);

  // The float weights are kept, and new ones taken.
  MambaLMHeadModel<config, Policies...> in_float({.n_layers = 3, .seed = 9});
  model.load_state_dict(in_float.state_dict());
  CHECK(model.state_dict().at("backbone.embedding.weight").values ==
        in_float.state_dict().at("backbone.embedding.weight").values);
  const double off = distance(model.logits(ids, 3), in_float.logits(ids, 3));
  CHECK(off > 1e-5);
  CHECK(off < 5e-2);
}

}  // namespace

TEST_CASE("int8: a model computes what a float model of its rounded weights does") {
  check_model<Mamba1, UntiedHead, LearnedPosition<60>, ConvGate>();
  check_model<Mamba2<20, 2>, UntiedHead, LinearConvResidual>();
  check_model<Mamba3<of_ranks>, UntiedHead>();
#ifndef MAMBA_TEST_FEW_MODELS
  check_model<Mamba1>();
  check_model<Mamba2<16>>();
  check_model<Mamba3<of_heads>>();
#endif
}

TEST_CASE("int8: the same bytes for any number of threads; generation; composite models") {
  MambaLMHeadModel<config, Int8Weights> one({.n_layers = 2, .seed = 3, .threads = 1}),
      five({.n_layers = 2, .seed = 3, .threads = 5});
  const auto ids = tokens(60);
  const auto expected = one.logits(ids, 1), found = five.logits(ids, 1);
  CHECK(std::ranges::equal(found.values(), expected.values()));
  CHECK(generate(one, tokens(12), {.max_new_tokens = 20}) == generate(five, tokens(12), {.max_new_tokens = 20}));

  MambaForComposite<config, Int8Weights> model({.n_layers = 2, .gamma = 0.5, .seed = 3});
  MambaForComposite<config> rounded({.n_layers = 2, .draw = false});
  rounded.load_state_dict(as_stored(model));
  CHECK(distance(model(ids, 6), rounded(ids, 6)) < 3e-6);
  std::vector<std::uint8_t> mask(60);
  mask[3] = mask[17] = mask[41] = 1;
  CHECK(distance(model.blocked(ids, 6, mask), rounded.blocked(ids, 6, mask)) < 3e-6);
  CHECK(distance(model.substituted(ids, tokens(60), 6, mask), rounded.substituted(ids, tokens(60), 6, mask)) < 3e-6);
}

TEST_CASE("int8: what is not finite stays so") {
  MambaLMHeadModel<config, Int8Weights> model({.n_layers = 1, .seed = 3});
  auto dict = model.state_dict();
  dict.at("backbone.layers.0.mixer.in_proj.weight").values[5] = std::numeric_limits<float>::infinity();
  model.load_state_dict(dict);
  auto state = model.initial_state(1);
  CHECK_THROWS_AS(model.next_tokens(tokens(4), 1, state), Error);
}

TEMPLATE_TEST_CASE("the loss by itself is that of the gradients", "", float, double) {
  MambaLMHeadModel<config, TestType> model({.n_layers = 2, .gamma = 0.5, .seed = 3}),
      other({.n_layers = 2, .gamma = 0.5, .seed = 3});
  const double bound = sizeof(TestType) == 4 ? 1e-6 : 1e-13;
  const auto ids = tokens(60);
  CHECK(std::abs(model.loss(ids, 3) - other.loss_and_gradients(ids, 3)) < bound);
  const std::vector<std::int32_t> lengths{20, 1, 7};
  CHECK(std::abs(model.loss(ids, 3, lengths) - other.loss_and_gradients(ids, 3, lengths)) < bound);

  // In pieces, each from where the one before ends.
  auto state = model.initial_state(1), begun = other.initial_state(1);
  double sum = 0;
  for (const auto& [first, count] : {std::pair{0, 24}, {23, 2}, {24, 36}}) {
    const auto piece = std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    const double loss = model.loss(piece, 1, state);
    CHECK(std::abs(loss - other.loss_and_gradients(piece, 1, begun)) < bound);
    sum += loss * (count - 1);
  }
  CHECK(std::abs(sum / 59 - model.loss(ids, 1)) < bound);
  CHECK_THROWS_AS(model.loss(std::span(ids).first(1), 1), Error);
  CHECK_THROWS_AS(model.loss(std::span(ids).first(1), 1, state), Error);
}
