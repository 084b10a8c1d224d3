// Brain floats: rounding and widening, for single numbers and for vectors of them.
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <mamba/core/storage.hpp>
#include <mamba/eigen/simd.hpp>

using namespace mamba;

namespace {

// The two brain floats around x, and which of them is nearer; ties go to the even one.
std::uint16_t nearest(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto below = static_cast<std::uint16_t>(bits >> 16);  // towards zero
  const auto above = static_cast<std::uint16_t>(below + 1);
  const auto value = [](std::uint16_t b) {  // the step beyond the largest counts as one more step
    if ((b & 0x7FFFU) == 0x7F80U) return std::copysign(std::ldexp(1.0, 128), b & 0x8000U ? -1.0 : 1.0);
    return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16));
  };
  const double to_below = std::abs(static_cast<double>(x) - value(below)),
               to_above = std::abs(static_cast<double>(x) - value(above));
  if (to_below != to_above) return to_below < to_above ? below : above;
  return below % 2 == 0 ? below : above;
}

std::vector<float> samples() {
  std::vector<float> all;
  // Every brain float, what lies in the middle between it and the next, and that with one unit more and less.
  for (std::uint32_t upper = 0; upper < 0x10000U; ++upper)
    for (const std::uint32_t lower : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU})
      all.push_back(std::bit_cast<float>(upper << 16 | lower));
  return all;
}

}  // namespace

TEST_CASE("a brain float is the nearest, ties to even, and comes back exactly") {
  for (const float x : samples()) {
    const BFloat16 brain = x;
    if (std::isnan(x)) {
      REQUIRE(std::isnan(static_cast<float>(brain)));
      REQUIRE(std::signbit(static_cast<float>(brain)) == std::signbit(x));
    } else if (std::isinf(x)) {
      REQUIRE(static_cast<float>(brain) == x);
    } else {
      REQUIRE(brain.bits == nearest(x));
    }
    if (!std::isnan(x)) REQUIRE(BFloat16(static_cast<float>(brain)).bits == brain.bits);
  }
}

TEST_CASE("vectors are stored and loaded as single numbers are") {
  const std::vector<float> all = samples();
  const auto check = [&]<class V>(V) {
    for (std::size_t i = 0; i + V::width <= all.size(); i += V::width) {
      BFloat16 stored[V::width];
      float back[V::width];
      V::load_unaligned(&all[i]).store(stored);
      Eigen::internal::pstoreu<float>(back, V::load(stored).value);
      for (std::size_t k = 0; k < V::width; ++k) {
        REQUIRE(stored[k].bits == BFloat16(all[i + k]).bits);
        REQUIRE(std::bit_cast<std::uint32_t>(back[k]) == static_cast<std::uint32_t>(stored[k].bits) << 16);
      }
    }
  };
  check(eigen::Vector<float>{});
  check(eigen::Vector<float, 8>{});
  check(eigen::Vector<float, 4>{});
}
