// Generating: what follows prompts, greedily and at random, and what the options leave to choose from.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <set>

#include <mamba/generate.hpp>

#include "support/parity.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

using Tokens = std::vector<std::int32_t>;

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};

using Tiny = MambaLMHeadModel<tiny_config>;
const ModelOptions tiny_options{.n_layers = 2, .gamma = 0.1, .seed = 3, .threads = 2};

// The likeliest token, again and again, from whole logits.
template <class Model>
Tokens greedily(Model& model, Tokens text, int count) {
  Tokens found;
  for (int i = 0; i < count; ++i) {
    const auto logits = model.logits(text, 1);
    const auto* last = &logits(logits.rows() - 1, 0);
    found.push_back(static_cast<std::int32_t>(std::max_element(last, last + Model::config.vocab_size) - last));
    text.push_back(found.back());
  }
  return found;
}

// What a filter chooses at many positions: how often each token.
std::vector<double> counts(const GenerateOptions& options, const std::vector<double>& logits, int draws,
                           const Tokens& had = {}) {
  detail::TokenFilter filter(options);
  std::vector<double> found(logits.size());
  for (int i = 0; i < draws; ++i)
    ++found[static_cast<std::size_t>(filter.choose(std::span<const double>(logits), had, 0, i))];
  return found;
}

// Draws as often as softmax(logits / temperature) over some tokens says, and of others none.
void check_draws(const GenerateOptions& options, const std::vector<double>& logits, const std::set<std::size_t>& left,
                 const Tokens& had = {}) {
  constexpr int draws = 20000;
  const auto found = counts(options, logits, draws, had);
  double sum = 0, chi_squared = 0;
  for (const std::size_t v : left) sum += std::exp(logits[v] / options.temperature);
  for (std::size_t v = 0; v < logits.size(); ++v) {
    INFO("token " << v);
    if (!left.contains(v)) {
      CHECK(found[v] == 0);
      continue;
    }
    const double expected = draws * std::exp(logits[v] / options.temperature) / sum;
    chi_squared += (found[v] - expected) * (found[v] - expected) / expected;
  }
  INFO("chi squared " << chi_squared << " of " << left.size() - 1 << " degrees of freedom");
  CHECK(chi_squared < 30);
}

}  // namespace

TEST_CASE("greedy generation is the likeliest token again and again, for one prompt and for several") {
  Tiny model(tiny_options);
  const std::vector<Tokens> prompts{{1, 2, 3, 4, 5}, {7}, {9, 0, 9}, {3, 3, 3, 3, 3, 3, 3}};
  std::vector<Tokens> expected;
  for (const Tokens& prompt : prompts) expected.push_back(greedily(model, prompt, 12));
  CHECK(generate(model, prompts, {.max_new_tokens = 12}) == expected);
  for (std::size_t s = 0; s < prompts.size(); ++s) {
    CHECK(generate(model, prompts[s], {.max_new_tokens = 12}) == expected[s]);
    // The same by the host's filter, whatever is left to choose from.
    CHECK(generate(model, prompts[s], {.max_new_tokens = 12, .temperature = 0.7, .top_k = 1}) == expected[s]);
    CHECK(generate(model, prompts[s], {.max_new_tokens = 12, .temperature = 0.7, .top_p = 1e-9}) == expected[s]);
    CHECK(generate(model, prompts[s], {.max_new_tokens = 12, .temperature = 0.7, .min_p = 1}) == expected[s]);
    CHECK(generate(model, prompts[s], {.max_new_tokens = 12, .top_k = 3}) == expected[s]);
  }
  MambaLMHeadModel<tiny_config, double, Mamba2<4>> other({.n_layers = 2, .gamma = 0.1, .seed = 3});
  CHECK(generate(other, prompts[0]).size() == 128);
  CHECK(generate(other, prompts[0], {.max_new_tokens = 9}) == greedily(other, prompts[0], 9));
}

TEST_CASE("generation at random is a function of its options") {
  Tiny model(tiny_options);
  const Tokens prompt{1, 2, 3};
  const GenerateOptions plain{.max_new_tokens = 60, .temperature = 1.1, .seed = 5};
  const Tokens found = generate(model, prompt, plain);
  CHECK(generate(model, prompt, plain) == found);
  auto options = plain;
  options.seed = 6;
  CHECK(generate(model, prompt, options) != found);
  // All tokens are left: the same choice as without a filter.
  options = plain;
  options.top_k = 11, options.top_p = 1, options.min_p = 1e-300;
  CHECK(generate(model, prompt, options) == found);
  // The first of several prompts goes on as one alone; equal ones go on by themselves.
  const std::vector<Tokens> prompts{prompt, prompt, {4}};
  for (const int top_k : {0, 8}) {
    options = plain;
    options.top_k = top_k;
    const auto all = generate(model, prompts, options);
    CHECK(all[0] == generate(model, prompt, options));
    CHECK(all[1] != all[0]);
    CHECK(generate(model, prompts, options) == all);
  }
}

TEST_CASE("top-k, top-p and min-p leave what they say, drawn as softmax says") {
  const std::vector<double> logits{1, 3, 2.5, -1, 2.5, 0, 2};
  const double temperature = 0.9;
  const auto with = [&](auto&& set) {
    GenerateOptions options{.temperature = temperature, .seed = 11};
    set(options);
    return options;
  };
  check_draws(with([](auto& o) { o.min_p = 1e-9; }), logits, {0, 1, 2, 3, 4, 5, 6});
  check_draws(with([](auto& o) { o.top_k = 1; }), logits, {1});
  check_draws(with([](auto& o) { o.top_k = 2; }), logits, {1, 2, 4});  // two are the second
  check_draws(with([](auto& o) { o.top_k = 4; }), logits, {1, 2, 4, 6});
  // Probabilities beside the likeliest: 1, .574, .574, .329, .108, ... of a sum of 2.6 and some.
  check_draws(with([](auto& o) { o.min_p = 0.5; }), logits, {1, 2, 4});
  check_draws(with([](auto& o) { o.min_p = 0.3; }), logits, {1, 2, 4, 6});
  check_draws(with([](auto& o) { o.top_p = 0.3; }), logits, {1});
  check_draws(with([](auto& o) { o.top_p = 0.5; }), logits, {1, 2});  // of equals the first
  check_draws(with([](auto& o) { o.top_p = 0.75; }), logits, {1, 2, 4});
  check_draws(with([](auto& o) { o.top_p = 0.9; }), logits, {1, 2, 4, 6});
  // One after the other: of four the probabilities are others than of all.
  check_draws(with([](auto& o) { o.top_k = 4, o.top_p = 0.41; }), logits, {1, 2});
  check_draws(with([](auto& o) { o.top_k = 4, o.top_p = 0.99, o.min_p = 0.4; }), logits, {1, 2, 4});
}

TEST_CASE("what was there is less likely by the penalty") {
  const std::vector<double> logits{2, 3, -1, 1};
  const Tokens had{1, 2, 1, 1};
  CHECK(counts({.repetition_penalty = 1.4}, logits, 1, had)[1] == 1);
  CHECK(counts({.repetition_penalty = 1.6}, logits, 1, had)[0] == 1);  // 3 / 1.6 < 2
  CHECK(counts({.repetition_penalty = 0.5}, logits, 1, {0, 3})[0] == 1);
  check_draws({.temperature = 1, .repetition_penalty = 2, .seed = 3}, {2, 1.5, -2, 1}, {0, 1, 2, 3});
  const auto found = counts({.temperature = 1, .repetition_penalty = 2, .seed = 3}, logits, 20000, had);
  CHECK(std::abs(found[1] / found[0] - std::exp(1.5 - 2)) < 0.05);
  CHECK(std::abs(found[2] / found[0] - std::exp(-2.0 - 2)) < 0.01);

  // The prompt's tokens and those that came are there.
  Tiny model(tiny_options);
  const Tokens prompt{1, 2, 3};
  Tokens text = prompt;
  for (int i = 0; i < 20; ++i) {
    const auto all = model.logits(text, 1);
    std::vector<double> last(&all(all.rows() - 1, 0), &all(all.rows() - 1, 0) + 11);
    for (const std::int32_t token : std::set(text.begin(), text.end())) {
      double& logit = last[static_cast<std::size_t>(token)];
      logit = logit > 0 ? logit / 1.3 : logit * 1.3;
    }
    text.push_back(static_cast<std::int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
  }
  CHECK(generate(model, prompt, {.max_new_tokens = 20, .repetition_penalty = 1.3}) ==
        Tokens(text.begin() + 3, text.end()));
}

TEST_CASE("a sequence ends by its stop token, by the callback, or by its length") {
  Tiny model(tiny_options);
  const std::vector<Tokens> prompts{{1, 2, 3}, {4, 5}, {6}};
  const GenerateOptions options{.max_new_tokens = 30, .temperature = 1, .seed = 4};
  const auto whole = generate(model, prompts, options);
  auto stopping = options;
  stopping.stop_tokens = {7, 2};
  const auto stopped = generate(model, prompts, stopping);
  for (std::size_t s = 0; s < prompts.size(); ++s) {
    const auto end =
        std::find_first_of(whole[s].begin(), whole[s].end(), stopping.stop_tokens.begin(), stopping.stop_tokens.end());
    CHECK(stopped[s] == Tokens(whole[s].begin(), end == whole[s].end() ? end : end + 1));
  }
  std::vector<Tokens> streamed(prompts.size());
  const auto cut = generate(model, prompts, options, [&](int s, std::int32_t token) {
    auto& own = streamed[static_cast<std::size_t>(s)];
    own.push_back(token);
    return own.size() < static_cast<std::size_t>(3 + s);
  });
  CHECK(cut == streamed);
  for (std::size_t s = 0; s < prompts.size(); ++s)
    CHECK(cut[s] == Tokens(whole[s].begin(), whole[s].begin() + static_cast<std::ptrdiff_t>(3 + s)));
  bool called = false;
  const auto note = [&](std::int32_t) { return called = true; };
  CHECK(generate(model, prompts[0], {.max_new_tokens = 0}, note).empty());
  CHECK_FALSE(called);
  CHECK(generate(model, prompts[0], {.max_new_tokens = 1}, note).size() == 1);
  CHECK(called);
}

TEST_CASE("generation: what is refused, before anything is called") {
  Tiny model(tiny_options);
  const Tokens prompt{1, 2};
  const auto refused = [&](const GenerateOptions& options, const char* why, const Tokens& given = {1, 2}) {
    INFO(why);
    bool called = false;
    CHECK_THROWS_WITH(generate(model, given, options, [&](std::int32_t) { return called = true; }),
                      ContainsSubstring(why));
    CHECK_FALSE(called);
  };
  refused({}, "prompt 0 is empty", {});
  refused({}, "11", {1, 11});
  refused({.max_new_tokens = -1}, "max_new_tokens");
  refused({.temperature = -1}, "temperature");
  refused({.top_k = -1}, "top_k");
  refused({.top_p = 0}, "top_p");
  refused({.top_p = std::nan("")}, "top_p");
  refused({.min_p = 1.1}, "min_p");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.stop_tokens = {3, 11}}, "the stop token 11");
  CHECK_THROWS_WITH(generate(model, std::vector<Tokens>{}), ContainsSubstring("a prompt at least"));
  CHECK_THROWS_WITH(generate(model, std::vector<Tokens>{{1}, {}}), ContainsSubstring("prompt 1 is empty"));

  MambaLMHeadModel<tiny_config, LearnedPosition<6>> short_model({.n_layers = 1});
  CHECK(generate(short_model, prompt, {.max_new_tokens = 5}).size() == 5);
  CHECK_THROWS_WITH(generate(short_model, prompt, {.max_new_tokens = 6}), ContainsSubstring("max_seq_len 6"));

  auto weights = model.state_dict();
  weights.at("backbone.norm_f.weight").values[3] = std::numeric_limits<float>::quiet_NaN();
  model.load_state_dict(weights);
  refused({}, "not finite");
  refused({.temperature = 1, .top_k = 3}, "not finite");
}
