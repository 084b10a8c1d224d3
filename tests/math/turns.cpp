// Angles as whole numbers of parts of a turn, and Mamba-3's rates.
#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include <mamba/math/trapezoid.hpp>
#include <mamba/math/turns.hpp>

#include "support/reference.hpp"

using namespace mamba::math;

namespace {

// The part of a turn that lies between -1/2 and 1/2.
long double reduced(long double turns) { return turns - std::rint(turns); }
template <class T>
long double turns_of_angle(Turns<T> angle) {
  return static_cast<long double>(static_cast<typename TurnsOf<T>::Signed>(angle)) /
         static_cast<long double>(TurnsOf<T>::parts);
}
// Apart on the circle, in turns.
long double apart(long double a, long double b) { return std::fabs(reduced(a - b)); }

}  // namespace

TEMPLATE_TEST_CASE("turns: a number of turns is the nearest part of a turn", "", float, double) {
  using T = TestType;
  const long double half_part = 0.5L / static_cast<long double>(TurnsOf<T>::parts);
  for (int i = 0; i < 4000; ++i) {
    const auto size = std::pow(10.0, 8 * support::random_number(1, static_cast<std::uint64_t>(i)));
    const T x = static_cast<T>(size * support::random_number(2, static_cast<std::uint64_t>(i)));
    CHECK(apart(turns_of_angle<T>(turns_of(x)), static_cast<long double>(x)) <= half_part);
  }
  CHECK(turns_of(T(0)) == 0);
  CHECK(turns_of(T(3)) == 0);
  CHECK(turns_of(T(-0.25)) == static_cast<Turns<T>>(0 - (Turns<T>(1) << (TurnsOf<T>::bits - 2))));
  for (const T half : {T(0.5), T(-0.5), T(1.5), T(-7.5)})
    CHECK(turns_of(half) == Turns<T>(1) << (TurnsOf<T>::bits - 1));
  CHECK(turns_of(std::numeric_limits<T>::quiet_NaN()) == 0);
  CHECK(turns_of(std::numeric_limits<T>::infinity()) == 0);
}

TEMPLATE_TEST_CASE("turns: an angle as two numbers and back is the same", "", float, double) {
  using T = TestType;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    auto angle = static_cast<Turns<T>>(mamba::random_words(3, mamba::RandomPurpose::task, 1, i).word[0]);
    if constexpr (sizeof(T) == 8)
      angle = angle << 32 | mamba::random_words(3, mamba::RandomPurpose::task, 1, i).word[1];
    if (i % 4 == 0) angle >>= i % static_cast<std::uint64_t>(TurnsOf<T>::bits);
    if (i % 4 == 1) angle = static_cast<Turns<T>>(0 - i);
    if (i % 4 == 2) angle = static_cast<Turns<T>>((Turns<T>(1) << (TurnsOf<T>::bits - 1)) + i - 2000);
    T number, rest;
    split_turns(angle, number, rest);
    CHECK(std::abs(number) <= T(0.5));
    CHECK(std::abs(rest) <= std::numeric_limits<T>::epsilon());
    CHECK(joined_turns(number, rest) == angle);
    // Radians are as near as T tells them.
    CHECK(apart(turns_of_angle<T>(turns_of_radians(radians_of<T>(angle))), turns_of_angle<T>(angle)) <=
          std::numeric_limits<T>::epsilon());
  }
}

TEMPLATE_TEST_CASE("turns: sines and cosines", "", float, double) {
  using T = TestType;
  long double largest = 0;
  const auto check = [&](Turns<T> angle) {
    T sine, cosine;
    sine_cosine(angle, sine, cosine);
    const long double x = 2 * std::acos(-1.0L) * turns_of_angle<T>(angle);
    largest = std::max({largest, std::fabs(std::sin(x) - static_cast<long double>(sine)),
                        std::fabs(std::cos(x) - static_cast<long double>(cosine))});
  };
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    auto angle = static_cast<Turns<T>>(mamba::random_words(4, mamba::RandomPurpose::task, 1, i).word[0]);
    if constexpr (sizeof(T) == 8)
      angle = angle << 32 | mamba::random_words(4, mamba::RandomPurpose::task, 1, i).word[1];
    check(angle);
    // Around the eighths, where one quarter goes over into the next.
    check(static_cast<Turns<T>>((static_cast<Turns<T>>(i % 8) << (TurnsOf<T>::bits - 3)) + i / 8 - 12'500));
  }
  CAPTURE(static_cast<double>(largest / static_cast<long double>(std::numeric_limits<T>::epsilon())));
  CHECK(largest < (sizeof(T) == 4 ? 0.9L : 0.75L) * static_cast<long double>(std::numeric_limits<T>::epsilon()));
  T sine, cosine;
  sine_cosine<T>(0, sine, cosine);
  CHECK((sine == 0 && cosine == 1));
  sine_cosine(Turns<T>(1) << (TurnsOf<T>::bits - 2), sine, cosine);
  CHECK((sine == 1 && cosine == 0));
}

TEST_CASE("rates of the input and their derivatives") {
  for (double u = -30; u <= 30; u += 0.37) {
    const auto slope = [u](auto f) { return (f(u + 1e-6) - f(u - 1e-6)) / 2e-6; };
    CHECK(std::abs(rate_of_input_derivative<false>(u) - slope([](double x) { return rate_of_input<false>(x); })) <
          1e-8);
    if (std::abs(u - 20) > 1e-5)
      CHECK(std::abs(rate_of_input_derivative<true>(u) - slope([](double x) { return rate_of_input<true>(x); })) <
            1e-8);
  }
  CHECK(rate_of_input<false>(0.0) == 1);
  CHECK(rate_of_input_derivative<false>(0.0) == 1);
  CHECK(rate_of_input<false>(-1e30F) > 0);
  CHECK(rate_of_input_derivative<false>(-1e30F) == 0);
}
