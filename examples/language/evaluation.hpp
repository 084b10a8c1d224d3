// How many bits a model needs for a text.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <span>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>

namespace language {

// The bits by which a coder that asks the model would write these tokens, one after the other, each behind all before
// it: the state goes along the whole text. The first, of which the model says nothing, is one of the vocabulary's.
// Nothing as soon as go_on(), asked all along, is false. Throws Error(diverged) where they are no number.
template <class Model, class GoOn>
std::optional<double> bits_of(Model& model, std::span<const std::int32_t> tokens, GoOn&& go_on) {
  constexpr std::size_t at_once = 1024;  // tokens that a call predicts; its rows of logits are as many
  auto state = model.initial_state(1);
  double sum = std::log(static_cast<double>(Model::config.vocab_size));
  for (std::size_t at = 0; at + 1 < tokens.size();) {
    if (!go_on()) return {};
    const std::size_t count = std::min(at_once, tokens.size() - 1 - at);
    sum += static_cast<double>(count) * model.loss(tokens.subspan(at, count + 1), 1, state);
    at += count;
  }
  if (!mamba::is_finite(sum))
    mamba::fail(mamba::ErrorKind::diverged, "the model has diverged: its loss on the text is ", sum);
  return sum / std::numbers::ln2;
}

}  // namespace language
