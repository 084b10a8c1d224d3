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
  using typename Base::Architecture;

  // Mean cross-entropy of the next token over all positions that have one and over the padded vocabulary; sets the
  // gradients. ids (batch, length). Throws Error on ids outside the vocabulary, or when no position has a next token.
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    targets_.clear();
    for (int s = 0; s < input.batch; ++s)
      targets_.insert(targets_.end(), input.tokens_of(s) + 1, input.tokens_of(s) + input.length_of(s));
    require(!targets_.empty(), "sequences of one token have no next token to predict");
    const double weight = 1.0 / static_cast<double>(targets_.size());
    return this->engine().loss_and_gradients(input, Readout::predecessors,
                                             CrossEntropy{targets_.data(), config.padded_vocab_size(), weight});
  }

  // The same for a piece of longer sequences, from `state`; the last token of each is only predicted: the state, which
  // is advanced to it, has not had it, and the next piece begins with it. ids (batch, length), two tokens of each
  // sequence at least. model/piece.hpp says how gradients pass from piece to piece. Throws Error on what prefill()
  // refuses, and when piece.of_state is of another batch or model, or `state` itself; then nothing has changed.
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, State<Architecture>& state,
                            const Piece<Architecture>& piece = {}, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch all = checked_batch(config, 0, ids, batch, lengths);
    predecessors_.clear(), targets_.clear();
    for (int s = 0; s < batch; ++s) {
      require(all.length_of(s) >= 2, "sequence ", s, " of the piece has no next token to predict");
      predecessors_.push_back(all.length_of(s) - 1);
      targets_.insert(targets_.end(), all.tokens_of(s) + 1, all.tokens_of(s) + all.length_of(s));
    }
    const Batch input = this->check(ids, batch, predecessors_, state);
    const double weight = 1.0 / static_cast<double>(targets_.size());
    return this->piece_gradients(input, Readout::all, {targets_.data(), config.padded_vocab_size(), weight}, state,
                                 piece);
  }

  // The bytes that the model will hold, where it runs, once it has had the gradients of `batch` sequences of `length`
  // tokens; to be asked before. Gradients from a state hold a copy of it besides, and those that add up a copy of the
  // gradients; on a GPU both run over the grid. Throws Error for sizes that no batch of this model has.
  std::size_t gradient_bytes(int batch, int length) const {
    return this->bytes_with_gradients(batch, length, Readout::predecessors);
  }

 private:
  std::vector<int> targets_;
  std::vector<std::int32_t> predecessors_;
};

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
