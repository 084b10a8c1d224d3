// Decoding at the scope of the whole device: prompts, steps as graphs, many sequences.
#include <mamba/generate.hpp>

#include "support/cuda.hpp"
#include "support/cuda_decoding.hpp"
#include "support/grid_configs.hpp"

using namespace mamba;
using support::odd_config, support::wide_config, support::broad_config;

TEST_CASE("CUDA grid: decoding in float") {
  support::need_backend();
  support::check_decoding<odd_config, CudaGrid>(1e-5);
  support::check_decoding<broad_config, CudaGrid>(1e-5);
  support::check_decoding<odd_config, CudaGrid, Mamba2<12, 2>>(1e-5);
  support::check_decoding<wide_config, CudaGrid, Mamba2<>>(1e-5);
  support::check_decoding<broad_config, CudaGrid, Mamba2<64>>(1e-5);
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

TEST_CASE("CUDA grid: steps of many sequences, and the next tokens") {
  support::need_backend();
  support::check_steps_of_many<odd_config, CudaGrid>({1, 8, 9, 64, 100, 256, 257});
  support::check_steps_of_many<odd_config, Cuda, Mamba2<12, 2>>({1, 8, 9, 64, 100, 256, 257});
  support::check_steps_of_many<odd_config, CudaBlock>({1, 9, 100});
  support::check_steps_of_many<odd_config, CudaGrid, ConvGate, SinusoidalPosition>({9});
  support::check_steps_of_many<odd_config, CudaGrid, LinearConvResidual, UntiedHead>({12});
  support::check_steps_of_many<odd_config, CudaGrid, Mamba2<12, 2>, ConvResidual, LearnedPosition<40>>({33});
  // Steps of so few rows are exact; a tile for each sequence, of more than are recorded.
  support::check_steps_of_many<odd_config, CudaGrid>(
      {9, 100}, {.n_layers = 2, .gamma = 0.5, .seed = 3, .products = Products::tf32});
  support::check_steps_of_many<odd_config, CudaGrid>({7, 20},
                                                     {.n_layers = 2, .gamma = 0.5, .seed = 3, .tile_bytes = 1});
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

// The same tokens as on the CPU: in double no choice is so close that digits decide it.
template <class... Policies>
void check_generation() {
  support::Pair<odd_config, CudaGrid, double, Policies...> pair;
  const std::vector<std::vector<std::int32_t>> prompts{{1, 2, 3}, {4}, support::random_tokens(70, 50, 1)};
  const GenerateOptions all[] = {
      {.max_new_tokens = 20},
      {.max_new_tokens = 20, .temperature = 1, .seed = 5},
      {.max_new_tokens = 20, .temperature = 1.2, .top_k = 20, .top_p = 0.9, .repetition_penalty = 1.2, .seed = 6}};
  for (const GenerateOptions& options : all) {
    INFO("temperature " << options.temperature << ", top_k " << options.top_k);
    CHECK(generate(pair.gpu, prompts, options) == generate(pair.cpu, prompts, options));
    CHECK(generate(pair.gpu, prompts[2], options).size() == 20);
  }
}

TEST_CASE("CUDA grid: generation is the CPU's") {
  support::need_backend();
  check_generation<>();
  check_generation<Mamba2<12, 2>>();
}
