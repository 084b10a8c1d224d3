// The composite function task, full symmetry version (arXiv 2509.17514; specification, section A.1).
//
// Anchors 0..4 stand for functions on keys, modulo 100 unless told otherwise, in one of two sets: which one holds is
// told by the pair. All functions are sums, so that a pair and its mirror have the same value. Only (4,3) is left out
// of training: does a model that knows (3,4) know it?
#pragma once

#include <cstdint>
#include <vector>

#include <mamba/core/macros.hpp>
#include <mamba/task/anchored.hpp>

namespace mamba::task {

struct FullSymmetryOptions {
  std::uint64_t seed = 0;
  TokenRange filler{20, 99};  // as the standard version
  TokenRange keys{20, 99};
  Labels labels = Labels::modulo;
  std::int64_t train_samples = 256'500;  // over the 19 training pairs, equal shares: 4.5 % each of 300,000
  int eval_samples = 1'500;              // for each of the 20 test pairs: 0.5 %
};

class FullSymmetry : public AnchoredTask<FullSymmetry, FullSymmetryOptions> {
 public:
  static constexpr const char* name = "full symmetry";
  static constexpr int anchors = 5;
  static constexpr int pair_count = anchors * (anchors - 1);  // without pairs of equal anchors
  static constexpr AnchorPair held_out{4, 3};
  static constexpr std::uint32_t first_word_set = 32;  // no other task's

  explicit FullSymmetry(const FullSymmetryOptions& options = {}) : AnchoredTask(options) {}

  // Pair number 0..19 in the order 01, 02, 03, 04, 10, 12, .. 43, and back.
  MAMBA_HOST_DEVICE static constexpr AnchorPair pair(int number) {
    const int first = number / (anchors - 1), other = number % (anchors - 1);
    return {first, other < first ? other : other + 1};
  }
  MAMBA_HOST_DEVICE static constexpr int number_of(AnchorPair pair) {
    return (anchors - 1) * pair.first + (pair.second < pair.first ? pair.second : pair.second - 1);
  }

  // Whether a pair composes functions of the first set (01, 02, 14, 23, 34 and their mirrors) or of the second.
  MAMBA_HOST_DEVICE static constexpr bool in_first_set(AnchorPair pair) {
    const int low = pair.first < pair.second ? pair.first : pair.second, high = pair.first + pair.second - low;
    return (low == 0 && high <= 2) || (low == 1 && high == 4) || (low >= 2 && high == low + 1);
  }
  // f_second(f_first(key)) in the pair's set. The paper's second set has no function 4, which its pairs 04, 40,
  // 24 and 42 need: key - 1 here.
  MAMBA_HOST_DEVICE static constexpr int label(int key, AnchorPair pair, Labels labels = Labels::modulo) {
    const bool first_set = in_first_set(pair);
    return AnchoredSequences::label(key + shift(first_set, pair.first) + shift(first_set, pair.second), labels);
  }

  // The test set of a pair. Throws Error where there is no such pair.
  LabelledSet test_set(int pair_number) const {
    LabelledSet set;
    test_samples(pair_number, set.ids, [&](const CompositeSample& sample) { set.labels.push_back(sample.label); });
    return set;
  }

 private:
  MAMBA_HOST_DEVICE static constexpr int shift(bool first_set, int anchor) {
    if (first_set) return anchor == 0 ? 2 : anchor == 1 ? 5 : anchor == 2 ? 1 : anchor == 3 ? -2 : -8;
    return anchor == 0 ? -9 : anchor == 1 ? 6 : anchor == 2 ? -7 : anchor == 3 ? 3 : -1;
  }
};

}  // namespace mamba::task
