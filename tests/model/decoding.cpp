// Step by step, by chunks of any cut, and whole: the same logits.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/language_model.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
inline constexpr Config wide_config{.vocab_size = 11, .d_model = 8, .d_state = 5, .d_conv = 6};
inline constexpr Config narrow_config{.vocab_size = 11, .d_model = 8, .d_state = 5, .d_conv = 1};

// The last logits behind every prefix, by cuts that grow from `first_cut`.
template <class Model>
void check_decoding(int batch, int length, std::initializer_list<int> cuts) {
  Model model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(static_cast<std::size_t>(batch * length), 11, 5);
  const auto whole = model.logits(ids, batch);
  const auto slice = [&](int first, int count) {
    std::vector<std::int32_t> chunk;
    for (int b = 0; b < batch; ++b)
      chunk.insert(chunk.end(), ids.begin() + b * length + first, ids.begin() + b * length + first + count);
    return chunk;
  };
  const auto check = [&](const auto& logits, int t) {
    double worst = 0;
    for (int b = 0; b < batch; ++b)
      for (int v = 0; v < 11; ++v) worst = support::larger(worst, std::abs(logits(b, v) - whole(b * length + t, v)));
    return worst;
  };
  for (const int cut : cuts) {
    INFO("cut " << cut << ", length " << length);
    auto state = model.initial_state(batch);
    double worst = 0;
    for (int first = 0, size = cut; first < length; first += size, size = size % 7 + cut) {
      size = std::min(size, length - first);
      const auto chunk = slice(first, size);
      auto copy = state;
      worst = support::larger(worst, size == 1 ? check(model.step(chunk, state), first)
                                               : check(model.prefill(chunk, batch, state), first + size - 1));
      if (size > 1) worst = support::larger(worst, check(model.prefill(chunk, batch, copy), first + size - 1));
    }
    CHECK(worst < 1e-12);
    CHECK(state.positions() == std::vector<int>(static_cast<std::size_t>(batch), length));
  }
}

template <class... Policies>
void check_variant() {
  check_decoding<MambaLMHeadModel<tiny_config, double, Policies...>>(3, 40, {1, 2, 5, 17});
}

}  // namespace

TEST_CASE("decoding equals the whole forward pass for lengths 1 to 129") {
  for (int length = 1; length <= 129; length += length < 20 ? 1 : 27) {
    check_decoding<MambaLMHeadModel<tiny_config, double>>(2, length, {1, 3, 64});
    check_decoding<MambaLMHeadModel<tiny_config, double, Mamba2<8>>>(2, length, {1, 3, 64});
  }
}

TEST_CASE("decoding of the variants") {
  check_variant<LearnedPosition<40>, ConvGate>();
  check_variant<Mamba2<4, 2, 1>, ConvResidual>();
  check_variant<Mamba2<>, LinearConvResidual, LearnedPosition<64>>();
#ifndef MAMBA_TEST_FEW_MODELS  // with a sanitizer in it each takes a compiler long
  check_variant<FrozenOnesConv, SinusoidalPosition>();
  check_variant<LinearConvResidual>();
  check_variant<UntiedHead>();
  check_variant<Mamba2<4, 2>, ConvResidual>();
  check_variant<Mamba2<>, ConvGate, SinusoidalPosition, UntiedHead>();
#endif
  check_decoding<MambaLMHeadModel<narrow_config, double>>(2, 9, {1, 2});
  check_decoding<MambaLMHeadModel<wide_config, double>>(2, 9, {1, 2});
  check_decoding<MambaLMHeadModel<wide_config, double, Mamba2<>>>(2, 9, {1, 2});
}

TEST_CASE("a prefill of different lengths leaves each sequence where it is") {
  MambaLMHeadModel<tiny_config, double, LearnedPosition<20>> model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(3 * 9, 11, 5);
  const std::vector<std::int32_t> lengths{9, 1, 4};
  auto state = model.initial_state(3);
  const auto logits = model.prefill(ids, 3, state, lengths);
  CHECK(state.positions() == std::vector<int>{9, 1, 4});
  const std::vector<std::int32_t> next{1, 2, 3};
  const Matrix<double> stepped = model.step(next, state);
  for (int s = 0; s < 3; ++s) {
    std::vector<std::int32_t> sequence(ids.begin() + 9 * s, ids.begin() + 9 * s + lengths[static_cast<std::size_t>(s)]);
    auto alone = model.initial_state(1);
    const auto expected = model.prefill(sequence, 1, alone);
    const std::vector<std::int32_t> one{next[static_cast<std::size_t>(s)]};
    const Matrix<double> expected_next = model.step(one, alone);
    for (int v = 0; v < 11; ++v) {
      CHECK(std::abs(logits(s, v) - expected(0, v)) < 1e-13);
      CHECK(std::abs(stepped(s, v) - expected_next(0, v)) < 1e-13);
    }
  }
}

TEST_CASE("next tokens are the likeliest, or come as often as softmax says") {
  constexpr int batch = 4000, length = 5, vocabulary = 11;
  const auto sequence = support::random_tokens(length, vocabulary, 5);
  std::vector<std::int32_t> ids;
  for (int s = 0; s < batch; ++s) ids.insert(ids.end(), sequence.begin(), sequence.end());
  MambaLMHeadModel<tiny_config> model({.n_layers = 2, .gamma = 0.1, .seed = 3, .threads = 3});
  const auto fresh = model.initial_state(batch);
  auto state = fresh;
  const auto logits = model.prefill(ids, batch, state);
  const auto chosen = [&](const Sampling& sampling) {
    auto own = fresh;
    const std::vector<std::int32_t> tokens = model.next_tokens(ids, batch, own, sampling);
    CHECK(own.positions() == state.positions());
    return tokens;
  };
  const auto likeliest = std::max_element(&logits(0, 0), &logits(0, 0) + vocabulary) - &logits(0, 0);
  CHECK(chosen({}) == std::vector<std::int32_t>(batch, static_cast<std::int32_t>(likeliest)));

  const Sampling sampling{.temperature = 0.8, .seed = 17};
  const auto tokens = chosen(sampling);
  CHECK(chosen(sampling) == tokens);
  CHECK(chosen({.temperature = 0.8, .seed = 18}) != tokens);
  CHECK(chosen({.temperature = 1e-6, .seed = 17}) == chosen({}));
  double sum = 0, chi_squared = 0;
  for (int v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(logits(0, v)) / sampling.temperature);
  for (int v = 0; v < vocabulary; ++v) {
    const double expected = batch * std::exp(static_cast<double>(logits(0, v)) / sampling.temperature) / sum,
                 off = static_cast<double>(std::count(tokens.begin(), tokens.end(), v)) - expected;
    chi_squared += off * off / expected;
  }
  INFO("chi squared of 10 degrees of freedom " << chi_squared);
  CHECK(chi_squared < 30);  // more in one of a thousand

  // Each of a batch of different lengths, whatever the number of threads, and at the next position another draw.
  const std::vector<std::int32_t> lengths{5, 1, 3}, ragged(ids.begin(), ids.begin() + 3 * length);
  std::vector<std::vector<std::int32_t>> all;
  for (const int threads : {1, 2, 5}) {
    MambaLMHeadModel<tiny_config> other({.n_layers = 2, .gamma = 0.1, .seed = 3, .threads = threads});
    auto own = other.initial_state(3);
    auto& drawn = all.emplace_back(other.next_tokens(ragged, 3, own, sampling, lengths));
    for (int step = 0; step < 8; ++step)
      for (const auto token : other.next_tokens(std::vector<std::int32_t>{1, 2, 3}, 3, own, sampling))
        drawn.push_back(token);
    CHECK(own.positions() == std::vector<int>{13, 9, 11});
    CHECK(drawn == all.front());
  }
}

TEST_CASE("next tokens: what is refused") {
  MambaLMHeadModel<tiny_config> model({.n_layers = 1, .seed = 3});
  auto state = model.initial_state(2);
  const std::vector<std::int32_t> tokens{1, 2};
  for (const double temperature : {-1.0, 1e-9, 1e9, std::nan("")})
    CHECK_THROWS_WITH(model.next_tokens(tokens, 2, state, {.temperature = temperature}),
                      ContainsSubstring("the temperature must be 0"));
  CHECK_THROWS_AS(model.next_tokens(tokens, 1, state), Error);
  CHECK_THROWS_AS(model.next_tokens(std::vector<std::int32_t>{1, 11}, 2, state), Error);
  CHECK(state.positions() == std::vector<int>{0, 0});
  auto weights = model.state_dict();
  weights.at("backbone.norm_f.weight").values[3] = std::numeric_limits<float>::quiet_NaN();
  model.load_state_dict(weights);
  for (const double temperature : {0.0, 1.0})
    CHECK_THROWS_WITH(model.next_tokens(tokens, 2, state, {.temperature = temperature}),
                      ContainsSubstring("are not finite"));
}

TEST_CASE("a state forks and goes back") {
  MambaLMHeadModel<tiny_config, double> model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(2 * 5, 11, 5);
  auto state = model.initial_state(2), fresh = state;
  model.prefill(ids, 2, state);
  const std::vector<std::int32_t> tokens{3, 4}, others{5, 6};
  const auto saved = state;
  const auto expected = support::values(model.step(tokens, state));
  for (int again = 0; again < 3; ++again) {
    state = saved;  // whatever was tried in between
    CHECK(state.positions() == std::vector<int>{5, 5});
    auto fork = state;
    model.step(others, fork), model.step(others, state), model.step(others, state);
    state = saved;
    CHECK(support::values(model.step(tokens, state)) == expected);
    CHECK(fork.positions() == std::vector<int>{6, 6});
  }
  state = fresh;
  CHECK(state.positions() == std::vector<int>{0, 0});
  model.prefill(ids, 2, state);
  CHECK(support::values(model.step(tokens, state)) == expected);
  state.clear();
  model.prefill(ids, 2, state);
  CHECK(support::values(model.step(tokens, state)) == expected);
}

TEST_CASE("states save and load, and refuse another's") {
  const auto folder = support::scratch("state");
  MambaLMHeadModel<tiny_config> model({.n_layers = 2, .seed = 3});
  auto state = model.initial_state(2);
  model.prefill(support::random_tokens(2 * 5, 11, 5), 2, state);
  save(state, folder / "s.safetensors");
  auto again = model.initial_state(2);
  load(again, folder / "s.safetensors");
  CHECK(again.positions() == std::vector<int>{5, 5});
  const std::vector<std::int32_t> tokens{3, 4};
  const auto expected = support::values(model.step(tokens, state));
  CHECK(support::values(model.step(tokens, again)) == expected);
  auto other = model.initial_state(3);
  CHECK_THROWS_AS(load(other, folder / "s.safetensors"), Error);
  CHECK(other.positions() == std::vector<int>{0, 0, 0});
}

TEST_CASE("a large model decodes to the same bytes with any number of threads, and as the whole pass") {
  constexpr Config config{.vocab_size = 600, .d_model = 256, .d_state = 16};
  const auto ids = support::random_tokens(40, 600, 5);
  std::vector<float> expected;
  for (const int threads : {1, 2, 7}) {
    MambaLMHeadModel<config> model({.n_layers = 2, .seed = 3, .threads = threads});
    const auto whole = model.logits(ids, 1);
    auto state = model.initial_state(1);
    std::vector<float> all(whole.data(), whole.data() + whole.rows() * whole.cols());
    double worst = 0;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const auto& logits = model.step({&ids[t], 1}, state);
      for (int v = 0; v < 600; ++v)
        worst = std::max<double>(worst, std::abs(logits(0, v) - whole(static_cast<std::ptrdiff_t>(t), v)));
      all.insert(all.end(), logits.data(), logits.data() + logits.cols());
    }
    CHECK(worst < 2e-5);
    if (threads == 1) expected = all;
    else CHECK(all == expected);
  }
}

TEST_CASE("a step refuses what does not fit, and leaves the state") {
  MambaLMHeadModel<tiny_config, LearnedPosition<3>> model({.n_layers = 2, .seed = 3});
  MambaLMHeadModel<tiny_config, LearnedPosition<3>> deeper({.n_layers = 3, .seed = 3});
  auto state = model.initial_state(2);
  const auto refused = [&](auto&& call, const char* words) { CHECK_THROWS_WITH(call(), ContainsSubstring(words)); };
  const std::vector<std::int32_t> two{1, 2}, three{1, 2, 3}, bad{1, 11}, eight{1, 2, 3, 4, 5, 6, 7, 8};
  refused([&] { model.step(three, state); }, "do not divide into 2");
  refused([&] { model.prefill(three, 3, state); }, "the state is of 2 sequences; given 3");
  refused([&] { deeper.step(two, state); }, "a model with 2 layers; this one has 3");
  refused([&] { model.step(bad, state); }, "token 11");
  refused([&] { model.prefill(eight, 2, state); }, "of 4 tokens is longer than the model's max_seq_len 3");
  refused([&] { model.initial_state(0); }, "at least one sequence");
  CHECK(state.positions() == std::vector<int>{0, 0});
  for (int t = 0; t < 3; ++t) model.step(two, state);
  refused([&] { model.step(two, state); }, "of 4 tokens is longer than the model's max_seq_len 3");
  refused([&] { model.logits(eight, 2); }, "of 4 tokens is longer than the model's max_seq_len 3");
  CHECK(state.positions() == std::vector<int>{3, 3});
}
