// Mamba-3 over the whole device beside the CPU's; the reference numbers are reference_mamba3.cu's.
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/cuda.hpp"
#include "support/cuda_bfloat16.hpp"

using namespace mamba;

namespace {

inline constexpr Config narrow_config{.vocab_size = 11, .d_model = 9, .d_state = 6},
    broad_config{.vocab_size = 40, .d_model = 32, .d_state = 64},
    many_heads{.vocab_size = 11, .d_model = 36, .d_state = 70},
    wide_config{.vocab_size = 11, .d_model = 40, .d_state = 150},
    uneven_config{.vocab_size = 11, .d_model = 24, .d_state = 70},
    many_states{.vocab_size = 11, .d_model = 4, .d_state = 480};
// Heads in groups, odd sizes; more channels of a head than threads take at once, and a number that they do not divide;
// a norm; ranks that a token's products have room for, and others; more heads of a group than a block has warps.
inline constexpr Mamba3Config of_groups{.headdim = 3, .ngroups = 2, .rotates_all = true}, of_heads{.headdim = 32},
    of_norm{.headdim = 6, .output_norm = true, .softplus_rate = true}, of_ranks{.headdim = 32, .rank = 4},
    of_wide{.headdim = 80, .output_norm = true}, of_one{.headdim = 6, .rank = 1}, of_eight{.rank = 8},
    of_five{.headdim = 24, .rank = 5}, of_many{.headdim = 4},
    of_many_in_groups{.headdim = 4, .ngroups = 2, .rank = 2, .output_norm = true},
    of_three{.headdim = 6, .rank = 3, .rotates_all = true, .output_norm = true};

}  // namespace

TEST_CASE("CUDA grid: Mamba-3 on sequences of different lengths") {
  support::need_backend();
  support::check_lengths<narrow_config, CudaGrid, double, Mamba3<of_groups>>(1e-12);
  support::check_lengths<narrow_config, CudaGrid, double, Mamba3<of_three>>(1e-12);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_groups>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_norm>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_one>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_three>>(1e-5);
  support::check_lengths<many_heads, CudaGrid, Mamba3<of_many>>(1e-5);
  support::check_lengths<many_heads, CudaGrid, Mamba3<of_many_in_groups>>(1e-5);
}

TEST_CASE("CUDA grid: Mamba-3's states, and their way between the devices") {
  support::need_backend();
  support::check_states<narrow_config, CudaGrid, Mamba3<of_groups>>();
  support::check_states<narrow_config, CudaGrid, Mamba3<of_three>>();
}

TEST_CASE("CUDA grid: Mamba-3's prompts in pieces, and steps", "[long]") {
  support::need_backend();
  support::check_decoding<narrow_config, CudaGrid, Mamba3<of_norm>>(1e-5);
  support::check_decoding<narrow_config, CudaGrid, Mamba3<of_three>>(1e-5);
  support::check_decoding<broad_config, CudaGrid, Mamba3<of_heads>>(1e-5);
  support::check_decoding<broad_config, CudaGrid, Mamba3<of_ranks>>(1e-5);
}

namespace {

// Next tokens of so many sequences, which go on from prompts of different lengths.
template <const Config& config, class Scalar, class... Policies>
void check_steps(int batch, double bound) {
  support::Pair<config, CudaGrid, Scalar, Policies...> pair;
  const auto tokens = [&](int length, int seed) {
    return support::random_tokens(batch * length, config.vocab_size, static_cast<unsigned>(seed));
  };
  std::vector<std::int32_t> lengths;
  for (int s = 0; s < batch; ++s) lengths.push_back(1 + s % 3);
  auto of_cpu = pair.cpu.initial_state(batch);
  auto of_gpu = pair.gpu.initial_state(batch);
  const auto same = [&](const auto& expected, const auto& found) {
    return support::relative_error(support::values(found), support::values(expected)) < bound;
  };
  CHECK(same(pair.cpu.prefill(tokens(3, 1), batch, of_cpu, lengths),
             pair.gpu.prefill(tokens(3, 1), batch, of_gpu, lengths)));
  for (int t = 0; t < 3; ++t)
    CHECK(same(pair.cpu.step(tokens(1, 2 + t), of_cpu), pair.gpu.step(tokens(1, 2 + t), of_gpu)));
}

}  // namespace

TEST_CASE("CUDA grid: Mamba-3's next tokens, of few sequences and of many") {
  support::need_backend();
  for (const int batch : {1, 8, 9}) {
    INFO("batch " << batch);
    check_steps<narrow_config, double, Mamba3<of_groups>>(batch, 1e-12);
    check_steps<narrow_config, double, Mamba3<of_three>>(batch, 1e-12);
    check_steps<narrow_config, float, Mamba3<of_norm>>(batch, 1e-5);
    check_steps<narrow_config, float, Mamba3<of_one>>(batch, 1e-5);
    check_steps<wide_config, float, Mamba3<of_wide>>(batch, 1e-5);
    check_steps<uneven_config, float, Mamba3<>>(batch, 1e-5);
    check_steps<uneven_config, float, Mamba3<of_five>>(batch, 1e-5);
  }
  // More than a block exchanges.
  static_assert(!network::RotarySsdSizes<float, 1, 8, 1, 480, 8, 120>::token_fits_block);
  check_steps<many_states, float, Mamba3<of_eight>>(2, 1e-5);
}

TEST_CASE("CUDA grid: what is not finite in Mamba-3's tokens stays so") {
  support::need_backend();
  MambaLMHeadModel<narrow_config, CudaGrid, Mamba3<of_groups>> model({.n_layers = 1, .seed = 3});
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  const auto step = [&](auto&& change) {
    auto state = model.initial_state(2);
    auto history = state.history_tensor();
    change(history.values);
    state.restore(history, state.state_tensor(), state.positions());
    return support::values(model.step(std::vector<std::int32_t>{3, 4}, state));
  };
  const auto is_none = [](float x) { return std::isnan(x); };
  const auto sound = step([](auto&) {});
  CHECK(std::none_of(sound.begin(), sound.end(), is_none));
  const auto logits = step([](auto& history) { history[2] = std::numeric_limits<float>::infinity(); });
  const auto half = logits.begin() + static_cast<std::ptrdiff_t>(logits.size() / 2);
  CHECK(std::any_of(logits.begin(), half, is_none));
  CHECK(std::none_of(half, logits.end(), is_none));  // the other sequence's
  const auto dict = model.state_dict();
  const auto& shape = dict.at("backbone.layers.0.mixer.in_proj.weight").shape;
  for (std::int64_t row = 0; row < shape[0]; ++row) {
    auto changed = dict;
    changed.at("backbone.layers.0.mixer.in_proj.weight").values[static_cast<std::size_t>(row * shape[1] + 3)] = none;
    model.load_state_dict(changed);
    const auto found = step([](auto&) {});
    INFO("row " << row);
    CHECK(std::any_of(found.begin(), found.end(), is_none));
  }
}

namespace {

// Rows that are cut off from later ones, over several chunks.
template <class Mixer>
void check_blocking() {
  support::Pair<narrow_config, CudaGrid, Mixer> pair;
  const auto ids = support::random_tokens(2 * 90, narrow_config.vocab_size, 1);
  std::vector<std::uint8_t> mask(ids.size());
  for (std::size_t i = 0; i < mask.size(); i += 7) mask[i] = 1;
  CHECK(support::relative_error(support::values(pair.gpu.blocked(ids, 2, mask)),
                                support::values(pair.cpu.blocked(ids, 2, mask))) < 1e-5);
}

}  // namespace

TEST_CASE("CUDA grid: what looks and reaches inside Mamba-3 is as on the CPU") {
  support::need_backend();
  check_blocking<Mamba3<of_groups>>();
  check_blocking<Mamba3<of_one>>();
  support::check_inside<narrow_config, CudaGrid, Mamba3<of_groups>>(1e-12);
  support::check_inside<narrow_config, CudaGrid, Mamba3<of_three>>(1e-12);
}

TEST_CASE("CUDA grid: Mamba-3 in 16 bits") {
  support::need_backend();
  support::check_bfloat16_lengths<broad_config, CudaGrid, Mamba3<of_heads>>();
  support::check_bfloat16_decoding<broad_config, CudaGrid, Mamba3<of_heads>>();
}

TEST_CASE("CUDA grid: Mamba-3's ranks in 16 bits", "[long]") {
  support::need_backend();
  support::check_bfloat16_lengths<broad_config, CudaGrid, Mamba3<of_ranks>>();
}
