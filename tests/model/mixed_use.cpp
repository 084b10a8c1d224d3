// What users do in any order: calls of every kind between training steps, several models at once, calls from inside
// calls.
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <functional>
#include <thread>
#include <utility>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

// Wide enough that a single sequence's products are shared out over the threads.
inline constexpr Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};
using Classifier = MambaForComposite<config>;
using Ids = std::span<const std::int32_t>;

// Every kind of call, on a batch's first sequences.
std::vector<std::pair<const char*, std::function<void(Classifier&, Ids, int)>>> calls() {
  const auto mask_of = [](Ids ids) {
    std::vector<std::uint8_t> mask(ids.size(), 0);
    for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
    return mask;
  };
  return {
      {"the last token's logits", [](Classifier& m, Ids ids, int batch) { m(ids, batch); }},
      {"all logits", [](Classifier& m, Ids ids, int batch) { m.logits(ids, batch); }},
      {"prefill and a step",
       [](Classifier& m, Ids ids, int batch) {
         auto state = m.initial_state(batch);
         m.prefill(ids, batch, state);
         m.step(ids.first(static_cast<std::size_t>(batch)), state);
       }},
      {"a visit", [](Classifier& m, Ids ids, int batch) { m.visit(ids, batch, [](Point, int, auto, auto) {}); }},
      {"activations", [](Classifier& m, Ids ids, int batch) { m.activations(Point::delta, ids, batch); }},
      {"blocking", [=](Classifier& m, Ids ids, int batch) { m.blocked(ids, batch, mask_of(ids)); }},
      {"substitution", [=](Classifier& m, Ids ids, int batch) { m.substituted(ids, ids, batch, mask_of(ids)); }},
      {"gradients", [](Classifier& m, Ids ids,
                       int batch) { m.loss_and_gradients(ids, ids.first(static_cast<std::size_t>(batch))); }},
      {"gradients of a loss of one's own",
       [](Classifier& m, Ids ids, int batch) {
         m.loss_and_gradients(ids, batch, [](auto, int, auto) { return 0.0; });
       }},
      {"visited gradients",
       [](Classifier& m, Ids ids, int batch) {
         m.visit_gradients(ids, ids.first(static_cast<std::size_t>(batch)), [](Point, int, auto, auto) {});
       }},
      {"the gradients' norm", [](Classifier& m, Ids, int) { clip_grad_norm(m, 1e9); }},
      {"a parameter written again", [](Classifier& m, Ids, int) { m.load_state_dict(m.state_dict()); }},
  };
}

}  // namespace

TEST_CASE("any call after any other, small after large and large after small, gives what it gives alone") {
  const auto ids = support::random_tokens(40 * 8, 100, 1), labels = support::random_tokens(40, 100, 2);
  const Ids all(ids);
  for (const int threads : {1, 2, 5}) {
    const ModelOptions options{.n_layers = 1, .gamma = 1.0, .seed = 3, .threads = threads};
    Classifier alone(options), model(options);
    const double loss = alone.loss_and_gradients(ids, labels);
    const auto gradients = alone.gradient_dict();
    const auto logits = support::values(alone(ids, 40));
    for (const auto& [name, call] : calls())
      for (const int batch : {1, 8, 40}) {
        INFO(threads << " threads; " << name << " of " << batch);
        call(model, all.first(static_cast<std::size_t>(8 * batch)), batch);
        CHECK(model.loss_and_gradients(ids, labels) == loss);
        for (const auto& [key, tensor] : model.gradient_dict()) CHECK((tensor.values == gradients.at(key).values));
        call(model, all.first(static_cast<std::size_t>(8 * batch)), batch);
        CHECK((support::values(model(ids, 40)) == logits));
      }
  }
}

TEST_CASE("models in threads of their own do not know of each other") {
  const task::CompositeFunction task({.train_samples = 256});
  const auto ids = support::random_tokens(3 * 8, 100, 1);
  std::vector<double> losses(4);
  {
    std::vector<std::thread> users;
    for (double& loss : losses)
      users.emplace_back([&] {
        Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3, .threads = 2});
        Trainer trainer(model, task, {.batch_size = 128, .schedule = {.warmup = 1, .total = 4}});
        while (!trainer.finished()) trainer.run(1), model(ids, 3);
        loss = trainer.last_loss();
      });
    for (std::thread& user : users) user.join();
  }
  for (const double loss : losses) CHECK(loss == losses[0]);
}

TEST_CASE("a call from inside another one of the same model is refused, and the model goes on") {
  const auto ids = support::random_tokens(20 * 8, 100, 1), labels = support::random_tokens(20, 100, 2);
  Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 2}),
      other({.n_layers = 1, .seed = 4, .threads = 2});
  const auto logits = support::values(model(ids, 20));
  const double loss = model.loss_and_gradients(ids, labels);
  AdamW optimizer(model);
  for (const auto& [name, call] : calls()) {
    INFO(name);
    const auto inside = [&, &again = call](auto&&...) { again(model, Ids(ids).first(8), 1); };
    CHECK_THROWS_WITH(model.visit(ids, 20, inside), ContainsSubstring("the model is in use"));
    CHECK_THROWS_WITH(model.visit_gradients(ids, labels, inside), ContainsSubstring("the model is in use"));
    CHECK_THROWS_WITH(model.loss_and_gradients(ids, 20,
                                               [&](auto, int, auto) {
                                                 inside();
                                                 return 0.0;
                                               }),
                      ContainsSubstring("the model is in use"));
    CHECK((support::values(model(ids, 20)) == logits));
    CHECK(model.loss_and_gradients(ids, labels) == loss);
  }
  CHECK_THROWS_WITH(model.visit(ids, 20, [&](auto&&...) { optimizer.step(); }),
                    ContainsSubstring("the model is in use"));
  // Another model may be asked, and what is only looked at, too.
  model.visit(ids, 20, [&](auto&&...) { other(ids, 20), model.state_dict(); });
}

TEST_CASE("a model that another thread is in says so") {
  const auto ids = support::random_tokens(8, 100, 1);
  Classifier model({.n_layers = 1, .threads = 1});
  bool refused = false;
  model.visit(ids, 1, [&](auto&&...) {
    std::thread([&] {
      try {
        model(ids, 1);
      } catch (const Error&) {
        refused = true;
      }
    }).join();
  });
  CHECK(refused);
}

TEST_CASE("who looks at a model that another thread trains is told, and no dictionary or file is of two moments") {
  const auto ids = support::random_tokens(80 * 8, 100, 1), labels = support::random_tokens(80, 100, 2);
  Classifier model({.n_layers = 1, .seed = 3, .threads = 1});
  const auto path = support::scratch("looking") / "m.safetensors";
  auto dict = model.state_dict();
  // Every parameter the same number: a mixture shows.
  const auto fill = [&](float x) {
    for (auto& [name, tensor] : dict) std::fill(tensor.values.begin(), tensor.values.end(), x);
  };
  fill(0);
  model.load_state_dict(dict);
  std::atomic<bool> done{false};
  std::atomic<int> mixtures{0}, looks{0};
  std::thread onlooker([&] {
    while (!done) try {
        const auto seen = model.state_dict();
        ++looks;
        const float first = seen.begin()->second.values[0];
        for (const auto& [name, tensor] : seen)
          for (const float x : tensor.values) mixtures += x != first;
      } catch (const Error&) {
      }
  });
  for (int round = 0; round < 300; ++round) {
    fill(static_cast<float>(round));
    for (bool written = false; !written;) try {
        model.load_state_dict(dict);
        written = true;
      } catch (const Error&) {
      }
  }
  done = true;
  onlooker.join();
  CHECK(mixtures == 0);
  model.visit(ids, 80, [&](auto&&...) { std::thread([&] { CHECK_THROWS_AS(save(model, path), Error); }).join(); });
}

TEST_CASE("a step is one token for each of the state's sequences") {
  Classifier model({.n_layers = 1});
  auto state = model.initial_state(2);
  const std::int32_t tokens[] = {1, 2, 3, 4};
  for (const std::size_t count : {0U, 1U, 3U, 4U}) {
    CHECK_THROWS_WITH(model.step(Ids(tokens).first(count), state),
                      ContainsSubstring("do not divide into 2 sequences of one token"));
    CHECK(state.positions() == std::vector<int>{0, 0});
  }
  model.step(Ids(tokens).first(2), state);
  CHECK(state.positions() == std::vector<int>{1, 1});
}

#if defined(__unix__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a model goes on after fork(), in the child too") {
  const auto ids = support::random_tokens(80 * 8, 100, 1), labels = support::random_tokens(80, 100, 2);
  Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 3});
  const double loss = model.loss_and_gradients(ids, labels);
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    _exit(model.loss_and_gradients(ids, labels) == loss ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(model.loss_and_gradients(ids, labels) == loss);
}
#endif
