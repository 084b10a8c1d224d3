// MambaForComposite: a sequence classifier that reads the last token's logits.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include <mamba/core/instruction_set.hpp>
#include <mamba/model/model.hpp>
#include <mamba/network/head_loss.hpp>

namespace mamba {

// Whose base differs with the instructions differs, too.
inline namespace MAMBA_INSTRUCTION_SET {

// A loss of the user's own over the last-token logits of some sequences:
//   double loss(MatrixView<const Scalar> logits, int first_sequence, MatrixView<Scalar> gradient)
// logits (n, vocab_size) are those of sequences first_sequence .. first_sequence + n - 1; it writes the gradient, of
// the same shape, and returns these sequences' share of the loss. It is called from several threads at once.
template <class F, class Scalar>
concept LastTokenLoss = std::invocable<F&, MatrixView<const Scalar>, int, MatrixView<Scalar>>;

// MambaLMHeadModel for tasks whose answer is one token: last token only, vocab_size columns.
//   MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 42});
template <Config config_, class... Policies>
class MambaForComposite : public Model<Resolve<config_, Policies...>> {
  using Base = Model<Resolve<config_, Policies...>>;

 public:
  using Base::Base, Base::config;
  using typename Base::Architecture, typename Base::Scalar;

  // The last token's logits, (batch, vocab_size); ids (batch, length). Throws Error as logits() does.
  Matrix<Scalar> operator()(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    return this->last_logits(input, [&](auto&& take) { this->engine().logits(input, Readout::last, take); });
  }

  // Mean cross-entropy of the last token over vocab_size; sets the gradients. ids (batch, length), labels (batch).
  // Throws Error on ids or labels outside the vocabulary, or when the ids do not divide into the labels' number.
  double loss_and_gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
                            std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = check_labels(ids, labels, lengths);
    return this->engine().loss_and_gradients(input, Readout::last, cross_entropy_of(labels));
  }

  // The same with each sequence's loss weighted by this, not by one over their number: the share that a part of a batch
  // has in its mean. Returns the weighted sum. Throws Error, too, where the weight is below 0 or not finite.
  double weighted_loss_and_gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
                                     double weight, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = check_labels(ids, labels, lengths);
    return this->engine().loss_and_gradients(
        input, Readout::last, CrossEntropy{labels.data(), config.vocab_size, this->checked_weight(weight)});
  }

  // The same for the last piece of longer sequences, from `state`, which is advanced; gradients_through() takes the
  // pieces before it. Throws Error on what prefill() refuses, and when piece.of_state is of another batch or model, or
  // `state` itself; then nothing has changed.
  double loss_and_gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
                            State<Architecture>& state, const Piece<Architecture>& piece = {},
                            std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    check_labels(ids, labels, lengths);
    const Batch input = this->check(ids, static_cast<int>(labels.size()), lengths, state);
    return this->piece_gradients(input, Readout::last, cross_entropy_of(labels), state, piece);
  }

  // The same with visitor(Point, layer, MatrixView<Scalar> gradient rows, std::span<const int> where) at every point of
  // the backward pass (Model::visit does it for the forward pass); the visitor may change the rows.
  template <class Visitor>
  double visit_gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels, Visitor&& visitor,
                         std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = check_labels(ids, labels, lengths);
    return this->engine().visited_loss_and_gradients(input, Readout::last, visitor, cross_entropy_of(labels));
  }

  // The same with a loss of the user's own; returns the sum of the shares.
  template <LastTokenLoss<Scalar> Loss>
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, Loss&& loss,
                            std::span<const std::int32_t> lengths = {}) {
    const auto in_use = this->use();
    const Batch input = this->check(ids, batch, lengths);
    return this->engine().loss_and_gradients(
        input, Readout::last, [&](auto& core, auto dlogits, auto logits, int first) {
          zero(core, dlogits);
          return static_cast<double>(
              loss(MatrixView<const Scalar>(logits.data, logits.rows, config.vocab_size, logits.stride), first,
                   MatrixView<Scalar>(dlogits.data, dlogits.rows, config.vocab_size, dlogits.stride)));
        });
  }

  // The bytes that the model will hold, where it runs, once it has had the gradients of `batch` sequences of `length`
  // tokens; to be asked before. Gradients from a state hold a copy of it besides, and those that add up a copy of the
  // gradients; on a GPU both run over the grid. Throws Error for sizes that no batch of this model has.
  std::size_t gradient_bytes(int batch, int length) const {
    return this->bytes_with_gradients(batch, length, Readout::last);
  }

 private:
  Batch check_labels(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
                     std::span<const std::int32_t> lengths) const {
    require(!labels.empty(), "no labels given");
    const Batch input = this->check(ids, static_cast<int>(labels.size()), lengths);
    for (std::size_t s = 0; s < labels.size(); ++s)
      require(labels[s] >= 0 && labels[s] < config.vocab_size, "label ", labels[s], " of sequence ", s,
              " is not in the vocabulary 0..", config.vocab_size - 1);
    return input;
  }

  static CrossEntropy cross_entropy_of(std::span<const std::int32_t> labels) {
    return CrossEntropy{labels.data(), config.vocab_size, 1.0 / static_cast<double>(labels.size())};
  }
};

// The variants that the paper's study uses, by its names.
template <Config config, class... Policies>
using MambaOnesConv = MambaForComposite<config, OnesConv, Policies...>;
template <Config config, int max_seq_len, class... Policies>
using MambaPosEncoding = MambaForComposite<config, LearnedPosition<max_seq_len>, Policies...>;
template <Config config, class... Policies>
using MambaWithResidual = MambaForComposite<config, ConvResidual, Policies...>;

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
