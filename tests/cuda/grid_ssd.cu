// Mamba-2's recurrence over the whole device against the CPU's in double, primitive against primitive: in chunks, from
// one to the next, and in pieces of several.
#include <memory>

#include <mamba/cuda/grid/backend.hpp>

#include "support/ssd_passes.hpp"

using namespace support::ssd;

namespace {

struct WholeDevice {
  using Memory = cuda::GridMemory;
  template <class Arguments>
  static void run(const Arguments& k, bool backward) {
    using T = typename Arguments::T;
    constexpr int G = Arguments::G, N = Arguments::N;
    cuda::check(cudaDeviceSynchronize(), "what was uploaded");
    cuda::Grid be(std::make_shared<cuda::Queue>(0));
    if (backward)
      cuda::ssd_backward<G, N>(be, k.ddelta, k.dxbc, k.da, k.dd, k.dy, static_cast<const T*>(k.boundaries), k.delta,
                               k.xbc, k.sequences, k.a, k.d);
    else cuda::ssd<G, N>(be, k.y, k.boundaries, k.states, k.delta, k.xbc, k.sequences, k.a, k.d, BlockedRows{k.mask});
    be.queue().wait();
  }
};

const std::vector<int> long_lengths{1, 64, 65, 63, 130, 2, 200, 32, 33};

}  // namespace

TEST_CASE("CUDA grid: Mamba-2's recurrence is the CPU's at a language model's sizes", "[long]") {
  support::need_device();
  check_all<WholeDevice, 4, 64, 1, 128>(long_lengths);
  check_all<WholeDevice, 4, 64, 2, 64>(long_lengths);
  check_all<WholeDevice, 2, 128, 1, 256>(long_lengths);
}

TEST_CASE("CUDA grid: Mamba-2's recurrence is the CPU's at odd sizes") {
  support::need_device();
  check_all<WholeDevice, 4, 4, 2, 5>(mixed_lengths);
  check_all<WholeDevice, 6, 3, 3, 18>(mixed_lengths);
  check_all<WholeDevice, 2, 40, 2, 70>(long_lengths);
  check_all<WholeDevice, 1, 80, 1, 16>(long_lengths);
  check_all<WholeDevice, 1, 256, 1, 264>({3, 25});
  check_all<WholeDevice, 1, 1, 1, 1>({100, 1, 1, 2});
}

TEST_CASE("CUDA grid: Mamba-2's recurrence is the CPU's in pieces of long sequences", "[long]") {
  support::need_device();
  check_all<WholeDevice, 2, 16, 1, 32>({3000});
  check_all<WholeDevice, 2, 16, 1, 32>({1500, 7, 700});
  check_all<WholeDevice, 2, 80, 2, 20>({900, 300});
  check_all<WholeDevice, 1, 64, 1, 128>({1025});
}

TEST_CASE("CUDA grid: Mamba-2's recurrence in 16 bits is the CPU's in double, to rounded operands") {
  support::need_device();
  check_16_bits<WholeDevice, 4, 64, 1, 128>(long_lengths);
  check_16_bits<WholeDevice, 2, 128, 2, 256>(long_lengths);
  check_16_bits<WholeDevice, 2, 40, 2, 70>(long_lengths);
  check_16_bits<WholeDevice, 4, 3, 2, 5>(long_lengths);
  check_16_bits<WholeDevice, 1, 16, 1, 264>({3, 25, 40});
  check_16_bits<WholeDevice, 2, 16, 1, 32>({1500, 7, 700});
}

TEST_CASE("CUDA grid: Mamba-2's recurrence gives the same bytes again") {
  support::need_device();
  Pass<WholeDevice, float, 4, 16, 2, 24> first(long_lengths, {}), second(long_lengths, {});
  first.on_gpu(), second.on_gpu();
  CHECK(first.ddelta.dense() == second.ddelta.dense());
  CHECK(first.dxbc.dense() == second.dxbc.dense());
  CHECK(first.da.dense() == second.da.dense());
}
