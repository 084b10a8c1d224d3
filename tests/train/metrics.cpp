#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;

TEST_CASE("predictions take the first of the largest logits") {
  Matrix<float> logits(3, 4);
  logits(0, 2) = 1;
  logits(1, 0) = logits(1, 3) = 5;
  CHECK(predictions(logits) == std::vector<std::int32_t>{2, 0, 0});
  CHECK(accuracy(std::vector<std::int32_t>{1, 2, 3, 4}, std::vector<std::int32_t>{1, 2, 0, 0}) == 0.5);
}

namespace {

inline constexpr Config composite_config{};

// A "model" that knows the answer it is asked for.
struct Oracle {
  int difference;
  const task::CompositeTestSet& set;
  Matrix<float> operator()(const std::vector<std::int32_t>&, int batch) const {
    Matrix<float> logits(batch, 110);
    for (int i = 0; i < batch; ++i)
      logits(i, task::AnchoredSequences::label(set.keys[static_cast<std::size_t>(i)] + difference, set.rule)) = 1;
    return logits;
  }
};

}  // namespace

TEST_CASE("an evaluation tells composite from symmetric answers") {
  using Task = task::CompositeFunction;
  for (const auto labels : {task::Labels::modulo, task::Labels::sum}) {
    const Task task({.labels = labels, .eval_samples = 50});
    const auto held_out = task.test_set(Task::number_of(Task::held_out));
    Oracle composite{-10, held_out}, symmetric{-6, held_out};
    CHECK(evaluate(composite, held_out).composite == 1);
    CHECK(evaluate(composite, held_out).symmetric == 0);
    CHECK(evaluate(symmetric, held_out).composite == 0);
    CHECK(evaluate(symmetric, held_out).symmetric == 1);
    const auto mirrored = task.test_set(Task::number_of({3, 4})), raised = task.test_set(Task::number_of({1, 1}));
    Oracle right{-6, mirrored}, plus{10, raised};
    CHECK(evaluate(right, mirrored).label == 1);
    CHECK(evaluate(plus, raised).label == 1);
  }
}

TEST_CASE("a model that has diverged answers nothing") {
  for (const float poison : {NAN, INFINITY, -INFINITY}) {
    Matrix<float> logits(3, 4);
    logits(1, 2) = poison;
    try {
      predictions(logits);
      FAIL("was taken for an answer");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::diverged);
      CHECK_THAT(error.what(), Catch::Matchers::ContainsSubstring("sequence 1"));
    }
  }
  MambaForComposite<composite_config> model({.n_layers = 1});
  auto dict = model.state_dict();
  dict.at("backbone.norm_f.weight").values[0] = NAN;
  model.load_state_dict(dict);
  const task::CompositeFunction task({.eval_samples = 3});
  CHECK_THROWS_AS(evaluate(model, task.test_set(0)), Error);
}

TEST_CASE("an accuracy is of as many answers as labels, and of some") {
  const std::vector<std::int32_t> three{1, 2, 3}, two{1, 2}, none;
  CHECK_THROWS_AS(accuracy(three, two), Error);
  CHECK_THROWS_AS(accuracy(two, three), Error);
  CHECK_THROWS_AS(accuracy(none, none), Error);
}
