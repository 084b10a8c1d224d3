// Mamba-3 over the whole device beside the CPU's; the reference numbers are reference_mamba3.cu's.
#include "support/cuda.hpp"
#include "support/cuda_bfloat16.hpp"

using namespace mamba;

namespace {

inline constexpr Config narrow_config{.vocab_size = 11, .d_model = 9, .d_state = 6},
    broad_config{.vocab_size = 40, .d_model = 32, .d_state = 64};
// Heads in groups, odd sizes; a norm; ranks that a token's products have room for, and three, which they have not.
inline constexpr Mamba3Config of_groups{.headdim = 3, .ngroups = 2, .rotates_all = true}, of_heads{.headdim = 32},
    of_norm{.headdim = 6, .output_norm = true, .softplus_rate = true}, of_ranks{.headdim = 32, .rank = 4},
    of_one{.headdim = 6, .rank = 1}, of_three{.headdim = 6, .rank = 3, .rotates_all = true, .output_norm = true};

}  // namespace

TEST_CASE("CUDA grid: Mamba-3 on sequences of different lengths") {
  support::need_backend();
  support::check_lengths<narrow_config, CudaGrid, double, Mamba3<of_groups>>(1e-12);
  support::check_lengths<narrow_config, CudaGrid, double, Mamba3<of_three>>(1e-12);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_groups>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_norm>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_one>>(1e-5);
  support::check_lengths<narrow_config, CudaGrid, Mamba3<of_three>>(1e-5);
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
  support::check_bfloat16_lengths<broad_config, CudaGrid, Mamba3<of_ranks>>();
  support::check_bfloat16_decoding<broad_config, CudaGrid, Mamba3<of_heads>>();
}
