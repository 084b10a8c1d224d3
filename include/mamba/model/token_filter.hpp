// Which token comes next, of those that a generation's options leave: penalty, temperature, top-k, top-p and min-p in
// this order, as transformers has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/math/choice.hpp>

namespace mamba {

// How generate() goes on.
struct GenerateOptions {
  int max_new_tokens = 128;
  double temperature = 0;  // 0: the likeliest token; else at random as softmax(logits / temperature) says
  int top_k = 0;           // of so many likeliest tokens, and those as likely as the last of them; 0: of all
  double top_p = 1;        // of the fewest likeliest tokens whose probabilities come to this (Holtzman et al. 2020)
  double min_p = 0;        // of tokens at least this likely beside the likeliest (Nguyen et al. 2024)
  double repetition_penalty = 1;  // positive logits of tokens that were there are divided by it, others multiplied
                                  // (Keskar et al. 2019)
  std::vector<std::int32_t> stop_tokens{};  // behind one of these nothing comes
  std::uint64_t seed = 0;

  // Throws Error(invalid_argument) for a number out of range.
  void check(int vocab_size) const {
    sampling().check();
    require(max_new_tokens >= 0, "max_new_tokens must be at least 0; given ", max_new_tokens);
    require(top_k >= 0, "top_k must be 0, for all tokens, or more; given ", top_k);
    require(top_p > 0 && top_p <= 1, "top_p must be above 0 and at most 1; given ", top_p);
    require(min_p >= 0 && min_p <= 1, "min_p must be 0 to 1; given ", min_p);
    require(repetition_penalty >= 1e-3 && repetition_penalty <= 1e3,
            "repetition_penalty must be .001 to 1000, 1 being none; given ", repetition_penalty);
    for (const std::int32_t token : stop_tokens)
      require(token >= 0 && token < vocab_size, "the stop token ", token, " is not in the vocabulary of ", vocab_size);
  }
  Sampling sampling() const { return {temperature, seed}; }
  // Whether a token is chosen of all, by its logit as it is.
  bool leaves_all() const {
    return repetition_penalty == 1 && (temperature == 0 || (top_k == 0 && top_p == 1 && min_p == 0));
  }
};

namespace detail {

// Chooses by logits on the host. Of tokens that are left the choice is the one of model.next_tokens().
class TokenFilter {
 public:
  explicit TokenFilter(const GenerateOptions& options) : options_(&options) {}

  // Of (vocab_size) logits behind the tokens that a sequence has had, `position` of them by the state's count. Throws
  // Error(diverged) where a logit is not finite.
  template <class T>
  std::int32_t choose(std::span<const T> logits, std::span<const std::int32_t> had, int sequence, int position) {
    scores_.assign(logits.begin(), logits.end());
    for (const double logit : scores_)
      if (!std::isfinite(logit)) fail(ErrorKind::diverged, "the logits that a token is to be chosen by are not finite");
    penalize(had);
    left_.resize(scores_.size());
    for (std::size_t i = 0; i < left_.size(); ++i) left_[i] = static_cast<std::int32_t>(i);
    if (options_->temperature > 0) {
      keep_top_k();
      keep_likely();
    }
    const math::TokenChooser<double> chooser(options_->sampling(), sequence, position);
    math::Choice best = chooser.worst();
    for (const std::int32_t token : left_)
      if (const math::Choice own = chooser.of(score(token), token); own.beats(best)) best = own;
    return best.token;
  }

 private:
  double score(std::int32_t token) const { return scores_[static_cast<std::size_t>(token)]; }

  void penalize(std::span<const std::int32_t> had) {
    if (options_->repetition_penalty == 1) return;
    seen_.assign(scores_.size(), false);
    for (const std::int32_t token : had) {
      const auto at = static_cast<std::size_t>(token);
      if (at >= seen_.size() || seen_[at]) continue;
      seen_[at] = true;
      scores_[at] =
          scores_[at] > 0 ? scores_[at] / options_->repetition_penalty : scores_[at] * options_->repetition_penalty;
    }
  }

  void keep_top_k() {
    const auto count = static_cast<std::size_t>(options_->top_k);
    if (count == 0 || count >= left_.size()) return;
    sorted_ = scores_;
    const auto last = sorted_.begin() + static_cast<std::ptrdiff_t>(count) - 1;
    std::nth_element(sorted_.begin(), last, sorted_.end(), std::greater<>());
    const double least = *last;
    std::erase_if(left_, [&](std::int32_t token) { return score(token) < least; });
  }

  // By probabilities: of those that are left, of one call for both options' sake.
  void keep_likely() {
    if (options_->top_p == 1 && options_->min_p == 0) return;
    const auto likelier = [&](std::int32_t a, std::int32_t b) {
      return score(a) > score(b) || (score(a) == score(b) && a < b);
    };
    std::sort(left_.begin(), left_.end(), likelier);
    const double likeliest = score(left_.front()), temperature = options_->temperature;
    const auto weight = [&](std::int32_t token) { return std::exp((score(token) - likeliest) / temperature); };
    double all = 0;
    for (const std::int32_t token : left_) all += weight(token);
    if (options_->top_p < 1) {
      double sum = 0;
      std::size_t count = 0;
      while (count < left_.size() && sum < options_->top_p * all) sum += weight(left_[count++]);
      left_.resize((std::max)(count, std::size_t{1}));
    }
    std::erase_if(left_, [&](std::int32_t token) { return weight(token) < options_->min_p; });
  }

  const GenerateOptions* options_;
  std::vector<double> scores_, sorted_;
  std::vector<std::int32_t> left_;
  std::vector<bool> seen_;
};

}  // namespace detail

}  // namespace mamba
