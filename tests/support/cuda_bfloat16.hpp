// Models of 16 bits on the GPU: beside the CPU's, and beside themselves.
#pragma once

#include "support/bfloat16_checks.hpp"
#include "support/cuda.hpp"

namespace support {

template <class Scalar>
double distance_of(const mamba::StateDict<Scalar>& a, const mamba::StateDict<Scalar>& b) {
  double worst = 0;
  for (const auto& [name, tensor] : a) {
    const double off = distance(tensor.values, b.at(name).values);
    worst = off <= worst ? worst : off;
  }
  return worst;
}

// Sequences of several chunks and of different lengths, by the CPU's numbers of 16 bits.
template <mamba::Config config, class Gpu, class... Policies>
void check_bfloat16_lengths() {
  Pair<config, Gpu, mamba::BFloat16, Policies...> pair;
  constexpr int batch = 6, length = 200;
  const auto ids = random_tokens(batch * length, config.vocab_size, 1),
             labels = random_tokens(batch, config.vocab_size, 2);
  const std::vector<std::int32_t> lengths{200, 1, 64, 65, 128, 150};
  CHECK(distance(pair.cpu(ids, batch, lengths).values(), pair.gpu(ids, batch, lengths).values()) < 8 * bfloat16_unit);
  const double expected = pair.cpu.loss_and_gradients(ids, labels, lengths);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) / expected - 1) < bfloat16_unit);
  CHECK(distance_of(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 24 * bfloat16_unit);
}

// Prompts by pieces, and tokens one by one for so many sequences as go each way through the products.
template <mamba::Config config, class Gpu, class... Policies>
void check_bfloat16_decoding() {
  mamba::MambaForComposite<config, Gpu, mamba::BFloat16, Policies...> model({.n_layers = 2, .seed = 3});
  for (const int batch : {257, 1, 3, 4, 5, 9, 64, 65, 256}) {  // the largest first, which leaves numbers behind
    INFO("batch " << batch);
    constexpr int length = 12;
    const auto count = static_cast<std::size_t>(batch);
    const auto ids = random_tokens(count * length, config.vocab_size, 5);
    const auto whole = model.logits(ids, batch);
    auto state = model.initial_state(batch), at_once = state;
    mamba::Matrix<float> last;
    std::vector<std::int32_t> tokens(count);
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t s = 0; s < count; ++s) tokens[s] = ids[s * length + t];
      last = model.step(tokens, state);
    }
    const auto prefilled = model.prefill(ids, batch, at_once);
    double worst = 0;
    for (int s = 0; s < batch; ++s) {
      const auto expected = whole.row(s * length + length - 1);
      worst = larger(worst, distance(expected, last.row(s)));
      worst = larger(worst, distance(expected, prefilled.row(s)));
    }
    INFO("largest distance " << worst);
    CHECK(worst < 8 * bfloat16_unit);
    const mamba::Sampling sampling{.temperature = 0.7, .seed = 3};
    auto again = state;
    CHECK(model.next_tokens(tokens, batch, state, sampling) == model.next_tokens(tokens, batch, again, sampling));
  }
}

}  // namespace support
