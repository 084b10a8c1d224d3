// Each primitive of the GPU's backend at block scope, at the composite task's sizes and a batch of 2048: 128 blocks
// with a tile of 128 tokens each, as in a training step: <primitive>/cuda/float/<sizes>. Timed by the device's events
// over many launches, whose data (some megabytes) the second-level cache holds; in a step it has to come from further
// away. Counters: the floor (bench/cuda_device.hpp) in microseconds, and which share of it is reached.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "cuda_readings.hpp"

namespace {

using namespace mamba;
using cuda::Block;

constexpr int tiles = 128, T = 128, length = 8, D = 32, E = 64, N = 128, K = 4, R = 2, Vp = 104, C = E + 2 * N;
constexpr double rows = static_cast<double>(tiles) * T, states = rows * E * N;

// Memory of one array for all tiles, with small numbers.
struct Array {
  Array(int count, int columns, float low, float high)
      : buffer(static_cast<std::size_t>(count) * static_cast<std::size_t>(columns) * sizeof(float)) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(low, high);
    std::vector<float> values(static_cast<std::size_t>(count) * static_cast<std::size_t>(columns));
    for (float& x : values) x = uniform(random);
    buffer.upload(values.data(), values.size());
  }
  float* data() const { return buffer.as<float>(); }
  cuda::DeviceBuffer buffer;
};

// The rows of a tile. Padding columns do not exist at these sizes but for R and Vp, whose products allow any number
// there.
template <int Columns>
struct Tensor {
  Array array{tiles * T, padded(Columns), -0.5F, 0.5F};
  struct View {
    float* data;
    __device__ Rows<float, Columns> out(int tile) const {
      return {data + static_cast<std::ptrdiff_t>(tile) * T * padded(Columns), T};
    }
    __device__ Rows<const float, Columns> in(int tile) const {
      return {data + static_cast<std::ptrdiff_t>(tile) * T * padded(Columns), T};
    }
  };
  View view() const { return {array.data()}; }
};
// Positive numbers, for steps.
template <int Columns>
struct Steps : Tensor<Columns> {
  Steps() { this->array = Array(tiles * T, padded(Columns), 0.01F, 0.1F); }
};

// A weight that all tiles share with a derived one, and a gradient for each tile.
template <int Rows_, int Columns>
struct Parameter {
  Array value{Rows_, padded(Columns), -0.1F, 0.1F}, derived{Rows_, padded(Columns), -2.0F, -0.1F},
      gradient{tiles * Rows_, padded(Columns), 0, 0};
  struct View {
    const float *value, *derived;
    float* gradient;
    __device__ Weight<float, Rows_, Columns> weight() const { return {value, derived}; }
    __device__ WeightGradient<float, Rows_, Columns> dw(int tile) const {
      return {gradient + static_cast<std::ptrdiff_t>(tile) * Rows_ * padded(Columns)};
    }
  };
  View view() const { return {value.data(), derived.data(), gradient.data()}; }
};

// Where the sequences of a tile begin, and their rows' times.
struct Places {
  Places() {
    std::vector<int> host;
    for (int s = 0; s <= T / length; ++s) host.push_back(s * length);
    for (int t = 0; t < T; ++t) host.push_back(t % length);
    for (int t = 0; t < tiles * T; ++t) host.push_back(37 * t % 100);  // tokens
    buffer.upload(host.data(), host.size());
  }
  struct View {
    const int* data;
    __device__ Sequences sequences() const { return {data, T / length, data + T / length + 1}; }
    __device__ const int* tokens(int tile) const { return data + T / length + 1 + T + tile * T; }
  };
  View view() const { return {buffer.as<int>()}; }
  cuda::DeviceBuffer buffer;
};

template <class F>
__global__ void __launch_bounds__(Block::threads, 1) on_tiles(F f, std::byte* global, std::size_t global_bytes) {
  Block be{global + blockIdx.x * global_bytes};
  f(be, static_cast<int>(blockIdx.x));
}

template <class F>
void time_on_tiles(benchmark::State& state, const F& f, const bench::Work& work) {
  constexpr std::size_t global_bytes = sizeof(float) * E * N;
  constexpr int launches = 20, shared = static_cast<int>(Block::shared_bytes<float>);
  cuda::DeviceBuffer global(tiles * global_bytes);
  cuda::allow_shared_memory(on_tiles<F>, shared);
  const auto launch = [&] { on_tiles<<<tiles, Block::threads, shared>>>(f, global.as<std::byte>(), global_bytes); };
  launch();
  cuda::check(cudaDeviceSynchronize(), "a primitive");
  const double milliseconds = bench::time_readings(state, launches, [&] {
    for (int i = 0; i < launches; ++i) launch();
  });
  const double floor = bench::floor_milliseconds(work);
  state.counters["floor_us"] = 1e3 * floor;
  state.counters["share_of_floor"] = floor / milliseconds;
}

// A benchmark that says so where there is no device.
template <void (*time)(benchmark::State&)>
void on_device(benchmark::State& state) {
  if (const std::string problem = gpu_problem(); !problem.empty()) return state.SkipWithError(problem.c_str());
  time(state);
}

// Bytes of (rows, columns) arrays.
constexpr double bytes(int columns) { return 4 * rows * columns; }

// Of a product of (rows, depth) and (depth, columns).
constexpr bench::Work product(int columns, int depth) {
  return {.bytes = bytes(columns + depth), .tensor_macs = rows * columns * depth};
}

void in_proj(benchmark::State& state) {
  const Tensor<D> n;
  const Tensor<E> x, z;
  const Parameter<2 * E, D> w;
  const auto f = [n = n.view(), x = x.view(), z = z.view(), w = w.view()] __device__(Block & be, int tile) {
    linear(be, beside(x.out(tile), z.out(tile)), n.in(tile), w.weight());
  };
  time_on_tiles(state, f, product(2 * E, D));
}
void x_proj(benchmark::State& state) {
  const Tensor<E> u;
  const Tensor<R> r;
  const Tensor<N> b, c;
  const Parameter<R + 2 * N, E> w;
  const auto f = [u = u.view(), r = r.view(), b = b.view(), c = c.view(), w = w.view()] __device__(Block & be,
                                                                                                   int tile) {
    linear(be, beside(r.out(tile), b.out(tile), c.out(tile)), u.in(tile), w.weight());
  };
  time_on_tiles(state, f, product(R + 2 * N, E));
}
void x_proj_backward(benchmark::State& state) {
  const Tensor<E> du;
  const Tensor<R> r;
  const Tensor<N> b, c;
  const Parameter<R + 2 * N, E> w;
  const auto f = [du = du.view(), r = r.view(), b = b.view(), c = c.view(), w = w.view()] __device__(Block & be,
                                                                                                     int tile) {
    linear_backward<Write::set>(be, du.out(tile), beside(r.in(tile), b.in(tile), c.in(tile)), w.weight());
  };
  time_on_tiles(state, f, product(E, R + 2 * N));
}
void x_proj_weight_backward(benchmark::State& state) {
  const Tensor<E> u;
  const Tensor<R> r;
  const Tensor<N> b, c;
  const Parameter<R + 2 * N, E> w;
  const auto f = [u = u.view(), r = r.view(), b = b.view(), c = c.view(), w = w.view()] __device__(Block & be,
                                                                                                   int tile) {
    linear_weight_backward(be, w.dw(tile), beside(r.in(tile), b.in(tile), c.in(tile)), u.in(tile));
  };
  time_on_tiles(state, f, product(E, R + 2 * N));
}

void scan(benchmark::State& state) {
  const Tensor<E> y, u;
  const Steps<E> delta;
  const Tensor<N> b, c;
  const Parameter<E, N> a;
  const Parameter<1, E> d;
  const Places places;
  const auto f = [y = y.view(), u = u.view(), delta = delta.view(), b = b.view(), c = c.view(), a = a.view(),
                  d = d.view(), places = places.view()] __device__(Block & be, int tile) {
    selective_scan(be, y.out(tile), static_cast<float*>(nullptr), static_cast<float*>(nullptr), delta.in(tile),
                   u.in(tile), b.in(tile), c.in(tile), places.sequences(), a.weight(), d.weight());
  };
  // A state and step: the exponent, h, y. The first of a sequence's 8 steps needs no power.
  time_on_tiles(state, f, {.bytes = bytes(3 * E + 2 * N), .lane_ops = 4 * states, .powers = states * 7 / 8});
}
void scan_backward(benchmark::State& state) {
  const Tensor<E> dy, u, ddelta, du;
  const Steps<E> delta;
  const Tensor<N> b, c, db, dc;
  const Parameter<E, N> a;
  const Parameter<1, E> d;
  const Places places;
  const auto f = [dy = dy.view(), u = u.view(), delta = delta.view(), ddelta = ddelta.view(), du = du.view(),
                  b = b.view(), c = c.view(), db = db.view(), dc = dc.view(), a = a.view(), d = d.view(),
                  places = places.view()] __device__(Block & be, int tile) {
    selective_scan_backward(be, ddelta.out(tile), du.out(tile), db.out(tile), dc.out(tile), a.dw(tile), d.dw(tile),
                            dy.in(tile), static_cast<const float*>(nullptr), static_cast<float*>(nullptr),
                            delta.in(tile), u.in(tile), b.in(tile), c.in(tile), places.sequences(), a.weight(),
                            d.weight());
  };
  // The exponent and h again, lambda and its product with the decay, four sums over time or states, two over channels.
  time_on_tiles(state, f, {.bytes = bytes(5 * E + 4 * N), .lane_ops = 11 * states, .powers = states * 7 / 8});
}
void ssd_forward(benchmark::State& state) {
  const Tensor<E> y;
  const Steps<1> delta;
  const Tensor<C> xbc;
  const Parameter<1, 1> a, d;
  const Places places;
  const auto f = [y = y.view(), delta = delta.view(), xbc = xbc.view(), a = a.view(), d = d.view(),
                  places = places.view()] __device__(Block & be, int tile) {
    ssd<1, N>(be, y.out(tile), static_cast<float*>(nullptr), static_cast<float*>(nullptr), delta.in(tile), xbc.in(tile),
              places.sequences(), a.weight(), d.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(E + C + 1), .lane_ops = rows * (N + E) * (length + 1) / 2});
}
void ssd_backward_all(benchmark::State& state) {
  const Tensor<E> dy;
  const Steps<1> delta, ddelta;
  const Tensor<C> xbc, dxbc;
  const Parameter<1, 1> a, d;
  const Places places;
  const auto f = [dy = dy.view(), delta = delta.view(), ddelta = ddelta.view(), xbc = xbc.view(), dxbc = dxbc.view(),
                  a = a.view(), d = d.view(), places = places.view()] __device__(Block & be, int tile) {
    ssd_backward<1, N>(be, ddelta.out(tile), dxbc.out(tile), a.dw(tile), d.dw(tile), dy.in(tile),
                       static_cast<const float*>(nullptr), delta.in(tile), xbc.in(tile), places.sequences(), a.weight(),
                       d.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(E + 2 * C + 2), .lane_ops = rows * (3 * N + 2 * E) * (length + 1) / 2});
}

template <int Columns>
void conv(benchmark::State& state) {
  const Tensor<Columns> u, x;
  const Parameter<Columns, K> w;
  const Parameter<1, Columns> bias;
  const Places places;
  const auto f = [u = u.view(), x = x.view(), w = w.view(), bias = bias.view(), places = places.view()] __device__(
                     Block & be, int tile) {
    causal_conv_silu(be, u.out(tile), x.in(tile), places.sequences(), w.weight(), bias.weight(),
                     static_cast<float*>(nullptr));
  };
  time_on_tiles(state, f,
                {.bytes = bytes(2 * Columns), .lane_ops = rows * Columns * (K + 2), .powers = 2 * rows * Columns});
}
template <int Columns>
void conv_backward(benchmark::State& state) {
  const Tensor<Columns> du, x, dx;
  const Parameter<Columns, K> w;
  const Parameter<1, Columns> bias;
  const Places places;
  const auto f = [du = du.view(), x = x.view(), dx = dx.view(), w = w.view(), bias = bias.view(),
                  places = places.view()] __device__(Block & be, int tile) {
    causal_conv_silu_backward<Write::set, true, true>(be, dx.out(tile), w.dw(tile), bias.dw(tile), du.in(tile),
                                                      x.in(tile), places.sequences(), w.weight(), bias.weight());
  };
  time_on_tiles(state, f,
                {.bytes = bytes(3 * Columns), .lane_ops = rows * Columns * (3 * K + 6), .powers = 2 * rows * Columns});
}

void steps(benchmark::State& state) {
  const Tensor<E> delta, pi;
  const Parameter<1, E> bias;
  const auto f = [delta = delta.view(), pi = pi.view(), bias = bias.view()] __device__(Block & be, int tile) {
    step_sizes(be, delta.out(tile), pi.out(tile), bias.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(3 * E), .powers = 2 * rows * E});
}
void gate_forward(benchmark::State& state) {
  const Tensor<E> o, y, z;
  const auto f = [o = o.view(), y = y.view(), z = z.view()] __device__(Block & be, int tile) {
    gate(be, o.out(tile), y.in(tile), z.in(tile));
  };
  time_on_tiles(state, f, {.bytes = bytes(3 * E), .powers = 2 * rows * E});
}
void gate_backward_all(benchmark::State& state) {
  const Tensor<E> d_o, y, z, dy, dz;
  const auto f = [d_o = d_o.view(), y = y.view(), z = z.view(), dy = dy.view(), dz = dz.view()] __device__(Block & be,
                                                                                                           int tile) {
    gate_backward(be, dy.out(tile), dz.out(tile), d_o.in(tile), y.in(tile), z.in(tile));
  };
  time_on_tiles(state, f, {.bytes = bytes(5 * E), .powers = 2 * rows * E});
}
void gated_norm_all(benchmark::State& state) {
  const Tensor<E> o, y, z;
  const Tensor<1> rho;
  const Parameter<1, E> w;
  const auto f = [o = o.view(), y = y.view(), z = z.view(), rho = rho.view(), w = w.view()] __device__(Block & be,
                                                                                                       int tile) {
    gated_norm<1>(be, o.out(tile), o.out(tile), rho.out(tile).data, y.in(tile), z.in(tile), w.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(3 * E), .powers = 2 * rows * E});
}
void gated_norm_backward_all(benchmark::State& state) {
  const Tensor<E> d_o, y, z, dy, dz;
  const Tensor<1> rho;
  const Parameter<1, E> w;
  const auto f = [d_o = d_o.view(), y = y.view(), z = z.view(), dy = dy.view(), dz = dz.view(), rho = rho.view(),
                  w = w.view()] __device__(Block & be, int tile) {
    gated_norm_backward<1>(be, dy.out(tile), dz.out(tile), dy.out(tile), w.dw(tile), d_o.in(tile), d_o.in(tile),
                           rho.in(tile).data, y.in(tile), z.in(tile), w.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(5 * E), .powers = 2 * rows * E});
}
void norm(benchmark::State& state) {
  const Tensor<D> y, x;
  const Tensor<1> rho;
  const Parameter<1, D> w;
  const auto f = [y = y.view(), x = x.view(), rho = rho.view(), w = w.view()] __device__(Block & be, int tile) {
    rms_norm(be, y.out(tile), rho.out(tile).data, x.in(tile), w.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(2 * D)});
}
void norm_backward(benchmark::State& state) {
  const Tensor<D> dx, dy, x;
  const Tensor<1> rho;
  const Parameter<1, D> w;
  const auto f = [dx = dx.view(), dy = dy.view(), x = x.view(), rho = rho.view(), w = w.view()] __device__(Block & be,
                                                                                                           int tile) {
    rms_norm_backward(be, dx.out(tile), w.dw(tile), dy.in(tile), rho.in(tile).data, x.in(tile), w.weight());
  };
  time_on_tiles(state, f, {.bytes = bytes(4 * D)});
}
void embedding_rows(benchmark::State& state) {
  const Tensor<D> x;
  const Parameter<Vp, D> table;
  const Places places;
  const auto f = [x = x.view(), table = table.view(), places = places.view()] __device__(Block & be, int tile) {
    embedding(be, x.out(tile), places.tokens(tile), table.weight());
    embedding_backward(be, table.dw(tile), x.in(tile), places.tokens(tile));
  };
  time_on_tiles(state, f, {.bytes = bytes(2 * D) + 4.0 * tiles * Vp * D});
}

void primitive(benchmark::internal::Benchmark* b) { b->UseManualTime()->Iterations(20)->Unit(benchmark::kMicrosecond); }

BENCHMARK(on_device<in_proj>)->Name("linear/cuda/float/32_to_64_64")->Apply(primitive);
BENCHMARK(on_device<x_proj>)->Name("linear/cuda/float/64_to_2_128_128")->Apply(primitive);
BENCHMARK(on_device<x_proj_backward>)->Name("linear_backward/cuda/float/64_to_2_128_128")->Apply(primitive);
BENCHMARK(on_device<x_proj_weight_backward>)
    ->Name("linear_weight_backward/cuda/float/64_to_2_128_128")
    ->Apply(primitive);
BENCHMARK(on_device<scan>)->Name("selective_scan/cuda/float/E64_N128")->Apply(primitive);
BENCHMARK(on_device<scan_backward>)->Name("selective_scan_backward/cuda/float/E64_N128")->Apply(primitive);
BENCHMARK(on_device<ssd_forward>)->Name("ssd/cuda/float/H1_P64_N128")->Apply(primitive);
BENCHMARK(on_device<ssd_backward_all>)->Name("ssd_backward/cuda/float/H1_P64_N128")->Apply(primitive);
BENCHMARK(on_device<conv<E>>)->Name("causal_conv_silu/cuda/float/E64_K4")->Apply(primitive);
BENCHMARK(on_device<conv_backward<E>>)->Name("causal_conv_silu_backward/cuda/float/E64_K4")->Apply(primitive);
BENCHMARK(on_device<conv<C>>)->Name("causal_conv_silu/cuda/float/C320_K4")->Apply(primitive);
BENCHMARK(on_device<conv_backward<C>>)->Name("causal_conv_silu_backward/cuda/float/C320_K4")->Apply(primitive);
BENCHMARK(on_device<steps>)->Name("step_sizes/cuda/float/E64")->Apply(primitive);
BENCHMARK(on_device<gate_forward>)->Name("gate/cuda/float/E64")->Apply(primitive);
BENCHMARK(on_device<gate_backward_all>)->Name("gate_backward/cuda/float/E64")->Apply(primitive);
BENCHMARK(on_device<gated_norm_all>)->Name("gated_norm/cuda/float/E64")->Apply(primitive);
BENCHMARK(on_device<gated_norm_backward_all>)->Name("gated_norm_backward/cuda/float/E64")->Apply(primitive);
BENCHMARK(on_device<norm>)->Name("rms_norm/cuda/float/D32")->Apply(primitive);
BENCHMARK(on_device<norm_backward>)->Name("rms_norm_backward/cuda/float/D32")->Apply(primitive);
BENCHMARK(on_device<embedding_rows>)->Name("embedding_and_backward/cuda/float/V104_D32")->Apply(primitive);

}  // namespace
