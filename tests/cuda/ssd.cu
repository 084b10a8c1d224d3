// Mamba-2's state-space dual by one thread block against the CPU's in double, primitive against primitive.
#include <mamba/cuda/block/backend.hpp>

#include "support/ssd_passes.hpp"

using namespace support::ssd;

namespace {

template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_ssd(Arguments k) {
  cuda::Block be{k.global};
  cuda::ssd<Arguments::G, Arguments::N>(be, k.y, k.boundaries, k.states, k.delta, k.xbc, k.sequences, k.a, k.d,
                                        BlockedRows{k.mask});
}
template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_ssd_backward(Arguments k) {
  cuda::Block be{k.global};
  cuda::ssd_backward<Arguments::G, Arguments::N>(be, k.ddelta, k.dxbc, k.da, k.dd, k.dy,
                                                 static_cast<const typename Arguments::T*>(k.boundaries), k.delta,
                                                 k.xbc, k.sequences, k.a, k.d);
}

struct OneBlock {
  using Memory = cuda::BlockMemory;
  template <class Arguments>
  static void run(const Arguments& arguments, bool backward) {
    support::launch<typename Arguments::T>(backward ? run_ssd_backward<Arguments> : run_ssd<Arguments>, arguments);
  }
};

}  // namespace

TEST_CASE("CUDA: the state-space dual is the CPU's at the composite task's sizes") {
  support::need_device();
  check_all<OneBlock, 1, 64, 1, 128>(std::vector<int>(16, 8));
  check_all<OneBlock, 1, 64, 1, 128>(mixed_lengths);
  check_all<OneBlock, 1, 64, 1, 128>({128});
}

TEST_CASE("CUDA: the state-space dual is the CPU's at odd sizes") {
  support::need_device();
  check_all<OneBlock, 4, 4, 2, 5>(mixed_lengths);
  check_all<OneBlock, 6, 3, 3, 18>(mixed_lengths);
  check_all<OneBlock, 2, 40, 2, 70>(mixed_lengths);
  check_all<OneBlock, 1, 1, 1, 1>({100, 1, 1, 2});
}

TEST_CASE("CUDA: the state-space dual is the CPU's at large sizes") {
  support::need_device();
  check_all<OneBlock, 4, 64, 1, 128>({8, 20, 100});
  check_all<OneBlock, 1, 256, 1, 264>({3, 25});
  check_all<OneBlock, 256, 1, 1, 12>({3, 25});
}

TEST_CASE("CUDA: tokens one by one and in pieces end in the same states") {
  support::need_device();
  check_all<OneBlock, 2, 16, 1, 32>(std::vector<int>(70, 1));
  Pass<OneBlock, double, 2, 16, 1, 32> whole({21}, {.with_states = true, .backward = false}), pieces = whole;
  whole.on_gpu();
  std::vector<double> y, states = pieces.states;
  const int cuts[] = {1, 1, 9, 8, 1, 1};
  for (const int length : cuts) {
    Pass<OneBlock, double, 2, 16, 1, 32> piece({length}, {.with_states = true, .backward = false});
    const int from = static_cast<int>(y.size()) / 32;
    for (int t = 0; t < length; ++t) {
      for (int c = 0; c < 96; ++c) piece.xbc.at(t, c) = whole.xbc.at(from + t, c);
      for (int h = 0; h < 2; ++h) piece.delta.at(t, h) = whole.delta.at(from + t, h);
    }
    piece.states = states;
    piece.on_gpu();
    states = piece.states;
    const auto part = piece.y.dense();
    y.insert(y.end(), part.begin(), part.end());
  }
  CHECK(support::relative_error(y, whole.y.dense()) < 1e-14);
  CHECK(support::relative_error(states, whole.states) < 1e-14);
}

TEST_CASE("CUDA: the state-space dual gives the same bytes again") {
  support::need_device();
  Pass<OneBlock, float, 4, 16, 2, 24> first(mixed_lengths, {}), second(mixed_lengths, {});
  first.on_gpu(), second.on_gpu();
  CHECK(first.ddelta.dense() == second.ddelta.dense());
  CHECK(first.dxbc.dense() == second.dxbc.dense());
  CHECK(first.da.dense() == second.da.dense());
}
