// Mamba-3's recurrence by itself, from a state to a state, against the reference operator.
#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/primitives.hpp"

using namespace mamba;
using support::Parameter2;
using support::Tensor;

namespace {

// Where the reference's states lie in ours: a pair's first states in the first half of a row, its second in the other.
template <class Sizes>
int place_of(int n) {
  if (Sizes::multiple) return n < Sizes::N / 2 ? n : n - Sizes::N / 2 + Sizes::half;
  return n / 2 + (n % 2) * Sizes::half;
}

// The state of a sequence, or its gradient, of the reference file: (batch, ...) each.
template <class T, class Sizes>
struct Memory {
  static constexpr int Pp = padded(Sizes::P);
  Buffer history, states;

  explicit Memory(int batch)
      : history(static_cast<std::size_t>(batch) * Sizes::history_size * sizeof(T)),
        states(static_cast<std::size_t>(batch) * Sizes::state_size * sizeof(T)) {}
  // f(our number, theirs of tensor `name`), for all numbers of all tensors but the angles.
  template <class F>
  void each(const io::SafetensorsFile& file, const std::string& prefix, int batch, F&& f) {
    const auto phi = file.tensor<double>(prefix + "Phi").values, keys = file.tensor<double>(prefix + "k").values,
               x = file.tensor<double>(prefix + "x").values;
    std::size_t at_phi = 0, at_keys = 0, at_x = 0;
    for (int b = 0; b < batch; ++b) {
      T* const own = history.as<T>() + static_cast<std::size_t>(b) * Sizes::history_size;
      T* const own_states = states.as<T>() + static_cast<std::size_t>(b) * Sizes::state_size;
      for (int h = 0; h < Sizes::H; ++h)
        for (int p = 0; p < Sizes::P; ++p)
          for (int n = 0; n < Sizes::N; ++n)
            f(own_states[(h * Sizes::Ns + place_of<Sizes>(n)) * Pp + p], phi[at_phi++]);
      for (int r = 0; r < Sizes::R; ++r)
        for (int h = 0; h < Sizes::H; ++h)
          for (int n = 0; n < Sizes::N; ++n)
            f(own[Sizes::angles_size + static_cast<std::size_t>((h * Sizes::R + r) * Sizes::Ns + place_of<Sizes>(n))],
              keys[at_keys++]);
      for (int e = 0; e < Sizes::E; ++e)
        f(own[Sizes::angles_size + Sizes::keys_size + static_cast<std::size_t>(e)], x[at_x++]);
    }
  }
  T* angle(int b, int k) {
    return history.as<T>() + static_cast<std::size_t>(b) * Sizes::history_size + static_cast<std::size_t>(2 * k);
  }
  static constexpr int angles = Sizes::H * Sizes::Na;
};

template <class T, class Sizes>
void check_reference(const char* name, int batch, int length) {
  constexpr int H = Sizes::H, P = Sizes::P, N = Sizes::N, R = Sizes::R, Na = Sizes::Na, E = Sizes::E, C = Sizes::C,
                W = 2 * H + Na;
  const auto file = support::reference(name);
  INFO(name);
  const int rows = batch * length;
  std::vector<int> first;
  for (int b = 0; b <= batch; ++b) first.push_back(b * length);
  const Sequences sequences{first.data(), batch};
  const double bound = sizeof(T) == 4 ? 5e-6 : 1e-13;
  const auto check = [&](const char* tensor, const std::vector<double>& found) {
    INFO(tensor);
    CHECK(support::relative_error(found, file.tensor<double>(tensor).values) < bound);
  };
  const auto columns_of = [&](auto& to, int at, const char* tensor, int columns) {
    const auto all = file.tensor<T>(tensor).values;
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < columns; ++c) to.at(t, at + c) = all.at(static_cast<std::size_t>(t * columns + c));
  };
  Tensor<T, E> z(rows, file.tensor<T>("z").values), d_o(rows, file.tensor<T>("grad_out").values), o(rows, 1),
      dz(rows, 2);
  Tensor<T, C> xbc(rows, 3), dxbc(rows, 4);
  columns_of(xbc, 0, "x", E), columns_of(xbc, E, "B", R * Sizes::G * N),
      columns_of(xbc, E + R * Sizes::G * N, "C", R * Sizes::G * N);
  Tensor<T, W> raw(rows, 5), draw(rows, 6);
  columns_of(raw, 0, "A_raw", H), columns_of(raw, H, "trap_raw", H), columns_of(raw, 2 * H, "angle_raw", Na);
  Tensor<T, H> pi(rows, file.tensor<T>("dt_raw").values), delta(rows, 7), log_decay(rows, 8), mu(rows, 9),
      ddelta(rows, 10), dlog_decay(rows, 11), dmu(rows, 12);
  Tensor<T, R * E> y(rows, 13), dy(rows, 14);
  Tensor<T, H * Na> dangles(rows, 15);
  Buffer turns_memory(static_cast<std::size_t>(rows) * padded(H * Na) * sizeof(T));
  const Rows<math::Turns<T>, H * Na> turns{turns_memory.as<math::Turns<T>>(), rows};

  const auto parameter = [&]<int Rows_, int Columns>(const char* tensor) {
    return Parameter2<T, Rows_, Columns>(file.tensor<T>(std::string("param.") + tensor).values, Derived::none);
  };
  const auto dt_bias = parameter.template operator()<1, H>("dt_bias"), d = parameter.template operator()<1, H>("D");
  const auto b_norm = parameter.template operator()<1, N>("B_norm.weight"),
             c_norm = parameter.template operator()<1, N>("C_norm.weight");
  const auto b_bias = parameter.template operator()<H, R * N>("B_bias"),
             c_bias = parameter.template operator()<H, R * N>("C_bias");
  Parameter2<T, 1, H> ddt_bias(0, Derived::none), dd(0, Derived::none);
  Parameter2<T, 1, N> db_norm(0, Derived::none), dc_norm(0, Derived::none);
  Parameter2<T, H, R * N> db_bias(0, Derived::none), dc_bias(0, Derived::none);
  Parameter2<T, H, R * P> dmimo_x(0, Derived::none), dmimo_z(0, Derived::none), dmimo_o(0, Derived::none),
      mimo_x(0, Derived::none), mimo_z(0, Derived::none), mimo_o(0, Derived::none);
  ddt_bias.clear(), dd.clear(), db_norm.clear(), dc_norm.clear(), db_bias.clear(), dc_bias.clear();
  dmimo_x.clear(), dmimo_z.clear(), dmimo_o.clear();
  if constexpr (Sizes::multiple) {
    mimo_x = parameter.template operator()<H, R * P>("mimo_x"),
    mimo_z = parameter.template operator()<H, R * P>("mimo_z");
    mimo_o = parameter.template operator()<H, R * P>("mimo_o");
  }
  const network::RotaryWeights<Sizes> w{b_norm.weight(), c_norm.weight(), b_bias.weight(),
                                        c_bias.weight(), d.weight(),      mimo_x.weight()};
  const network::RotaryGradients<Sizes> dw{db_norm.gradient(), dc_norm.gradient(), db_bias.gradient(),
                                           dc_bias.gradient(), dd.gradient(),      dmimo_x.gradient()};

  Memory<T, Sizes> began(batch), state(batch), of_state(batch);
  for (Memory<T, Sizes>* from : {&began, &state})
    from->each(file, "start.", batch, [](T& own, double theirs) { own = static_cast<T>(theirs); });
  of_state.each(file, "grad_end.", batch, [](T& own, double theirs) { own = static_cast<T>(theirs); });
  const auto theta = file.tensor<double>("start.theta").values, of_theta = file.tensor<double>("grad_end.theta").values;
  for (int b = 0; b < batch; ++b)
    for (int k = 0; k < state.angles; ++k) {
      const auto i = static_cast<std::size_t>(b * state.angles + k);
      const auto angle =
          static_cast<math::Turns<T>>(math::turns_of(theta[i] / (2 * math::pi)) >> (64 - math::TurnsOf<T>::bits));
      for (Memory<T, Sizes>* from : {&began, &state})
        math::split_turns(angle, from->angle(b, k)[0], from->angle(b, k)[1]);
      of_state.angle(b, k)[0] = static_cast<T>(of_theta[i] * 2 * math::pi);
    }

  Buffer scratch,
      boundaries(static_cast<std::size_t>(eigen::kept_states(Sizes{}, sequences) + 1) * Sizes::state_size * sizeof(T));
  eigen::Core core(scratch);
  add_bias(core, pi.rows(), dt_bias.weight());
  softplus(core, delta.rows(), pi.in());
  trapezoid<false>(core, Sizes{}, log_decay.rows(), mu.rows(), turns, state.history.template as<T>(), delta.in(),
                   raw.in(), sequences);
  rotary_ssd(core, Sizes{}, y.rows(), boundaries.as<T>(),
             network::MixerState<T>{state.history.template as<T>(), state.states.template as<T>()}, delta.in(),
             log_decay.in(), mu.in(), in(turns), xbc.in(), sequences, w);
  const network::PassedStates<T> passed{{began.history.template as<T>(), of_state.history.template as<T>()},
                                        {began.states.template as<T>(), of_state.states.template as<T>()}};
  if constexpr (Sizes::multiple) {
    ranked_gate<false>(core, o.rows(), y.in(), z.in(), mimo_z.weight(), mimo_o.weight(), Weight<T, 1, E>{});
    ranked_gate_backward<false>(core, dy.rows(), dz.rows(), dmimo_z.gradient(), dmimo_o.gradient(),
                                WeightGradient<T, 1, E>{}, d_o.in(), y.in(), z.in(), mimo_z.weight(), mimo_o.weight(),
                                Weight<T, 1, E>{});
  } else {
    gate(core, o.rows(), y.in(), z.in());
    gate_backward(core, dy.rows(), dz.rows(), d_o.in(), y.in(), z.in());
  }
  rotary_ssd_backward(core, Sizes{}, ddelta.rows(), dlog_decay.rows(), dmu.rows(), dangles.rows(), dxbc.rows(), dw,
                      dy.in(), static_cast<const T*>(boundaries.as<T>()), delta.in(), log_decay.in(), mu.in(),
                      in(turns), xbc.in(), sequences, w, passed);
  trapezoid_backward<false>(core, Sizes{}, draw.rows(), ddelta.rows(), dlog_decay.in(), dmu.in(), dangles.in(),
                            delta.in(), raw.in(), sequences, passed.history);
  softplus_backward(core, ddelta.rows(), ddelta.in(), pi.in());
  add_bias_backward(core, ddt_bias.gradient(), ddelta.in());

  check("out", o.dense());
  check("grad.z", dz.dense());
  const auto check_columns = [&](const char* tensor, const auto& of, int at, int columns) {
    std::vector<double> found;
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < columns; ++c) found.push_back(of(t, at + c));
    check(tensor, found);
  };
  check_columns("grad.x", dxbc, 0, E);
  check_columns("grad.B", dxbc, E, R * Sizes::G * N);
  check_columns("grad.C", dxbc, E + R * Sizes::G * N, R * Sizes::G * N);
  check_columns("grad.A_raw", draw, 0, H);
  check_columns("grad.trap_raw", draw, H, H);
  check_columns("grad.angle_raw", draw, 2 * H, Na);
  check("grad.dt_raw", ddelta.dense());
  check("grad.param.dt_bias", ddt_bias.dense());
  check("grad.param.D", dd.dense());
  check("grad.param.B_norm.weight", db_norm.dense());
  check("grad.param.C_norm.weight", dc_norm.dense());
  check("grad.param.B_bias", db_bias.dense());
  check("grad.param.C_bias", dc_bias.dense());
  if constexpr (Sizes::multiple) {
    check("grad.param.mimo_x", dmimo_x.dense());
    check("grad.param.mimo_z", dmimo_z.dense());
    check("grad.param.mimo_o", dmimo_o.dense());
  }
  for (const auto& [memory, prefix] : {std::pair(&state, "end."), std::pair(&of_state, "grad.start.")}) {
    INFO(prefix);
    double off = 0, all = 0;
    memory->each(file, prefix, batch, [&](const T& own, double theirs) {
      off += std::pow(static_cast<double>(own) - theirs, 2), all += theirs * theirs;
    });
    CHECK(std::sqrt(off / all) < bound);
  }
  const auto end_theta = file.tensor<double>("end.theta").values,
             of_start = file.tensor<double>("grad.start.theta").values;
  std::vector<double> of_angles;
  for (int b = 0; b < batch; ++b)
    for (int k = 0; k < state.angles; ++k) {
      const auto i = static_cast<std::size_t>(b * state.angles + k);
      const double turns_apart = static_cast<double>(state.angle(b, k)[0]) + static_cast<double>(state.angle(b, k)[1]) -
                                 end_theta[i] / (2 * math::pi);
      CHECK(std::abs(turns_apart - std::rint(turns_apart)) < (sizeof(T) == 4 ? 1e-6 : 1e-14));
      CHECK(of_state.angle(b, k)[0] == of_state.angle(b, k)[1]);
      of_angles.push_back(static_cast<double>(of_state.angle(b, k)[0]) / (2 * math::pi));
    }
  CHECK(support::relative_error(of_angles, of_start) < bound);
  CHECK((y.padding_is_zero() && o.padding_is_zero() && dxbc.padding_is_zero() && draw.padding_is_zero()));
  CHECK((log_decay.padding_is_zero() && mu.padding_is_zero() && ddelta.padding_is_zero() &&
         dlog_decay.padding_is_zero()));
}

}  // namespace

TEMPLATE_TEST_CASE("Mamba-3's recurrence reproduces the reference operator and its gradients", "", float, double) {
  check_reference<TestType, network::RotarySsdSizes<TestType, 4, 16, 2, 16, 0, 4>>("mamba3_scan", 2, 21);
  check_reference<TestType, network::RotarySsdSizes<TestType, 2, 8, 1, 16, 3, 4>>("mamba3_scan_mimo", 2, 13);
}

namespace {

// The angles of one head after so many tokens of random turns, all in one call or `at_once` at a time.
template <class T>
std::vector<math::Turns<T>> angles_after(int tokens, int at_once) {
  using Sizes = network::RotarySsdSizes<T, 1, 4, 1, 64, 0, 16>;
  Buffer scratch, history(Sizes::history_size * sizeof(T));
  eigen::Core core(scratch);
  Tensor<T, 1> delta(at_once, 1), log_decay(at_once, 2), mu(at_once, 3);
  Tensor<T, 18> raw(at_once, 4);
  Buffer memory(static_cast<std::size_t>(at_once) * padded(16) * sizeof(T));
  const Rows<math::Turns<T>, 16> turns{memory.as<math::Turns<T>>(), at_once};
  const int first[] = {0, at_once};
  for (int begin = 0; begin < tokens; begin += at_once) {
    for (int t = 0; t < at_once; ++t) {
      delta.at(t, 0) = static_cast<T>(0.7F);
      for (int i = 0; i < 16; ++i)
        raw.at(t, 2 + i) = static_cast<T>(
            static_cast<float>(support::random_number(9, static_cast<std::uint64_t>((begin + t) * 16 + i))));
    }
    trapezoid<false>(core, Sizes{}, log_decay.rows(), mu.rows(), turns, history.as<T>(), delta.in(), raw.in(),
                     Sequences{first, 1});
  }
  return {turns[at_once - 1], turns[at_once - 1] + 16};
}

}  // namespace

TEST_CASE("angles are the same bits however a sequence is cut, and stay right over 65,536 tokens") {
  constexpr int tokens = 65'536;
  const auto whole = angles_after<float>(tokens, tokens), by_ones = angles_after<float>(tokens, 1),
             in_pieces = angles_after<float>(tokens, 4096);
  CHECK(whole == by_ones);
  CHECK(whole == in_pieces);
  CHECK(angles_after<double>(tokens, 512) == angles_after<double>(tokens, tokens));
  const auto exact = angles_after<double>(tokens, tokens), before = angles_after<double>(tokens - 64, 64);
  const auto before_in_float = angles_after<float>(tokens - 64, 64);
  double largest = 0, largest_of_64 = 0;
  const auto apart = [](double x) { return std::abs(x - 2 * math::pi * std::rint(x / (2 * math::pi))); };
  for (std::size_t i = 0; i < 16; ++i) {
    const double off = math::radians_of<double>(exact[i]) - static_cast<double>(math::radians_of<float>(whole[i])),
                 earlier = math::radians_of<double>(before[i]) -
                           static_cast<double>(math::radians_of<float>(before_in_float[i]));
    largest = std::max(largest, apart(off)), largest_of_64 = std::max(largest_of_64, apart(off - earlier));
  }
  // A sum in float is off by .47 and .044 (specification, section 14.10).
  CHECK(largest < 1.5e-4);
  CHECK(largest_of_64 < 5e-6);
}
