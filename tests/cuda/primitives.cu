// The primitives of one thread block against the CPU's in double: the selective scan at sizes of every layout, and what
// happens row by row in one pass.
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <numeric>
#include <vector>

#include <mamba/cuda/kernels/tiles.hpp>
#include <mamba/eigen/backend.hpp>
#include <mamba/network/fused.hpp>

#include "support/device_primitives.hpp"

using namespace mamba;
using support::OnDevice, support::Tensor, support::tensor;

namespace {

const std::vector<int> mixed_lengths{5, 8, 1, 9, 16, 30, 3, 17, 8, 24, 7};

template <class T>
constexpr double bound = sizeof(T) == 4 ? 2e-6 : 1e-13;

// A parameter on the device: its values, what is derived from them, its gradient.
template <class T, int Rows_, int Columns>
struct DeviceParameter {
  explicit DeviceParameter(const support::Parameter2<T, Rows_, Columns>& host) {
    constexpr auto count = static_cast<std::size_t>(Rows_) * padded(Columns);
    value.upload(host.weight().value, count), derived.upload(host.weight().derived, count);
    gradient.reserve(count * sizeof(T));
  }
  Weight<T, Rows_, Columns> weight() const { return {value.template as<T>(), derived.template as<T>()}; }
  WeightGradient<T, Rows_, Columns> dw() const { return {gradient.template as<T>()}; }
  Tensor<T, Columns> downloaded() const {
    Tensor<T, Columns> host(Rows_, 0);
    gradient.download(host.rows().data, static_cast<std::size_t>(Rows_) * padded(Columns));
    return host;
  }
  cuda::DeviceBuffer value, derived, gradient;
};

template <class T, int E, int N>
struct ScanArguments {
  Rows<T, E> y, ddelta, du;
  Rows<const T, E> dy, delta, u;
  Rows<T, N> db, dc;
  Rows<const T, N> b, c;
  T *boundaries, *carry;
  std::byte* global;
  Sequences sequences;
  Weight<T, E, N> a;
  Weight<T, 1, E> d;
  WeightGradient<T, E, N> da;
  WeightGradient<T, 1, E> dd;
};
template <class T, int E, int N>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_scan(ScanArguments<T, E, N> k) {
  cuda::Block be{k.global};
  cuda::selective_scan(be, k.y, k.boundaries, static_cast<T*>(nullptr), k.delta, k.u, k.b, k.c, k.sequences, k.a, k.d);
  cuda::selective_scan_backward(be, k.ddelta, k.du, k.db, k.dc, k.da, k.dd, k.dy, static_cast<const T*>(k.boundaries),
                                k.carry, k.delta, k.u, k.b, k.c, k.sequences, k.a, k.d);
}

// Everything that a scan gives, forward and backward.
template <class T, int E, int N>
struct Scan {
  using Sizes = network::SelectiveScanSizes<T, E, N>;
  Tensor<T, E> y, ddelta, du, dy, delta, u;
  Tensor<T, N> db, dc, b, c;
  support::Parameter2<T, E, N> a;
  support::Parameter2<T, 1, E> d;
  Tensor<T, N> da{E, std::vector<T>(static_cast<std::size_t>(E) * N)};
  Tensor<T, E> dd{1, std::vector<T>(E)};

  explicit Scan(int rows)
      : y(rows, 1),
        ddelta(rows, 2),
        du(rows, 3),
        dy(tensor<T, E>(rows, 4)),
        delta(tensor<T, E>(rows, 5, true)),
        u(tensor<T, E>(rows, 6)),
        db(rows, 7),
        dc(rows, 8),
        b(tensor<T, N>(rows, 9)),
        c(tensor<T, N>(rows, 10)),
        a(values(11, E * N), Derived::rate),
        d(values(12, E), Derived::none) {}

  void on_cpu(const std::vector<int>& first) {
    Buffer scratch;
    eigen::Core core(scratch);
    const Sequences sequences{first.data(), static_cast<int>(first.size()) - 1};
    constexpr auto state = static_cast<std::size_t>(E) * padded(N) * sizeof(T);
    Buffer boundaries(static_cast<std::size_t>(eigen::kept_states(Sizes{}, sequences) + 1) * state), carry(state);
    eigen::selective_scan(core, y.rows(), boundaries.as<T>(), static_cast<T*>(nullptr), delta.in(), u.in(), b.in(),
                          c.in(), sequences, a.weight(), d.weight());
    eigen::selective_scan_backward(core, ddelta.rows(), du.rows(), db.rows(), dc.rows(),
                                   WeightGradient<T, E, N>{da.rows().data}, WeightGradient<T, 1, E>{dd.rows().data},
                                   dy.in(), static_cast<const T*>(boundaries.as<T>()), carry.as<T>(), delta.in(),
                                   u.in(), b.in(), c.in(), sequences, a.weight(), d.weight());
  }
  void on_gpu(const std::vector<int>& first) {
    const Sequences sequences{first.data(), static_cast<int>(first.size()) - 1};
    const auto kept = static_cast<std::size_t>(cuda::BlockMemory::kept_states(Sizes{}, sequences));
    constexpr auto state = static_cast<std::size_t>(E) * padded(N) * sizeof(T);
    cuda::DeviceBuffer boundaries((kept + 1) * state), carry(state),
        global(cuda::BlockMemory::global_bytes(Sizes{}, true) + 16), firsts;
    firsts.upload(first.data(), first.size());
    support::poison_padding(y), support::poison_padding(ddelta), support::poison_padding(du);
    DeviceParameter<T, E, N> a_there(a);
    DeviceParameter<T, 1, E> d_there(d);
    {
      OnDevice y_there(y), ddelta_there(ddelta), du_there(du), dy_there(dy), delta_there(delta), u_there(u);
      OnDevice db_there(db), dc_there(dc), b_there(b), c_there(c);
      const ScanArguments<T, E, N> arguments{y_there.rows(),         ddelta_there.rows(),
                                             du_there.rows(),        dy_there.in(),
                                             delta_there.in(),       u_there.in(),
                                             db_there.rows(),        dc_there.rows(),
                                             b_there.in(),           c_there.in(),
                                             boundaries.as<T>(),     carry.as<T>(),
                                             global.as<std::byte>(), {firsts.as<int>(), sequences.count},
                                             a_there.weight(),       d_there.weight(),
                                             a_there.dw(),           d_there.dw()};
      support::launch<T>(run_scan<T, E, N>, arguments);
    }
    da = a_there.downloaded(), dd = d_there.downloaded();
  }

 private:
  static std::vector<T> values(std::uint64_t seed, int count) {
    std::vector<T> all;
    for (int i = 0; i < count; ++i)
      all.push_back(static_cast<T>(static_cast<float>(support::random_number(seed, static_cast<std::uint64_t>(i)))));
    return all;
  }
};

template <class T, int E, int N>
void check_scan() {
  INFO((sizeof(T) == 4 ? "float" : "double") << ", channels " << E << ", states " << N);
  std::vector<int> first{0};
  for (const int length : mixed_lengths) first.push_back(first.back() + length);
  Scan<double, E, N> expected(first.back());
  Scan<T, E, N> found(first.back());
  expected.on_cpu(first);
  found.on_gpu(first);
  const auto close = [&](const char* name, const auto& x, const auto& y) {
    INFO(name);
    CHECK(support::relative_error(x.dense(), y.dense()) < bound<T>);
    CHECK(x.padding_is_zero());
  };
  close("y", found.y, expected.y);
  close("ddelta", found.ddelta, expected.ddelta);
  close("du", found.du, expected.du);
  close("db", found.db, expected.db);
  close("dc", found.dc, expected.dc);
  close("da", found.da, expected.da);
  close("dd", found.dd, expected.dd);
}
template <int E, int N>
void check_scans() {
  check_scan<float, E, N>();
  check_scan<double, E, N>();
}

template <class T, int E>
struct RowArguments {
  Rows<T, E> delta, pi, dpi, o, dy, dz;
  Rows<const T, E> ddelta, y, z, d_o;
  T* rho;
  Weight<T, 1, E> bias, w;
  WeightGradient<T, 1, E> dbias, dw;
};
template <int Groups, class T, int E>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_rows(RowArguments<T, E> k) {
  cuda::Block be{};
  cuda::step_sizes(be, k.delta, k.pi, k.bias);
  cuda::step_sizes_backward(be, k.dpi, k.dbias, k.ddelta, in(k.pi));
  cuda::gated_norm<Groups>(be, k.o, k.o, k.rho, k.y, k.z, k.w);
  cuda::gated_norm_backward<Groups>(be, k.dy, k.dz, k.dy, k.dw, k.d_o, k.y, static_cast<const T*>(k.rho), k.y, k.z,
                                    k.w);
}

template <class T, int E, int Groups>
void check_rows(int rows) {
  INFO((sizeof(T) == 4 ? "float" : "double") << ", " << rows << " rows of " << E << " in " << Groups << " groups");
  struct Numbers {
    Tensor<T, E> delta, pi, dpi, o, dy, dz, ddelta, y, z, d_o;
    support::Parameter2<T, 1, E> bias, w;
    Tensor<T, E> dbias{1, std::vector<T>(E)}, dw{1, std::vector<T>(E)};
    explicit Numbers(int rows)
        : delta(rows, 1),
          pi(tensor<T, E>(rows, 2)),
          dpi(rows, 3),
          o(rows, 4),
          dy(rows, 5),
          dz(rows, 6),
          ddelta(tensor<T, E>(rows, 7)),
          y(tensor<T, E>(rows, 8)),
          z(tensor<T, E>(rows, 9)),
          d_o(tensor<T, E>(rows, 10)),
          bias(11, Derived::none),
          w(12, Derived::none) {
      for (T& x : std::span(pi.rows().data, static_cast<std::size_t>(rows) * padded(E)))
        x *= 30;  // beyond where softplus is the identity
    }
  };
  // The CPU's in double, from the same numbers.
  Numbers n(rows);
  const auto copy_of = [&]<int Columns>(const Tensor<T, Columns>& x) {
    Tensor<double, Columns> copy(x.in().rows, 0);
    for (int t = 0; t < x.in().rows; ++t)
      for (int c = 0; c < Columns; ++c) copy.at(t, c) = x(t, c);
    return copy;
  };
  Tensor<double, E> delta(rows, 1), pi = copy_of(n.pi), dpi(rows, 1), o(rows, 1), g(rows, 1), dg(rows, 1), dy(rows, 1),
                                    dz(rows, 1);
  const Tensor<double, E> ddelta = copy_of(n.ddelta), y = copy_of(n.y), z = copy_of(n.z), d_o = copy_of(n.d_o),
                          bias = copy_of(n.bias), w = copy_of(n.w);
  Tensor<double, E> dbias(1, std::vector<double>(E)), dw(1, std::vector<double>(E));
  std::vector<double> rho(static_cast<std::size_t>(rows) * Groups);
  const Weight<double, 1, E> of_bias{bias.in().data, nullptr}, of_w{w.in().data, nullptr};
  Buffer scratch;
  eigen::Core core(scratch);
  network::steps_forward(core, delta.rows(), pi.rows(), of_bias);
  network::steps_backward(core, dpi.rows(), WeightGradient<double, 1, E>{dbias.rows().data}, ddelta.in(), pi.in());
  network::gated_norm_forward<Groups>(core, o.rows(), g.rows(), rho.data(), y.in(), z.in(), of_w);
  network::gated_norm_reverse<Groups>(core, dy.rows(), dz.rows(), dg.rows(),
                                      WeightGradient<double, 1, E>{dw.rows().data}, d_o.in(), g.in(),
                                      static_cast<const double*>(rho.data()), y.in(), z.in(), of_w);

  DeviceParameter<T, 1, E> bias_there(n.bias), w_there(n.w);
  cuda::DeviceBuffer rho_there(rho.size() * sizeof(T));
  for (auto* x : {&n.delta, &n.o, &n.dy, &n.dz}) support::poison_padding(*x);
  {
    OnDevice delta_there(n.delta), pi_there(n.pi), dpi_there(n.dpi), o_there(n.o), dy_there(n.dy), dz_there(n.dz);
    OnDevice ddelta_there(n.ddelta), y_there(n.y), z_there(n.z), d_o_there(n.d_o);
    const RowArguments<T, E> arguments{delta_there.rows(), pi_there.rows(), dpi_there.rows(),  o_there.rows(),
                                       dy_there.rows(),    dz_there.rows(), ddelta_there.in(), y_there.in(),
                                       z_there.in(),       d_o_there.in(),  rho_there.as<T>(), bias_there.weight(),
                                       w_there.weight(),   bias_there.dw(), w_there.dw()};
    support::launch<T>(run_rows<Groups, T, E>, arguments);
  }
  const auto close = [&](const char* name, const auto& found, const auto& expected) {
    INFO(name);
    CHECK(support::relative_error(found.dense(), expected.dense()) < bound<T>);
    CHECK(found.padding_is_zero());
  };
  close("delta", n.delta, delta);
  close("dpi", n.dpi, dpi);
  close("dbias", bias_there.downloaded(), dbias);
  close("o", n.o, o);
  close("dy", n.dy, dy);
  close("dz", n.dz, dz);
  close("dw", w_there.downloaded(), dw);
}

}  // namespace

TEST_CASE("CUDA: the selective scan is the CPU's in every layout of states and channels") {
  support::need_device();
  check_scans<3, 1>();
  check_scans<64, 16>();
  check_scans<70, 20>();
  check_scans<5, 48>();
  check_scans<130, 64>();
  check_scans<64, 128>();
  check_scans<17, 144>();
  check_scans<40, 264>();
  check_scan<float, 9, 600>();
  check_scan<float, 3, 1100>();
}

TEMPLATE_TEST_CASE("CUDA: step sizes and gated norms in one pass are the CPU's", "", float, double) {
  support::need_device();
  for (const int rows : {1, 7, 128, 150}) {
    check_rows<TestType, 64, 1>(rows);
    check_rows<TestType, 64, 4>(rows);
    check_rows<TestType, 30, 5>(rows);
    check_rows<TestType, 192, 1>(rows);
  }
}

TEST_CASE("CUDA: the sum of buffers is that of any number of them") {
  support::need_device();
  constexpr int size = 4 * 1000;
  for (const int count : {1, 2, 31, 32, 33, 128, 132}) {
    INFO(count << " buffers");
    const auto host = tensor<float, size>(count, 5);
    std::vector<cuda::Kind> kinds(size / 4, cuda::Kind{true, false});
    kinds[7].trained = false;
    cuda::DeviceBuffer buffers, of_kinds, gradients(size * sizeof(float)), derived(size * sizeof(float));
    buffers.upload(host.in().data, static_cast<std::size_t>(count) * size);
    of_kinds.upload(kinds.data(), kinds.size());
    const cuda::ArenaElements elements{size / 4, of_kinds.as<cuda::Kind>()};
    const auto blocks = cuda::BufferSum::blocks(elements, count);
    cuda::DeviceBuffer squares(static_cast<std::size_t>(blocks) * sizeof(double));
    cuda::launch_kernel("sum_buffers", cuda::sum_buffers<float>, {blocks, cuda::Block::threads}, nullptr,
                        gradients.as<float>(), buffers.as<float>(), count, derived.as<float>(), squares.as<double>(),
                        elements, nullptr);
    cuda::check(cudaDeviceSynchronize(), "sum_buffers");
    std::vector<float> found(size);
    std::vector<double> expected(size), of_blocks(static_cast<std::size_t>(blocks));
    gradients.download(found.data(), size);
    squares.download(of_blocks.data(), blocks);
    double square = 0;
    for (int i = 0; i < size; ++i) {
      for (int b = 0; b < count; ++b) expected[static_cast<std::size_t>(i)] += host(b, i);
      if (kinds[static_cast<std::size_t>(i) / 4].trained)
        square += expected[static_cast<std::size_t>(i)] * expected[static_cast<std::size_t>(i)];
    }
    CHECK(support::relative_error(found, expected) < 1e-6);
    CHECK(std::abs(std::accumulate(of_blocks.begin(), of_blocks.end(), 0.0) - square) < 1e-5 * square);
  }
}
