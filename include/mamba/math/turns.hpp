// Angles as whole numbers of small parts of a turn (specification, section 14.10).
//
// An angle that grows over a whole sequence counts modulo a turn alone. As an integer modulo 2^32 or 2^64 it wraps by
// itself, and its sums are exact: one token at a time, chunk by chunk or all at once give the same bits, and the error
// does not grow with the angle.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <mamba/core/macros.hpp>

namespace mamba::math {

inline constexpr double pi = 3.141592653589793238;

// Of angles that are computed from T: parts of a turn.
template <class T>
using Turns = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
struct TurnsOf {
  using Unsigned = Turns<T>;
  using Signed = std::make_signed_t<Unsigned>;
  static constexpr int bits = 8 * sizeof(Unsigned);
  static constexpr T parts = sizeof(T) == 4 ? T(0x1p+32) : T(0x1p+64);  // of a turn
};

// The nearest such angle to x turns, whole turns left out; 0 of what is not finite, which an angle cannot tell.
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE Turns<T> turns_of(T x) {
  T rest = x - std::rint(x);
  // What is left fits the signed integer, also where x is a product that a compiler has not rounded in one of both.
  rest = rest >= T(0.5) ? rest - 1 : rest;
  rest = rest < T(-0.5) ? rest + 1 : rest;
  rest = rest == rest ? rest : T(0);
  return static_cast<Turns<T>>(static_cast<typename TurnsOf<T>::Signed>(std::rint(rest * TurnsOf<T>::parts)));
}

// In radians, -pi .. pi.
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE T radians_of(Turns<T> angle) {
  return static_cast<T>(static_cast<typename TurnsOf<T>::Signed>(angle)) * static_cast<T>(2 * pi / TurnsOf<T>::parts);
}
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE Turns<T> turns_of_radians(T angle) {
  return turns_of(angle * static_cast<T>(0.5 / pi));
}

// An angle in turns, -1/2 .. 1/2, as the nearest number and what it lacks, for memory that holds numbers: their sum is
// the angle exactly.
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE void split_turns(Turns<T> angle, T& number, T& rest) {
  using Signed = typename TurnsOf<T>::Signed;
  number = static_cast<T>(static_cast<Signed>(angle)) / TurnsOf<T>::parts;
  rest = static_cast<T>(static_cast<Signed>(static_cast<Turns<T>>(angle - turns_of(number)))) / TurnsOf<T>::parts;
}
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE Turns<T> joined_turns(T number, T rest) {
  return static_cast<Turns<T>>(turns_of(number) + turns_of(rest));
}

namespace detail {

// sin x and cos x for |x| <= pi / 4.
MAMBA_HOST_DEVICE MAMBA_INLINE void small_sine_cosine(double x, double& sine, double& cosine) {
  sine = std::sin(x), cosine = std::cos(x);
}
// Polynomials with the least largest error; with what the angle loses as a number, results are off by 1.1e-7 at most
// (tests/math/turns.cpp).
MAMBA_HOST_DEVICE MAMBA_INLINE void small_sine_cosine(float x, float& sine, float& cosine) {
  const float square = x * x;
  sine = x + x * square * (-1.6666654611e-1F + square * (8.3321608736e-3F - square * 1.9515295891e-4F));
  cosine = 1 - (square * 0.5F -
                square * square *
                    (4.166664568298827e-2F + square * (-1.388731625493765e-3F + square * 2.443315711809948e-5F)));
}

}  // namespace detail

// The angle's sine and cosine: the nearest quarter of a turn is taken away exactly.
template <class T>
MAMBA_HOST_DEVICE MAMBA_INLINE void sine_cosine(Turns<T> angle, T& sine, T& cosine) {
  using Of = TurnsOf<T>;
  using Unsigned = Turns<T>;
  const Unsigned quarter = static_cast<Unsigned>(angle + (Unsigned(1) << (Of::bits - 3))) >> (Of::bits - 2);
  const auto rest = static_cast<typename Of::Signed>(static_cast<Unsigned>(angle - (quarter << (Of::bits - 2))));
  T s, c;
  detail::small_sine_cosine(static_cast<T>(rest) * static_cast<T>(2 * pi / Of::parts), s, c);
  const T first = quarter & 1 ? c : s, second = quarter & 1 ? s : c;
  sine = quarter & 2 ? -first : first;
  cosine = (quarter + 1) & 2 ? -second : second;
}

}  // namespace mamba::math
