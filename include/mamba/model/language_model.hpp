// MambaLMHeadModel: a language model, trained on the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <mamba/core/instruction_set.hpp>
#include <mamba/eigen/rowwise.hpp>
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

  // Mean cross-entropy of the next token over all positions that have one and over the padded vocabulary, in nats
  // (specification, section 5). ids (batch, length). Throws Error on ids outside the vocabulary, or when no position
  // has a next token.
  double loss(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    take_next_tokens(input);
    return mean_loss(input, Readout::predecessors, nullptr);
  }

  // The same for a piece of longer sequences, from `state`; the last token of each is only predicted: the state, which
  // is advanced to it, has not had it, and the next piece begins with it. ids (batch, length), two tokens of each
  // sequence at least. Throws Error on what prefill() refuses, and leaves the state.
  double loss(std::span<const std::int32_t> ids, int batch, State<Architecture>& state,
              std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    return mean_loss(check_piece(ids, batch, state, lengths), Readout::all, &state);
  }

  // loss() as above; sets the gradients.
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    take_next_tokens(input);
    return this->engine().loss_and_gradients(input, Readout::predecessors, cross_entropy());
  }

  // The same with the loss of each position that has a next token weighted by this, not by one over their number: the
  // share that a part of a batch has in its mean. Returns the weighted sum. Throws Error, too, where the weight is
  // below 0 or not finite.
  double weighted_loss_and_gradients(std::span<const std::int32_t> ids, int batch, double weight,
                                     std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    take_next_tokens(input);
    CrossEntropy loss = cross_entropy();
    loss.weight = this->checked_weight(weight);
    return this->engine().loss_and_gradients(input, Readout::predecessors, loss);
  }

  // loss() from a state as above; sets the gradients, or adds to them. model/piece.hpp says how they pass from piece to
  // piece. Throws Error, too, when piece.of_state is of another batch or model, or `state` itself; then nothing has
  // changed.
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, State<Architecture>& state,
                            const Piece<Architecture>& piece = {}, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = check_piece(ids, batch, state, lengths);
    return this->piece_gradients(input, Readout::all, cross_entropy(), state, piece);
  }

  // The bytes that the model will hold, where it runs, once it has had the gradients of `batch` sequences of `length`
  // tokens; to be asked before. Gradients from a state hold a copy of it besides, and those that add up a copy of the
  // gradients; on a GPU both run over the grid. Throws Error for sizes that no batch of this model has.
  std::size_t gradient_bytes(int batch, int length) const {
    return this->bytes_with_gradients(batch, length, Readout::predecessors);
  }

 private:
  // targets_ <- what follows each token of a batch that something follows.
  void take_next_tokens(const Batch& batch) {
    targets_.clear();
    for (int s = 0; s < batch.batch; ++s)
      targets_.insert(targets_.end(), batch.tokens_of(s) + 1, batch.tokens_of(s) + batch.length_of(s));
    require(!targets_.empty(), "sequences of one token have no next token to predict");
  }
  // The batch without the last token of each sequence, which is only predicted.
  Batch check_piece(std::span<const std::int32_t> ids, int batch, const State<Architecture>& state,
                    std::span<const std::int32_t> lengths) {
    const Batch all = checked_batch(config, 0, ids, batch, lengths);
    predecessors_.clear();
    for (int s = 0; s < batch; ++s) {
      require(all.length_of(s) >= 2, "sequence ", s, " of the piece has no next token to predict");
      predecessors_.push_back(all.length_of(s) - 1);
    }
    take_next_tokens(all);
    return this->check(ids, batch, predecessors_, state);
  }
  CrossEntropy cross_entropy() const {
    return {targets_.data(), config.padded_vocab_size(), 1.0 / static_cast<double>(targets_.size())};
  }

  double mean_loss(const Batch& input, Readout readout, State<Architecture>* state) {
    losses_.resize(targets_.size());  // summed in the tokens' order, whoever computes them
    this->engine().logits(
        input, readout,
        [&](int first, auto logits) {
          for (int i = 0; i < logits.rows; ++i) {
            const auto row = static_cast<std::size_t>(first + i);
            losses_[row] = eigen::cross_entropy_of_row(logits[i], config.padded_vocab_size(), targets_[row]);
          }
        },
        state);
    double sum = 0;
    for (const double x : losses_) sum += x;
    return sum / static_cast<double>(losses_.size());
  }

  std::vector<int> targets_;
  std::vector<std::int32_t> predecessors_;
  std::vector<double> losses_;
};

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
