// Random numbers as a function of (key, counter), so that serial, parallel and GPU code draw the same.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/macros.hpp>

namespace mamba {

struct Random4 {
  std::uint32_t word[4];
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Tested against its published
// vectors.
inline constexpr int philox_rounds = 10;
MAMBA_HOST_DEVICE constexpr Random4 philox_round(Random4 counter, int round, std::uint32_t key0, std::uint32_t key1) {
  const auto number = static_cast<std::uint32_t>(round);
  const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * counter.word[0];
  const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * counter.word[2];
  return {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.word[1] ^ (key0 + number * 0x9E3779B9U),
           static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ counter.word[3] ^ (key1 + number * 0xBB67AE85U),
           static_cast<std::uint32_t>(p0)}};
}
MAMBA_HOST_DEVICE constexpr Random4 philox4x32(Random4 counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < philox_rounds; ++round) counter = philox_round(counter, round, key0, key1);
  return counter;
}

// Who draws: streams of different purposes never share a counter.
enum class RandomPurpose : std::uint32_t { initialisation = 1, task = 2, shuffle = 3, sampling = 4 };

// The four words number `index` of stream (purpose, stream) under a seed.
MAMBA_HOST_DEVICE constexpr Random4 random_words(std::uint64_t seed, RandomPurpose purpose, std::uint32_t stream,
                                                 std::uint64_t index) {
  return philox4x32({{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), stream,
                      static_cast<std::uint32_t>(purpose)}},
                    static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
}

inline namespace MAMBA_INSTRUCTION_SET {

// The same for numbers index .. index + Count - 1, word by word: loops over them that a compiler turns into vectors.
template <int Count>
struct RandomBlock {
  std::uint32_t word[4][Count];

  RandomBlock(std::uint64_t seed, RandomPurpose purpose, std::uint32_t stream, std::uint64_t index) {
    for (int i = 0; i < Count; ++i) {
      const std::uint64_t number = index + static_cast<std::uint64_t>(i);
      word[0][i] = static_cast<std::uint32_t>(number), word[1][i] = static_cast<std::uint32_t>(number >> 32);
      word[2][i] = stream, word[3][i] = static_cast<std::uint32_t>(purpose);
    }
    const auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < philox_rounds; ++round)
      for (int i = 0; i < Count; ++i) {
        const Random4 next = philox_round((*this)[i], round, key0, key1);
        for (int k = 0; k < 4; ++k) word[k][i] = next.word[k];
      }
  }
  Random4 operator[](int i) const { return {{word[0][i], word[1][i], word[2][i], word[3][i]}}; }
};

}  // namespace MAMBA_INSTRUCTION_SET

// An integer in [0, bound); the shares of the values differ by at most bound / 2^32 relative.
MAMBA_HOST_DEVICE constexpr std::uint32_t random_below(std::uint32_t word, std::uint32_t bound) {
  return static_cast<std::uint32_t>((std::uint64_t{word} * bound) >> 32);
}

// A double in [0, 1) of 53 bits.
constexpr double random_uniform(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>(((std::uint64_t{high} << 32) | low) >> 11) * 0x1p-53;
}

// A standard normal deviate (Box and Muller's cosine branch).
inline double random_normal(const Random4& r) {
  const double radius = std::sqrt(-2 * std::log1p(-random_uniform(r.word[0], r.word[1])));
  return radius * std::cos(6.283185307179586 * random_uniform(r.word[2], r.word[3]));
}

// A keyed permutation of [0, size), computed index by index: a Feistel network over the next even number of bits whose
// round function is Philox, walked until it lands inside.
class Permutation {
 public:
  MAMBA_HOST_DEVICE constexpr Permutation(std::uint64_t size, std::uint64_t seed, std::uint32_t stream)
      : size_(size), seed_(seed), stream_(stream) {
    while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  }

  MAMBA_HOST_DEVICE constexpr std::uint64_t operator()(std::uint64_t index) const {
    do index = shuffle(index);
    while (index >= size_);
    return index;
  }

 private:
  static constexpr std::uint32_t rounds = 4;

  MAMBA_HOST_DEVICE constexpr std::uint64_t shuffle(std::uint64_t index) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = index >> half_bits_, right = index & mask;
    for (std::uint32_t round = 0; round < rounds; ++round) {
      const Random4 r = random_words(seed_, RandomPurpose::shuffle, stream_, (std::uint64_t{round} << 32) | right);
      const std::uint64_t next = left ^ (r.word[0] & mask);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }

  std::uint64_t size_, seed_;
  std::uint32_t stream_;
  int half_bits_ = 1;
};

}  // namespace mamba
