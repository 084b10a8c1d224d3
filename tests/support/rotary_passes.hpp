// Mamba-3's primitives on the GPU against the CPU's in double, primitive against primitive.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/device_primitives.hpp"

namespace support::rotary {

using namespace mamba;

// Sizes of a recurrence, whatever it is computed in.
template <int H_, int P_, int G_, int N_, int rank_, int Na_>
struct Shape {
  static constexpr int H = H_, P = P_, G = G_, N = N_, rank = rank_, Na = Na_;
  template <class T>
  using Sizes = network::RotarySsdSizes<T, H, P, G, N, rank, Na>;
};

// Angles, (rows, A), of which both precisions have the same.
template <class T, int A>
class Angles {
 public:
  using Turns = math::Turns<T>;

  Angles(int rows, std::uint64_t seed)
      : rows_(rows), values_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(padded(A))) {
    for (int t = 0; t < rows; ++t)
      for (int k = 0; k < A; ++k) {
        const double number = random_number(seed, static_cast<std::uint64_t>(t * A + k));
        at(t, k) = static_cast<Turns>(math::turns_of(number / 2) >> (64 - math::TurnsOf<T>::bits))
                   << (math::TurnsOf<T>::bits - 32);
        if constexpr (sizeof(T) == 8) at(t, k) = math::turns_of(number / 2) >> 32 << 32;
      }
  }
  Turns& at(int t, int k) { return values_[static_cast<std::size_t>(t * padded(A) + k)]; }
  Rows<Turns, A> rows() { return {values_.data(), rows_}; }
  Rows<const Turns, A> in() const { return {values_.data(), rows_}; }
  std::vector<Turns>& values() { return values_; }

 private:
  int rows_;
  std::vector<Turns> values_;
};

// Parameters of (Rows_, Columns) as numbers that float holds exactly.
template <class T, int Rows_, int Columns>
Parameter2<T, Rows_, Columns> parameter(std::uint64_t seed) {
  std::vector<T> values;
  for (int i = 0; i < Rows_ * Columns; ++i)
    values.push_back(static_cast<T>(static_cast<float>(random_number(seed, static_cast<std::uint64_t>(i)))));
  return {values, Derived::none};
}

// A tensor's, or a parameter's, copy on the device, until it is destroyed: then the host has it again.
template <class T>
class There {
 public:
  There(T* host, std::size_t count) : host_(host), count_(count) { buffer_.upload(host, count); }
  ~There() { buffer_.download(host_, count_); }
  There(const There&) = delete;
  There& operator=(const There&) = delete;
  T* data() const { return buffer_.template as<T>(); }

 private:
  T* host_;
  std::size_t count_;
  cuda::DeviceBuffer buffer_;
};

template <class T, class Shape>
struct ScanArguments {
  using Scalar = T;
  using Sizes = typename Shape::template Sizes<T>;
  static constexpr int H = Sizes::H, E = Sizes::E, C = Sizes::C, Y = Sizes::R * E, A = H * Sizes::Na;
  Rows<T, Y> y;
  Rows<const T, Y> dy;
  Rows<const T, H> delta, log_decay, mu;
  Rows<T, H> ddelta, dlog_decay, dmu;
  Rows<const math::Turns<T>, A> turns;
  Rows<T, A> dangles;
  Rows<const T, C> xbc;
  Rows<T, C> dxbc;
  T* boundaries;
  network::MixerState<T> state;
  Sequences sequences;
  network::RotaryWeights<Sizes> w;
  network::RotaryGradients<Sizes> dw;
  std::byte* global;
  const std::uint8_t* mask;
};

struct What {
  bool with_states = false, blocked = false, backward = true;
  double forgetting = 1;  // the decays' logarithms, times this
};

// A forward and, if wanted, a backward pass of the recurrence; everything that comes out. Scope::run(arguments,
// backward) runs one of them on the GPU, and Scope::Memory says how many states it keeps.
template <class Scope, class T, class Shape>
struct ScanPass {
  using Arguments = ScanArguments<T, Shape>;
  using Sizes = typename Arguments::Sizes;
  static constexpr int H = Sizes::H, P = Sizes::P, N = Sizes::N, R = Sizes::R, E = Sizes::E, C = Sizes::C,
                       Y = Arguments::Y, A = Arguments::A;
  Tensor<T, Y> y, dy;
  Tensor<T, H> delta, log_decay, mu, ddelta, dlog_decay, dmu;
  Angles<T, A> turns;
  Tensor<T, A> dangles;
  Tensor<T, C> xbc, dxbc;
  Parameter2<T, 1, N> b_norm = parameter<T, 1, N>(21), c_norm = parameter<T, 1, N>(22),
                      db_norm = parameter<T, 1, N>(23), dc_norm = parameter<T, 1, N>(24);
  Parameter2<T, H, R * N> b_bias = parameter<T, H, R * N>(25), c_bias = parameter<T, H, R * N>(26),
                          db_bias = parameter<T, H, R * N>(27), dc_bias = parameter<T, H, R * N>(28);
  Parameter2<T, 1, H> d = parameter<T, 1, H>(29), dd = parameter<T, 1, H>(30);
  Parameter2<T, H, R * P> mimo_x = parameter<T, H, R * P>(31), dmimo_x = parameter<T, H, R * P>(32);
  Buffer history, states;
  std::size_t history_count, state_count;
  std::vector<int> first;
  std::vector<std::uint8_t> mask;
  What what;

  ScanPass(const std::vector<int>& lengths, What what_)
      : ScanPass(std::accumulate(lengths.begin(), lengths.end(), 0), static_cast<int>(lengths.size()), what_) {
    for (const int length : lengths) first.push_back(first.back() + length);
  }

  Sequences sequences() const { return {first.data(), static_cast<int>(first.size()) - 1}; }

  void on_cpu() {
    Buffer scratch;
    eigen::Core core(scratch);
    Buffer boundaries(static_cast<std::size_t>(eigen::kept_states(Sizes{}, sequences()) + 1) * Sizes::state_size *
                      sizeof(T));
    const network::MixerState<T> state{history.as<T>(), states.as<T>()};
    const network::RotaryWeights<Sizes> w{b_norm.weight(), c_norm.weight(), b_bias.weight(),
                                          c_bias.weight(), d.weight(),      mimo_x.weight()};
    eigen::rotary_ssd(core, Sizes{}, y.rows(), boundaries.as<T>(), what.with_states ? state : network::MixerState<T>{},
                      delta.in(), log_decay.in(), mu.in(), turns.in(), xbc.in(), sequences(), w,
                      BlockedRows{what.blocked ? mask.data() : nullptr});
    if (!what.backward) return;
    const network::RotaryGradients<Sizes> dw{db_norm.gradient(), dc_norm.gradient(), db_bias.gradient(),
                                             dc_bias.gradient(), dd.gradient(),      dmimo_x.gradient()};
    eigen::rotary_ssd_backward(core, Sizes{}, ddelta.rows(), dlog_decay.rows(), dmu.rows(), dangles.rows(), dxbc.rows(),
                               dw, dy.in(), static_cast<const T*>(boundaries.as<T>()), delta.in(), log_decay.in(),
                               mu.in(), turns.in(), xbc.in(), sequences(), w);
  }

  void on_gpu() {
    const auto kept = static_cast<std::size_t>(Scope::Memory::kept_states(Sizes{}, sequences()));
    cuda::DeviceBuffer boundaries((kept + 1) * Sizes::state_size * sizeof(T)),
        global(cuda::BlockMemory::global_bytes(Sizes{}, what.backward) + 16), firsts, masks;
    firsts.upload(first.data(), first.size());
    masks.upload(mask.data(), mask.size());
    poison_padding(y), poison_padding(ddelta), poison_padding(dlog_decay), poison_padding(dmu);
    poison_padding(dangles), poison_padding(dxbc);
    OnDevice y_there(y), dy_there(dy);
    OnDevice delta_there(delta), log_decay_there(log_decay), mu_there(mu), ddelta_there(ddelta),
        dlog_decay_there(dlog_decay), dmu_there(dmu);
    OnDevice dangles_there(dangles);
    OnDevice xbc_there(xbc), dxbc_there(dxbc);
    There turns_there(turns.values().data(), turns.values().size());
    There history_there(history.as<T>(), history_count), states_there(states.as<T>(), state_count);
    const auto there = []<int Rows_, int Columns>(Parameter2<T, Rows_, Columns>& p) {
      return There<T>(p.rows().data, static_cast<std::size_t>(Rows_ * padded(Columns)));
    };
    const There<T> b_norm_there = there(b_norm), c_norm_there = there(c_norm), b_bias_there = there(b_bias),
                   c_bias_there = there(c_bias), d_there = there(d), mimo_x_there = there(mimo_x),
                   db_norm_there = there(db_norm), dc_norm_there = there(dc_norm), db_bias_there = there(db_bias),
                   dc_bias_there = there(dc_bias), dd_there = there(dd), dmimo_x_there = there(dmimo_x);
    const Arguments arguments{
        y_there.rows(),
        dy_there.in(),
        delta_there.in(),
        log_decay_there.in(),
        mu_there.in(),
        ddelta_there.rows(),
        dlog_decay_there.rows(),
        dmu_there.rows(),
        {turns_there.data(), y.in().rows},
        dangles_there.rows(),
        xbc_there.in(),
        dxbc_there.rows(),
        what.backward ? boundaries.as<T>() : nullptr,
        what.with_states ? network::MixerState<T>{history_there.data(), states_there.data()} : network::MixerState<T>{},
        {firsts.as<int>(), sequences().count},
        {{b_norm_there.data(), nullptr},
         {c_norm_there.data(), nullptr},
         {b_bias_there.data(), nullptr},
         {c_bias_there.data(), nullptr},
         {d_there.data(), nullptr},
         {mimo_x_there.data(), nullptr}},
        {{db_norm_there.data()},
         {dc_norm_there.data()},
         {db_bias_there.data()},
         {dc_bias_there.data()},
         {dd_there.data()},
         {dmimo_x_there.data()}},
        global.as<std::byte>(),
        what.blocked ? masks.as<std::uint8_t>() : nullptr};
    Scope::run(arguments, false);
    if (what.backward) Scope::run(arguments, true);
  }

  // A state's numbers, padding left out, and what of a history is not the angles'.
  std::vector<double> states_found() const { return found(states, state_count); }
  std::vector<double> history_found() const { return found(history, history_count); }

 private:
  ScanPass(int rows, int sequences, What w)
      : y(rows, 1),
        dy(tensor<T, Y>(rows, 2)),
        delta(tensor<T, H>(rows, 3, true)),
        log_decay(tensor<T, H>(rows, 4, true)),
        mu(tensor<T, H>(rows, 5, true)),
        ddelta(rows, 6),
        dlog_decay(rows, 7),
        dmu(rows, 8),
        turns(rows, 9),
        dangles(rows, 10),
        xbc(tensor<T, C>(rows, 11)),
        dxbc(rows, 12),
        history(static_cast<std::size_t>(sequences) * Sizes::history_size * sizeof(T)),
        states(static_cast<std::size_t>(sequences) * Sizes::state_size * sizeof(T)),
        history_count(static_cast<std::size_t>(sequences) * Sizes::history_size),
        state_count(static_cast<std::size_t>(sequences) * Sizes::state_size),
        first{0},
        what(w) {
    for (int t = 0; t < rows; ++t)
      for (int h = 0; h < H; ++h) {
        log_decay.at(t, h) *= static_cast<T>(-w.forgetting);
        if (w.forgetting > 1 && t % 5 != 3) log_decay.at(t, h) /= static_cast<T>(w.forgetting);
      }
    for (int t = 0; t < rows; ++t) mask.push_back(t % 3 == 1);
    const auto number = [](std::uint64_t seed, std::size_t i) {
      return static_cast<T>(static_cast<float>(random_number(seed, i)));
    };
    const auto is_state = [](int n) { return n % Sizes::half < N / 2; };
    for (std::size_t i = 0; i < state_count; ++i) {
      const int p = static_cast<int>(i) % padded(P), n = static_cast<int>(i) / padded(P) % Sizes::Ns;
      states.as<T>()[i] = p < P && is_state(n) ? number(40, i) : T(0);
    }
    for (int s = 0; s < sequences; ++s) {
      T* const own = history.as<T>() + static_cast<std::size_t>(s) * Sizes::history_size;
      T *const keys = own + Sizes::angles_size, *const x = keys + Sizes::keys_size;
      for (int k = 0; k < H * R * Sizes::Ns; ++k)
        keys[k] = is_state(k % Sizes::Ns) ? number(41, static_cast<std::size_t>(s * 10'000 + k)) : T(0);
      for (int e = 0; e < E; ++e) x[e] = number(42, static_cast<std::size_t>(s * 10'000 + e));
    }
  }
  static std::vector<double> found(const Buffer& memory, std::size_t count) {
    std::vector<double> all(count);
    for (std::size_t i = 0; i < count; ++i) all[i] = static_cast<double>(memory.as<T>()[i]);
    return all;
  }
};

template <class T>
inline constexpr double bound = sizeof(T) == 8 ? 1e-13 : 2e-6;

template <class Scope, class T, class Shape>
void check_scan(const std::vector<int>& lengths, What what) {
  INFO(precision_name<T> << ", heads " << Shape::H << ", channels " << Shape::P << ", groups " << Shape::G
                         << ", states " << Shape::N << ", rank " << Shape::rank << ", angles " << Shape::Na
                         << ", sequences " << lengths.size() << ", the first of " << lengths[0]
                         << (what.with_states ? ", states" : "") << (what.blocked ? ", blocked rows" : ""));
  ScanPass<Scope, double, Shape> expected(lengths, what);
  ScanPass<Scope, T, Shape> found(lengths, what);
  expected.on_cpu();
  found.on_gpu();
  // floor: the size of what was summed, where sums may come out small.
  const auto close = [&](const char* name, const auto& a, const auto& b, double floor = 0) {
    INFO(name);
    CHECK(relative_error(a.dense(), b.dense(), floor) < bound<T>);
    CHECK(a.padding_is_zero());
  };
  close("y", found.y, expected.y);
  if (what.with_states) {
    CHECK(relative_error(found.states_found(), expected.states_found()) < bound<T>);
    CHECK(relative_error(found.history_found(), expected.history_found()) < bound<T>);
  }
  if (!what.backward) return;
  const auto size = [](const auto& tensor) {
    double sum = 0;
    for (const double x : tensor.dense()) sum += x * x;
    return std::sqrt(sum);
  };
  close("ddelta", found.ddelta, expected.ddelta);
  close("dlog_decay", found.dlog_decay, expected.dlog_decay, size(expected.ddelta));
  close("dmu", found.dmu, expected.dmu);
  close("dangles", found.dangles, expected.dangles, size(expected.dxbc));  // zero where tokens are alone
  close("dxbc", found.dxbc, expected.dxbc);
  close("db_norm", found.db_norm, expected.db_norm);
  close("dc_norm", found.dc_norm, expected.dc_norm);
  close("db_bias", found.db_bias, expected.db_bias);
  close("dc_bias", found.dc_bias, expected.dc_bias);
  close("dd", found.dd, expected.dd, std::sqrt(Shape::H * Shape::P * expected.y.in().rows / 9.0));
  if (Shape::rank > 0) close("dmimo_x", found.dmimo_x, expected.dmimo_x);
}

template <class Scope, class T, class Shape>
void check_scans_of(const std::vector<int>& lengths) {
  const What all[] = {{},
                      {.with_states = true, .backward = false},
                      {.with_states = true, .blocked = true, .backward = false},
                      {.blocked = true, .backward = false}};
  for (const What what : all) check_scan<Scope, T, Shape>(lengths, what);
}
template <class Scope, class Shape>
void check_scans(const std::vector<int>& lengths) {
  check_scans_of<Scope, double, Shape>(lengths);
  check_scans_of<Scope, float, Shape>(lengths);
}

inline const std::vector<int> mixed_lengths{5, 8, 1, 9, 16, 30, 3, 17, 8, 24, 7};

}  // namespace support::rotary
