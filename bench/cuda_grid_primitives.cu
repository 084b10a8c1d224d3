// The grid's own kernels alone, at the sizes of language models: <primitive>/grid/<precision>/<sizes>, the precision
// being what activations are stored in. Timed by the device's events; the arrays are larger than the second-level
// cache. Counters: the floor (bench/cuda_device.hpp), which share of it is reached, tokens a second.
#include <benchmark/benchmark.h>

#include <memory>
#include <type_traits>
#include <vector>

#include "cuda_readings.hpp"

namespace {

using namespace mamba;
using cuda::Grid;

// x <- numbers between low and high, which come out the same each time; what pads is zero.
template <class X, int C>
__global__ void fill(Rows<X, C> x, float low, float high) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<std::size_t>(x.rows) * x.stride) return;
  auto bits = static_cast<unsigned>(i) * 2654435761U;
  bits = (bits ^ bits >> 16) * 2246822519U;
  bits ^= bits >> 13;
  const bool pads = static_cast<int>(i % x.stride) >= C;
  x.data[i] = pads ? 0.0F : low + (high - low) * static_cast<float>(bits >> 8) * 0x1p-24F;
}

template <class X, int C>
class Tensor {
 public:
  explicit Tensor(int rows, float low = -0.5F, float high = 0.5F)
      : rows_(rows), buffer_(static_cast<std::size_t>(rows) * Rows<X, C>::stride * sizeof(X)) {
    constexpr unsigned threads = 256;
    const std::size_t elements = buffer_.bytes() / sizeof(X);
    fill<<<static_cast<unsigned>((elements + threads - 1) / threads), threads>>>(out(), low, high);
    cuda::check(cudaGetLastError(), "fill");
  }
  Rows<X, C> out() const { return {buffer_.template as<X>(), rows_}; }
  Rows<const X, C> in() const { return mamba::in(out()); }

 private:
  int rows_;
  cuda::DeviceBuffer buffer_;
};
// Positive numbers, for steps.
template <int C>
struct Steps : Tensor<float, C> {
  explicit Steps(int rows) : Tensor<float, C>(rows, 0.01F, 0.1F) {}
};

// A weight that is stored as S, what is derived from it, and its gradient.
template <class S, int R, int C>
class Parameter {
 public:
  Weight<S, R, C> weight() const { return {value_.in().data, derived_.in().data}; }
  WeightGradient<float, R, C> dw() const { return {gradient_.out().data}; }

 private:
  Tensor<S, C> value_{R, -0.1F, 0.1F}, derived_{R, -2.0F, -0.1F};
  Tensor<float, C> gradient_{R, 0, 0};
};

// Sequences of one length, as the benchmark's arguments say.
class Places {
 public:
  explicit Places(const benchmark::State& state)
      : count_(static_cast<int>(state.range(0))), length_(static_cast<int>(state.range(1))) {
    for (int s = 0; s <= count_; ++s) firsts_.push_back(s * length_);
    std::vector<int> lists = firsts_;
    for (int t = 0; t < rows(); ++t) lists.push_back(t % length_);
    buffer_.upload(lists.data(), lists.size());
  }
  int rows() const { return count_ * length_; }
  int length() const { return length_; }
  Sequences on_device() const { return {buffer_.as<int>(), count_, buffer_.as<int>() + count_ + 1}; }
  Sequences on_host() const { return {firsts_.data(), count_}; }

 private:
  int count_, length_;
  std::vector<int> firsts_;
  cuda::DeviceBuffer buffer_;
};

// call(Grid&), several times a reading, so that the host is ahead of the device.
template <class Call>
void time_on_grid(benchmark::State& state, int tokens, const bench::Work& work, Call&& call) {
  constexpr int calls = 5;
  Grid be(std::make_shared<const cuda::Queue>(0));
  cuda::check(cudaDeviceSynchronize(), "what fills the inputs");  // another stream's
  for (int i = 0; i < 2; ++i) call(be);                           // the first takes memory
  be.queue().wait();
  const double milliseconds = bench::time_readings(
      state, calls,
      [&] {
        for (int i = 0; i < calls; ++i) call(be);
      },
      be.stream());
  const double floor = bench::floor_milliseconds(work);
  state.counters["floor_ms"] = floor;
  state.counters["share_of_floor"] = floor / milliseconds;
  state.counters["tokens/s"] = 1e3 * tokens / milliseconds;
}

// A benchmark that says so where there is no device.
template <void (*time)(benchmark::State&)>
void on_device(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  time(state);
}

// --- Mamba-1's scan: E channels of N states --------------------------------------------------------------------------

constexpr int E = 1536, N = 16, K = 4;

// With the states that the backward pass begins its stretches from.
template <class S>
struct Scan {
  Places places;
  Steps<E> delta;
  Tensor<S, E> u;
  Tensor<S, N> b, c;
  Parameter<float, E, N> a;
  Parameter<float, 1, E> d;
  Tensor<float, E> y;
  Tensor<float, N> kept;  // (kept states * E, N)

  explicit Scan(const benchmark::State& state)
      : places(state),
        delta(places.rows()),
        u(places.rows()),
        b(places.rows()),
        c(places.rows()),
        y(places.rows()),
        kept(E * cuda::GridMemory::kept_states(network::SelectiveScanSizes<float, E, N>{}, places.on_host())) {}

  void forward(Grid& be) const {
    selective_scan(be, y.out(), kept.out().data, static_cast<float*>(nullptr), delta.in(), u.in(), b.in(), c.in(),
                   places.on_device(), a.weight(), d.weight());
  }
  // Bytes of what either direction reads, but for the gradient; the powers: none for a sequence's first step.
  double bytes() const { return places.rows() * (4.0 * E + sizeof(S) * (E + 2.0 * N)) + 4.0 * kept.in().rows * N; }
  double states() const { return 1.0 * places.rows() * E * N; }
  double powers() const { return states() * (places.length() - 1) / places.length(); }
};

template <class S>
void scan(benchmark::State& state) {
  const Scan<S> of(state);
  // A state and step: the exponent, h, y.
  time_on_grid(state, of.places.rows(),
               {.bytes = of.bytes() + 4.0 * of.places.rows() * E, .lane_ops = 4 * of.states(), .powers = of.powers()},
               [&](Grid& be) { of.forward(be); });
}

template <class S>
void scan_backward(benchmark::State& state) {
  const Scan<S> of(state);
  const int rows = of.places.rows();
  const Tensor<float, E> dy(rows), ddelta(rows), du(rows);
  const Tensor<float, N> db(rows), dc(rows);
  {
    Grid be(std::make_shared<const cuda::Queue>(0));
    cuda::check(cudaDeviceSynchronize(), "what fills the inputs");
    of.forward(be);
    be.queue().wait();
  }
  // The exponent and h again, lambda and its product with the decay, four sums over time or states, two over channels.
  time_on_grid(
      state, rows,
      {.bytes = of.bytes() + 4.0 * rows * (3 * E + 2 * N), .lane_ops = 11 * of.states(), .powers = of.powers()},
      [&](Grid& be) {
        selective_scan_backward(be, ddelta.out(), du.out(), db.out(), dc.out(), of.a.dw(), of.d.dw(), dy.in(),
                                static_cast<const float*>(of.kept.out().data), static_cast<float*>(nullptr),
                                of.delta.in(), of.u.in(), of.b.in(), of.c.in(), of.places.on_device(), of.a.weight(),
                                of.d.weight());
      });
}

// --- the convolution with SiLU: E channels, K taps -------------------------------------------------------------------

template <class S>
void conv(benchmark::State& state) {
  const Places places(state);
  const int rows = places.rows();
  const Tensor<S, E> u(rows), x(rows);
  const Parameter<S, E, K> w;
  const Parameter<float, 1, E> bias;
  const double elements = 1.0 * rows * E;
  time_on_grid(state, rows, {.bytes = 2 * sizeof(S) * elements, .lane_ops = (K + 2) * elements, .powers = 2 * elements},
               [&](Grid& be) {
                 causal_conv_silu(be, u.out(), x.in(), places.on_device(), w.weight(), bias.weight(),
                                  static_cast<float*>(nullptr));
               });
}

template <class S>
void conv_backward(benchmark::State& state) {
  const Places places(state);
  const int rows = places.rows();
  const Tensor<S, E> x(rows);
  const Tensor<float, E> du(rows), dx(rows);
  const Parameter<S, E, K> w;
  const Parameter<float, 1, E> bias;
  const double elements = 1.0 * rows * E;
  time_on_grid(state, rows,
               {.bytes = (8.0 + sizeof(S)) * elements, .lane_ops = (3 * K + 6) * elements, .powers = 2 * elements},
               [&](Grid& be) {
                 causal_conv_silu_backward<Write::set, true, true>(be, dx.out(), w.dw(), bias.dw(), du.in(), x.in(),
                                                                   places.on_device(), w.weight(), bias.weight());
               });
}

// --- Mamba-2's recurrence: H heads of P channels, G groups, M states -------------------------------------------------

constexpr int H = 128, P = 64, G = 1, M = 128, C = H * P + 2 * G * M;

template <class S>
struct Ssd {
  Places places;
  Steps<H> delta;
  Tensor<S, C> xbc;
  Parameter<float, 1, H> a, d;

  explicit Ssd(const benchmark::State& state) : places(state), delta(places.rows()), xbc(places.rows()) {}

  // By chunks of 64 rows, as products of matrices: for each row and head so many products with a state, (P, M), and so
  // many over half a chunk's rows, of P numbers each.
  static constexpr double half_a_chunk = 32.5;
  bench::Work work(double of_row, int with_state, int inside) const {
    const double macs = 1.0 * places.rows() * H * P * (1.0 * with_state * M + inside * half_a_chunk);
    bench::Work work{.bytes = places.rows() * (4.0 * H + sizeof(S) * C + of_row)};
    (std::is_same_v<S, float> ? work.tensor_macs : work.half_macs) = macs;
    return work;
  }
};

template <class S>
void ssd_forward(benchmark::State& state) {
  const Ssd<S> of(state);
  const Tensor<S, H * P> y(of.places.rows());
  // The state at a chunk's end, what rows take from the one before, and from each other.
  time_on_grid(state, of.places.rows(), of.work(1.0 * sizeof(S) * H * P, 2, 1), [&](Grid& be) {
    ssd<G, M>(be, y.out(), static_cast<float*>(nullptr), static_cast<float*>(nullptr), of.delta.in(), of.xbc.in(),
              of.places.on_device(), of.a.weight(), of.d.weight());
  });
}

template <class S>
void ssd_backward_all(benchmark::State& state) {
  const Ssd<S> of(state);
  const int rows = of.places.rows();
  const Steps<H> ddelta(rows);
  const Tensor<float, C> dxbc(rows);
  const Tensor<float, H * P> dy(rows);
  // The states again and their gradients, and what these give to x, to b and, of the states, to c; pairs of rows for x
  // and of dy and x.
  time_on_grid(state, rows, of.work(4.0 * (H + C + H * P), 5, 2), [&](Grid& be) {
    ssd_backward<G, M>(be, ddelta.out(), dxbc.out(), of.a.dw(), of.d.dw(), dy.in(), static_cast<const float*>(nullptr),
                       of.delta.in(), of.xbc.in(), of.places.on_device(), of.a.weight(), of.d.weight());
  });
}

void primitive(benchmark::internal::Benchmark* b) {
  b->ArgNames({"sequences", "length"})->UseManualTime()->Iterations(10)->Unit(benchmark::kMillisecond);
}
void batch(benchmark::internal::Benchmark* b) { b->Apply(primitive)->Args({8, 2048}); }
void batch_or_one(benchmark::internal::Benchmark* b) { b->Apply(batch)->Args({1, 65536}); }

BENCHMARK(on_device<scan<float>>)->Name("selective_scan/grid/float/E1536_N16")->Apply(batch_or_one);
BENCHMARK(on_device<scan<BFloat16>>)->Name("selective_scan/grid/bfloat16/E1536_N16")->Apply(batch_or_one);
BENCHMARK(on_device<scan_backward<float>>)->Name("selective_scan_backward/grid/float/E1536_N16")->Apply(batch_or_one);
BENCHMARK(on_device<scan_backward<BFloat16>>)
    ->Name("selective_scan_backward/grid/bfloat16/E1536_N16")
    ->Apply(batch_or_one);
BENCHMARK(on_device<conv<float>>)->Name("causal_conv_silu/grid/float/E1536_K4")->Apply(batch);
BENCHMARK(on_device<conv<BFloat16>>)->Name("causal_conv_silu/grid/bfloat16/E1536_K4")->Apply(batch);
BENCHMARK(on_device<conv_backward<float>>)->Name("causal_conv_silu_backward/grid/float/E1536_K4")->Apply(batch);
BENCHMARK(on_device<conv_backward<BFloat16>>)->Name("causal_conv_silu_backward/grid/bfloat16/E1536_K4")->Apply(batch);
BENCHMARK(on_device<ssd_forward<float>>)->Name("ssd/grid/float/H128_P64_N128")->Apply(batch);
BENCHMARK(on_device<ssd_forward<BFloat16>>)->Name("ssd/grid/bfloat16/H128_P64_N128")->Apply(batch);
BENCHMARK(on_device<ssd_backward_all<float>>)->Name("ssd_backward/grid/float/H128_P64_N128")->Apply(batch);
BENCHMARK(on_device<ssd_backward_all<BFloat16>>)->Name("ssd_backward/grid/bfloat16/H128_P64_N128")->Apply(batch);

}  // namespace
