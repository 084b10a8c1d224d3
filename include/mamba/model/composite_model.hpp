// MambaForComposite: a sequence classifier that reads the last token's logits.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include <mamba/model/model.hpp>

namespace mamba {

// A loss of the user's own over the last-token logits of some sequences:
//   double loss(MatrixView<const Scalar> logits, int first_sequence, MatrixView<Scalar> gradient)
// logits (n, vocab_size) are those of sequences first_sequence .. first_sequence + n - 1; it writes the gradient, of the
// same shape, and returns these sequences' share of the loss. It is called from several threads at once.
template <class F, class Scalar>
concept LastTokenLoss = std::invocable < F&,
        MatrixView<const Scalar>,
int, MatrixView < Scalar >> ;

// The brief's wrapper around MambaLMHeadModel: last token only, vocab_size columns.
//   MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 42});
template <Config config_, class... Policies>
class MambaForComposite : public Model<Resolve<config_, Policies...>> {
  using Base = Model<Resolve<config_, Policies...>>;

 public:
  using Base::Base, Base::config;
  using typename Base::Scalar;

  // The last token's logits, (batch, vocab_size); ids (batch, length). Throws Error as logits() does.
  Matrix<Scalar> operator()(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const Batch input = checked_batch(config, ids, batch, lengths);
    Matrix<Scalar> result(batch, config.vocab_size);
    this->engine().logits(input, Readout::last, [&](int first, auto logits) {
      for (int i = 0; i < logits.rows; ++i) std::copy_n(logits[i], config.vocab_size, &result(first + i, 0));
    });
    return result;
  }

  // Mean cross-entropy of the last token over vocab_size; sets the gradients. ids (batch, length), labels (batch).
  // Throws Error on ids or labels outside the vocabulary, or when the ids do not divide into the labels' number.
  double loss_and_gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels, std::span<const std::int32_t> lengths = {}) {
    require(!labels.empty(), "no labels given");
    const Batch input = checked_batch(config, ids, static_cast<int>(labels.size()), lengths);
    for (std::size_t s = 0; s < labels.size(); ++s)
      require(labels[s] >= 0 && labels[s] < config.vocab_size, "label ", labels[s], " of sequence ", s, " is not in the vocabulary 0..", config.vocab_size - 1);
    const double weight = 1.0 / static_cast<double>(labels.size());
    return this->engine().loss_and_gradients(input, Readout::last, [&](auto& core, auto dlogits, auto logits, int first) {
      return cross_entropy(core, dlogits, logits, labels.data() + first, config.vocab_size, weight);
    });
  }

  // The same with a loss of the user's own; returns the sum of the shares.
  template <LastTokenLoss<Scalar> Loss>
  double loss_and_gradients(std::span<const std::int32_t> ids, int batch, Loss&& loss, std::span<const std::int32_t> lengths = {}) {
    const Batch input = checked_batch(config, ids, batch, lengths);
    return this->engine().loss_and_gradients(input, Readout::last, [&](auto& core, auto dlogits, auto logits, int first) {
      zero(core, dlogits);
      return static_cast<double>(loss(MatrixView<const Scalar>(logits.data, logits.rows, config.vocab_size, logits.stride), first,
                                      MatrixView<Scalar>(dlogits.data, dlogits.rows, config.vocab_size, dlogits.stride)));
    });
  }
};

}  // namespace mamba
