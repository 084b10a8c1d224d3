#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <set>

#include <mamba/core/random.hpp>

using namespace mamba;

namespace {
bool same(Random4 r, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  return r.word[0] == a && r.word[1] == b && r.word[2] == c && r.word[3] == d;
}

// At how many of the first 1,000 indices two permutations differ. No lambda: those are constexpr unasked, and clang 14
// spends 15 seconds on evaluating this one.
int differing(const Permutation& a, const Permutation& b) {
  int count = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) count += a(i) != b(i);
  return count;
}

}  // namespace

TEST_CASE("Philox4x32-10 gives its published vectors") {
  // Random123, kat_vectors.
  CHECK(same(philox4x32({{0, 0, 0, 0}}, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  CHECK(same(philox4x32({{~0U, ~0U, ~0U, ~0U}}, ~0U, ~0U), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  CHECK(same(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0), 0xd16cfe09,
             0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST_CASE("a permutation visits every index once and depends on its key") {
  for (const std::uint64_t size : {1ULL, 2ULL, 3ULL, 5ULL, 1000ULL, 4096ULL, 4097ULL}) {
    const Permutation p(size, 7, 0);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) seen.insert(p(i));
    CHECK(seen.size() == size);
    CHECK(*seen.rbegin() == size - 1);
  }
  CHECK(differing({1000, 7, 0}, {1000, 7, 1}) > 950);
  CHECK(differing({1000, 7, 0}, {1000, 8, 0}) > 950);
  CHECK(differing({1000, 7, 0}, {1000, 7, 0}) == 0);
}

TEST_CASE("uniform and normal deviates have the moments of their laws") {
  constexpr int count = 200'000;
  double sum = 0, squares = 0, fourth = 0, uniform = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto r = random_words(3, RandomPurpose::initialisation, 0, i);
    const double x = random_normal(r), u = random_uniform(r.word[0], r.word[1]);
    sum += x, squares += x * x, fourth += x * x * x * x, uniform += u;
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
  }
  // Five standard errors.
  CHECK(std::abs(sum / count) < 5 / std::sqrt(count));
  CHECK(std::abs(squares / count - 1) < 5 * std::sqrt(2.0 / count));
  CHECK(std::abs(fourth / count - 3) < 5 * std::sqrt(96.0 / count));
  CHECK(std::abs(uniform / count - 0.5) < 5 / std::sqrt(12.0 * count));
}

TEST_CASE("a block of random words is as many single draws") {
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{0xFFFFFFF0U}, std::uint64_t{1} << 40}) {
    const RandomBlock<64> block(0x123456789ABCDEFU, RandomPurpose::initialisation, 77, first);
    for (int i = 0; i < 64; ++i) {
      const Random4 single =
          random_words(0x123456789ABCDEFU, RandomPurpose::initialisation, 77, first + static_cast<std::uint64_t>(i));
      for (int k = 0; k < 4; ++k) CHECK(block[i].word[k] == single.word[k]);
    }
  }
}
