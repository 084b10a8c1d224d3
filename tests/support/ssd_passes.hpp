// Mamba-2's recurrence on the GPU against the CPU's in double, primitive against primitive.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include <mamba/eigen/backend.hpp>

#include "support/device_primitives.hpp"

namespace support::ssd {

using namespace mamba;

template <class T, int H, int P, int G, int N>
struct Sizes {
  static constexpr int E = H * P, C = E + 2 * G * N;
  static constexpr std::size_t state_size = static_cast<std::size_t>(H) * N * padded(P);
};

// What a pass is given, on the device. Stored: what x, b, c and y are stored in.
template <class Stored, int H_, int P_, int G_, int N_>
struct Arguments {
  using T = ComputeOf<Stored>;
  static constexpr int H = H_, P = P_, G = G_, N = N_;
  using S = Sizes<T, H, P, G, N>;
  Rows<Stored, S::E> y;
  Rows<const T, S::E> dy;
  Rows<T, H> ddelta;
  Rows<const T, H> delta;
  Rows<T, S::C> dxbc;
  Rows<const Stored, S::C> xbc;
  T *boundaries, *states;
  Sequences sequences;
  Weight<T, 1, H> a, d;
  WeightGradient<T, 1, H> da, dd;
  std::byte* global;
  const std::uint8_t* mask;
};

struct What {
  bool with_states = false, blocked = false, backward = true;
  bool rounded = false;  // x, b and c are numbers of 16 bits
};

// One forward and, if wanted, one backward pass; everything that comes out. Scope::run(arguments, backward) runs one of
// them on the GPU, and Scope::Memory says how many states it keeps.
template <class Scope, class Stored, int H, int P, int G, int N>
struct Pass {
  using T = ComputeOf<Stored>;
  using S = Sizes<T, H, P, G, N>;
  using Recurrence = network::SsdSizes<T, H, P, G, N>;
  Tensor<Stored, S::E> y;
  Tensor<T, S::E> dy;
  Tensor<T, H> delta, ddelta;
  Tensor<Stored, S::C> xbc;
  Tensor<T, S::C> dxbc;
  Parameter2<T, 1, H> a, d, da, dd;
  std::vector<T> states;
  std::vector<int> first;
  std::vector<std::uint8_t> mask;
  What what;

  Pass(const std::vector<int>& lengths, What what)
      : Pass(std::accumulate(lengths.begin(), lengths.end(), 0), static_cast<int>(lengths.size()), what) {
    for (const int length : lengths) first.push_back(first.back() + length);
  }

  void on_cpu() {
    Buffer scratch;
    eigen::Core core(scratch);
    const Sequences sequences{first.data(), static_cast<int>(first.size()) - 1};
    Buffer boundaries(static_cast<std::size_t>(eigen::kept_states(Recurrence{}, sequences) + 1) * S::state_size *
                      sizeof(T));
    Buffer own(states.size() * sizeof(T));  // where rows start at multiples of whole vectors
    std::copy(states.begin(), states.end(), own.as<T>());
    eigen::ssd<G, N>(core, y.rows(), boundaries.as<T>(), what.with_states ? own.as<T>() : nullptr, delta.in(), xbc.in(),
                     sequences, a.weight(), d.weight(), BlockedRows{mask.data()});
    std::copy_n(own.as<T>(), states.size(), states.begin());
    if (what.backward)
      eigen::ssd_backward<G, N>(core, ddelta.rows(), dxbc.rows(), da.gradient(), dd.gradient(), dy.in(),
                                static_cast<const T*>(boundaries.as<T>()), delta.in(), xbc.in(), sequences, a.weight(),
                                d.weight());
  }

  void on_gpu() {
    const Sequences sequences{first.data(), static_cast<int>(first.size()) - 1};
    const auto kept = static_cast<std::size_t>(Scope::Memory::kept_states(Recurrence{}, sequences));
    cuda::DeviceBuffer boundaries((kept + 1) * S::state_size * sizeof(T)),
        global(cuda::BlockMemory::global_bytes(Recurrence{}, what.backward) + 16), firsts, masks, device_states,
        weights;
    firsts.upload(first.data(), first.size());
    masks.upload(mask.data(), mask.size());
    device_states.upload(states.data(), states.size());
    constexpr int row = padded(H);
    poison_padding(y), poison_padding(ddelta), poison_padding(dxbc);
    std::vector<T> vectors;
    const T* const parts[] = {a.weight().value, a.weight().derived, d.weight().value, da.gradient().value,
                              dd.gradient().value};
    for (const T* part : parts) vectors.insert(vectors.end(), part, part + row);
    weights.upload(vectors.data(), vectors.size());
    T* const at = weights.as<T>();
    {
      OnDevice y_there(y);
      OnDevice dy_there(dy);
      OnDevice delta_there(delta), ddelta_there(ddelta);
      OnDevice xbc_there(xbc);
      OnDevice dxbc_there(dxbc);
      const Arguments<Stored, H, P, G, N> arguments{y_there.rows(),
                                                    dy_there.in(),
                                                    ddelta_there.rows(),
                                                    delta_there.in(),
                                                    dxbc_there.rows(),
                                                    xbc_there.in(),
                                                    what.backward ? boundaries.as<T>() : nullptr,
                                                    what.with_states ? device_states.as<T>() : nullptr,
                                                    {firsts.as<int>(), sequences.count},
                                                    {at, at + row},
                                                    {at + 2 * row, at + 2 * row},
                                                    {at + 3 * row},
                                                    {at + 4 * row},
                                                    global.as<std::byte>(),
                                                    what.blocked ? masks.as<std::uint8_t>() : nullptr};
      Scope::run(arguments, false);
      if (what.backward) Scope::run(arguments, true);
    }
    device_states.download(states.data(), states.size());
    weights.download(vectors.data(), vectors.size());
    std::copy_n(vectors.data() + 3 * row, H, da.gradient().value);
    std::copy_n(vectors.data() + 4 * row, H, dd.gradient().value);
  }

 private:
  Pass(int rows, int sequences, What w)
      : y(rows, 1),
        dy(tensor<T, S::E>(rows, 2)),
        delta(tensor<T, H>(rows, 3, true)),
        ddelta(rows, 4),
        xbc(tensor<Stored, S::C>(rows, 5)),
        dxbc(rows, 6),
        a(values(7), Derived::rate),
        d(values(8), Derived::none),
        da(values(9), Derived::none),
        dd(values(10), Derived::none),
        first{0},
        what(w) {
    for (int s = 0; s < sequences; ++s)
      for (int n = 0; n < H * N; ++n)
        for (int p = 0; p < padded(P); ++p)
          states.push_back(p < P ? static_cast<T>(static_cast<float>(
                                       random_number(11, static_cast<std::uint64_t>((s * H * N + n) * P + p))))
                                 : T(0));
    for (int t = 0; t < rows && w.rounded; ++t)
      for (int c = 0; c < S::C; ++c)
        xbc.at(t, c) = static_cast<Stored>(static_cast<float>(BFloat16(static_cast<float>(xbc.at(t, c)))));
    for (int t = 0; t < rows; ++t) mask.push_back(w.blocked && t % 3 == 1);
  }
  static std::vector<T> values(std::uint64_t seed) {
    std::vector<T> all;
    for (int h = 0; h < H; ++h)
      all.push_back(static_cast<T>(static_cast<float>(random_number(seed, static_cast<std::uint64_t>(h)))));
    return all;
  }
};

template <class Scope, class Stored, int H, int P, int G, int N>
void check(const std::vector<int>& lengths, What what) {
  INFO(precision_name<Stored> << ", heads " << H << ", channels " << P << ", groups " << G << ", states " << N
                              << ", sequences " << lengths.size() << ", the first of " << lengths[0]
                              << (what.with_states ? ", states" : "") << (what.blocked ? ", blocked rows" : ""));
  Pass<Scope, double, H, P, G, N> expected(lengths, what);
  Pass<Scope, Stored, H, P, G, N> found(lengths, what);
  expected.on_cpu();
  found.on_gpu();
  const double bound = sizeof(Stored) == 8 ? 1e-13 : sizeof(Stored) == 4 ? 2e-6 : 1e-2;
  // floor: the size of what was summed, where one sum alone may come out small.
  const auto close = [&](const char* name, const auto& a, const auto& b, double floor = 0) {
    INFO(name);
    CHECK(relative_error(a.dense(), b.dense(), floor) < bound);
    CHECK(a.padding_is_zero());
  };
  close("y", found.y, expected.y);
  if (what.with_states) CHECK(relative_error(found.states, std::vector<double>(expected.states)) < bound);
  if (!what.backward) return;
  close("ddelta", found.ddelta, expected.ddelta);
  close("dxbc", found.dxbc, expected.dxbc);
  double of_steps = 0;
  for (const double x : expected.ddelta.dense()) of_steps += x * x;
  close("da", found.da, expected.da, std::sqrt(of_steps));
  close("dd", found.dd, expected.dd, std::sqrt(H * P * expected.y.in().rows / 9.0));
}

template <class Scope, int H, int P, int G, int N>
void check_all(const std::vector<int>& lengths) {
  const What all[] = {{},
                      {.with_states = true, .backward = false},
                      {.with_states = true, .blocked = true, .backward = false},
                      {.blocked = true, .backward = false}};
  for (const What what : all) {
    check<Scope, double, H, P, G, N>(lengths, what);
    check<Scope, float, H, P, G, N>(lengths, what);
  }
}

// Of numbers of 16 bits: operands are rounded, so that errors are of their size.
template <class Scope, int H, int P, int G, int N>
void check_16_bits(const std::vector<int>& lengths) {
  const What all[] = {{.rounded = true}, {.with_states = true, .blocked = true, .backward = false, .rounded = true}};
  for (const What what : all) check<Scope, BFloat16, H, P, G, N>(lengths, what);
}

inline const std::vector<int> mixed_lengths{5, 8, 1, 9, 16, 30, 3, 17, 8, 24, 7};

}  // namespace support::ssd
