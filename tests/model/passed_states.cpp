// Gradients through the states where sequences begin and end: against central differences, and in pieces against the
// whole.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <string>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/language_model.hpp>

#include "support/gradients.hpp"
#include "support/parity.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using support::Backend;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
[[maybe_unused]] inline constexpr Config wide_config{.vocab_size = 11, .d_model = 8, .d_state = 5, .d_conv = 6};
[[maybe_unused]] inline constexpr Config narrow_config{.vocab_size = 11, .d_model = 8, .d_state = 5, .d_conv = 1};
[[maybe_unused]] inline constexpr Config even_config{.vocab_size = 11, .d_model = 8, .d_state = 6};
[[maybe_unused]] inline constexpr Config many_states{.vocab_size = 11, .d_model = 8, .d_state = 130};

// All numbers of a state, the histories first.
template <class State>
std::vector<double> numbers(const State& state) {
  std::vector<double> all;
  for (const auto& tensor : {state.history_tensor(), state.state_tensor()})
    all.insert(all.end(), tensor.values.begin(), tensor.values.end());
  return all;
}
template <class State>
void set_numbers(State& state, const std::vector<double>& all) {
  auto history = state.history_tensor(), states = state.state_tensor();
  auto from = all.begin();
  for (auto* tensor : {&history, &states})
    for (auto& x : tensor->values) x = static_cast<typename State::T>(*from++);
  state.restore(history, states, state.positions());
}
// Random numbers where `like` is not zero, as what pads it is.
inline std::vector<double> random_like(const std::vector<double>& like, std::uint64_t seed) {
  std::vector<double> all(like.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = like[i] == 0 ? 0 : support::random_number(seed, i);
  return all;
}
inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
inline double norm(const std::vector<double>& a) { return std::sqrt(dot(a, a)); }

// loss + <g, where the sequences end> from a state that has had some tokens: its gradients with respect to all
// parameters, and to that state.
template <class Model>
void check_differences(int batch, int length, const std::vector<std::int32_t>& lengths = {}) {
  INFO(length << " tokens");
  Model model({.n_layers = 2, .seed = 3});
  const auto vocabulary = Model::config.vocab_size;
  const auto ids = support::random_tokens(static_cast<std::size_t>(batch * length), vocabulary, 5);
  const auto labels = support::random_tokens(static_cast<std::size_t>(batch), vocabulary, 6);
  auto began = model.initial_state(batch);
  model.prefill(support::random_tokens(static_cast<std::size_t>(batch * 7), vocabulary, 7), batch, began);
  const auto start = numbers(began), g = random_like(start, 8);
  auto of_state = model.initial_state(batch);
  const auto loss = [&] {
    auto state = began;
    set_numbers(of_state, g);
    const double own = model.loss_and_gradients(ids, labels, state, {.of_state = &of_state}, lengths);
    return own + dot(g, numbers(state));
  };
  support::check_gradients(model, loss, 5e-8);

  loss();
  const auto gradient = numbers(of_state);
  const double scale = norm(gradient) + 1e-3;
  CHECK(norm(gradient) > 1e-3);
  const std::size_t histories = began.history_tensor().values.size();
  for (int draw = 0; draw < 8; ++draw) {
    auto direction = random_like(start, 20 + static_cast<std::uint64_t>(draw));
    // The histories alone, the states alone, both.
    if (draw % 3 == 0) std::fill(direction.begin(), direction.begin() + static_cast<std::ptrdiff_t>(histories), 0.0);
    if (draw % 3 == 1) std::fill(direction.begin() + static_cast<std::ptrdiff_t>(histories), direction.end(), 0.0);
    const double size = norm(direction);
    if (size == 0) continue;  // a convolution of one tap has no history
    const auto at = [&](double distance) {
      auto moved = start;
      for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += distance * direction[i] / size;
      set_numbers(began, moved);
      return loss();
    };
    constexpr double step = 1e-5;
    const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    set_numbers(began, start);
    CHECK(std::abs(slope - dot(gradient, direction) / size) <= 5e-8 * scale);
  }
}

template <class... Policies>
void check_differences_of() {
  using Model = MambaForComposite<tiny_config, double, Backend, Policies...>;
  check_differences<Model>(3, 1);
  check_differences<Model>(2, 2);
  check_differences<Model>(2, 9, {9, 4});
}

// A batch of texts of uneven lengths, in pieces and whole: the same loss and gradients.
template <class Model>
void check_pieces(double bound, const std::vector<int>& cuts, const std::vector<std::int32_t>& lengths) {
  Model model({.n_layers = 2, .seed = 3});
  using Scalar = typename Model::Scalar;
  const int batch = static_cast<int>(lengths.size()), longest = *std::max_element(lengths.begin(), lengths.end());
  const auto ids = support::random_tokens(static_cast<std::size_t>(batch * longest), Model::config.vocab_size, 5);
  const double whole = model.loss_and_gradients(ids, batch, lengths);
  const auto expected = model.gradient_dict();
  double targets = 0;
  for (const int length : lengths) targets += length - 1;

  // Piece k of all sequences: tokens cuts[k] .. cuts[k + 1], both; the shorter texts end with the shortest cut.
  struct Part {
    std::vector<std::int32_t> ids, inputs, lengths;
  };
  std::vector<Part> parts;
  for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
    Part part;
    const int width = cuts[k + 1] - cuts[k] + 1;
    for (int s = 0; s < batch; ++s) {
      const int own = std::min(width, lengths[static_cast<std::size_t>(s)] - cuts[k]);
      REQUIRE(own >= 2);
      part.lengths.push_back(own);
      for (int t = 0; t < width; ++t)
        part.ids.push_back(t < own ? ids[static_cast<std::size_t>(s * longest + cuts[k] + t)] : 0);
    }
    parts.push_back(part);
  }
  std::vector<State<typename Model::Architecture>> states(1, model.initial_state(batch));
  for (std::size_t k = 0; k + 1 < parts.size(); ++k) {
    auto next = states.back();
    std::vector<std::int32_t> inputs;
    for (const auto length : parts[k].lengths) inputs.push_back(length - 1);
    model.prefill(parts[k].ids, batch, next, inputs);
    states.push_back(next);
  }
  auto of_state = model.initial_state(batch);
  double sum = 0;
  for (std::size_t k = parts.size(); k-- > 0;)
    sum += model.loss_and_gradients(parts[k].ids, batch, states[k], {&of_state, 1 / targets, k + 1 < parts.size()},
                                    parts[k].lengths);
  CHECK(std::abs(sum - whole) <= bound * std::abs(whole));
  double total = 0, off = 0;
  const auto gradients = model.gradient_dict();
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    CHECK(support::relative_error(gradients.at(name).values,
                                  std::vector<double>(tensor.values.begin(), tensor.values.end()), 1e-4) <= bound);
    for (std::size_t i = 0; i < tensor.values.size(); ++i) {
      const Scalar difference = gradients.at(name).values[i] - tensor.values[i];
      total += static_cast<double>(tensor.values[i]) * static_cast<double>(tensor.values[i]);
      off += static_cast<double>(difference) * static_cast<double>(difference);
    }
  }
  CHECK(std::sqrt(off) <= bound * std::sqrt(total));
  for (std::size_t k = 0; k < parts.size(); ++k)
    for (int s = 0; s < batch; ++s)
      CHECK(states[k].positions()[static_cast<std::size_t>(s)] ==
            std::min(cuts[k + 1], lengths[static_cast<std::size_t>(s)] - 1));

  // Without what lies behind them, the pieces' gradients are others: the test sees what passes.
  auto first = model.initial_state(batch);
  model.loss_and_gradients(parts[0].ids, batch, first, {nullptr, 1 / targets, false}, parts[0].lengths);
  for (std::size_t k = 1; k < parts.size(); ++k) {
    auto state = first;
    model.loss_and_gradients(parts[k].ids, batch, state, {nullptr, 1 / targets, true}, parts[k].lengths);
    first = state;
  }
  const auto truncated = model.gradient_dict();
  off = 0;
  for (const auto& [name, tensor] : expected)
    for (std::size_t i = 0; i < tensor.values.size(); ++i)
      off += std::pow(static_cast<double>(truncated.at(name).values[i]) - static_cast<double>(tensor.values[i]), 2);
  CHECK(std::sqrt(off) > 1e-3 * std::sqrt(total));
}

}  // namespace

TEST_CASE("gradients through states: differences, Mamba-1") {
  support::need_backend();
  check_differences_of<>();
  check_differences<MambaForComposite<tiny_config, double, Backend>>(1, 71);  // several stretches of any backend
#ifndef MAMBA_TEST_FEW_MODELS  // with a sanitizer in it each takes a compiler long
  check_differences_of<ConvGate, LearnedPosition<20>>();
  check_differences<MambaForComposite<narrow_config, double, Backend, ConvResidual>>(2, 3);
  check_differences<MambaForComposite<wide_config, double, Backend>>(2, 3);
  check_differences<MambaForComposite<many_states, double, Backend>>(2, 3);
#ifndef __CUDACC__  // and nvcc: there those that have kernels of their own
  check_differences_of<ConvResidual, FrozenOnesConv>();
#endif
#endif
}

TEST_CASE("gradients through states: differences, Mamba-2") {
  support::need_backend();
  check_differences_of<Mamba2<4, 2>, LinearConvResidual, SinusoidalPosition>();
#ifndef MAMBA_TEST_FEW_MODELS
  check_differences<MambaForComposite<wide_config, double, Backend, Mamba2<>>>(2, 3);
#ifndef __CUDACC__
  check_differences_of<Mamba2<4>>();
  check_differences<MambaForComposite<tiny_config, double, Backend, Mamba2<>>>(1, 71);
  check_differences<MambaForComposite<narrow_config, double, Backend, Mamba2<8>>>(2, 3);
#endif
#endif
}

namespace {
inline constexpr Mamba3Config of_heads{.headdim = 4, .ngroups = 2};
inline constexpr Mamba3Config of_ranks{.headdim = 4, .rank = 3, .rotates_all = true, .output_norm = true};
inline constexpr Mamba3Config of_pairs{.headdim = 4, .rank = 2, .output_norm = true};
}  // namespace

TEST_CASE("gradients through states: differences, Mamba-3") {
  support::need_backend();
  check_differences<MambaForComposite<even_config, double, Backend, Mamba3<of_heads>>>(3, 1);
  check_differences<MambaForComposite<even_config, double, Backend, Mamba3<of_heads>>>(1, 71);
  check_differences<MambaForComposite<even_config, double, Backend, Mamba3<of_ranks>, LearnedPosition<40>>>(2, 30,
                                                                                                            {30, 4});
}

TEST_CASE("a text's gradients in pieces are those of the whole") {
  support::need_backend();
  const std::vector<int> cuts{0, 1, 3, 40, 41, 109, 240};
  const std::vector<std::int32_t> lengths{241, 180, 111};
  check_pieces<MambaLMHeadModel<tiny_config, double, Backend>>(1e-11, cuts, lengths);
  check_pieces<MambaLMHeadModel<tiny_config, double, Backend>>(1e-11, {0, 700, 702, 1800, 3000}, {3001, 1900});
  check_pieces<MambaLMHeadModel<tiny_config, double, Backend, Mamba2<4, 2>, LearnedPosition<241>>>(1e-11, cuts,
                                                                                                   lengths);
  check_pieces<MambaLMHeadModel<even_config, double, Backend, Mamba3<of_heads>, LearnedPosition<241>>>(1e-11, cuts,
                                                                                                       lengths);
  check_pieces<MambaLMHeadModel<even_config, Backend, Mamba3<of_heads>>>(2e-5, cuts, lengths);
  check_pieces<MambaLMHeadModel<even_config, Backend, Mamba3<of_pairs>>>(2e-5, cuts, lengths);
#ifndef MAMBA_TEST_FEW_MODELS
  check_pieces<MambaLMHeadModel<tiny_config, Backend>>(2e-5, cuts, lengths);
  check_pieces<MambaLMHeadModel<many_states, Backend, Mamba2<8>>>(2e-5, cuts, lengths);
  check_pieces<MambaLMHeadModel<tiny_config, BFloat16, Backend>>(0.1, cuts, lengths);
  check_pieces<MambaLMHeadModel<tiny_config, BFloat16, Backend, Mamba2<8>>>(0.1, cuts, lengths);
#endif
}

TEST_CASE("a piece without a loss passes the gradient on") {
  support::need_backend();
  using Model = MambaForComposite<tiny_config, double, Backend>;
  Model model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(2 * 30, 11, 5);
  const std::vector<std::int32_t> labels{3, 4};
  const double whole = model.loss_and_gradients(ids, labels);
  const auto expected = model.gradient_dict();
  std::vector<std::int32_t> before, behind;
  for (int s = 0; s < 2; ++s)
    before.insert(before.end(), ids.begin() + s * 30, ids.begin() + s * 30 + 17),
        behind.insert(behind.end(), ids.begin() + s * 30 + 17, ids.begin() + (s + 1) * 30);
  auto first = model.initial_state(2), second = first, of_state = first;
  model.prefill(before, 2, second);
  CHECK(std::abs(model.loss_and_gradients(behind, labels, second, {.of_state = &of_state}) - whole) < 1e-13);
  model.gradients_through(before, 2, first, {.of_state = &of_state, .accumulate = true});
  const auto gradients = model.gradient_dict();
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    CHECK(support::relative_error(gradients.at(name).values, tensor.values, 1e-6) <= 1e-11);
  }
  // A single sequence in between, and a training step, leave nothing behind.
  auto again = model.initial_state(2);
  of_state.clear();
  model.prefill(before, 2, again);
  auto alone = model.initial_state(1);
  model.step(std::vector<std::int32_t>{1}, alone);
  model.loss_and_gradients(ids, labels);
  model.loss_and_gradients(behind, labels, again, {.of_state = &of_state});
  again.clear();
  model.gradients_through(before, 2, again, {.of_state = &of_state, .accumulate = true});
  const auto later = model.gradient_dict();
  for (const auto& [name, tensor] : gradients) {
    INFO(name);
    CHECK(later.at(name).values == tensor.values);
  }
}

TEST_CASE("gradients through states: what is refused, and leaves everything") {
  support::need_backend();
  using Model = MambaLMHeadModel<tiny_config, Backend, LearnedPosition<5>>;
  Model model({.n_layers = 2, .seed = 3}), deeper({.n_layers = 3, .seed = 3});
  auto state = model.initial_state(2), of_state = model.initial_state(2), of_three = model.initial_state(3),
       of_deeper = deeper.initial_state(2);
  const std::vector<std::int32_t> four{1, 2, 3, 4}, long_ones(14, 1), bad{1, 2, 3, 11};
  const auto refused = [&](auto&& call, const char* words) { CHECK_THROWS_WITH(call(), ContainsSubstring(words)); };
  refused([&] { model.loss_and_gradients(four, 2, state, {.of_state = &state}); }, "cannot be the state itself");
  refused([&] { model.loss_and_gradients(four, 2, state, {.of_state = &of_three}); }, "2 layers and 3 sequences");
  refused([&] { model.loss_and_gradients(four, 2, state, {.of_state = &of_deeper}); }, "3 layers and 2 sequences");
  refused([&] { model.loss_and_gradients(four, 2, of_three); }, "the state is of 3 sequences; given 2");
  refused([&] { model.loss_and_gradients(four, 4, state); }, "has no next token to predict");
  refused([&] { model.loss_and_gradients(bad, 2, state); }, "token 11");
  refused([&] { model.loss_and_gradients(four, 2, state, {.weight = -1}); }, "must be a number from 0 on");
  refused([&] { model.loss_and_gradients(long_ones, 2, state); },
          "of 6 tokens is longer than the model's max_seq_len 5");
  refused([&] { model.gradients_through(four, 2, state, {}); }, "that no loss is taken of");
  CHECK(state.positions() == std::vector<int>{0, 0});
  const auto start = numbers(state);
  CHECK(std::all_of(start.begin(), start.end(), [](double x) { return x == 0; }));
  // As many tokens as positions, the last of which is only predicted.
  model.loss_and_gradients(std::vector<std::int32_t>(12, 1), 2, state, {.of_state = &of_state});
  CHECK(state.positions() == std::vector<int>{5, 5});
}
