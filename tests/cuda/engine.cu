// What only the GPU's engine does: the same as the CPU's, the same again, and errors.
#include <catch2/matchers/catch_matchers_string.hpp>

#include "support/parity.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
inline constexpr Config wide_config{.vocab_size = 50, .d_model = 24, .d_state = 264, .d_conv = 3};
inline constexpr Config broad_config{.vocab_size = 100, .d_model = 128, .d_state = 128};

// One model here and one there, with the same parameters.
template <Config config, class... Policies>
struct Pair {
  ModelOptions options{.n_layers = 2, .gamma = 1.0, .seed = 3};
  MambaForComposite<config, Cpu, Policies...> cpu{options};
  MambaForComposite<config, Cuda, Policies...> gpu{options};
};

template <class Scalar>
double worst_difference(const StateDict<Scalar>& a, const StateDict<Scalar>& b) {
  double total = 0, worst = 0;
  for (const auto& [name, tensor] : a)
    for (const Scalar x : tensor.values) total += static_cast<double>(x) * static_cast<double>(x);
  for (const auto& [name, tensor] : a) worst = std::max(worst, support::relative_error(b.at(name).values, tensor.values, 1e-6 * std::sqrt(total)));
  return worst;
}

// Sequences of different lengths, more than one tile, several chunks of time.
template <Config config, class... Policies>
void check_lengths(double bound) {
  Pair<config, Policies...> pair;
  constexpr int batch = 37, length = 21;
  const auto ids = support::random_tokens(batch * length, config.vocab_size, 1), labels = support::random_tokens(batch, config.vocab_size, 2);
  std::vector<std::int32_t> lengths;
  for (int s = 0; s < batch; ++s) lengths.push_back(1 + 7 * s % length);
  CHECK(support::relative_error(support::values(pair.gpu(ids, batch, lengths)), support::values(pair.cpu(ids, batch, lengths))) < bound);
  const double expected = pair.cpu.loss_and_gradients(ids, labels, lengths);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) - expected) < bound * expected);
  CHECK(worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 10 * bound);
}

// Token by token and by pieces of any cut, from states that travel through a file between the devices.
template <class... Policies>
void check_states() {
  Pair<tiny_config, double, Policies...> pair;
  const auto ids = support::random_tokens(2 * 19, 11, 5);
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
      for (int v = 0; v < 11; ++v) worst = std::max(worst, std::abs(logits(b, v) - whole(19 * b + t, v)));
    if (t == 9) save(here, path), load(there, path);
  }
  CHECK(worst < 1e-13);
  std::filesystem::remove(path);
}

}  // namespace

TEST_CASE("without a device a model says so") {
  if (cuda::device_count() > 0) SKIP("there is a CUDA device");
  CHECK_THROWS_WITH((MambaForComposite<tiny_config, Cuda>({.seed = 1})), ContainsSubstring("no device"));
}

TEST_CASE("CUDA: sequences of different lengths are as on the CPU") {
  support::need_backend();
  check_lengths<tiny_config, double>(1e-13);
  check_lengths<wide_config, double>(1e-12);
  check_lengths<tiny_config, float>(2e-6);
  check_lengths<tiny_config, double, Mamba2<4, 2>>(1e-12);
  check_lengths<broad_config, float>(5e-6);
  check_lengths<broad_config, float, Mamba2<64>>(5e-6);
}

TEST_CASE("CUDA: states, and their way between the devices") {
  support::need_backend();
  check_states<Mamba1>();
  check_states<Mamba2<4>>();
}

// One step of training; returns the loss.
const auto step = [](auto& model, auto& optimizer, const auto& ids, const auto& labels) {
  const double loss = model.loss_and_gradients(ids, labels);
  clip_grad_norm(model, 1.0);
  optimizer.step();
  return loss;
};

TEST_CASE("CUDA: a run gives the same bytes again") {
  support::need_backend();
  const auto ids = support::random_tokens(64 * 8, 11, 1), labels = support::random_tokens(64, 11, 2);
  const ModelOptions options{.n_layers = 2, .gamma = 1.0, .seed = 3};
  MambaForComposite<tiny_config, Cuda> first(options), second(options);
  AdamW first_optimizer(first, {.lr = 1e-3}), second_optimizer(second, {.lr = 1e-3});
  for (int s = 0; s < 30; ++s) CHECK(step(first, first_optimizer, ids, labels) == step(second, second_optimizer, ids, labels));
  const auto parameters = first.state_dict(), again = second.state_dict();
  for (const auto& [name, tensor] : parameters) CHECK(again.at(name).values == tensor.values);
}

// In double: in float the two part by rounding alone, for training magnifies it.
TEST_CASE("CUDA: 300 steps stay beside the CPU's") {
  support::need_backend();
  const auto ids = support::random_tokens(64 * 8, 11, 1), labels = support::random_tokens(64, 11, 2);
  Pair<tiny_config, double> pair;
  AdamW cpu_optimizer(pair.cpu, {.lr = 1e-3});
  AdamW gpu_optimizer(pair.gpu, {.lr = 1e-3});
  double worst = 0;
  for (int s = 0; s < 300; ++s) {
    const double expected = step(pair.cpu, cpu_optimizer, ids, labels);
    worst = std::max(worst, std::abs(step(pair.gpu, gpu_optimizer, ids, labels) - expected) / expected);
  }
  INFO("worst relative difference of the losses: " << worst);
  CHECK(worst < 1e-8);
}

TEST_CASE("CUDA: what looks and reaches inside is as on the CPU") {
  support::need_backend();
  Pair<tiny_config, double> pair;
  const auto ids = support::random_tokens(5 * 8, 11, 1), other = support::random_tokens(5 * 8, 11, 2), labels = support::random_tokens(5, 11, 3);
  std::vector<std::uint8_t> mask(40, 0);
  for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
  CHECK(support::values(pair.gpu.blocked(ids, 5, mask)) == support::values(pair.cpu.blocked(ids, 5, mask)));
  CHECK(support::values(pair.gpu.substituted(ids, other, 5, mask)) == support::values(pair.cpu.substituted(ids, other, 5, mask)));
  CHECK(support::values(pair.gpu.activations(Point::delta, ids, 5)[1]) == support::values(pair.cpu.activations(Point::delta, ids, 5)[1]));
  // A loss of one's own: half the squared distance of the logits from one.
  const auto half_square = [](MatrixView<const double> logits, int, MatrixView<double> gradient) {
    double loss = 0;
    for (std::ptrdiff_t i = 0; i < logits.rows(); ++i)
      for (std::ptrdiff_t v = 0; v < logits.cols(); ++v) {
        gradient(i, v) = logits(i, v) - 1;
        loss += gradient(i, v) * gradient(i, v) / 2;
      }
    return loss;
  };
  CHECK(pair.gpu.loss_and_gradients(ids, 5, half_square) == pair.cpu.loss_and_gradients(ids, 5, half_square));
  CHECK(worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) == 0);
}

TEST_CASE("CUDA: wrong input is refused as on the CPU") {
  support::need_backend();
  Pair<tiny_config> pair;
  const std::vector<std::int32_t> ids{1, 2, 99}, labels{1};
  CHECK_THROWS_WITH(pair.gpu(ids, 1), ContainsSubstring("token 99 at position 2 of sequence 0"));
  CHECK_THROWS_WITH((MambaForComposite<tiny_config, Cuda>({.seed = 1, .device = 99})), ContainsSubstring("device 99 is not in 0.."));
}
