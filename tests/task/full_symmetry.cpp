#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <set>
#include <string>

#include <mamba/task/composite_function.hpp>
#include <mamba/task/full_symmetry.hpp>

#include "support/anchored_task.hpp"

using mamba::task::AnchorPair;
using Task = mamba::task::FullSymmetry;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("full symmetry: pairs, sets and labels are the paper's") {
  // The paper's lists, in its order.
  const std::set<std::string> first{"01", "10", "02", "20", "14", "41", "23", "32", "34", "43"},
      second{"03", "30", "04", "40", "12", "21", "13", "31", "24", "42"};
  std::set<std::string> seen;
  for (int n = 0; n < Task::pair_count; ++n) {
    const AnchorPair pair = Task::pair(n);
    CHECK(Task::number_of(pair) == n);
    const std::string name = std::to_string(pair.first) + std::to_string(pair.second);
    seen.insert(name);
    CHECK(first.count(name) + second.count(name) == 1);
    CHECK(Task::in_first_set(pair) == (first.count(name) == 1));
    // A pair and its mirror have the same value.
    for (const int key : {20, 57, 99}) CHECK(Task::label(key, pair) == Task::label(key, {pair.second, pair.first}));
  }
  CHECK(seen.size() == 20);
  CHECK(Task::label(50, {0, 1}) == 57);
  CHECK(Task::label(50, {2, 3}) == 49);
  CHECK(Task::label(50, {4, 3}) == 40);
  CHECK(Task::label(50, {0, 3}) == 44);
  CHECK(Task::label(50, {0, 4}) == 40);
  CHECK(Task::label(50, {1, 2}) == 49);
  CHECK(Task::label(50, {2, 4}) == 42);
  CHECK(Task::label(99, {1, 3}) == 8);
  CHECK(Task::label(20, {1, 4}) == 17);
}

TEST_CASE("full symmetry: every rule holds on 100,000 training samples") {
  const Task task({.seed = 1});
  CHECK(task.train_samples() == 19 * 13'500);
  support::check_training_samples(task, 0, 4);  // pairs of equal anchors have no number
}

TEST_CASE("full symmetry: test sets hold test cases of their pair alone") {
  const Task task({.seed = 1, .eval_samples = 300});
  for (int n = 0; n < Task::pair_count; ++n) {
    const auto set = task.test_set(n);
    REQUIRE(set.size() == 300);
    const AnchorPair pair = Task::pair(n);
    for (int i = 0; i < set.size(); ++i) {
      const std::int32_t* const ids = set.ids.data() + 8 * i;
      int position = -1;
      for (int p = 0; p < 6; ++p)
        if (ids[p + 1] == pair.first && ids[p + 2] == pair.second) position = p;
      REQUIRE(position >= 0);
      REQUIRE(ids[position] % 8 == position);
      REQUIRE(set.labels[static_cast<std::size_t>(i)] == Task::label(ids[position], pair));
    }
  }
  CHECK_THROWS_WITH(task.test_set(20), ContainsSubstring("pair number 20 is not in 0..19"));
}

TEST_CASE("full symmetry: labels may be the sums themselves") {
  using mamba::task::Labels;
  const Task standard({.seed = 1}), sums({.seed = 1, .labels = Labels::sum});
  CHECK(standard.vocab_size == 100);
  CHECK(sums.vocab_size == 109);
  std::int32_t x[8], y[8];
  for (int i = 0; i < 1000; ++i) REQUIRE(standard.train_sample(i, x) == sums.train_sample(i, y) % 100);
  for (int n = 0; n < Task::pair_count; ++n) {
    const auto [first, second] = Task::pair(n);
    CHECK(Task::label(99, {first, second}, Labels::sum) == Task::label(99, {second, first}, Labels::sum));
  }
  CHECK_THROWS_WITH(Task({.keys = {9, 99}, .labels = Labels::sum}), ContainsSubstring("one of them is -1"));
}

TEST_CASE("full symmetry: samples are functions of seed and index, and no other task's") {
  const Task a({.seed = 1}), b({.seed = 1}), c({.seed = 2});
  const mamba::task::CompositeFunction standard({.seed = 1});
  std::int32_t x[8], y[8], z[8], w[8];
  int other_seed = 0, other_task = 0;
  for (int i = 100; i >= 0; --i) {
    a.train_sample(i, x), b.train_sample(i, y), c.train_sample(i, z), standard.train_sample(i, w);
    CHECK(std::equal(x, x + 8, y));
    other_seed += !std::equal(x, x + 8, z);
    other_task += x[7] != w[7];
  }
  CHECK(other_seed > 95);
  CHECK(other_task > 60);
  CHECK_THROWS_WITH(Task({.keys = {20, 22}}), ContainsSubstring("without a training or a test case"));
  CHECK_THROWS_WITH(Task({.filler = {20, 100}}), ContainsSubstring("filler range 20..100"));
  CHECK_THROWS_WITH(Task({.train_samples = 0}), ContainsSubstring("training samples"));
  CHECK_THROWS_WITH(Task({.eval_samples = 0}), ContainsSubstring("test samples"));
}
