// The composite function task, standard version (arXiv 2509.17514; specification, section A.1).
//
// Anchors 1..4 stand for functions on keys, modulo 100 unless told otherwise. A sequence holds a key, two anchors
// behind it and filler; its label is the second anchor's function of the first's of the key. The pair (4,3) never
// occurs in training, and (3,4) is defined apart, so that the answer to (4,3) tells which solution a model has found.
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
  Labels labels = Labels::modulo;
  std::int64_t train_samples = 300'000;  // over the 15 training pairs, equal shares
  int eval_samples = 1'800;              // for each of the 16 test pairs
};

// The test set of a pair: ids (samples, 8), the others (samples).
struct CompositeTestSet {
  AnchorPair pair;
  std::vector<std::int32_t> ids, keys, positions, labels;
  Labels rule = Labels::modulo;
  int size() const { return static_cast<int>(labels.size()); }
};

class CompositeFunction : public AnchoredTask<CompositeFunction, CompositeFunctionOptions> {
 public:
  static constexpr const char* name = "composite";
  static constexpr int pair_count = 16;
  static constexpr AnchorPair held_out{4, 3};
  static constexpr std::uint32_t first_word_set = 0;

  explicit CompositeFunction(const CompositeFunctionOptions& options = {}) : AnchoredTask(options) {}

  // Pair number 0..15 in the order 11, 12, .. 44.
  MAMBA_HOST_DEVICE static constexpr AnchorPair pair(int number) { return {1 + number / 4, 1 + number % 4}; }
  MAMBA_HOST_DEVICE static constexpr int number_of(AnchorPair pair) { return 4 * (pair.first - 1) + pair.second - 1; }

  // f_second(f_first(key)).
  MAMBA_HOST_DEVICE static constexpr int composite_label(int key, AnchorPair pair, Labels labels = Labels::modulo) {
    return AnchoredSequences::label(key + shift(pair.first) + shift(pair.second), labels);
  }
  // What the task calls right: the composition, but key - 6 for (3,4).
  MAMBA_HOST_DEVICE static constexpr int label(int key, AnchorPair pair, Labels labels = Labels::modulo) {
    return pair.first == 3 && pair.second == 4 ? AnchoredSequences::label(key - 6, labels)
                                               : composite_label(key, pair, labels);
  }
  // The answer of a model that takes (first, second) for its mirror.
  MAMBA_HOST_DEVICE static constexpr int symmetric_label(int key, AnchorPair pair, Labels labels = Labels::modulo) {
    return label(key, {pair.second, pair.first}, labels);
  }

  // Throws Error where there is no such pair.
  CompositeTestSet test_set(int pair_number) const {
    CompositeTestSet set{};
    test_samples(pair_number, set.ids, [&](const CompositeSample& sample) {
      set.keys.push_back(sample.key), set.positions.push_back(sample.position), set.labels.push_back(sample.label);
    });
    set.pair = pair(pair_number), set.rule = options().labels;
    return set;
  }

 private:
  MAMBA_HOST_DEVICE static constexpr int shift(int anchor) {
    return anchor == 1 ? 5 : anchor == 2 ? 1 : anchor == 3 ? -2 : -8;
  }
};

}  // namespace mamba::task
