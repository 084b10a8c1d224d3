// Tokens that follow others, from a language model.
//
//   const std::vector<std::int32_t> more = mamba::generate(model, prompt, {.max_new_tokens = 50, .temperature = .8});
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/language_model.hpp>
#include <mamba/model/token_filter.hpp>

namespace mamba {

// What follows each of several prompts, of any lengths, without the prompts; the last token of one may be a stop token.
// callback(number of the prompt, token) is called with each token as it comes, prompt by prompt, and ends its sequence
// by false; the token stays. A function of model, prompts and options, on each device: the logits' last digits and with
// them a choice may differ from one device to another. All sequences are one batch; noise follows the number of the
// prompt, so that equal prompts go on in different ways where temperature is not 0. Throws Error(invalid_argument) for
// an empty prompt, tokens that are not in the vocabulary, options out of range and, where the model has positions, more
// tokens than these; Error(diverged) where logits are not finite. Where it throws before the first token, nothing has
// been called.
template <class LanguageModel, class Callback>
std::vector<std::vector<std::int32_t>> generate(LanguageModel& model,
                                                std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options, Callback&& callback) {
  using Scalar = typename LanguageModel::Scalar;
  constexpr int vocab_size = LanguageModel::config.vocab_size;
  options.check(vocab_size);
  require(!prompts.empty(), "generate() takes a prompt at least");
  const auto batch = static_cast<int>(prompts.size());
  std::size_t longest = 0;
  for (const auto& prompt : prompts) {
    require(!prompt.empty(), "prompt ", &prompt - prompts.data(), " is empty: a model goes on from a token at least");
    for (const std::int32_t token : prompt)
      require(token >= 0 && token < vocab_size, "prompt ", &prompt - prompts.data(), " has the token ", token,
              ", which is not in the vocabulary of ", vocab_size);
    longest = (std::max)(longest, prompt.size());
  }
  constexpr int most = network::longest_sequence<typename LanguageModel::Architecture>();  // 0: any
  require(most == 0 || longest + static_cast<std::size_t>(options.max_new_tokens) <= static_cast<std::size_t>(most) + 1,
          "a prompt of ", longest, " tokens and ", options.max_new_tokens,
          " new ones are more than the model's max_seq_len ", most);
  std::vector<std::vector<std::int32_t>> found(prompts.size()), had;
  if (options.max_new_tokens == 0) return found;

  // The prompts, left-aligned.
  std::vector<std::int32_t> ids(prompts.size() * longest), lengths;
  for (std::size_t s = 0; s < prompts.size(); ++s) {
    std::copy(prompts[s].begin(), prompts[s].end(), ids.begin() + static_cast<std::ptrdiff_t>(s * longest));
    lengths.push_back(static_cast<std::int32_t>(prompts[s].size()));
  }
  if (!options.leaves_all()) had.assign(prompts.begin(), prompts.end());
  const bool same_lengths = std::all_of(lengths.begin(), lengths.end(), [&](auto n) { return n == lengths[0]; });

  auto state = model.initial_state(batch);
  detail::TokenFilter filter(options);
  std::vector<std::int32_t> next(prompts.size());
  const auto choose = [&](std::span<const std::int32_t> tokens, std::span<const std::int32_t> of_lengths) {
    if (options.leaves_all()) {
      next = model.next_tokens(tokens, batch, state, options.sampling(), of_lengths);
      return;
    }
    const auto by = [&](const auto& logits) {
      for (std::size_t s = 0; s < prompts.size(); ++s)
        next[s] = filter.choose(std::span<const Scalar>(&logits(static_cast<std::ptrdiff_t>(s), 0), vocab_size), had[s],
                                static_cast<int>(s), state.positions()[s]);
    };
    if (tokens.size() == prompts.size()) by(model.step(tokens, state));
    else by(model.prefill(tokens, batch, state, of_lengths));
  };

  std::vector<bool> ended(prompts.size(), false);
  std::size_t ended_count = 0;
  choose(ids, same_lengths ? std::span<const std::int32_t>() : std::span<const std::int32_t>(lengths));
  for (int count = 0;;) {
    for (std::size_t s = 0; s < prompts.size(); ++s) {
      if (ended[s]) continue;
      const std::int32_t token = next[s];
      found[s].push_back(token);
      if (!had.empty()) had[s].push_back(token);
      const bool goes_on = callback(static_cast<int>(s), token);
      const auto& stops = options.stop_tokens;
      if (!goes_on || std::find(stops.begin(), stops.end(), token) != stops.end()) ended[s] = true, ++ended_count;
    }
    if (++count == options.max_new_tokens || ended_count == prompts.size()) return found;
    choose(std::vector<std::int32_t>(next), {});  // sequences that have ended run along
  }
}

// The same for one prompt; callback(token).
template <class LanguageModel, class Callback>
std::vector<std::int32_t> generate(LanguageModel& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options, Callback&& callback) {
  const std::vector<std::int32_t> one(prompt.begin(), prompt.end());
  return std::move(generate(model, std::span(&one, 1), options, [&](int, std::int32_t token) -> bool {
                     return callback(token);
                   }).front());
}

// Without a callback.
template <class LanguageModel>
std::vector<std::int32_t> generate(LanguageModel& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options = {}) {
  return generate(model, prompt, options, [](std::int32_t) { return true; });
}
template <class LanguageModel>
std::vector<std::vector<std::int32_t>> generate(LanguageModel& model,
                                                std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options = {}) {
  return generate(model, prompts, options, [](int, std::int32_t) { return true; });
}

}  // namespace mamba
