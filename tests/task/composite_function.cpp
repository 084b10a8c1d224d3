#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <set>

#include <mamba/task/composite_function.hpp>

#include "support/anchored_task.hpp"

using mamba::task::AnchorPair;
using mamba::task::TokenRange;
using Task = mamba::task::CompositeFunction;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("labels are the functions' composition, but for (3,4)") {
  CHECK(Task::label(50, {1, 1}) == 60);
  CHECK(Task::label(50, {1, 2}) == 56);
  CHECK(Task::label(50, {4, 4}) == 34);
  CHECK(Task::label(50, {4, 3}) == 40);
  CHECK(Task::label(50, {3, 4}) == 44);  // not 40
  CHECK(Task::composite_label(50, {3, 4}) == 40);
  CHECK(Task::symmetric_label(50, {4, 3}) == 44);
  CHECK(Task::label(99, {1, 1}) == 9);
  CHECK(Task::label(3, {4, 4}) == 87);
  for (int n = 0; n < 16; ++n) CHECK(Task::number_of(Task::pair(n)) == n);
}

TEST_CASE("every rule of the task holds on 100,000 training samples") {
  support::check_training_samples(Task({.seed = 1}), 1, 4);
}

TEST_CASE("test sets hold test cases of their pair alone, and tell the key") {
  const Task task({.seed = 1, .eval_samples = 500});
  for (int n = 0; n < Task::pair_count; ++n) {
    const auto set = task.test_set(n);
    REQUIRE(set.size() == 500);
    for (int i = 0; i < set.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      const std::int32_t* const ids = set.ids.data() + 8 * i;
      const int position = set.positions[at];
      REQUIRE(ids[position] == set.keys[at]);
      REQUIRE(set.keys[at] % 8 == position);
      REQUIRE(ids[position + 1] == Task::pair(n).first);
      REQUIRE(ids[position + 2] == Task::pair(n).second);
      REQUIRE(set.labels[at] == Task::label(set.keys[at], Task::pair(n)));
    }
  }
  CHECK_THROWS_WITH(task.test_set(16), ContainsSubstring("pair number 16 is not in 0..15"));
}

TEST_CASE("samples are functions of seed and index") {
  const Task a({.seed = 1}), b({.seed = 1}), c({.seed = 2});
  std::int32_t x[8], y[8], z[8];
  int differing = 0;
  for (int i = 100; i >= 0; --i) {
    a.train_sample(i, x), b.train_sample(i, y), c.train_sample(i, z);
    CHECK(std::equal(x, x + 8, y));
    differing += !std::equal(x, x + 8, z);
  }
  CHECK(differing > 95);
  std::set<std::vector<int>> seen;
  for (int i = 0; i < 1000; ++i) a.train_sample(i, x), seen.insert({x, x + 8});
  CHECK(seen.size() > 990);
}

TEST_CASE("labels may be the sums themselves, which the vocabulary must have room for") {
  using mamba::task::Labels;
  const Task standard({.seed = 1, .eval_samples = 300}), sums({.seed = 1, .labels = Labels::sum, .eval_samples = 300});
  CHECK(standard.vocab_size == 100);
  CHECK(sums.vocab_size == 110);
  CHECK(Task({.keys = {20, 89}, .labels = Labels::sum}).vocab_size == 100);
  CHECK(Task::label(99, {1, 1}, Labels::sum) == 109);
  CHECK(Task::label(20, {4, 4}, Labels::sum) == 4);
  CHECK(Task::label(99, {3, 4}, Labels::sum) == 93);
  CHECK(Task::composite_label(97, {1, 2}, Labels::sum) == 103);
  CHECK(Task::symmetric_label(99, {4, 3}, Labels::sum) == 93);
  // The same sequences, and labels that are the same modulo 100.
  std::int32_t x[8], y[8];
  int beyond = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto modulo = standard.train_sample(i, x), sum = sums.train_sample(i, y);
    REQUIRE(std::equal(x, x + 8, y));
    REQUIRE(modulo == sum % 100);
    beyond += sum >= 100;
  }
  CHECK(beyond > 10);
  for (int n = 0; n < Task::pair_count; ++n) {
    const auto set = sums.test_set(n);
    for (std::size_t i = 0; i < set.labels.size(); ++i)
      REQUIRE(set.labels[i] == Task::label(set.keys[i], Task::pair(n), Labels::sum));
  }
  CHECK_THROWS_WITH(Task({.keys = {15, 99}, .labels = Labels::sum}),
                    ContainsSubstring("with keys from 15 one of them is -1"));
  CHECK(Task({.keys = {16, 99}, .labels = Labels::sum}).vocab_size == 110);
  CHECK_THROWS_WITH(Task({.keys = {20, 2147483647}, .labels = Labels::sum}), ContainsSubstring("key range"));
}

TEST_CASE("ranges of filler and keys are options, bad ones are refused") {
  const Task task({.filler = {0, 4}, .keys = {90, 97}});
  std::int32_t ids[8];
  for (int i = 0; i < 1000; ++i) {
    task.train_sample(i, ids);
    int keys = 0;
    for (const int t : ids) {
      REQUIRE((t <= 4 || (t >= 90 && t <= 97)));
      keys += t >= 90;
    }
    REQUIRE(keys == 1);
  }
  const auto refused = [](mamba::task::CompositeFunctionOptions o, const char* words) {
    CHECK_THROWS_WITH(Task(o), ContainsSubstring(words));
  };
  refused({.filler = {20, 100}}, "filler range 20..100");
  refused({.filler = {-1, 5}}, "filler range -1..5");
  refused({.filler = {30, 20}}, "filler range 30..20");
  refused({.keys = {20, 22}}, "without a training or a test case");
  refused({.train_samples = 0}, "training samples");
  refused({.eval_samples = 0}, "test samples");
}
