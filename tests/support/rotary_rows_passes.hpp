// What Mamba-3 does to every row beside its recurrence, on the GPU against the CPU's in double: decays, weights and
// angles; the gates of a head's several outputs.
#pragma once

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/rotary_passes.hpp"

namespace support::rotary {

// What a token tells the recurrence.
template <class T, class Shape, bool softplus_rate_>
struct TrapezoidArguments {
  using Scalar = T;
  using Sizes = typename Shape::template Sizes<T>;
  static constexpr bool softplus_rate = softplus_rate_;
  static constexpr int H = Sizes::H, A = H * Sizes::Na, W = 2 * H + Sizes::Na;
  Rows<T, H> log_decay, mu, ddelta;
  Rows<math::Turns<T>, A> turns;
  T* history;
  Rows<const T, H> delta, dlog_decay, dmu;
  Rows<const T, A> dangles;
  Rows<const T, W> raw;
  Rows<T, W> draw;
  Sequences sequences;
};

template <class Scope, class T, class Shape, bool softplus_rate>
struct TrapezoidPass {
  using Arguments = TrapezoidArguments<T, Shape, softplus_rate>;
  using Sizes = typename Arguments::Sizes;
  static constexpr int H = Arguments::H, A = Arguments::A, W = Arguments::W;
  Tensor<T, H> log_decay, mu, delta, ddelta, dlog_decay, dmu;
  Angles<T, A> turns;
  Tensor<T, A> dangles;
  Tensor<T, W> raw, draw;
  std::vector<T> history;
  std::vector<int> first{0};

  explicit TrapezoidPass(const std::vector<int>& lengths)
      : TrapezoidPass(std::accumulate(lengths.begin(), lengths.end(), 0), static_cast<int>(lengths.size())) {
    for (const int length : lengths) first.push_back(first.back() + length);
  }
  Sequences sequences() const { return {first.data(), static_cast<int>(first.size()) - 1}; }

  void on_cpu(bool with_history) {
    Buffer scratch;
    eigen::Core core(scratch);
    eigen::trapezoid<softplus_rate>(core, Sizes{}, log_decay.rows(), mu.rows(), turns.rows(),
                                    with_history ? history.data() : nullptr, delta.in(), raw.in(), sequences());
    eigen::trapezoid_backward<softplus_rate>(core, Sizes{}, draw.rows(), ddelta.rows(), dlog_decay.in(), dmu.in(),
                                             dangles.in(), delta.in(), raw.in(), sequences());
  }
  void on_gpu(bool with_history) {
    cuda::DeviceBuffer firsts;
    firsts.upload(first.data(), first.size());
    poison_padding(log_decay), poison_padding(mu), poison_padding(draw);
    OnDevice log_decay_there(log_decay), mu_there(mu), delta_there(delta), ddelta_there(ddelta),
        dlog_decay_there(dlog_decay), dmu_there(dmu);
    OnDevice dangles_there(dangles);
    OnDevice raw_there(raw), draw_there(draw);
    There turns_there(turns.values().data(), turns.values().size());
    There history_there(history.data(), history.size());
    const Arguments arguments{log_decay_there.rows(),
                              mu_there.rows(),
                              ddelta_there.rows(),
                              {turns_there.data(), delta.in().rows},
                              with_history ? history_there.data() : nullptr,
                              delta_there.in(),
                              dlog_decay_there.in(),
                              dmu_there.in(),
                              dangles_there.in(),
                              raw_there.in(),
                              draw_there.rows(),
                              {firsts.as<int>(), sequences().count}};
    Scope::run(arguments, false);
    Scope::run(arguments, true);
  }
  // In turns, modulo one.
  std::vector<double> angles() {
    std::vector<double> all;
    for (int t = 0; t < delta.in().rows; ++t)
      for (int k = 0; k < A; ++k) all.push_back(math::radians_of<T>(turns.at(t, k)) / (2 * math::pi));
    return all;
  }

 private:
  TrapezoidPass(int rows, int sequences)
      : log_decay(rows, 1),
        mu(rows, 2),
        delta(tensor<T, H>(rows, 3, true)),
        ddelta(tensor<T, H>(rows, 4)),
        dlog_decay(tensor<T, H>(rows, 5)),
        dmu(tensor<T, H>(rows, 6)),
        turns(rows, 7),
        dangles(tensor<T, A>(rows, 8)),
        raw(tensor<T, W>(rows, 9)),
        draw(rows, 10),
        history(static_cast<std::size_t>(sequences) * Sizes::history_size) {
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < W; ++c) raw.at(t, c) *= 3;
    for (int s = 0; s < sequences; ++s)
      for (int k = 0; k < A; ++k) {
        T* const own = history.data() + static_cast<std::size_t>(s) * Sizes::history_size + 2 * k;
        own[0] = static_cast<T>(static_cast<float>(0.4 * random_number(11, static_cast<std::uint64_t>(s * A + k))));
      }
  }
};

template <class Scope, class T, class Shape, bool softplus_rate = false>
void check_trapezoid(const std::vector<int>& lengths, bool with_history) {
  INFO(precision_name<T> << ", heads " << Shape::H << ", angles " << Shape::Na << ", sequences " << lengths.size()
                         << ", the first of " << lengths[0] << (with_history ? ", history" : ""));
  TrapezoidPass<Scope, double, Shape, softplus_rate> expected(lengths);
  TrapezoidPass<Scope, T, Shape, softplus_rate> found(lengths);
  expected.on_cpu(with_history), found.on_gpu(with_history);
  const auto close = [&](const char* name, const auto& a, const auto& b) {
    INFO(name);
    CHECK(relative_error(a.dense(), b.dense()) < bound<T>);
    CHECK(a.padding_is_zero());
  };
  close("log_decay", found.log_decay, expected.log_decay);
  close("mu", found.mu, expected.mu);
  close("draw", found.draw, expected.draw);
  close("ddelta", found.ddelta, expected.ddelta);
  const auto angles = found.angles(), exact = expected.angles();
  double off = 0;
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const double apart = angles[i] - exact[i];
    off = std::max(off, std::abs(apart - std::rint(apart)));
  }
  CHECK(off < (sizeof(T) == 8 ? 1e-13 : 1e-6));
  if (!with_history) return;
  off = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s)
    for (std::size_t k = 0; k < static_cast<std::size_t>(found.A); ++k) {
      const std::size_t own = s * Shape::template Sizes<T>::history_size + 2 * k;
      const double apart = static_cast<double>(found.history[own]) + static_cast<double>(found.history[own + 1]) -
                           (expected.history[own] + expected.history[own + 1]);
      off = std::max(off, std::abs(apart - std::rint(apart)));
    }
  CHECK(off < (sizeof(T) == 8 ? 1e-13 : 1e-6));
}

// The gates of a head's several outputs.
template <class T, int H_, int P, int R_, bool normed_>
struct GateArguments {
  using Scalar = T;
  static constexpr bool normed = normed_;
  static constexpr int H = H_, E = H * P, RP = R_ * P, Y = R_ * E;
  Rows<T, E> o, dz;
  Rows<T, Y> dy;
  Rows<const T, E> d_o, z;
  Rows<const T, Y> y;
  Weight<T, H, RP> mimo_z, mimo_o;
  Weight<T, 1, E> norm;
  WeightGradient<T, H, RP> dmimo_z, dmimo_o;
  WeightGradient<T, 1, E> dnorm;
};

template <class Scope, class T, int H, int P, int R, bool normed>
struct GatePass {
  using Arguments = GateArguments<T, H, P, R, normed>;
  static constexpr int E = Arguments::E, RP = Arguments::RP, Y = Arguments::Y;
  Tensor<T, E> o, dz, d_o, z;
  Tensor<T, Y> y, dy;
  Parameter2<T, H, RP> mimo_z = parameter<T, H, RP>(1), mimo_o = parameter<T, H, RP>(2),
                       dmimo_z = parameter<T, H, RP>(3), dmimo_o = parameter<T, H, RP>(4);
  Parameter2<T, 1, E> norm = parameter<T, 1, E>(5), dnorm = parameter<T, 1, E>(6);

  explicit GatePass(int rows)
      : o(rows, 7),
        dz(rows, 8),
        d_o(tensor<T, E>(rows, 9)),
        z(tensor<T, E>(rows, 10)),
        y(tensor<T, Y>(rows, 11)),
        dy(rows, 12) {}

  void on_cpu() {
    Buffer scratch;
    eigen::Core core(scratch);
    eigen::ranked_gate<normed>(core, o.rows(), y.in(), z.in(), mimo_z.weight(), mimo_o.weight(), norm.weight());
    eigen::ranked_gate_backward<normed>(core, dy.rows(), dz.rows(), dmimo_z.gradient(), dmimo_o.gradient(),
                                        dnorm.gradient(), d_o.in(), y.in(), z.in(), mimo_z.weight(), mimo_o.weight(),
                                        norm.weight());
  }
  void on_gpu() {
    poison_padding(o), poison_padding(dz), poison_padding(dy);
    OnDevice o_there(o), dz_there(dz), d_o_there(d_o), z_there(z);
    OnDevice y_there(y), dy_there(dy);
    const auto there = []<int Rows_, int Columns>(Parameter2<T, Rows_, Columns>& p) {
      return There<T>(p.rows().data, static_cast<std::size_t>(Rows_ * padded(Columns)));
    };
    const There<T> mimo_z_there = there(mimo_z), mimo_o_there = there(mimo_o), norm_there = there(norm),
                   dmimo_z_there = there(dmimo_z), dmimo_o_there = there(dmimo_o), dnorm_there = there(dnorm);
    const Arguments arguments{o_there.rows(),
                              dz_there.rows(),
                              dy_there.rows(),
                              d_o_there.in(),
                              z_there.in(),
                              y_there.in(),
                              {mimo_z_there.data(), nullptr},
                              {mimo_o_there.data(), nullptr},
                              {norm_there.data(), nullptr},
                              {dmimo_z_there.data()},
                              {dmimo_o_there.data()},
                              {dnorm_there.data()}};
    Scope::run(arguments, false);
    Scope::run(arguments, true);
  }
};

template <class Scope, class T, int H, int P, int R, bool normed>
void check_gate(int rows) {
  INFO(precision_name<T> << ", heads " << H << ", channels " << P << ", rank " << R << ", rows " << rows
                         << (normed ? ", normed" : ""));
  GatePass<Scope, double, H, P, R, normed> expected(rows);
  GatePass<Scope, T, H, P, R, normed> found(rows);
  expected.on_cpu(), found.on_gpu();
  const auto close = [&](const char* name, const auto& a, const auto& b) {
    INFO(name);
    CHECK(relative_error(a.dense(), b.dense()) < bound<T>);
    CHECK(a.padding_is_zero());
  };
  close("o", found.o, expected.o);
  close("dy", found.dy, expected.dy);
  close("dz", found.dz, expected.dz);
  close("dmimo_z", found.dmimo_z, expected.dmimo_z);
  close("dmimo_o", found.dmimo_o, expected.dmimo_o);
  close("dnorm", found.dnorm, expected.dnorm);
}

template <class Scope, int H, int P, int R>
void check_gates(int rows) {
  check_gate<Scope, double, H, P, R, false>(rows), check_gate<Scope, double, H, P, R, true>(rows);
  check_gate<Scope, float, H, P, R, false>(rows), check_gate<Scope, float, H, P, R, true>(rows);
}

}  // namespace support::rotary
