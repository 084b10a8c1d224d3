// What the composite function tasks share: a sequence of 8 tokens with a key, two anchors behind it, and filler
// (specification, section A.1).
#pragma once

#include <cstdint>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/task/words.hpp>

namespace mamba::task {

struct AnchorPair {
  int first, second;
  constexpr bool operator==(const AnchorPair&) const = default;
};

// What stands in a sequence beside its tokens.
struct CompositeSample {
  std::int32_t key, position, label;  // position: the key's; the anchors follow it
};

// Where keys and filler come from.
struct AnchoredSequences {
  static constexpr int length = 8, vocab_size = 100, positions = 6;

  std::uint64_t seed;
  TokenRange filler, keys;

  // Throws Error on ranges outside the vocabulary, or keys that leave a position without training or test cases.
  void check() const {
    const auto check_range = [](const char* what, TokenRange r) {
      require(r.first >= 0 && r.first <= r.last && r.last < vocab_size, what, " range ", r.first, "..", r.last,
              " is not a range of tokens in 0..", vocab_size - 1);
    };
    check_range("filler", filler);
    check_range("key", keys);
    for (int position = 0; position < positions; ++position) {
      int test = 0;
      for (int key = keys.first; key <= keys.last; ++key) test += is_test_case(key, position);
      require(test > 0 && test < keys.size(), "key range ", keys.first, "..", keys.last, " leaves position ", position,
              " without a training or a test case; eight keys in a row have both everywhere");
    }
  }

  // A key k at position p is a test case if k mod 8 = p, else a training case.
  MAMBA_HOST_DEVICE static constexpr bool is_test_case(int key, int position) { return key % 8 == position; }

  MAMBA_HOST_DEVICE static constexpr int modulo(int x) { return ((x % 100) + 100) % 100; }

  // Sample `index` of a set, a function of (seed, set, index): fills ids (8); the label is the caller's.
  MAMBA_HOST_DEVICE CompositeSample draw(std::uint32_t set, std::uint64_t index, AnchorPair pair, bool test,
                                         std::int32_t* ids) const {
    Words words(seed, set, index);
    const int position = words.in({0, positions - 1});
    int key = words.in(keys);
    while (is_test_case(key, position) != test) key = words.in(keys);
    for (int t = 0; t < length; ++t)
      ids[t] = t == position       ? key
               : t == position + 1 ? pair.first
               : t == position + 2 ? pair.second
                                   : words.in(filler);
    return {key, position, -1};
  }
};

// Sizes as tasks take them.
inline void check_sizes(std::int64_t train_samples, int eval_samples) {
  require(train_samples >= 1 && train_samples <= 0x7FFFFFFF,
          "the number of training samples must be in 1..2147483647; given ", train_samples);
  require(eval_samples >= 1, "the number of test samples must be positive; given ", eval_samples);
}

}  // namespace mamba::task
