// What this machine can do at most, measured in the same run as what we make of it: multiply-adds and powers of two a
// second on one core, bytes a second from memory by one core and by all. The shares in README's table are of these.
#include <benchmark/benchmark.h>
#include <cstring>
#include <vector>

#include <mamba/core/memory.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/eigen/simd.hpp>

namespace {

using namespace mamba;
using V = eigen::Vector<float>;

void rate(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] =
      benchmark::Counter(static_cast<double>(state.iterations()) * per_iteration, benchmark::Counter::kIsRate);
}

// Independent chains enough to hide the latency, all in registers.
void multiply_adds(benchmark::State& state) {
  constexpr int chains = eigen::vector_registers >= 32 ? 20 : 12, rounds = 1000;
  V sums[chains], factor = V::broadcast(0.999F), addend = V::broadcast(1e-3F);
  benchmark::DoNotOptimize(factor), benchmark::DoNotOptimize(addend);
  eigen::unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { sums[i] = V::broadcast(static_cast<float>(i)); });
  for (auto _ : state) {
    for (int r = 0; r < rounds; ++r)
      eigen::unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { sums[i] = multiply_add(sums[i], factor, addend); });
    eigen::unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { benchmark::DoNotOptimize(sums[i]); });
  }
  rate(state, "multiply_adds/s", 1.0 * rounds * chains * V::width);
}
BENCHMARK(multiply_adds)->Name("machine/multiply_adds/float");

void powers(benchmark::State& state) {
  constexpr int chains = 8, rounds = 1000;
  V x[chains], sums[chains], step = V::broadcast(-1e-3F);
  benchmark::DoNotOptimize(step);
  eigen::unroll<chains>(
      [&](auto i) MAMBA_INLINE_LAMBDA { sums[i] = V::zero(), x[i] = V::broadcast(-0.1F * static_cast<float>(i)); });
  for (auto _ : state) {
    for (int r = 0; r < rounds; ++r)
      eigen::unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA {
        sums[i] = sums[i] + exp2_nonpositive(x[i]);
        x[i] = x[i] + step;
      });
    eigen::unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { benchmark::DoNotOptimize(sums[i]); });
  }
  rate(state, "powers/s", 1.0 * rounds * chains * V::width);
}
BENCHMARK(powers)->Name("machine/powers_of_two/float");

// Reads `megabytes` of memory, in order, a stretch for each thread.
void read(benchmark::State& state) {
  const std::size_t bytes = static_cast<std::size_t>(state.range(0)) << 20, count = bytes / sizeof(float);
  ThreadPool pool(static_cast<int>(state.range(1)));
  const Buffer memory(bytes);
  std::memset(memory.data(), 1, bytes);  // memory that nobody has written is one page of zeros, again and again
  std::vector<float> sums(static_cast<std::size_t>(pool.workers()) * 64);
  const auto pieces = static_cast<std::size_t>(pool.workers());
  for (auto _ : state)
    pool.run(static_cast<int>(pieces), [&](int piece, int) {
      const float* const first = memory.as<float>() + count / pieces * static_cast<std::size_t>(piece);
      V sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      for (std::size_t i = 0; i + 4 * V::width <= count / pieces; i += 4 * V::width)
        eigen::unroll<4>([&](auto k)
                             MAMBA_INLINE_LAMBDA { sum[k] = sum[k] + V::load_unaligned(first + i + k * V::width); });
      sums[static_cast<std::size_t>(piece) * 64] = ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum();
    });
  rate(state, "bytes/s", static_cast<double>(bytes));
}
BENCHMARK(read)
    ->Name("machine/read")
    ->ArgNames({"megabytes", "threads"})
    ->UseRealTime()
    ->ArgsProduct({{256}, {1, 0}})
    ->Args({16, 1});

}  // namespace
