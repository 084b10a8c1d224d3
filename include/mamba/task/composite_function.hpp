// The composite function task, standard version (arXiv 2509.17514; specification, section A.1).
//
// Anchors 1..4 stand for functions on keys modulo 100. A sequence holds a key, two anchors behind it and filler; its
// label is the second anchor's function of the first's of the key. The pair (4,3) never occurs in training, and (3,4)
// is defined apart, so that the answer to (4,3) tells which solution a model has found.
#pragma once

#include <cstdint>
#include <vector>

#include <mamba/core/macros.hpp>
#include <mamba/task/anchored.hpp>

namespace mamba::task {

struct CompositeFunctionOptions {
  std::uint64_t seed = 0;
  TokenRange filler{20, 99};  // as the paper; its public reproduction draws 0..99
  TokenRange keys{20, 99};
  std::int64_t train_samples = 300'000;  // over the 15 training pairs, equal shares
  int eval_samples = 1'800;              // for each of the 16 test pairs
};

// The test set of a pair: ids (samples, 8), the others (samples).
struct CompositeTestSet {
  AnchorPair pair;
  std::vector<std::int32_t> ids, keys, positions, labels;
  int size() const { return static_cast<int>(labels.size()); }
};

class CompositeFunction {
 public:
  static constexpr const char* name = "composite";
  static constexpr int length = AnchoredSequences::length, vocab_size = AnchoredSequences::vocab_size,
                       positions = AnchoredSequences::positions;
  static constexpr int pair_count = 16;
  static constexpr AnchorPair held_out{4, 3};
  static constexpr bool draws_on_device = true;  // train_sample() runs on a GPU, too

  // Throws Error on ranges outside the vocabulary, keys that leave a position without training or test cases, or
  // sizes below 1.
  explicit CompositeFunction(const CompositeFunctionOptions& options = {}) : options_(options) {
    sequences().check();
    check_sizes(options.train_samples, options.eval_samples);
  }

  const CompositeFunctionOptions& options() const { return options_; }
  // f(name, value) for all that decides the training samples.
  template <class F>
  void for_each_option(F&& f) const {
    f("task", name), f("task_seed", options_.seed), f("filler", options_.filler), f("keys", options_.keys);
  }
  MAMBA_HOST_DEVICE std::int64_t train_samples() const { return options_.train_samples; }

  // Pair number 0..15 in the order 11, 12, .. 44.
  MAMBA_HOST_DEVICE static constexpr AnchorPair pair(int number) { return {1 + number / 4, 1 + number % 4}; }
  MAMBA_HOST_DEVICE static constexpr int number_of(AnchorPair pair) { return 4 * (pair.first - 1) + pair.second - 1; }

  // f_second(f_first(key)) mod 100.
  MAMBA_HOST_DEVICE static constexpr int composite_label(int key, AnchorPair pair) {
    return AnchoredSequences::modulo(key + shift(pair.first) + shift(pair.second));
  }
  // What the task calls right: the composition, but key - 6 for (3,4).
  MAMBA_HOST_DEVICE static constexpr int label(int key, AnchorPair pair) {
    return pair.first == 3 && pair.second == 4 ? AnchoredSequences::modulo(key - 6) : composite_label(key, pair);
  }
  // The answer of a model that takes (first, second) for its mirror.
  MAMBA_HOST_DEVICE static constexpr int symmetric_label(int key, AnchorPair pair) {
    return label(key, {pair.second, pair.first});
  }

  // A key k at position p is a test case if k mod 8 = p, else a training case.
  MAMBA_HOST_DEVICE static constexpr bool is_test_case(int key, int position) {
    return AnchoredSequences::is_test_case(key, position);
  }

  // Training sample `index`, a function of (seed, index): fills ids (8) and returns the label.
  MAMBA_HOST_DEVICE std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    constexpr int held_out_number = number_of(held_out);
    const int number = static_cast<int>(index % (pair_count - 1));
    return draw(0, static_cast<std::uint64_t>(index), pair(number < held_out_number ? number : number + 1), false, ids)
        .label;
  }
  // Test sample `index` of a pair, a function of (seed, pair, index): fills ids (8).
  MAMBA_HOST_DEVICE CompositeSample test_sample(int pair_number, std::int64_t index, std::int32_t* ids) const {
    return draw(1 + static_cast<std::uint32_t>(pair_number), static_cast<std::uint64_t>(index), pair(pair_number), true,
                ids);
  }

  CompositeTestSet test_set(int pair_number) const {
    CompositeTestSet set{pair(pair_number),
                         std::vector<std::int32_t>(static_cast<std::size_t>(options_.eval_samples) * length),
                         {},
                         {},
                         {}};
    for (int i = 0; i < options_.eval_samples; ++i) {
      const CompositeSample sample =
          test_sample(pair_number, i, set.ids.data() + static_cast<std::ptrdiff_t>(i) * length);
      set.keys.push_back(sample.key), set.positions.push_back(sample.position), set.labels.push_back(sample.label);
    }
    return set;
  }

 private:
  MAMBA_HOST_DEVICE static constexpr int shift(int anchor) {
    return anchor == 1 ? 5 : anchor == 2 ? 1 : anchor == 3 ? -2 : -8;
  }

  MAMBA_HOST_DEVICE AnchoredSequences sequences() const { return {options_.seed, options_.filler, options_.keys}; }

  MAMBA_HOST_DEVICE CompositeSample draw(std::uint32_t set, std::uint64_t index, AnchorPair pair, bool test,
                                         std::int32_t* ids) const {
    CompositeSample sample = sequences().draw(set, index, pair, test, ids);
    sample.label = label(sample.key, pair);
    return sample;
  }

  CompositeFunctionOptions options_;
};

}  // namespace mamba::task
