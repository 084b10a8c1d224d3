// The GPU's models beside the CPU's, with the same parameters.
#pragma once

#include <filesystem>

#include "support/parity.hpp"

namespace support {

// One model here and one there, with the same parameters.
template <mamba::Config config, class Gpu, class... Policies>
struct Pair {
  mamba::ModelOptions options{.n_layers = 2, .gamma = 1.0, .seed = 3};
  mamba::MambaForComposite<config, mamba::Cpu, Policies...> cpu{options};
  mamba::MambaForComposite<config, Gpu, Policies...> gpu{options};
};

template <class Scalar>
double worst_difference(const mamba::StateDict<Scalar>& a, const mamba::StateDict<Scalar>& b) {
  double total = 0, worst = 0;
  for (const auto& [name, tensor] : a)
    for (const Scalar x : tensor.values) total += static_cast<double>(x) * static_cast<double>(x);
  for (const auto& [name, tensor] : a)
    worst = larger(worst, relative_error(b.at(name).values, tensor.values, 1e-6 * std::sqrt(total)));
  return worst;
}

// Sequences of different lengths, more than one tile, several chunks of time.
template <mamba::Config config, class Gpu, class... Policies>
void check_lengths(double bound) {
  Pair<config, Gpu, Policies...> pair;
  constexpr int batch = 37, length = 21;
  const auto ids = random_tokens(batch * length, config.vocab_size, 1),
             labels = random_tokens(batch, config.vocab_size, 2);
  std::vector<std::int32_t> lengths;
  for (int s = 0; s < batch; ++s) lengths.push_back(1 + 7 * s % length);
  CHECK(relative_error(values(pair.gpu(ids, batch, lengths)), values(pair.cpu(ids, batch, lengths))) < bound);
  const double expected = pair.cpu.loss_and_gradients(ids, labels, lengths);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) - expected) < bound * expected);
  CHECK(worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 10 * bound);
}

// Token by token and by pieces of any cut, from states that travel through a file between the devices.
template <mamba::Config config, class Gpu, class... Policies>
void check_states() {
  Pair<config, Gpu, double, Policies...> pair;
  const auto ids = random_tokens(2 * 19, config.vocab_size, 5);
  const auto whole = pair.cpu.logits(ids, 2);
  auto here = pair.cpu.initial_state(2);
  auto there = pair.gpu.initial_state(2);
  const auto path = std::filesystem::temp_directory_path() / "mamba_cuda_state.safetensors";
  double worst = 0;
  for (int t = 0; t < 19; ++t) {
    const std::int32_t tokens[] = {ids[static_cast<std::size_t>(t)], ids[static_cast<std::size_t>(19 + t)]};
    const auto& logits = pair.gpu.step(tokens, there);
    pair.cpu.step(tokens, here);
    for (int b = 0; b < 2; ++b)
      for (int v = 0; v < config.vocab_size; ++v) worst = larger(worst, std::abs(logits(b, v) - whole(19 * b + t, v)));
    if (t == 9) mamba::save(here, path), mamba::load(there, path);
  }
  CHECK(worst < 1e-13);
  std::filesystem::remove(path);
}

// Prompts by pieces, tokens one by one, and two states in turn.
template <mamba::Config config, class Gpu, class... Policies>
void check_decoding(double bound) {
  Pair<config, Gpu, Policies...> pair;
  constexpr int batch = 3, length = 150;
  const auto ids = random_tokens(batch * length, config.vocab_size, 5);
  const auto whole = pair.cpu.logits(ids, batch);
  const auto piece = [&](int first, int count) {
    std::vector<std::int32_t> tokens;
    for (int s = 0; s < batch; ++s)
      for (int t = 0; t < count; ++t) tokens.push_back(ids[static_cast<std::size_t>(s * length + first + t)]);
    return tokens;
  };
  double worst = 0;
  const auto compare = [&](const auto& logits, int time) {
    for (int s = 0; s < batch; ++s)
      for (int v = 0; v < config.vocab_size; ++v)
        worst = larger(worst, static_cast<double>(std::abs(logits(s, v) - whole(s * length + time, v))));
  };
  auto a = pair.gpu.initial_state(batch), b = pair.gpu.initial_state(batch);
  compare(pair.gpu.prefill(piece(0, 70), batch, a), 69);
  for (int t = 0; t < 20; ++t) {
    compare(pair.gpu.step(piece(t, 1), b), t);
    compare(pair.gpu.step(piece(70 + t, 1), a), 70 + t);
  }
  compare(pair.gpu.prefill(piece(90, 60), batch, a), 149);
  compare(pair.gpu.prefill(piece(20, 130), batch, b), 149);
  INFO("largest difference " << worst);
  CHECK(worst < bound);
}

// Visits, blocking, substitution, a loss of one's own.
template <mamba::Config config, class Gpu, class... Policies>
void check_inside(double bound) {
  Pair<config, Gpu, double, Policies...> pair;
  const auto ids = random_tokens(5 * 8, config.vocab_size, 1), other = random_tokens(5 * 8, config.vocab_size, 2),
             labels = random_tokens(5, config.vocab_size, 3);
  std::vector<std::uint8_t> mask(40, 0);
  for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
  CHECK(relative_error(values(pair.gpu.blocked(ids, 5, mask)), values(pair.cpu.blocked(ids, 5, mask))) < bound);
  CHECK(relative_error(values(pair.gpu.blocked(ids, 5, mask, {}, mamba::Reading::downstream)),
                       values(pair.cpu.blocked(ids, 5, mask, {}, mamba::Reading::downstream))) < bound);
  CHECK(relative_error(values(pair.gpu.substituted(ids, other, 5, mask)),
                       values(pair.cpu.substituted(ids, other, 5, mask))) < bound);
  CHECK(relative_error(values(pair.gpu.activations(mamba::Point::delta, ids, 5)[1]),
                       values(pair.cpu.activations(mamba::Point::delta, ids, 5)[1])) < bound);
  // A loss of one's own: half the squared distance of the logits from one.
  const auto half_square = [](mamba::MatrixView<const double> logits, int, mamba::MatrixView<double> gradient) {
    double loss = 0;
    for (std::ptrdiff_t i = 0; i < logits.rows(); ++i)
      for (std::ptrdiff_t v = 0; v < logits.cols(); ++v) {
        gradient(i, v) = logits(i, v) - 1;
        loss += gradient(i, v) * gradient(i, v) / 2;
      }
    return loss;
  };
  const double expected = pair.cpu.loss_and_gradients(ids, 5, half_square);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, 5, half_square) - expected) < bound * expected);
  CHECK(worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 10 * bound);
  // A visitor of the gradients that leaves out a layer.
  const auto cut = [](mamba::Point point, int layer, mamba::MatrixView<double> rows, std::span<const int>) {
    if (point == mamba::Point::scan_output && layer == 1)
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
        for (double& x : rows.row(i)) x = 0;
  };
  pair.gpu.visit_gradients(ids, labels, cut), pair.cpu.visit_gradients(ids, labels, cut);
  CHECK(worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 10 * bound);
}

}  // namespace support
