#include <algorithm>
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <utility>

#include <mamba/eigen/simd.hpp>

#include "support/reference.hpp"

using mamba::eigen::Simd;
using mamba::eigen::Vector;

namespace {

template <class V>
typename V::Scalar first_lane(V v) {
  typename V::Scalar lanes[V::width];
  Eigen::internal::pstoreu(lanes, v.value);
  return lanes[0];
}

}  // namespace

TEST_CASE("exp2_nonpositive stays within 2 units in the last place of float") {
  using V = Vector<float>;
  double worst = 0;
  const auto check = [&](float x) {
    const float result = first_lane(exp2_nonpositive(V::broadcast(x)));
    const double exact = std::exp2(static_cast<double>(x));
    const float rounded = static_cast<float>(exact);
    const double unit = static_cast<double>(std::nextafter(rounded, 2.0F) - rounded);
    worst = support::larger(worst, std::abs(static_cast<double>(result) - exact) / unit);
  };
  // Every 1,009th float from -0 to -126.
  for (std::uint32_t bits = std::bit_cast<std::uint32_t>(-0.0F); bits <= std::bit_cast<std::uint32_t>(-126.0F);
       bits += 1009)
    check(std::bit_cast<float>(bits));
  INFO("worst error in units in the last place: " << worst);
  CHECK(worst <= 2);
}

TEST_CASE("exp2_nonpositive at the ends of its range") {
  using F = Vector<float>;
  using D = Vector<double>;
  CHECK(first_lane(exp2_nonpositive(F::broadcast(0.0F))) == 1.0F);
  const float least = first_lane(exp2_nonpositive(F::broadcast(-1e30F)));
  CHECK((least >= 0 && least < 2e-38F));
  CHECK(first_lane(exp2_nonpositive(F::broadcast(-std::numeric_limits<float>::infinity()))) < 2e-38F);
  CHECK(std::isnan(first_lane(exp2_nonpositive(F::broadcast(std::numeric_limits<float>::quiet_NaN())))));
  CHECK(std::isnan(first_lane(exp2_nonpositive(D::broadcast(std::numeric_limits<double>::quiet_NaN())))));
  for (double x = 0; x > -1000; x -= 0.731)
    CHECK(std::abs(first_lane(exp2_nonpositive(D::broadcast(x))) / std::exp2(x) - 1) < 4e-16);
}

TEST_CASE("a vector is as narrow as its rows allow") {
  constexpr int widest = Eigen::internal::packet_traits<float>::size, narrowest = Vector<float, 1>::width;
  const auto check = [&]<int... columns>(std::integer_sequence<int, columns...>) {
    const auto one = [&](int count, int width) {
      INFO(count << " columns, vectors of " << width);
      CHECK((width >= count || width == widest));
      CHECK((width / 2 < count || width == narrowest));
    };
    (one(columns + 1, Vector<float, columns + 1>::width), ...);
  };
  check(std::make_integer_sequence<int, 16>{});
}
