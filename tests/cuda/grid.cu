// The GPU at the scope of the whole device: the same as the CPU, the same again, and what fits no block.
#include <catch2/matchers/catch_matchers_string.hpp>

#include <mamba/language_model.hpp>

#include "support/cuda.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
inline constexpr Config odd_config{.vocab_size = 50, .d_model = 24, .d_state = 70, .d_conv = 3};
inline constexpr Config broad_config{.vocab_size = 100, .d_model = 128, .d_state = 128};
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

// Chunks of 64 rows in Mamba-2, stretches of 8 to 64 in Mamba-1: lengths on either side of them.
template <Config config, class... Policies>
void check_chunks(double bound) {
  support::Pair<config, CudaGrid, Policies...> pair;
  constexpr int batch = 6, length = 200;
  const auto ids = support::random_tokens(batch * length, config.vocab_size, 1),
             labels = support::random_tokens(batch, config.vocab_size, 2);
  const std::vector<std::int32_t> lengths{200, 1, 64, 65, 128, 150};
  CHECK(support::relative_error(support::values(pair.gpu(ids, batch, lengths)),
                                support::values(pair.cpu(ids, batch, lengths))) < bound);
  const double expected = pair.cpu.loss_and_gradients(ids, labels, lengths);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) - expected) < bound * expected);
  CHECK(support::worst_difference(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 10 * bound);
}

inline constexpr Config wide_config{.vocab_size = 50, .d_model = 48, .d_state = 24};

TEST_CASE("CUDA grid: sequences of several chunks") {
  support::need_backend();
  check_chunks<odd_config, double>(1e-12);
  check_chunks<odd_config, double, Mamba2<12, 2>>(1e-12);
  check_chunks<wide_config, float>(5e-6);
  check_chunks<odd_config, float>(5e-6);
  check_chunks<broad_config, float>(5e-6);
  check_chunks<tiny_config, float, Mamba2<4, 2>>(5e-6);
  check_chunks<odd_config, float, Mamba2<12, 2>>(5e-6);
  check_chunks<wide_config, float, Mamba2<>>(5e-6);  // 96 channels: more than a tile
  check_chunks<broad_config, float, Mamba2<64>>(5e-6);
}

// Prompts by pieces, tokens one by one, and two states in turn.
template <Config config, class... Policies>
void check_decoding(double bound) {
  support::Pair<config, CudaGrid, float, Policies...> pair;
  constexpr int batch = 3, length = 150;
  const auto ids = support::random_tokens(batch * length, config.vocab_size, 5);
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
        worst = support::larger(worst, static_cast<double>(std::abs(logits(s, v) - whole(s * length + time, v))));
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

TEST_CASE("CUDA grid: decoding in float") {
  support::need_backend();
  check_decoding<odd_config>(1e-5);
  check_decoding<broad_config>(1e-5);
  check_decoding<odd_config, Mamba2<12, 2>>(1e-5);
  check_decoding<wide_config, Mamba2<>>(1e-5);
  check_decoding<broad_config, Mamba2<64>>(1e-5);
}

// Steps are recorded by the addresses that they read and write: what these stand for may change between two of them.
TEST_CASE("CUDA grid: recorded steps are those of the state, the weights and the tiles at hand") {
  support::need_backend();
  const ModelOptions whole{.n_layers = 2, .gamma = 0.5, .seed = 3};
  ModelOptions in_parts = whole;
  in_parts.tile_bytes = 1;  // a sequence at a time
  const auto ids = support::random_tokens(4 * 30, 50, 5);
  const auto compare = [&](const ModelOptions& options) {
    support::Pair<odd_config, CudaGrid, Mamba2<12, 2>> pair{.options = options};
    double worst = 0;
    // More states than are recorded, of two sizes in turn, at addresses that come back; the last ones used again.
    for (int round = 0; round < 3; ++round) {
      for (int batch : {4, 1, 2}) {
        auto here = pair.cpu.initial_state(batch);
        std::vector there(round == 1 ? 10 : 1, pair.gpu.initial_state(batch));
        for (int t = 0; t < 3; ++t) {
          const std::span tokens(ids.data() + 4 * (t + 3 * round), static_cast<std::size_t>(batch));
          const auto expected = support::values(pair.cpu.step(tokens, here));
          for (auto& state : there)
            worst = support::larger(worst,
                                    support::relative_error(support::values(pair.gpu.step(tokens, state)), expected));
        }
      }
      // Other weights at the same addresses.
      AdamW optimizer(pair.cpu, {.lr = 1e-2});
      pair.cpu.loss_and_gradients(ids, support::random_tokens(4, 50, 7));
      optimizer.step();
      pair.gpu.load_state_dict(pair.cpu.state_dict());
    }
    INFO("largest difference " << worst);
    CHECK(worst < 1e-5);
  };
  compare(whole);
  compare(in_parts);
}

// On both sides of the numbers of sequences at which products go other ways and steps are recorded no more.
template <class Backend, class... Policies>
void check_steps_of_many(std::initializer_list<int> batches,
                         const ModelOptions& options = {.n_layers = 2, .gamma = 0.5, .seed = 3}) {
  support::Pair<odd_config, Backend, Policies...> pair{.options = options};
  for (const int batch : batches) {
    INFO("batch " << batch);
    auto here = pair.cpu.initial_state(batch);
    auto there = pair.gpu.initial_state(batch);
    for (int t = 0; t < 4; ++t) {
      const auto tokens = support::random_tokens(static_cast<std::size_t>(batch), 50, static_cast<std::uint64_t>(t));
      auto before = there;
      const auto expected = support::values(pair.cpu.step(tokens, here));
      const auto logits = pair.gpu.step(tokens, there);
      CHECK(support::relative_error(support::values(logits), expected) < 1e-5);
      // Tokens chosen on the device are those that its logits lead to on the host.
      for (const double temperature : {0.0, 0.9}) {
        const Sampling sampling{.temperature = temperature, .seed = 11};
        auto state = before;
        const std::vector<std::int32_t> chosen = pair.gpu.next_tokens(tokens, batch, state, sampling);
        CHECK(state.positions() == there.positions());
        std::vector<std::int32_t> on_host;
        for (int s = 0; s < batch; ++s)
          on_host.push_back(math::TokenChooser<float>(sampling, s, t + 1)(&logits(s, 0), odd_config.vocab_size));
        CHECK(chosen == on_host);
      }
    }
  }
}

TEST_CASE("CUDA grid: steps of many sequences, and the next tokens") {
  support::need_backend();
  check_steps_of_many<CudaGrid>({1, 8, 9, 64, 100, 256, 257});
  check_steps_of_many<Cuda, Mamba2<12, 2>>({1, 8, 9, 64, 100, 256, 257});
  check_steps_of_many<CudaBlock>({1, 9, 100});
  check_steps_of_many<CudaGrid, ConvGate, SinusoidalPosition>({9});
  check_steps_of_many<CudaGrid, LinearConvResidual, UntiedHead>({12});
  check_steps_of_many<CudaGrid, Mamba2<12, 2>, ConvResidual, LearnedPosition<40>>({33});
  // Steps of so few rows are exact; a tile for each sequence, of more than are recorded.
  check_steps_of_many<CudaGrid>({9, 100}, {.n_layers = 2, .gamma = 0.5, .seed = 3, .products = Products::tf32});
  check_steps_of_many<CudaGrid>({7, 20}, {.n_layers = 2, .gamma = 0.5, .seed = 3, .tile_bytes = 1});
}

// What moves memory that a recorded step knows.
TEST_CASE("CUDA grid: steps of many sequences between trainings") {
  support::need_backend();
  support::Pair<broad_config, CudaGrid> pair;
  constexpr int batch = 12;
  auto here = pair.cpu.initial_state(batch);
  auto there = pair.gpu.initial_state(batch);
  double worst = 0;
  for (int t = 0; t < 5; ++t) {
    const auto tokens = support::random_tokens(batch, broad_config.vocab_size, static_cast<std::uint64_t>(t));
    worst = support::larger(worst, support::relative_error(support::values(pair.gpu.step(tokens, there)),
                                                           support::values(pair.cpu.step(tokens, here))));
    const int sequences = 8 << t;
    pair.gpu.loss_and_gradients(support::random_tokens(static_cast<std::size_t>(sequences * 9), 50, 1),
                                support::random_tokens(static_cast<std::size_t>(sequences), 50, 2));
  }
  CHECK(worst < 1e-5);
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
