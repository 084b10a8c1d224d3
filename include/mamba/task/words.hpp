// The random numbers of one sample of a task, a function of (seed, set, index), drawn one after the other
// (specification, section A.3).
#pragma once

#include <cstdint>
#include <vector>

#include <mamba/core/macros.hpp>
#include <mamba/core/random.hpp>

namespace mamba::task {

// Tokens first .. last, both included.
struct TokenRange {
  int first, last;
  constexpr bool operator==(const TokenRange&) const = default;
  MAMBA_HOST_DEVICE constexpr int size() const { return last - first + 1; }
};

// Sequences and their labels: ids (samples, length).
struct LabelledSet {
  std::vector<std::int32_t> ids, labels;
  int size() const { return static_cast<int>(labels.size()); }
};

// set: below 256. No two tasks have the same: the composite function 0..16, its full symmetry version 32..52, inverse
// sequences 64..66.
class Words {
 public:
  MAMBA_HOST_DEVICE Words(std::uint64_t seed, std::uint32_t set, std::uint64_t index)
      : seed_(seed), index_(index), set_(set) {}

  // A token of the range, all equally likely.
  MAMBA_HOST_DEVICE int in(TokenRange range) { return range.first + below(range.size()); }
  // A number in [0, bound).
  MAMBA_HOST_DEVICE int below(int bound) {
    if (used_ == 4) {
      block_ = random_words(seed_, RandomPurpose::task, set_ + (blocks_++ << 8), index_);
      used_ = 0;
    }
    return static_cast<int>(random_below(block_.word[used_++], static_cast<std::uint32_t>(bound)));
  }

 private:
  std::uint64_t seed_, index_;
  std::uint32_t set_, blocks_ = 0;
  Random4 block_{};
  int used_ = 4;
};

}  // namespace mamba::task
