// Sequences on either side of what the grid's kernels cut them into.
#include <mamba/language_model.hpp>

#include "support/cuda.hpp"
#include "support/grid_configs.hpp"

using namespace mamba;
using support::tiny_config, support::odd_config, support::wide_config, support::broad_config;

// Chunks of 16 to 64 rows in Mamba-2, stretches of 8 to 64 in Mamba-1: lengths on either side of them.
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
