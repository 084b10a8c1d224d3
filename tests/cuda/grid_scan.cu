// Mamba-1's scan over the whole device with all that lies between x_proj and out_proj (linear_scan_gated), against the
// recurrence written down in double.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include <mamba/cuda/grid/backend.hpp>

#include "support/device_primitives.hpp"

using namespace support;
using namespace mamba;

namespace {

// S: what rows and the projection are stored in.
template <class S, int E, int N, int R>
struct Scan {
  using T = ComputeOf<S>;
  std::vector<int> first{0};
  Tensor<S, E> u, z, o;
  Tensor<S, N> b, c;
  Tensor<S, R> r, w;
  Tensor<T, E> bias, d, scratch;
  Tensor<T, N> rates, states;  // of the states a sequence's lie below each other

  explicit Scan(const std::vector<int>& lengths)
      : Scan(std::accumulate(lengths.begin(), lengths.end(), 0), static_cast<int>(lengths.size())) {
    for (const int length : lengths) first.push_back(first.back() + length);
  }

  int sequences() const { return static_cast<int>(first.size()) - 1; }

  void on_gpu() {
    cuda::DeviceBuffer firsts;
    firsts.upload(first.data(), first.size());
    poison_padding(o);
    OnDevice of_u(u), of_z(z), of_o(o);
    OnDevice of_b(b), of_c(c);
    OnDevice of_r(r), of_w(w);
    OnDevice of_bias(bias), of_d(d), y(scratch), pi(scratch);
    OnDevice of_rates(rates), of_states(states);
    cuda::check(cudaDeviceSynchronize(), "what was uploaded");
    cuda::Grid be(std::make_shared<cuda::Queue>(0));
    const Sequences all{firsts.as<int>(), sequences()};
    cuda::linear_scan_gated(be, of_o.rows(), y.rows(), pi.rows(), of_states.rows().data, of_r.in(),
                            Weight<S, E, R>{of_w.in().data}, Weight<T, 1, E>{of_bias.in().data}, of_u.in(), of_z.in(),
                            of_b.in(), of_c.in(), all, Weight<T, E, N>{nullptr, of_rates.in().data},
                            Weight<T, 1, E>{of_d.in().data});
    be.queue().wait();
  }

  // The larger, or what is no number.
  static double larger(double a, double b) { return a != a || b != b ? NAN : std::max(a, b); }
  // The largest errors of outputs and states beside the largest of each.
  struct Errors {
    double output = 0, state = 0;
  };
  Errors errors(const Scan& before) const {
    Errors worst;
    double largest_output = 0, largest_state = 0;
    for (int s = 0; s < sequences(); ++s)
      for (int e = 0; e < E; ++e) {
        std::vector<double> h;
        for (int n = 0; n < N; ++n) h.push_back(before.states(s * E + e, n));
        for (int t = first[static_cast<std::size_t>(s)]; t < first[static_cast<std::size_t>(s) + 1]; ++t) {
          double projected = bias(0, e), y = 0;
          for (int k = 0; k < R; ++k) projected += r(t, k) * w(e, k);
          const double step = std::log1p(std::exp(projected)), x = u(t, e), gate = z(t, e);
          for (int n = 0; n < N; ++n) {
            double& state = h[static_cast<std::size_t>(n)];
            state = std::exp2(step * rates(e, n)) * state + step * x * b(t, n);
            y += c(t, n) * state;
          }
          const double expected = (y + d(0, e) * x) * gate / (1 + std::exp(-gate));
          worst.output = larger(worst.output, std::abs(o(t, e) - expected));
          largest_output = std::max(largest_output, std::abs(expected));
        }
        for (int n = 0; n < N; ++n) {
          const double expected = h[static_cast<std::size_t>(n)];
          worst.state = larger(worst.state, std::abs(states(s * E + e, n) - expected));
          largest_state = std::max(largest_state, std::abs(expected));
        }
      }
    return {worst.output / largest_output, worst.state / largest_state};
  }

 private:
  Scan(int rows, int count)
      : u(tensor<S, E>(rows, 1)),
        z(tensor<S, E>(rows, 2)),
        o(rows, 3),
        b(tensor<S, N>(rows, 4)),
        c(tensor<S, N>(rows, 5)),
        r(tensor<S, R>(rows, 6)),
        w(tensor<S, R>(E, 7)),
        bias(tensor<T, E>(1, 8)),
        d(tensor<T, E>(1, 9)),
        scratch(rows, 10),
        rates(tensor<T, N>(E, 11, true)),
        states(tensor<T, N>(count * E, 12)) {
    for (int e = 0; e < E; ++e)
      for (int n = 0; n < N; ++n) rates.at(e, n) = -rates.at(e, n);
  }
};

template <class S, int E, int N, int R>
void check(const std::vector<int>& lengths) {
  INFO(precision_name<S> << ", channels " << E << ", states " << N << ", rank " << R << ", sequences " << lengths.size()
                         << ", the first of " << lengths[0]);
  const Scan<S, E, N, R> before(lengths);
  Scan<S, E, N, R> found(lengths);
  found.on_gpu();
  const auto errors = found.errors(before);
  // Outputs are rounded to what is stored; all else is of what is computed with.
  constexpr double computed = std::is_same_v<ComputeOf<S>, float> ? 4e-6 : 1e-14;
  CHECK(errors.output < (std::is_same_v<S, BFloat16> ? 0x1p-8 : computed));
  CHECK(errors.state < computed);
  CHECK(found.o.padding_is_zero());
}
template <int E, int N, int R>
void check_all(const std::vector<int>& lengths) {
  check<float, E, N, R>(lengths);
  check<double, E, N, R>(lengths);
  check<BFloat16, E, N, R>(lengths);
}

const std::vector<int> mixed{130, 1, 64, 65, 3, 63, 16}, with_empty{0, 17, 0, 0, 64, 1, 65, 0};

__global__ void soften(float* x, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) x[i] = math::softplus(x[i]);
}

}  // namespace

TEST_CASE("CUDA grid: Mamba-1's scan with its steps and its gate is the recurrence's") {
  need_device();
  check_all<96, 16, 6>(mixed);
  check_all<40, 24, 17>(mixed);
  check_all<33, 5, 3>(mixed);
  check_all<1, 1, 1>(mixed);
  check_all<33, 5, 3>(with_empty);
  check<BFloat16, 9, 64, 128>(with_empty);
  check<BFloat16, 40, 40, 20>(with_empty);
  check<BFloat16, 17, 16, 80>(with_empty);
  check<BFloat16, 130, 3, 48>(with_empty);
}

TEST_CASE("CUDA grid: Mamba-1's scan where its steps, or its gate, do not fit into it") {
  need_device();
  check_all<20, 64, 130>(mixed);
  check_all<20, 70, 5>(mixed);
  check_all<5, 130, 4>(mixed);
}

TEST_CASE("CUDA grid: Mamba-1's scan in pieces of long sequences") {
  need_device();
  check_all<24, 16, 5>({1500});
  check_all<24, 16, 5>({700, 5, 900});
}

TEST_CASE("CUDA grid: Mamba-1's steps, of few sequences and of many") {
  need_device();
  check_all<24, 16, 5>({1});
  check_all<24, 16, 5>({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  check_all<24, 16, 5>(std::vector<int>(300, 1));
  check_all<5, 130, 4>(std::vector<int>(300, 1));
}

TEST_CASE("CUDA: softplus is exact to float's last digits, and what is no number stays none") {
  need_device();
  std::vector<float> x;
  for (int i = -90 * 64; i <= 25 * 64; ++i) x.push_back(static_cast<float>(i) / 64 + 1e-3F);
  const std::size_t numbers = x.size();
  for (const float other : {INFINITY, -INFINITY, NAN, 1e30F, -1e30F, 0.0F}) x.push_back(other);
  std::vector<float> found(x.size());
  cuda::DeviceBuffer buffer;
  buffer.upload(x.data(), x.size());
  const int count = static_cast<int>(x.size());
  cuda::launch_kernel("soften", soften, {(count + 255) / 256, 256, 0}, nullptr, buffer.as<float>(), count);
  cuda::check(cudaDeviceSynchronize(), "soften");
  buffer.download(found.data(), found.size());
  for (std::size_t i = 0; i < numbers; ++i) {
    const double expected = std::log1p(std::exp(static_cast<double>(x[i])));
    INFO("of " << x[i]);
    REQUIRE(std::abs(found[i] - expected) <= 5 * 0x1p-23 * expected + 1e-37);
  }
  const float* const others = found.data() + numbers;
  CHECK(others[0] == INFINITY);
  CHECK(others[1] == 0);
  CHECK(std::isnan(others[2]));
  CHECK(others[3] == 1e30F);
  CHECK(others[4] == 0);
  CHECK(std::abs(others[5] - std::log(2.0)) < 2e-7);
}
