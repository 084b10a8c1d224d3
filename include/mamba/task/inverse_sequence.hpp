// The inverse sequence matching task (arXiv 2509.17514; specification, section A.2).
//
// Three distinct numbers; five of their six orders one after the other, each with a random token behind it; then random
// tokens beyond the reach of the convolutions; then one of the five orders, reversed. The label is the number of that
// order, 0..4. What tells training from test is a residue, so that a model that has learned the rule answers both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/task/words.hpp>

namespace mamba::task {

struct InverseSequenceOptions {
  std::uint64_t seed = 0;
  int n_layers = 2;             // of the model: each reaches 3 tokens by its convolution
  TokenRange numbers{20, 100};  // of training and test
  TokenRange numbers_out_of_distribution{101, 200};
  std::int64_t train_samples = 80'000;
  int test_samples = 10'000, out_of_distribution_samples = 10'000;
};

class InverseSequence {
 public:
  static constexpr const char* name = "inverse sequences";
  static constexpr int orders = 5;
  static constexpr int tokens = 1000;            // the ranges' end; the paper does not say how many its models know
  static constexpr bool draws_on_device = true;  // train_sample() runs on a GPU, too

  // train: the three numbers are not all congruent modulo 3; test: they are; out of distribution: other numbers, any.
  enum class Set : std::uint32_t { train, test, out_of_distribution };

  const int length;      // 29 for two layers
  const int vocab_size;  // one more than the largest number: 201 unless told otherwise

  // Throws Error on ranges outside the tokens or too narrow for three numbers of each kind and a token beside them,
  // fewer than one layer, or sizes below 1.
  explicit InverseSequence(const InverseSequenceOptions& options = {})
      : length(checked(options).n_layers * 3 + orders * 4 + 3),
        vocab_size(1 + (std::max)(options.numbers.last, options.numbers_out_of_distribution.last)),
        options_(options) {}

  const InverseSequenceOptions& options() const { return options_; }
  // f(name, value) for all that decides the training samples.
  template <class F>
  void for_each_option(F&& f) const {
    f("task", name), f("task_seed", options_.seed), f("task_n_layers", options_.n_layers),
        f("numbers", options_.numbers);
  }
  MAMBA_HOST_DEVICE std::int64_t train_samples() const { return options_.train_samples; }

  // Training sample `index`, a function of (seed, index): fills ids (length) and returns the label.
  MAMBA_HOST_DEVICE std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    return sample(Set::train, index, ids);
  }

  // The same of any set.
  MAMBA_HOST_DEVICE std::int32_t sample(Set set, std::int64_t index, std::int32_t* ids) const {
    Words words(options_.seed, first_word_set + static_cast<std::uint32_t>(set), static_cast<std::uint64_t>(index));
    const TokenRange range = set == Set::out_of_distribution ? options_.numbers_out_of_distribution : options_.numbers;
    int numbers[3];
    do
      for (int& number : numbers) number = words.in(range);
    while (!belong(numbers, set));
    const auto other = [&] {
      int token = words.in(range);
      while (token == numbers[0] || token == numbers[1] || token == numbers[2]) token = words.in(range);
      return token;
    };
    // The six orders, the first five of them in the sequence (Fisher and Yates).
    int shuffled[orders + 1] = {0, 1, 2, 3, 4, 5};
    for (int left = orders; left > 0; --left) {
      const int chosen = words.below(left + 1), last = shuffled[left];
      shuffled[left] = shuffled[chosen];
      shuffled[chosen] = last;
    }
    int t = 0;
    for (int i = 0; i < orders; ++i) {
      for (int position = 0; position < 3; ++position) ids[t++] = numbers[of_order(shuffled[i], position)];
      ids[t++] = other();
    }
    while (t < length - 3) ids[t++] = other();
    const int label = words.below(orders);
    for (int position = 2; position >= 0; --position) ids[t++] = numbers[of_order(shuffled[label], position)];
    return label;
  }

  // The test samples of a set; of the training set as many of its first, where it has them.
  LabelledSet test_set(Set set) const {
    const int test_samples = set == Set::train && options_.train_samples < options_.test_samples
                                 ? static_cast<int>(options_.train_samples)
                                 : options_.test_samples;
    const int count = set == Set::out_of_distribution ? options_.out_of_distribution_samples : test_samples;
    LabelledSet all{std::vector<std::int32_t>(static_cast<std::size_t>(count) * static_cast<std::size_t>(length)), {}};
    for (int i = 0; i < count; ++i)
      all.labels.push_back(sample(set, i, all.ids.data() + static_cast<std::ptrdiff_t>(i) * length));
    return all;
  }

 private:
  static constexpr std::uint32_t first_word_set = 64;  // no other task's

  // Which of the three numbers stands at `position` of order 0..5.
  MAMBA_HOST_DEVICE static constexpr int of_order(int order, int position) {
    const int first = order / 2, second = (first + 1 + order % 2) % 3;
    return position == 0 ? first : position == 1 ? second : 3 - first - second;
  }

  MAMBA_HOST_DEVICE static constexpr bool belong(const int (&numbers)[3], Set set) {
    const auto [a, b, c] = numbers;
    if (a == b || b == c || a == c) return false;
    const bool congruent = a % 3 == b % 3 && b % 3 == c % 3;
    return set == Set::out_of_distribution || congruent == (set == Set::test);
  }

  static const InverseSequenceOptions& checked(const InverseSequenceOptions& o) {
    const auto check_range = [](const char* what, TokenRange r) {
      require(r.first >= 0 && r.first <= r.last && r.last < tokens, what, " ", r.first, "..", r.last,
              " is not a range of tokens in 0..", tokens - 1);
      require(r.size() >= 7, what, " ", r.first, "..", r.last, " holds ", r.size(),
              " tokens; three that are congruent modulo 3 need 7");
    };
    check_range("the range of numbers", o.numbers);
    check_range("the range of numbers out of distribution", o.numbers_out_of_distribution);
    require(o.n_layers >= 1, "a model has at least one layer; n_layers is ", o.n_layers);
    require(o.n_layers <= 1'000'000, "a model has at most 1000000 layers; n_layers is ", o.n_layers);
    require(o.train_samples >= 1 && o.train_samples <= 0x7FFFFFFF,
            "the number of training samples must be in 1..2147483647; given ", o.train_samples);
    require(o.test_samples >= 1 && o.out_of_distribution_samples >= 1,
            "the numbers of test samples must be positive; given ", o.test_samples, " and ",
            o.out_of_distribution_samples);
    return o;
  }

  InverseSequenceOptions options_;
};

}  // namespace mamba::task
