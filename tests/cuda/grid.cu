// The GPU at the scope of the whole device: the same as the CPU, the same again, and what fits no block.
#include <catch2/matchers/catch_matchers_string.hpp>

#include <mamba/language_model.hpp>

#include "support/cuda.hpp"
#include "support/grid_configs.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using support::tiny_config, support::odd_config, support::broad_config;

namespace {

inline constexpr Config wide_conv_config{.vocab_size = 11, .d_model = 20, .d_state = 3, .d_conv = 6};
inline constexpr Config narrow_conv_config{.vocab_size = 11, .d_model = 20, .d_state = 34, .d_conv = 1};
inline constexpr Config many_states_config{.vocab_size = 11, .d_model = 4, .d_state = 2600};
inline constexpr Config many_heads_config{.vocab_size = 11, .d_model = 512, .d_state = 16};

using InDouble = MambaForComposite<tiny_config, CudaGrid, double>;

template <Config config, class... Policies>
constexpr bool fits_block() {
  return cuda::fits_block<Resolve<config, Policies...>>;
}

}  // namespace

TEST_CASE("CUDA grid: sequences of different lengths are as on the CPU") {
  support::need_backend();
  support::check_lengths<tiny_config, CudaGrid, double>(1e-13);
  support::check_lengths<odd_config, CudaGrid, double>(1e-12);
  support::check_lengths<odd_config, CudaGrid, double, Mamba2<12, 2>>(1e-12);
  support::check_lengths<broad_config, CudaGrid, float>(5e-6);
  support::check_lengths<broad_config, CudaGrid, float, Mamba2<64>>(5e-6);
}

TEST_CASE("CUDA: what does not fit a block runs over the grid") {
  CHECK(fits_block<broad_config, Cuda>());
  CHECK(fits_block<broad_config, Cuda, Mamba2<64>>());
  CHECK_FALSE(fits_block<many_states_config, Cuda, double>());
  CHECK_FALSE(fits_block<many_heads_config, Cuda, double, Mamba2<1>>());
  support::need_backend();
  support::check_lengths<many_states_config, Cuda, double>(1e-12);
  support::check_lengths<many_heads_config, Cuda, double, Mamba2<1>>(1e-12);
}

TEST_CASE("CUDA grid: states, and their way between the devices") {
  support::need_backend();
  support::check_states<tiny_config, CudaGrid, Mamba1>();
  support::check_states<tiny_config, CudaGrid, Mamba2<4>>();
  support::check_states<odd_config, CudaGrid, ConvGate>();
  support::check_states<wide_conv_config, CudaGrid, ConvResidual, UntiedHead>();
  support::check_states<narrow_conv_config, CudaGrid, OnesConv, LearnedPosition<20>>();
  support::check_states<odd_config, CudaGrid, LinearConvResidual>();
  support::check_states<odd_config, CudaGrid, Mamba2<>, ConvGate>();
  support::check_states<wide_conv_config, CudaGrid, Mamba2<4, 2>, ConvResidual>();

  // A fork goes its own way, and a state goes back, without leaving the device.
  MambaLMHeadModel<tiny_config, CudaGrid> model({.n_layers = 2, .seed = 3});
  auto state = model.initial_state(2);
  model.prefill(support::random_tokens(2 * 5, 11, 5), 2, state);
  const std::vector<std::int32_t> tokens{3, 4}, others{5, 6};
  const auto saved = state;
  const auto expected = support::values(model.step(tokens, state));
  for (int again = 0; again < 3; ++again) {
    state = saved;
    auto fork = state;
    model.step(others, fork), model.step(others, state);
    state = saved;
    CHECK(support::values(model.step(tokens, state)) == expected);
  }
  state = model.initial_state(2);  // zeros take the place of what was
  auto fresh = model.initial_state(2);
  CHECK(support::values(model.step(tokens, state)) == support::values(model.step(tokens, fresh)));
}

TEST_CASE("CUDA grid: what looks and reaches inside is as on the CPU") {
  support::need_backend();
  support::check_inside<tiny_config, CudaGrid>(1e-12);
  support::check_inside<tiny_config, CudaGrid, Mamba2<4, 2>>(1e-12);
}

// Few long sequences, whose scan is parallel in time: whole, from a state, and back.
template <Config config, class Scalar, class... Policies>
void check_long_sequences(double bound) {
  support::Pair<config, CudaGrid, Scalar, Policies...> pair;
  const std::vector<std::int32_t> lengths{1500, 257, 700}, labels{1, 2, 3};
  const auto ids = support::random_tokens(3 * 1500, config.vocab_size, 1);
  CHECK(support::relative_error(support::values(pair.gpu.logits(ids, 3, lengths)),
                                support::values(pair.cpu.logits(ids, 3, lengths))) < bound);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) / pair.cpu.loss_and_gradients(ids, labels, lengths) -
                 1) < bound);
  CHECK(support::worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 20 * bound);
  auto here = pair.cpu.initial_state(3);
  auto there = pair.gpu.initial_state(3);
  for (int again = 0; again < 2; ++again)
    CHECK(support::relative_error(support::values(pair.gpu.prefill(ids, 3, there, lengths)),
                                  support::values(pair.cpu.prefill(ids, 3, here, lengths))) < bound);
  const auto of_cpu = here.state_tensor(), of_gpu = there.state_tensor();
  CHECK(support::relative_error(of_gpu.values, std::vector<double>(of_cpu.values.begin(), of_cpu.values.end())) <
        bound);
}

TEST_CASE("CUDA grid: few long sequences") {
  support::need_backend();
  check_long_sequences<odd_config, double>(1e-12);
  check_long_sequences<tiny_config, double, LearnedPosition<3000>>(1e-12);
  check_long_sequences<tiny_config, float>(1e-5);
  check_long_sequences<odd_config, float, Mamba2<12, 2>>(1e-5);
}

template <class Model>
void check_known_memory(int batch, int length) {
  INFO(Model::config.d_model << " wide, " << batch << " x " << length);
  Model model({.n_layers = 3, .seed = 3});
  const auto expected = static_cast<double>(model.gradient_bytes(batch, length));
  const auto ids = support::random_tokens(batch * length, Model::config.vocab_size, 1);
  CHECK(static_cast<double>(model.memory_bytes()) < expected);
  if constexpr (requires { model.loss_and_gradients(ids, ids); })
    model.loss_and_gradients(ids, support::random_tokens(batch, Model::config.vocab_size, 2));
  else model.loss_and_gradients(ids, batch);
  CHECK(std::abs(static_cast<double>(model.memory_bytes()) - expected) < 0.05 * expected);
}

TEST_CASE("CUDA: a step's memory is known before it") {
  support::need_backend();
  check_known_memory<MambaForComposite<broad_config, CudaBlock>>(300, 20);
  check_known_memory<MambaForComposite<broad_config, CudaGrid>>(20, 300);
  check_known_memory<MambaLMHeadModel<broad_config, CudaGrid, Mamba2<64>>>(8, 700);
  check_known_memory<MambaLMHeadModel<broad_config, CudaGrid, BFloat16>>(8, 700);
}

TEST_CASE("CUDA grid: a run gives the same bytes again") {
  support::need_backend();
  const auto ids = support::random_tokens(300 * 30, 11, 1), labels = support::random_tokens(300, 11, 2);
  const auto run = [&] {
    MambaForComposite<tiny_config, CudaGrid> model({.n_layers = 2, .gamma = 1.0, .seed = 3});
    AdamW optimizer(model, {.lr = 1e-3});
    for (int s = 0; s < 10; ++s) {
      model.loss_and_gradients(ids, labels);
      clip_grad_norm(model, 1.0);
      optimizer.step();
    }
    return model.state_dict();
  };
  const auto first = run(), second = run();
  for (const auto& [name, tensor] : first) CHECK(second.at(name).values == tensor.values);
}

TEST_CASE("CUDA grid: a long sequence") {
  support::need_backend();
  support::Pair<tiny_config, CudaGrid, double> pair;
  const auto ids = support::random_tokens(3000, 11, 1), labels = support::random_tokens(1, 11, 2);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels) / pair.cpu.loss_and_gradients(ids, labels) - 1) < 1e-12);
  CHECK(support::worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 1e-11);
}

TEST_CASE(
    "CUDA grid: a batch is cut by sizes alone: the same bytes whatever memory is free, or an error that says what it "
    "needs") {
  support::need_backend();
  constexpr int batch = 4096, length = 32;
  const auto ids = support::random_tokens(batch * length, 11, 1), labels = support::random_tokens(batch, 11, 2);
  const auto long_sequence = support::random_tokens(std::size_t{1} << 20, 11, 1);
  const auto check = [&](std::size_t tile_bytes) {
    INFO("tiles of " << tile_bytes << " bytes");
    support::Pair<tiny_config, CudaGrid, double> pair{
        .options = {.n_layers = 2, .gamma = 1.0, .seed = 3, .tile_bytes = tile_bytes}};
    const double expected = pair.cpu.loss_and_gradients(ids, labels), loss = pair.gpu.loss_and_gradients(ids, labels);
    CHECK(std::abs(loss / expected - 1) < 1e-12);
    const auto gradients = pair.gpu.gradient_dict();
    CHECK(support::worst_difference(pair.cpu.gradient_dict(), gradients) < 1e-11);
    return std::pair(loss, gradients);
  };
  // The first whole, the second in parts: other sums, and less memory.
  constexpr std::size_t small = std::size_t{64} << 20;
  const auto whole = check(ModelOptions{}.tile_bytes), parts = check(small);
  {
    constexpr std::size_t left = std::size_t{512} << 20;
    std::size_t free = 0, all = 0;
    cuda::check(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
    REQUIRE(free > left);
    const cuda::DeviceBuffer others(free - left);
    const auto again = check(small);
    CHECK(again.first == parts.first);
    for (const auto& [name, tensor] : parts.second) CHECK(again.second.at(name).values == tensor.values);
    InDouble model({.n_layers = 2, .gamma = 1.0, .seed = 3});
    CHECK_THROWS_WITH(model(long_sequence, 1),
                      ContainsSubstring("bytes of device memory are needed") && ContainsSubstring("tile_bytes"));
    CHECK_THROWS_WITH(model.loss_and_gradients(ids, labels), ContainsSubstring("bytes of device memory are needed"));
  }
  const auto again = check(ModelOptions{}.tile_bytes);
  CHECK(again.first == whole.first);
  for (const auto& [name, tensor] : whole.second) CHECK(again.second.at(name).values == tensor.values);
  InDouble model({.n_layers = 2, .gamma = 1.0, .seed = 3});
  CHECK_NOTHROW(model(long_sequence, 1));
}
