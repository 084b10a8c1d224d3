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

// ssd_of_steps, which makes step sizes on its way, beside step_sizes and ssd: the same bytes, states too.
template <class Stored, int H, int P, int G, int N>
void check_biased_steps(const std::vector<int>& lengths) {
  INFO(precision_name<Stored> << ", heads " << H << ", sequences " << lengths.size());
  constexpr int E = H * P, C = E + 2 * G * N;
  std::vector<int> first{0};
  for (const int length : lengths) first.push_back(first.back() + length);
  const int rows = first.back(), sequences = static_cast<int>(lengths.size());
  auto xbc = support::tensor<Stored, C>(rows, 1);
  auto parameters = support::tensor<float, H>(3, 2);  // rates, skips, the bias
  std::vector<double> outputs[2], states[2];
  for (int fused = 0; fused < 2; ++fused) {
    support::Tensor<Stored, E> y(rows, 3);
    auto pi = support::tensor<float, H>(rows, 4);
    support::Tensor<float, H> delta(rows, 5);
    auto state = support::tensor<float, P>(sequences * H * N, 6);
    {
      support::OnDevice of_y(y);
      support::OnDevice of_xbc(xbc);
      support::OnDevice of_pi(pi), of_delta(delta), of_parameters(parameters);
      support::OnDevice of_state(state);
      cuda::DeviceBuffer firsts;
      firsts.upload(first.data(), first.size());
      cuda::check(cudaDeviceSynchronize(), "what was uploaded");
      cuda::Grid be(std::make_shared<cuda::Queue>(0));
      const float* const at = of_parameters.in().data;
      const Weight<float, 1, H> a{nullptr, at}, d{at + padded(H), nullptr}, bias{at + 2 * padded(H), nullptr};
      const Sequences all{firsts.as<int>(), sequences};
      if (fused == 1) {
        cuda::ssd_of_steps<G, N>(be, of_y.rows(), of_state.rows().data, of_delta.rows(), of_pi.rows(), bias,
                                 of_xbc.in(), all, a, d);
      } else {
        cuda::step_sizes(be, of_delta.rows(), of_pi.rows(), bias);
        cuda::ssd<G, N>(be, of_y.rows(), static_cast<float*>(nullptr), of_state.rows().data, of_delta.in(), of_xbc.in(),
                        all, a, d);
      }
      be.queue().wait();
    }
    outputs[fused] = y.dense(), states[fused] = state.dense();
  }
  CHECK(outputs[0] == outputs[1]);
  CHECK(states[0] == states[1]);
  for (const double x : outputs[0]) REQUIRE(x == x);
}

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

TEST_CASE("CUDA grid: Mamba-2's recurrence takes step sizes with their bias as it takes step sizes") {
  support::need_device();
  check_biased_steps<float, 6, 5, 3, 18>({40, 1, 65});
  check_biased_steps<float, 4, 16, 2, 32>({1200, 3});
  check_biased_steps<BFloat16, 4, 16, 2, 32>({40, 0, 130, 1});
  check_biased_steps<BFloat16, 4, 16, 1, 24>({1, 1, 1});
}

TEST_CASE("CUDA grid: Mamba-2's recurrence gives the same bytes again") {
  support::need_device();
  Pass<WholeDevice, float, 4, 16, 2, 24> first(long_lengths, {}), second(long_lengths, {});
  first.on_gpu(), second.on_gpu();
  CHECK(first.ddelta.dense() == second.ddelta.dense());
  CHECK(first.dxbc.dense() == second.dxbc.dense());
  CHECK(first.da.dense() == second.da.dense());
}
