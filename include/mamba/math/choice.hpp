// How the next token is chosen from logits: the likeliest, or at random as softmax says.
#pragma once

#include <cmath>
#include <cstdint>

#include <mamba/core/config.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/core/random.hpp>

namespace mamba::math {

// A token and what it is chosen by; of several the one of the largest score, of equal scores the first token. No token
// stands for a logit that is not finite, and beats all.
struct Choice {
  static constexpr int none = -1;

  double score;
  int token;

  MAMBA_INLINE MAMBA_HOST_DEVICE bool beats(const Choice& other) const {
    return score > other.score || (score == other.score && token < other.token);
  }
};

// Of a sequence that has had `position` tokens. The largest of logit / temperature + noise is token i as often as
// softmax(logits / temperature) says, where the noise is Gumbel's (Maddison, Tarlow and Minka, "A* sampling", NeurIPS
// 2014, section 2): no sum over the vocabulary, and a function of the seed, the sequence, its position and the token
// alone.
template <class T>
class TokenChooser {
 public:
  MAMBA_INLINE MAMBA_HOST_DEVICE TokenChooser(const Sampling& sampling, int sequence, int position)
      : seed_(sampling.seed),
        sequence_(static_cast<std::uint32_t>(sequence)),
        position_(static_cast<std::uint64_t>(static_cast<std::uint32_t>(position)) << 32),
        scale_(sampling.temperature > 0 ? 1 / sampling.temperature : 0) {}

  static constexpr int at_once = 4;  // numbers that one call of the generator gives

  // The best of tokens first .. first + 4, first a multiple of 4, or what was better before.
  MAMBA_INLINE MAMBA_HOST_DEVICE Choice best(Choice before, const T* logits, int first, int classes) const {
    const int count = classes - first < at_once ? classes - first : at_once;
    const Random4 words = words_of(first);
    for (int i = 0; i < at_once; ++i) {
      if (i >= count) break;
      const T logit = logits[first + i];
      Choice own{score(logit, words.word[i]), first + i};
      if (!(logit - logit == T(0))) own = {HUGE_VAL, Choice::none};
      if (own.beats(before)) before = own;
    }
    return before;
  }
  // One token, whose logit is finite, by itself.
  Choice of(T logit, int token) const { return {score(logit, words_of(token).word[token % at_once]), token}; }
  MAMBA_INLINE MAMBA_HOST_DEVICE static Choice worst() { return {-HUGE_VAL, 0x7FFFFFFF}; }

  // Choice::none where a logit is not finite.
  MAMBA_INLINE int operator()(const T* logits, int classes) const {
    Choice choice = worst();
    for (int first = 0; first < classes; first += at_once) choice = best(choice, logits, first, classes);
    return choice.token;
  }

 private:
  // The generator's, of the four tokens that this one is among; zeros where nothing is drawn.
  MAMBA_INLINE MAMBA_HOST_DEVICE Random4 words_of(int token) const {
    if (!(scale_ > 0)) return {};
    return random_words(seed_, RandomPurpose::sampling, sequence_,
                        position_ | static_cast<std::uint32_t>(token / at_once));
  }
  // Of a token by its logit and its own word.
  MAMBA_INLINE MAMBA_HOST_DEVICE double score(T logit, std::uint32_t word) const {
    const auto x = static_cast<double>(logit);
    return scale_ > 0 ? std::fma(x, scale_, gumbel(word)) : x;
  }
  // From a word as a number within (0, 1). In double, as scores are: at a low temperature noise is small beside them.
  MAMBA_INLINE MAMBA_HOST_DEVICE static double gumbel(std::uint32_t word) {
    const double uniform = (static_cast<double>(word) + 0.5) * 0x1p-32;
    return -std::log(-std::log(uniform));
  }

  std::uint64_t seed_;
  std::uint32_t sequence_;
  std::uint64_t position_;
  double scale_;
};

}  // namespace mamba::math
