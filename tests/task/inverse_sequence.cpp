#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <map>
#include <set>

#include <mamba/composite.hpp>

using mamba::task::InverseSequenceOptions;
using mamba::task::TokenRange;
using Task = mamba::task::InverseSequence;
using Set = Task::Set;
using Catch::Matchers::ContainsSubstring;
using Order = std::array<int, 3>;

namespace {

// Every rule of the task on one sample; returns its numbers, rising.
Order check_sample(const Task& task, Set set, const std::vector<std::int32_t>& ids, int label) {
  const TokenRange range =
      set == Set::out_of_distribution ? task.options().numbers_out_of_distribution : task.options().numbers;
  for (const int token : ids) REQUIRE((token >= range.first && token <= range.last));
  Order numbers{ids[0], ids[1], ids[2]};
  std::sort(numbers.begin(), numbers.end());
  REQUIRE((numbers[0] < numbers[1] && numbers[1] < numbers[2]));
  const bool congruent = numbers[0] % 3 == numbers[1] % 3 && numbers[1] % 3 == numbers[2] % 3;
  if (set != Set::out_of_distribution) REQUIRE(congruent == (set == Set::test));
  const auto is_number = [&](int token) { return std::find(numbers.begin(), numbers.end(), token) != numbers.end(); };
  const auto at = [&](std::size_t t) { return Order{ids[t], ids[t + 1], ids[t + 2]}; };
  std::set<Order> orders;
  int answers = 0;
  const Order query = at(ids.size() - 3);
  for (int i = 0; i < 5; ++i) {
    Order order = at(static_cast<std::size_t>(4 * i));
    REQUIRE(orders.insert(order).second);
    const bool is_answer = Order{order[2], order[1], order[0]} == query;
    answers += is_answer;
    REQUIRE(is_answer == (i == label));
    std::sort(order.begin(), order.end());
    REQUIRE(order == numbers);
    REQUIRE(!is_number(ids[static_cast<std::size_t>(4 * i + 3)]));
  }
  REQUIRE(answers == 1);
  for (std::size_t t = 20; t < ids.size() - 3; ++t) REQUIRE(!is_number(ids[t]));
  return numbers;
}

void check_share(int n, double expected) { CHECK(std::abs(n - expected) < 5 * std::sqrt(expected)); }

}  // namespace

TEST_CASE("inverse sequences: every rule holds on 100,000 samples of each set") {
  constexpr int count = 100'000;
  const Task task({.seed = 1});
  CHECK(task.length == 29);
  for (const Set set : {Set::train, Set::test, Set::out_of_distribution}) {
    std::map<int, int> labels, tokens;
    std::map<Order, int> first_orders;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(task.length));
    for (int i = 0; i < count; ++i) {
      const int label = task.sample(set, i, ids.data());
      const Order numbers = check_sample(task, set, ids, label);
      ++labels[label];
      for (const int token : ids) ++tokens[token];
      Order ranks;
      for (std::size_t place = 0; place < 3; ++place)
        ranks[place] = static_cast<int>(std::find(numbers.begin(), numbers.end(), ids[place]) - numbers.begin());
      ++first_orders[ranks];
    }
    CHECK(labels.size() == 5);
    for (const auto& [label, n] : labels) check_share(n, count / 5.0);
    CHECK(first_orders.size() == 6);
    for (const auto& [order, n] : first_orders) check_share(n, count / 6.0);
    CHECK(tokens.size() == (set == Set::out_of_distribution ? 100 : 81));
  }
}

TEST_CASE("inverse sequences are functions of (seed, set, index), and as long as the layers reach") {
  const Task task({.seed = 7, .n_layers = 5, .test_samples = 40, .out_of_distribution_samples = 30});
  CHECK(task.length == 38);
  std::vector<std::int32_t> a(38), b(38);
  const int label = task.train_sample(123, a.data());
  CHECK(Task({.seed = 7, .n_layers = 5}).train_sample(123, b.data()) == label);
  CHECK(a == b);
  check_sample(task, Set::train, a, label);
  task.train_sample(124, b.data());
  CHECK(a != b);
  Task({.seed = 8, .n_layers = 5}).train_sample(123, b.data());
  CHECK(a != b);
  const auto test = task.test_set(Set::test), other = task.test_set(Set::out_of_distribution);
  CHECK(test.size() == 40);
  CHECK(other.size() == 30);
  CHECK(test.ids.size() == 40 * 38);
  CHECK(task.sample(Set::test, 39, b.data()) == test.labels.back());
  CHECK(std::equal(b.begin(), b.end(), test.ids.end() - 38));
}

TEST_CASE("inverse sequences: the vocabulary reaches to the largest number") {
  CHECK(Task{}.vocab_size == 201);
  CHECK(Task({.numbers = {20, 300}}).vocab_size == 301);
}

TEST_CASE("inverse sequences: wrong options are refused") {
  const auto refused = [](InverseSequenceOptions o, const char* words) {
    CHECK_THROWS_WITH(Task(o), ContainsSubstring(words));
  };
  refused({.n_layers = 0}, "at least one layer");
  refused({.numbers = {20, 1000}}, "is not a range of tokens");
  refused({.numbers = {30, 20}}, "is not a range of tokens");
  refused({.numbers = {20, 25}}, "need 7");
  refused({.numbers_out_of_distribution = {101, 103}}, "need 7");
  refused({.train_samples = 0}, "training samples");
  refused({.test_samples = 0}, "test samples");
  // The narrowest ranges work.
  const Task narrow({.numbers = {20, 26}, .numbers_out_of_distribution = {27, 33}});
  std::vector<std::int32_t> ids(29);
  for (const Set set : {Set::train, Set::test, Set::out_of_distribution})
    for (int i = 0; i < 100; ++i) check_sample(narrow, set, ids, narrow.sample(set, i, ids.data()));
}

TEST_CASE("a trainer takes sequences whose length is known at run time") {
  static constexpr mamba::Config config{.vocab_size = 1000, .d_model = 8, .d_state = 4};
  const Task task({.seed = 3, .train_samples = 40, .test_samples = 10});
  mamba::MambaForComposite<config> model({.n_layers = 2, .seed = 1});
  mamba::Trainer trainer(
      model, task,
      {.batch_size = 16, .schedule = {.initial_lr = 1e-3, .lr = 1e-2, .warmup = 1, .total = 10}, .seed = 3});
  const double first = trainer.step();
  CHECK(std::abs(first - std::log(1000.0)) < 0.5);
  trainer.run(29);
  CHECK(trainer.finished());
  CHECK(trainer.last_loss() < first - 1);
  // The share that an evaluation gives is that of the answers, one by one.
  const auto test = task.test_set(Set::test);
  int hits = 0;
  for (int i = 0; i < 10; ++i) {
    const auto logits = model(std::span(test.ids).subspan(static_cast<std::size_t>(29 * i), 29), 1);
    const auto row = logits.row(0);
    hits += std::max_element(row.begin(), row.end()) - row.begin() == test.labels[static_cast<std::size_t>(i)];
  }
  CHECK(evaluate(model, test) == hits / 10.0);

  mamba::MambaForComposite<config, mamba::LearnedPosition<28>> short_sighted({.n_layers = 2, .seed = 1});
  CHECK_THROWS_WITH(mamba::Trainer(short_sighted, task, {}),
                    ContainsSubstring("sequences of 29 tokens are longer than the model's max_seq_len 28"));
}

TEST_CASE("inverse sequences: the training set's test samples are its own first ones") {
  const Task task({.seed = 3, .train_samples = 40, .test_samples = 50});
  const auto set = task.test_set(Set::train);
  REQUIRE(set.size() == 40);
  std::vector<std::int32_t> ids(29);
  for (int i = 0; i < 40; ++i) {
    CHECK(task.train_sample(i, ids.data()) == set.labels[static_cast<std::size_t>(i)]);
    CHECK(std::equal(ids.begin(), ids.end(), set.ids.begin() + 29 * i));
  }
  CHECK(task.test_set(Set::test).size() == 50);
}
