// What a batch may be, and that threads, tiles and padding do not matter.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <limits>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config brief_config{.vocab_size = 100, .d_model = 32, .d_state = 128, .d_conv = 4, .expand = 2};
inline constexpr Config tiny_config{.vocab_size = 10, .d_model = 16, .d_state = 8};
inline constexpr Config short_config{.vocab_size = 10, .d_model = 16, .d_state = 8, .max_seq_len = 8};
using Classifier = MambaForComposite<tiny_config>;

template <class Dict>
bool same_bytes(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a)
    if (b.count(name) == 0 || b.at(name).values != tensor.values) return false;
  return true;
}

}  // namespace

TEST_CASE("shapes and the configuration's dictionary") {
  MambaForComposite<brief_config> model({.n_layers = 2, .gamma = 1.0});
  const auto logits = model(support::random_tokens(4 * 8, 100, 1), 4);
  CHECK(logits.rows() == 4);
  CHECK(logits.cols() == 100);
  CHECK(config_json(model) ==
        R"({"n_layers": 2, "gamma": 1, "vocab_size": 100, "d_model": 32, "d_state": 128, "d_conv": 4, "expand": 2})");
}

TEST_CASE("1, 2 and 7 threads give the same bytes") {
  const auto ids = support::random_tokens(301 * 8, 10, 1), labels = support::random_tokens(301, 10, 2);
  std::vector<StateDict<float>> gradients, parameters;
  std::vector<double> losses;
  std::vector<std::vector<float>> logits;
  for (const int threads : {1, 2, 7}) {
    Classifier model({.n_layers = 2, .gamma = 0.5, .seed = 1, .threads = threads});
    AdamW optimizer(model, {.lr = 1e-2});
    for (int step = 0; step < 3; ++step) {
      losses.push_back(model.loss_and_gradients(ids, labels));
      losses.push_back(clip_grad_norm(model, 0.1));
      optimizer.step();
    }
    gradients.push_back(model.gradient_dict());
    parameters.push_back(model.state_dict());
    logits.push_back(support::values(model(ids, 301)));
  }
  for (std::size_t other : {1U, 2U}) {
    CHECK(same_bytes(gradients[0], gradients[other]));
    CHECK(same_bytes(parameters[0], parameters[other]));
    CHECK(logits[0] == logits[other]);
    for (std::size_t i = 0; i < 6; ++i) CHECK(losses[i] == losses[6 * other + i]);
  }
}

TEST_CASE("more threads than tiles: any of them may take one") {
  const auto ids = support::random_tokens(17 * 8, 10, 1), labels = support::random_tokens(17, 10, 2);
  Classifier alone({.n_layers = 1, .seed = 1, .threads = 1});
  const auto logits = support::values(alone(ids, 17));
  const double loss = alone.loss_and_gradients(ids, labels);
  for (int attempt = 0; attempt < 20; ++attempt) {
    Classifier model({.n_layers = 1, .seed = 1, .threads = 16});
    CHECK(support::values(model(ids, 17)) == logits);
    CHECK(model.loss_and_gradients(ids, labels) == loss);
  }
}

TEST_CASE("sequences of different lengths are as each alone") {
  constexpr int batch = 20, length = 13;
  const auto ids = support::random_tokens(batch * length, 10, 1), labels = support::random_tokens(batch, 10, 2);
  std::vector<std::int32_t> lengths;
  for (int s = 0; s < batch; ++s) lengths.push_back(1 + (7 * s) % length);
  MambaForComposite<tiny_config, double> model({.n_layers = 2, .seed = 1});
  auto poisoned = ids;  // what lies beyond a length does not exist, not even as a token
  for (int s = 0; s < batch; ++s)
    for (int t = lengths[static_cast<std::size_t>(s)]; t < length; ++t)
      poisoned[static_cast<std::size_t>(s * length + t)] = -1;
  const auto last = model(poisoned, batch, lengths);
  const auto all = model.logits(poisoned, batch, lengths);
  const double loss = model.loss_and_gradients(poisoned, labels, lengths);
  const auto gradients = model.gradient_dict();

  double loss_alone = 0;
  auto sum = gradients;
  for (auto& [name, tensor] : sum) std::fill(tensor.values.begin(), tensor.values.end(), 0.0);
  for (int s = 0; s < batch; ++s) {
    const auto own = static_cast<std::size_t>(lengths[static_cast<std::size_t>(s)]);
    const std::span sequence(ids.data() + s * length, own);
    const auto alone = model(sequence, 1);
    for (int v = 0; v < 10; ++v) {
      CHECK(last(s, v) == alone(0, v));
      CHECK(all(s * length + static_cast<int>(own) - 1, v) == alone(0, v));
    }
    if (own < length) CHECK(all(s * length + static_cast<int>(own), 0) == 0);
    loss_alone += model.loss_and_gradients(sequence, std::span(labels.data() + s, 1)) / batch;
    for (const auto& [name, tensor] : model.gradient_dict())
      for (std::size_t k = 0; k < tensor.values.size(); ++k) sum.at(name).values[k] += tensor.values[k] / batch;
  }
  CHECK(std::abs(loss - loss_alone) < 1e-14);
  for (const auto& [name, tensor] : gradients)
    CHECK(support::relative_error(tensor.values, sum.at(name).values, 1e-6) < 1e-12);
}

TEST_CASE("a loss of the user's own") {
  const auto ids = support::random_tokens(100 * 8, 10, 1), labels = support::random_tokens(100, 10, 2);
  Classifier model({.n_layers = 2, .seed = 1});
  const double expected = model.loss_and_gradients(ids, labels);
  const auto gradients = model.gradient_dict();
  const double loss = model.loss_and_gradients(ids, 100, [&](auto logits, int first, auto gradient) {
    double share = 0;
    for (std::ptrdiff_t i = 0; i < logits.rows(); ++i) {
      double sum = 0;
      for (int v = 0; v < 10; ++v) sum += std::exp(static_cast<double>(logits(i, v)));
      const auto label = labels[static_cast<std::size_t>(first + i)];
      for (int v = 0; v < 10; ++v)
        gradient(i, v) = static_cast<float>((std::exp(static_cast<double>(logits(i, v))) / sum - (v == label)) / 100);
      share += (std::log(sum) - static_cast<double>(logits(i, label))) / 100;
    }
    return share;
  });
  CHECK(std::abs(loss - expected) < 1e-6);
  for (const auto& [name, tensor] : model.gradient_dict())
    CHECK(support::relative_error(tensor.values, gradients.at(name).values, 1e-6) < 1e-5);
}

TEST_CASE("bad input is refused in words and changes nothing") {
  Classifier model({.n_layers = 1, .seed = 1});
  const auto ids = support::random_tokens(4 * 8, 10, 1), labels = support::random_tokens(4, 10, 2);
  model.loss_and_gradients(ids, labels);
  const auto before = model.state_dict(), gradients = model.gradient_dict();
  const auto refused = [](auto&& call, const char* words) { CHECK_THROWS_WITH(call(), ContainsSubstring(words)); };
  auto bad = ids;
  bad[11] = 10;
  refused([&] { model(bad, 4); }, "token 10 at position 3 of sequence 1 is not in the vocabulary 0..9");
  bad[11] = -1;
  refused([&] { model.logits(bad, 4); }, "token -1");
  refused([&] { model.loss_and_gradients(bad, labels); }, "token -1");
  refused([&] { model({}, 4); }, "no token ids");
  refused([&] { model(ids, 5); }, "32 token ids do not divide into 5 sequences");
  refused([&] { model(ids, 0); }, "at least one sequence");
  refused([&] { model(ids, -3); }, "at least one sequence");
  refused([&] { model(ids, 4, std::vector<std::int32_t>{1, 2, 3}); }, "3 lengths given for 4 sequences");
  refused([&] { model(ids, 4, std::vector<std::int32_t>{1, 2, 3, 9}); }, "length 9 of sequence 3 is not in 1..8");
  refused([&] { model(ids, 4, std::vector<std::int32_t>{1, 0, 3, 8}); }, "length 0 of sequence 1");
  auto bad_labels = labels;
  bad_labels[2] = 10;
  refused([&] { model.loss_and_gradients(ids, bad_labels); }, "label 10 of sequence 2");
  refused([&] { model.loss_and_gradients(ids, {}); }, "no labels");
  refused([&] { model.loss_and_gradients(ids, std::vector<std::int32_t>{1, 2, 3}); }, "do not divide");
  refused([&] { MambaForComposite<short_config>({.n_layers = 1})(ids, 2); }, "longer than the model's max_seq_len 8");
  MambaLMHeadModel<tiny_config> language_model({.n_layers = 1});
  refused([&] { language_model.loss_and_gradients(std::vector<std::int32_t>{1, 2}, 2); }, "no next token");
  CHECK(same_bytes(before, model.state_dict()));
  CHECK(same_bytes(gradients, model.gradient_dict()));
}

TEST_CASE("bad options are refused in words") {
  const auto refused = [](ModelOptions options, const char* words) {
    CHECK_THROWS_WITH(Classifier(options), ContainsSubstring(words));
  };
  refused({.n_layers = 0}, "at least one layer; n_layers is 0");
  refused({.n_layers = -2}, "n_layers is -2");
  refused({.gamma = -0.5}, "gamma must be a number from 0 on; given -0.5");
  refused({.gamma = std::numeric_limits<double>::quiet_NaN()}, "gamma must be");
  refused({.embedding_std = INFINITY}, "the standard deviation of the embedding must be a number from 0 on; given inf");
  refused({.position_std = -0.1}, "the standard deviation of positions must be a number from 0 on; given -0.1");
  refused({.threads = -1}, "threads must be");
}

TEST_CASE("a state_dict of another model is refused and changes nothing") {
  Classifier model({.n_layers = 2, .seed = 1});
  const auto before = model.state_dict();
  const auto refused = [&](auto&& change, const char* words) {
    auto dict = before;
    for (auto& [name, tensor] : dict)
      for (float& x : tensor.values) x += 1;
    change(dict);
    CHECK_THROWS_WITH(model.load_state_dict(dict), ContainsSubstring(words));
    CHECK(same_bytes(before, model.state_dict()));
  };
  refused([](auto& d) { d.erase("backbone.norm_f.weight"); }, "backbone.norm_f.weight is missing");
  refused([](auto& d) { d["backbone.layers.2.norm.weight"] = {{16}, std::vector<float>(16)}; },
          "no parameter backbone.layers.2.norm.weight");
  refused([](auto& d) { d["backbone.layers.0.mixer.A_log"].shape = {8, 32}; },
          "has the shape (8, 32); the model's is (32, 8)");
  refused([](auto& d) { d["backbone.layers.0.mixer.D"].values.pop_back(); }, "holds 31 values");
  MambaForComposite<tiny_config, OnesConv> ones({.n_layers = 2, .seed = 1});
  CHECK_THROWS_WITH(ones.load_state_dict(before), ContainsSubstring("conv1d.weight is frozen at 1"));
}

namespace {

// One sequence, which all threads work at: whole, blocked, in pieces from a state, and a token of many channels.
template <class Mixer>
void check_team() {
  constexpr Config config{.vocab_size = 50, .d_model = 96, .d_state = 16};
  constexpr int length = 300;
  const auto ids = support::random_tokens(length, 50, 1);
  std::vector<std::uint8_t> mask(length);
  for (std::size_t i = 0; i < mask.size(); i += 9) mask[i] = 1;
  std::vector<std::vector<float>> expected;
  for (const int threads : {1, 2, 5}) {
    INFO(Mixer::name << ", " << threads << " threads");
    MambaForComposite<config, Mixer> classifier({.n_layers = 2, .seed = 1, .threads = threads});
    MambaLMHeadModel<config, Mixer, UntiedHead> language({.n_layers = 2, .seed = 1, .threads = threads});
    auto state = language.initial_state(1);
    std::vector<std::vector<float>> found{support::values(language.logits(ids, 1)),
                                          support::values(classifier.blocked(ids, 1, mask)),
                                          support::values(language.prefill(std::span(ids).first(170), 1, state)),
                                          support::values(language.prefill(std::span(ids).subspan(170), 1, state)),
                                          support::values(language.step(std::span(ids).first(1), state)),
                                          state.state_tensor().values,
                                          state.history_tensor().values};
    if (expected.empty()) expected = found;
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO("result " << i);
      CHECK(std::equal(found[i].begin(), found[i].end(), expected[i].begin(), expected[i].end()));
    }
  }
}

[[maybe_unused]] inline constexpr Mamba3Config siso{.headdim = 16, .ngroups = 2};
inline constexpr Mamba3Config mimo{.headdim = 12, .rank = 2, .output_norm = true};

}  // namespace

TEST_CASE("one sequence is the same bytes for any number of threads, of every mixer") {
  check_team<Mamba1>();
  check_team<Mamba3<mimo>>();
#ifndef MAMBA_TEST_FEW_MODELS
  check_team<Mamba2<16, 2>>();
  check_team<Mamba3<siso>>();
#endif
}

TEST_CASE("a step's memory is known before it") {
  constexpr Config config{.vocab_size = 50, .d_model = 48, .d_state = 16};
  const auto ids = support::random_tokens(40 * 100, 50, 1), labels = support::random_tokens(40, 50, 2);
  for (const int threads : {1, 3}) {
    MambaForComposite<config> classifier({.n_layers = 3, .seed = 1, .threads = threads});
    MambaLMHeadModel<config, Mamba2<16>, BFloat16> language({.n_layers = 3, .seed = 1, .threads = threads});
    const auto expected = static_cast<double>(classifier.gradient_bytes(40, 100)),
               of_language = static_cast<double>(language.gradient_bytes(8, 500));
    classifier.loss_and_gradients(ids, labels);
    CHECK(std::abs(static_cast<double>(classifier.memory_bytes()) - expected) < 0.05 * expected);
    language.loss_and_gradients(ids, 8);
    CHECK(std::abs(static_cast<double>(language.memory_bytes()) - of_language) < 0.05 * of_language);
    CHECK_THROWS_AS(classifier.gradient_bytes(0, 4), Error);
    CHECK_THROWS_AS(classifier.gradient_bytes(1 << 16, 1 << 16), Error);
  }
}

TEST_CASE("a step allocates no new memory after the first, whatever smaller batch follows") {
  Classifier model({.n_layers = 2, .seed = 1, .threads = 2});
  const auto ids = support::random_tokens(300 * 8, 10, 1), labels = support::random_tokens(300, 10, 2);
  model.loss_and_gradients(ids, labels);
  const std::size_t held = model.memory_bytes();
  for (int batch = 300; batch > 0; batch -= 77) {
    model.loss_and_gradients(std::span(ids).first(static_cast<std::size_t>(8 * batch)),
                             std::span(labels).first(static_cast<std::size_t>(batch)));
    model(std::span(ids).first(static_cast<std::size_t>(8 * batch)), batch);
  }
  CHECK(model.memory_bytes() == held);
}
