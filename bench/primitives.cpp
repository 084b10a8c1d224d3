// Each primitive of the CPU backend on one core, at the composite task's sizes: <primitive>/cpu/float/D32_E64_N128/T64.
// Counters: tokens/s, the bytes of the tensors that a call must touch, and its multiply-adds where they are what
// counts.
#include <benchmark/benchmark.h>
#include <Eigen/Core>
#include <vector>

#include <mamba/core/memory.hpp>
#include <mamba/eigen/backend.hpp>
#include <mamba/eigen/weights.hpp>

namespace {

using namespace mamba;

constexpr int T = 64, D = 32, E = 64, N = 128, K = 4, Vp = 104;

// Memory of one tensor, filled with small numbers.
template <int Columns>
struct Tensor {
  explicit Tensor(int rows = T)
      : rows_(rows),
        memory(static_cast<std::size_t>(rows) * static_cast<std::size_t>(padded(Columns)) * sizeof(float)) {
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < Columns; ++c)
        memory.as<float>()[t * padded(Columns) + c] = 0.01F * static_cast<float>((7 * t + 3 * c) % 19 - 9) + 0.1F;
  }
  Rows<float, Columns> out() { return {memory.as<float>(), rows_}; }
  Rows<const float, Columns> in() const { return {memory.as<float>(), rows_}; }
  int rows_;
  Buffer memory;
};

template <int Rows_, int Columns>
struct Parameter2 : Tensor<Columns> {
  Parameter2()
      : Tensor<Columns>(Rows_),
        derived(static_cast<std::size_t>(padded(Rows_) + 16) * static_cast<std::size_t>(padded(Columns)) *
                sizeof(float)) {}
  void derive(Derived kind) {
    eigen::derive(derived.as<float>(), this->memory.template as<float>(),
                  mamba::Parameter{.name = "p", .rank = 2, .shape = {Rows_, Columns, 1}, .derived = kind});
  }
  Weight<float, Rows_, Columns> weight() const { return {this->memory.template as<float>(), derived.as<float>()}; }
  WeightGradient<float, Rows_, Columns> gradient() { return {this->memory.template as<float>()}; }
  Buffer derived;
};

void count(benchmark::State& state, double bytes, double multiply_adds = 0, int tokens = T) {
  const auto calls = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(calls * tokens, benchmark::Counter::kIsRate);
  state.counters["bytes"] = bytes;
  if (multiply_adds > 0)
    state.counters["multiply_adds/s"] = benchmark::Counter(calls * multiply_adds, benchmark::Counter::kIsRate);
}

struct EightLongSequences {
  std::vector<int> first;
  EightLongSequences() {
    for (int s = 0; s <= T / 8; ++s) first.push_back(8 * s);
  }
  Sequences view() const { return {first.data(), T / 8}; }
} const tile;

Buffer scratch;
eigen::Core core(scratch);

template <int Out, int In, int T = ::T>
void linear_forward(benchmark::State& state) {
  Tensor<In> x(T);
  Tensor<Out> y(T);
  Parameter2<Out, In> w;
  w.derive(Derived::transpose);
  for (auto _ : state) {
    linear(core, y.out(), x.in(), w.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (T * (In + Out) + In * Out), 1.0 * T * In * Out, T);
}

// The same product by Eigen, for comparison.
template <int Out, int In>
void linear_by_eigen(benchmark::State& state) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix x = Matrix::Constant(T, In, 0.1F), w = Matrix::Constant(Out, In, 0.2F);
  Matrix y(T, Out);
  for (auto _ : state) {
    y.noalias() = x * w.transpose();
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (T * (In + Out) + In * Out), 1.0 * T * In * Out);
}

template <int Out, int In>
void linear_backward_all(benchmark::State& state) {
  Tensor<In> x, dx;
  Tensor<Out> dy;
  Parameter2<Out, In> w, dw;
  for (auto _ : state) {
    linear_backward<Write::set>(core, dx.out(), dy.in(), w.weight());
    linear_weight_backward(core, dw.gradient(), dy.in(), x.in());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (T * (2 * In + Out) + 2 * In * Out), 2.0 * T * In * Out);
}

BENCHMARK(linear_forward<E, D>)->Name("linear/cpu/float/64x32/T64");
BENCHMARK(linear_by_eigen<E, D>)->Name("linear_by_eigen/cpu/float/64x32/T64");
BENCHMARK(linear_forward<N, E>)->Name("linear/cpu/float/128x64/T64");
BENCHMARK(linear_forward<N, E, 1>)->Name("linear/cpu/float/128x64/T1");
BENCHMARK(linear_by_eigen<N, E>)->Name("linear_by_eigen/cpu/float/128x64/T64");
BENCHMARK(linear_backward_all<E, D>)->Name("linear_backward/cpu/float/64x32/T64");
BENCHMARK(linear_backward_all<N, E>)->Name("linear_backward/cpu/float/128x64/T64");

void scan(benchmark::State& state) {
  Tensor<E> y, delta, u;
  Tensor<N> b, c;
  Parameter2<E, N> a;
  a.derive(Derived::rate);
  Parameter2<1, E> d;
  for (auto _ : state) {
    selective_scan(core, y.out(), static_cast<float*>(nullptr), static_cast<float*>(nullptr), delta.in(), u.in(),
                   b.in(), c.in(), tile.view(), a.weight(), d.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (T * (3 * E + 2 * N) + E * N));
  state.counters["state_steps/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * T * E * N, benchmark::Counter::kIsRate);
}
BENCHMARK(scan)->Name("selective_scan/cpu/float/E64_N128/T64");

// One token on from a state, as decoding does.
void scan_step(benchmark::State& state) {
  Tensor<E> y(1), delta(1), u(1);
  Tensor<N> b(1), c(1);
  Parameter2<E, N> a;
  a.derive(Derived::rate);
  Parameter2<1, E> d;
  Buffer states(sizeof(float) * E * N);
  const int first[] = {0, 1};
  for (auto _ : state) {
    selective_scan(core, y.out(), static_cast<float*>(nullptr), states.as<float>(), delta.in(), u.in(), b.in(), c.in(),
                   Sequences{first, 1}, a.weight(), d.weight());
    benchmark::ClobberMemory();
  }
  state.counters["bytes"] = 4.0 * 3 * E * N;
  state.counters["state_steps/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * E * N, benchmark::Counter::kIsRate);
}
BENCHMARK(scan_step)->Name("selective_scan/cpu/float/E64_N128/T1");

void scan_backward(benchmark::State& state) {
  Tensor<E> dy, delta, u, ddelta, du;
  Tensor<N> b, c, db, dc;
  Parameter2<E, N> a, da;
  a.derive(Derived::rate);
  Parameter2<1, E> d, dd;
  for (auto _ : state) {
    selective_scan_backward(core, ddelta.out(), du.out(), db.out(), dc.out(), da.gradient(), dd.gradient(), dy.in(),
                            static_cast<const float*>(nullptr), static_cast<float*>(nullptr), delta.in(), u.in(),
                            b.in(), c.in(), tile.view(), a.weight(), d.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (T * (5 * E + 4 * N) + 2 * E * N));
  state.counters["state_steps/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * T * E * N, benchmark::Counter::kIsRate);
}
BENCHMARK(scan_backward)->Name("selective_scan_backward/cpu/float/E64_N128/T64");

// Mamba-2 at the same sizes: one head of 64 channels.
constexpr int C = E + 2 * N;

void ssd_forward(benchmark::State& state) {
  Tensor<E> y;
  Tensor<1> delta;
  Tensor<C> xbc;
  Parameter2<1, 1> a, d;
  a.derive(Derived::rate);
  for (auto _ : state) {
    ssd<1, N>(core, y.out(), static_cast<float*>(nullptr), static_cast<float*>(nullptr), delta.in(), xbc.in(),
              tile.view(), a.weight(), d.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * T * (E + C + 1));
}
BENCHMARK(ssd_forward)->Name("ssd/cpu/float/H1_P64_N128/T64");

void ssd_backward_all(benchmark::State& state) {
  Tensor<E> dy;
  Tensor<1> delta, ddelta;
  Tensor<C> xbc, dxbc;
  Parameter2<1, 1> a, d, da, dd;
  a.derive(Derived::rate);
  for (auto _ : state) {
    ssd_backward<1, N>(core, ddelta.out(), dxbc.out(), da.gradient(), dd.gradient(), dy.in(),
                       static_cast<const float*>(nullptr), delta.in(), xbc.in(), tile.view(), a.weight(), d.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * T * (E + 2 * C + 2));
}
BENCHMARK(ssd_backward_all)->Name("ssd_backward/cpu/float/H1_P64_N128/T64");

void conv(benchmark::State& state) {
  Tensor<E> v, x;
  Parameter2<E, K> w;
  w.derive(Derived::transpose);
  Parameter2<1, E> bias;
  for (auto _ : state) {
    causal_conv(core, v.out(), x.in(), tile.view(), w.weight(), bias.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (2 * T * E + E * (K + 1)), 1.0 * T * E * K);
}
BENCHMARK(conv)->Name("causal_conv/cpu/float/E64_K4/T64");

void conv_backward(benchmark::State& state) {
  Tensor<E> dv, x, dx;
  Parameter2<E, K> w, dw;
  w.derive(Derived::transpose);
  for (auto _ : state) {
    causal_conv_weight_backward(core, dw.gradient(), dv.in(), x.in(), tile.view());
    causal_conv_backward(core, dx.out(), dv.in(), tile.view(), w.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * (3 * T * E + 2 * E * K), 2.0 * T * E * K);
}
BENCHMARK(conv_backward)->Name("causal_conv_backward/cpu/float/E64_K4/T64");

void norm(benchmark::State& state) {
  Tensor<D> y, x;
  Parameter2<1, D> w;
  std::vector<float> rho(T);
  for (auto _ : state) {
    rms_norm(core, y.out(), rho.data(), x.in(), w.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * 2 * T * D);
}
BENCHMARK(norm)->Name("rms_norm/cpu/float/D32/T64");

void norm_backward(benchmark::State& state) {
  Tensor<D> dy, x, dx;
  Parameter2<1, D> w, dw;
  const std::vector<float> rho(T, 1.0F);
  for (auto _ : state) {
    rms_norm_backward(core, dx.out(), dw.gradient(), dy.in(), rho.data(), x.in(), w.weight());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * 3 * T * D);
}
BENCHMARK(norm_backward)->Name("rms_norm_backward/cpu/float/D32/T64");

// One of the functions that read some (T, E) tensors and write others.
template <class F>
void rowwise(benchmark::State& state, F f, int tensors) {
  Tensor<E> a, b, c, d, e;
  for (auto _ : state) {
    f(a, b, c, d, e);
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * tensors * T * E);
}
BENCHMARK_CAPTURE(
    rowwise, gate, [](auto& a, auto& b, auto& c, auto&, auto&) { gate(core, a.out(), b.in(), c.in()); }, 3)
    -> Name("gate/cpu/float/E64/T64");
BENCHMARK_CAPTURE(
    rowwise, gate_backward,
    [](auto& a, auto& b, auto& c, auto& d, auto& e) { gate_backward(core, a.out(), b.out(), c.in(), d.in(), e.in()); },
    5) -> Name("gate_backward/cpu/float/E64/T64");
BENCHMARK_CAPTURE(
    rowwise, silu, [](auto& a, auto& b, auto&, auto&, auto&) { silu(core, a.out(), b.in()); }, 2)
    -> Name("silu/cpu/float/E64/T64");
BENCHMARK_CAPTURE(
    rowwise, silu_backward,
    [](auto& a, auto& b, auto& c, auto&, auto&) { silu_backward(core, a.out(), b.in(), c.in()); }, 3)
    -> Name("silu_backward/cpu/float/E64/T64");
BENCHMARK_CAPTURE(
    rowwise, softplus, [](auto& a, auto& b, auto&, auto&, auto&) { softplus(core, a.out(), b.in()); }, 2)
    -> Name("softplus/cpu/float/E64/T64");
BENCHMARK_CAPTURE(
    rowwise, softplus_backward,
    [](auto& a, auto& b, auto& c, auto&, auto&) { softplus_backward(core, a.out(), b.in(), c.in()); }, 3)
    -> Name("softplus_backward/cpu/float/E64/T64");

void embedding_rows(benchmark::State& state) {
  Tensor<D> x;
  Parameter2<Vp, D> table, dtable;
  std::vector<int> tokens(T);
  for (int t = 0; t < T; ++t) tokens[static_cast<std::size_t>(t)] = 37 * t % 100;
  for (auto _ : state) {
    embedding(core, x.out(), tokens.data(), table.weight());
    embedding_backward(core, dtable.gradient(), x.in(), tokens.data());
    benchmark::ClobberMemory();
  }
  count(state, 4.0 * 5 * T * D);
}
BENCHMARK(embedding_rows)->Name("embedding_and_backward/cpu/float/V104_D32/T64");

void loss(benchmark::State& state) {
  Tensor<Vp> logits, dlogits;
  const std::vector<int> labels(T, 7);
  for (auto _ : state)
    benchmark::DoNotOptimize(cross_entropy(core, dlogits.out(), logits.in(), labels.data(), 100, 1.0));
  count(state, 4.0 * 2 * T * Vp);
}
BENCHMARK(loss)->Name("cross_entropy/cpu/float/V104/T64");

}  // namespace
