// Mamba-3's recurrence over the whole device against the CPU's in double, primitive against primitive.
#include <cmath>
#include <memory>
#include <vector>

#include <mamba/cuda/grid/backend.hpp>

#include "support/rotary_passes.hpp"

using namespace support::rotary;

namespace {

// What all runs have: sequences whose tokens know their times.
struct TimedSequences {
  cuda::DeviceBuffer times;
  Sequences all;

  TimedSequences(Sequences of, int rows) : all(of) {
    std::vector<int> first(static_cast<std::size_t>(of.count) + 1), time(static_cast<std::size_t>(rows));
    cuda::check(cudaMemcpy(first.data(), of.first, first.size() * sizeof(int), cudaMemcpyDeviceToHost), "sequences");
    for (std::size_t s = 0; s + 1 < first.size(); ++s)
      for (int row = first[s]; row < first[s + 1]; ++row) time[static_cast<std::size_t>(row)] = row - first[s];
    times.upload(time.data(), time.size());
    all.times = times.as<int>();
  }
};

struct WholeDevice {
  using Memory = cuda::GridMemory;
  template <class T, class Shape>
  static void run(const ScanArguments<T, Shape>& k, bool backward) {
    const TimedSequences sequences(k.sequences, k.xbc.rows);
    cuda::check(cudaDeviceSynchronize(), "what was uploaded");
    cuda::Grid be(std::make_shared<cuda::Queue>(0));
    typename Shape::template Sizes<T> sizes;
    if (backward)
      cuda::rotary_ssd_backward(be, sizes, k.ddelta, k.dlog_decay, k.dmu, k.dangles, k.dxbc, k.dw, k.dy,
                                static_cast<const T*>(k.boundaries), k.delta, k.log_decay, k.mu, k.turns, k.xbc,
                                sequences.all, k.w);
    else
      cuda::rotary_ssd(be, sizes, k.y, k.boundaries, k.state, k.delta, k.log_decay, k.mu, k.turns, k.xbc, sequences.all,
                       k.w, BlockedRows{k.mask});
    be.queue().wait();
  }
};

// The gradients alone, of x, b and c that are stored in 16 bits.
struct WholeDeviceOf16Bits {
  using Memory = cuda::GridMemory;
  template <class T, class Shape>
  static void run(const ScanArguments<T, Shape>& k, bool backward) {
    if (!backward) return;
    using Columns = Rows<BFloat16, ScanArguments<T, Shape>::C>;
    const TimedSequences sequences(k.sequences, k.xbc.rows);
    const std::size_t count = static_cast<std::size_t>(k.xbc.rows) * Columns::stride;
    std::vector<T> numbers(count);
    cuda::check(cudaMemcpy(numbers.data(), k.xbc.data, count * sizeof(T), cudaMemcpyDeviceToHost), "x, b and c");
    const std::vector<BFloat16> rounded(numbers.begin(), numbers.end());
    cuda::DeviceBuffer stored;
    stored.upload(rounded.data(), count);
    cuda::check(cudaDeviceSynchronize(), "what was uploaded");
    cuda::Grid be(std::make_shared<cuda::Queue>(0));
    cuda::rotary_ssd_backward(be, typename Shape::template Sizes<T>{}, k.ddelta, k.dlog_decay, k.dmu, k.dangles, k.dxbc,
                              k.dw, k.dy, static_cast<const T*>(k.boundaries), k.delta, k.log_decay, k.mu, k.turns,
                              Rows<const BFloat16, ScanArguments<T, Shape>::C>{stored.as<BFloat16>(), k.xbc.rows},
                              sequences.all, k.w);
    be.queue().wait();
  }
};

}  // namespace

// Teams of warps that a group's heads are enough for and others, heads that are no multiple of a team, lanes' pairs by
// twos and one by one, and lines that are too long for shared memory.
TEST_CASE("CUDA grid: Mamba-3's recurrence is the CPU's, heads in groups of any size") {
  support::need_device();
  check_scans<WholeDevice, Shape<8, 4, 1, 128, 0, 32>>({37, 1, 70, 5});
  check_scans<WholeDevice, Shape<9, 4, 3, 128, 0, 33>>({37, 1, 70, 5});
  check_scans<WholeDevice, Shape<20, 2, 2, 2, 1, 1>>({3, 64, 1, 65});
}

TEST_CASE("CUDA grid: Mamba-3's recurrence is the CPU's, ranks and long lines") {
  support::need_device();
  check_scans<WholeDevice, Shape<10, 2, 2, 70, 3, 17>>({37, 1, 20});
  check_scans<WholeDevice, Shape<9, 4, 3, 128, 4, 64>>({37, 1, 20});
  check_scans<WholeDevice, Shape<3, 2, 1, 256, 8, 64>>({9, 2});
}

// What an angle gives to all later tokens is a sum over them, of terms that nearly cancel each other: what is rounded
// on the way adds up.
TEST_CASE("CUDA grid: gradients of Mamba-3's angles in 16 bits over a long sequence") {
  support::need_device();
  using Sizes = Shape<2, 16, 1, 32, 0, 8>;
  for (const double forgetting : {1.0, 0.01}) {
    INFO("decays' logarithms times " << forgetting);
    ScanPass<WholeDevice, float, Sizes> expected({2048}, {.forgetting = forgetting});
    ScanPass<WholeDeviceOf16Bits, float, Sizes> found({2048}, {.forgetting = forgetting});
    for (int t = 0; t < 2048; ++t)
      for (int c = 0; c < expected.C; ++c)
        expected.xbc.at(t, c) = found.xbc.at(t, c) = static_cast<float>(BFloat16(expected.xbc.at(t, c)));
    expected.on_gpu(), found.on_gpu();
    double of_all = 0, of_errors = 0;
    for (int k = 0; k < expected.A; ++k) {
      double sum = 0, error = 0;
      for (int t = 2047; t >= 0; --t) {
        sum += static_cast<double>(expected.dangles.at(t, k));
        error += static_cast<double>(found.dangles.at(t, k)) - static_cast<double>(expected.dangles.at(t, k));
        of_all += sum * sum, of_errors += error * error;
      }
    }
    CHECK(std::sqrt(of_errors / of_all) < 2e-2);
  }
}
