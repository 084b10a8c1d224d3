// MambaLMHeadModel: a language model, trained on the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <mamba/core/instruction_set.hpp>
#include <mamba/model/model.hpp>
#include <mamba/network/head_loss.hpp>

namespace mamba {

// Whose base differs with the instructions differs, too.
inline namespace MAMBA_INSTRUCTION_SET {

// Computes what mamba_ssm's MambaLMHeadModel computes (specification, sections 2 to 5 and 7).
//   MambaLMHeadModel<config, Policies...> model({.n_layers = 2, .seed = 42});
template <Config config_, class... Policies>
class MambaLMHeadModel : public Model<Resolve<config_, Policies...>> {
  using Base = Model<Resolve<config_, Policies...>>;

 public:
  using Base::Base, Base::config;

  // Mean cross-entropy of the next token over all positions that have one and over the padded vocabulary; sets the
  // gradients. ids (batch, length). Throws Error on ids outside the vocabulary, or when no position has a next token.
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    next_tokens_.clear();
    for (int s = 0; s < input.batch; ++s)
      next_tokens_.insert(next_tokens_.end(), input.tokens_of(s) + 1, input.tokens_of(s) + input.length_of(s));
    require(!next_tokens_.empty(), "sequences of one token have no next token to predict");
    const double weight = 1.0 / static_cast<double>(next_tokens_.size());
    return this->engine().loss_and_gradients(input, Readout::predecessors,
                                             CrossEntropy{next_tokens_.data(), config.padded_vocab_size(), weight});
  }

 private:
  std::vector<int> next_tokens_;
};

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
