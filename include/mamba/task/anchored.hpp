// What the composite function tasks share: a sequence of 8 tokens with a key, two anchors behind it, and filler
// (specification, section A.1).
#pragma once

#include <cstddef>
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

// What becomes of the functions' sum: modulo 100, as the paper says, or the sum itself, as the older code of its group
// for such sequences has it: 4 to 109 with keys from 20 to 99.
enum class Labels { modulo, sum };

// Where keys and filler come from.
struct AnchoredSequences {
  static constexpr int length = 8, tokens = 100, positions = 6;

  std::uint64_t seed;
  TokenRange filler, keys;

  // Throws Error on ranges outside the tokens, or keys that leave a position without training or test cases.
  void check() const {
    const auto check_range = [](const char* what, TokenRange r) {
      require(r.first >= 0 && r.first <= r.last && r.last < tokens, what, " range ", r.first, "..", r.last,
              " is not a range of tokens in 0..", tokens - 1);
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

  MAMBA_HOST_DEVICE static constexpr int label(int sum, Labels labels) {
    return labels == Labels::sum ? sum : ((sum % 100) + 100) % 100;
  }

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

// What the tasks over such sequences share. Task provides, all static: name; pair_count, pair(number), number_of(pair)
// and held_out, which never occurs in training; label(key, pair, labels); first_word_set, the word set of training: the
// sets behind it belong to the pairs, one each. Options: seed, filler, keys, labels, train_samples, eval_samples.
template <class Task, class Options>
class AnchoredTask {
 public:
  static constexpr int length = AnchoredSequences::length, tokens = AnchoredSequences::tokens,
                       positions = AnchoredSequences::positions;
  static constexpr bool draws_on_device = true;  // train_sample() runs on a GPU, too

  const int vocab_size;  // 100 with labels modulo 100; else the largest sum may be beyond

  // Throws Error on ranges outside the tokens, keys that leave a position without training or test cases or a label
  // below 0, or sizes below 1.
  explicit AnchoredTask(const Options& options) : vocab_size(tokens_of(checked(options))), options_(options) {}

  const Options& options() const { return options_; }
  // f(name, value) for all that decides the training samples.
  template <class F>
  void for_each_option(F&& f) const {
    f("task", Task::name), f("task_seed", options_.seed), f("filler", options_.filler), f("keys", options_.keys);
    if (options_.labels == Labels::sum) f("labels", "sum");  // there was no choice when checkpoints began
  }
  MAMBA_HOST_DEVICE std::int64_t train_samples() const { return options_.train_samples; }

  // A key k at position p is a test case if k mod 8 = p, else a training case.
  MAMBA_HOST_DEVICE static constexpr bool is_test_case(int key, int position) {
    return AnchoredSequences::is_test_case(key, position);
  }

  // Training sample `index`, a function of (seed, index): fills ids (8) and returns the label. The pairs take turns.
  MAMBA_HOST_DEVICE std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    constexpr int held_out_number = Task::number_of(Task::held_out);
    const int number = static_cast<int>(index % (Task::pair_count - 1));
    return draw(0, static_cast<std::uint64_t>(index), Task::pair(number < held_out_number ? number : number + 1), false,
                ids)
        .label;
  }
  // Test sample `index` of a pair, a function of (seed, pair, index): fills ids (8).
  MAMBA_HOST_DEVICE CompositeSample test_sample(int pair_number, std::int64_t index, std::int32_t* ids) const {
    return draw(1 + static_cast<std::uint32_t>(pair_number), static_cast<std::uint64_t>(index), Task::pair(pair_number),
                true, ids);
  }

 protected:
  // take(sample) for each of a pair's test samples; ids (samples, 8) <- theirs. Throws Error where there is no such
  // pair.
  template <class Take>
  void test_samples(int pair_number, std::vector<std::int32_t>& ids, Take&& take) const {
    require(pair_number >= 0 && pair_number < Task::pair_count, "pair number ", pair_number, " is not in 0..",
            Task::pair_count - 1);
    ids.resize(static_cast<std::size_t>(options_.eval_samples) * length);
    for (int i = 0; i < options_.eval_samples; ++i)
      take(test_sample(pair_number, i, ids.data() + static_cast<std::ptrdiff_t>(i) * length));
  }

 private:
  MAMBA_HOST_DEVICE static AnchoredSequences sequences(const Options& o) { return {o.seed, o.filler, o.keys}; }

  MAMBA_HOST_DEVICE CompositeSample draw(std::uint32_t set, std::uint64_t index, AnchorPair pair, bool test,
                                         std::int32_t* ids) const {
    CompositeSample sample = sequences(options_).draw(Task::first_word_set + set, index, pair, test, ids);
    sample.label = Task::label(sample.key, pair, options_.labels);
    return sample;
  }

  static const Options& checked(const Options& o) {
    sequences(o).check();
    for (int number = 0; number < Task::pair_count; ++number) {
      const int lowest = Task::label(o.keys.first, Task::pair(number), o.labels);
      require(lowest >= 0, "labels that are sums need larger keys: with keys from ", o.keys.first, " one of them is ",
              lowest);
    }
    require(o.train_samples >= 1 && o.train_samples <= 0x7FFFFFFF,
            "the number of training samples must be in 1..2147483647; given ", o.train_samples);
    require(o.eval_samples >= 1, "the number of test samples must be positive; given ", o.eval_samples);
    return o;
  }
  // One more than the largest token or label.
  static int tokens_of(const Options& options) {
    int count = tokens;
    for (int number = 0; number < Task::pair_count; ++number) {
      const int largest = Task::label(options.keys.last, Task::pair(number), options.labels);
      count = largest >= count ? largest + 1 : count;
    }
    return count;
  }

  Options options_;
};

}  // namespace mamba::task
