// What a warp does for a product: 32 x 32 results, over 8 elements of the sum at a time, from operands in shared
// memory. On the tensor cores, or with FMA in double and for short sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>

namespace mamba::cuda::detail {

// How an operand lies in memory: along the rows of the result (or its columns), or along the sum.
enum class Along { result, sum };

// A stretch of an operand in shared memory as it lies in global memory: Indices rows (or columns) of the result by
// `depth` elements of the sum. Lines are as far apart as keeps the accesses below in banks of their own.
template <class S, Along along, int Indices, int Depth = 32>
struct Panel {
  using Stored = S;
  static constexpr int depth = Depth, lines = along == Along::sum ? Indices : depth,
                       length = along == Along::sum ? depth : Indices;
  static constexpr int stride = length + (along == Along::sum && sizeof(S) < 4 ? 16 / sizeof(S) : 4),
                       elements = lines * stride;
  static constexpr std::size_t bytes = elements * sizeof(S);

  S* data;

  __device__ const S* at(int index, int k) const {
    return data + (along == Along::sum ? index * stride + k : k * stride + index);
  }
};

inline constexpr int part_side = 32, part_units = part_side / 16;

// What a warp adds up: (32, 32) results in units of (16, 16). Of a unit a lane holds four columns of two rows:
// neighbours, so that they are stored at once.
template <class T>
struct Sums {
  Quad<T> at[part_units][part_units][2];

  __device__ static int row() { return lane() / 4 * 2; }     // the first of the lane's two in a unit
  __device__ static int column() { return lane() % 4 * 4; }  // the first of four

  // f(row, column, quad) for each of the lane's fours, counted from its first.
  template <class F>
  __device__ void each(F&& f) {
#pragma unroll
    for (int m = 0; m < part_units; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int n = 0; n < part_units; ++n) f(16 * m + i, 16 * n, at[m][n][i]);
  }
};

// A lane's share of 16 rows (or columns) by 8 elements of the sum, for the tensor cores: indices 2 (lane / 4) + i,
// elements 2 (lane % 4) + j. The tensor cores call these lane / 4 + 8 i (in B: column lane / 4 of multiplication i) and
// lane % 4 + 4 j; as both operands and the result are read alike, this changes the order of the sum and nothing else.
struct Fragment {
  std::uint32_t high[2][2], low[2][2];
};

// x = high + low, each with tf32's 11 bits: all of float's 24, but in a quarter of the numbers the last. high is
// rounded, as cvt.rna.tf32 does with more instructions to keep infinities, which become NaN here; the tensor cores cut
// low off.
__device__ inline void split(float x, std::uint32_t& high, std::uint32_t& low) {
  high = (__float_as_uint(x) + 0x1000U) & 0xffffe000U;
  low = __float_as_uint(x - __uint_as_float(high));
}

template <Along along, int Indices>
__device__ Fragment fragment(Panel<float, along, Indices> panel, int index, int k) {
  const int first_index = index + lane() / 4 * 2, first_k = k + lane() % 4 * 2;
  Fragment f;
#pragma unroll
  for (int line = 0; line < 2; ++line) {
    const auto pair = *reinterpret_cast<const float2*>(along == Along::sum ? panel.at(first_index + line, first_k)
                                                                           : panel.at(first_index, first_k + line));
    const auto put = [&](int i, int j, float x) { split(x, f.high[i][j], f.low[i][j]); };
    along == Along::sum ? put(line, 0, pair.x) : put(0, line, pair.x);
    along == Along::sum ? put(line, 1, pair.y) : put(1, line, pair.y);
  }
  return f;
}

// The same of whole numbers of 8 bits, which are as they are among tf32's: low parts there are none.
struct WholeFragment {
  std::uint32_t high[2][2];
};

template <int Indices>
__device__ WholeFragment fragment(Panel<std::int8_t, Along::sum, Indices> panel, int index, int k) {
  const int first_index = index + lane() / 4 * 2, first_k = k + lane() % 4 * 2;
  WholeFragment f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto quad = quad_of_bytes(*reinterpret_cast<const std::uint16_t*>(panel.at(first_index + i, first_k)));
#pragma unroll
    for (int j = 0; j < 2; ++j) f.high[i][j] = __float_as_uint(quad.at[j]);
  }
  return f;
}

// The same of numbers of 16 bits, 16 of the sum's elements by indices 2 (lane / 4) + i: two elements in a word, a
// lane's are 4 (lane % 4) .. + 3.
struct BFloat16Fragment {
  std::uint32_t at[2][2];
};

template <Along along, int Indices, int Depth>
__device__ BFloat16Fragment bfloat16_fragment(Panel<BFloat16, along, Indices, Depth> panel, int index, int k) {
  const int first_index = index + lane() / 4 * 2, first_k = k + lane() % 4 * 4;
  BFloat16Fragment f;
  if constexpr (along == Along::sum) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto words = *reinterpret_cast<const uint2*>(panel.at(first_index + i, first_k));
      f.at[i][0] = words.x, f.at[i][1] = words.y;
    }
  } else {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const auto a = *reinterpret_cast<const std::uint32_t*>(panel.at(first_index, first_k + 2 * j)),
                 b = *reinterpret_cast<const std::uint32_t*>(panel.at(first_index, first_k + 2 * j + 1));
      f.at[0][j] = __byte_perm(a, b, 0x5410), f.at[1][j] = __byte_perm(a, b, 0x7632);
    }
  }
  return f;
}

// A lane's results of a unit (Sums) += a (16, 16) b (16, 16), summed by the tensor cores in float.
__device__ inline void multiply_add(Quad<float> (&unit)[2], const BFloat16Fragment& a, const BFloat16Fragment& b) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
    multiply_add_bfloat16(unit[0].at[half], unit[0].at[2 + half], unit[1].at[half], unit[1].at[2 + half], a.at[0][0],
                          a.at[1][0], a.at[0][1], a.at[1][1], b.at[half][0], b.at[half][1]);
}

// Which of the three multiplications comes first where all are made, and where only the high parts are multiplied.
inline constexpr int first_exact_term = 0, only_high_term = 2;
__host__ __device__ constexpr int first_term_of(Products products) {
  return products == Products::tf32 ? only_high_term : first_exact_term;
}

// sums += a b over elements k .. k + 8 of the sum, rows from `row` and columns from `column` on: the high parts'
// product and, where first_term says so, the two with one low part; low times low is beyond float's digits. The tensor
// cores cut off where they should round, which would add up with the depth: they add up 8 elements, and what these come
// to is added here.
template <class A, class B>
__device__ void multiply_add(Sums<float>& sums, A a, int row, B b, int column, int k, int first_term) {
  Fragment left[part_units], right[part_units];
#pragma unroll
  for (int i = 0; i < part_units; ++i)
    left[i] = fragment(a, row + 16 * i, k), right[i] = fragment(b, column + 16 * i, k);
  float parts[part_units][part_units][2][4] = {};
#pragma unroll
  for (int term = first_exact_term; term <= only_high_term; ++term) {
    // Small ones first; all results' turn before one's next, which waits for it.
    if (term < first_term) continue;
#pragma unroll
    for (int m = 0; m < part_units; ++m)
#pragma unroll
      for (int n = 0; n < part_units; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          multiply_add(parts[m][n][half], term == 0 ? left[m].low : left[m].high,
                       term == 1 ? right[n].low[half] : right[n].high[half]);
  }
#pragma unroll
  for (int m = 0; m < part_units; ++m)
#pragma unroll
    for (int n = 0; n < part_units; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums.at[m][n][i].at[c] += parts[m][n][c % 2][2 * i + c / 2];
}

// sums += a b over element k.
template <class T, class A, class B>
__device__ void multiply_add_one(Sums<T>& sums, A a, int row, B b, int column, int k) {
  T right[part_units][4];
#pragma unroll
  for (int n = 0; n < part_units; ++n)
#pragma unroll
    for (int c = 0; c < 4; ++c) right[n][c] = *b.at(column + 16 * n + Sums<T>::column() + c, k);
#pragma unroll
  for (int m = 0; m < part_units; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const T left = *a.at(row + 16 * m + Sums<T>::row() + i, k);
#pragma unroll
      for (int n = 0; n < part_units; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums.at[m][n][i].at[c] += left * right[n][c];
    }
}

// From this depth on the tensor cores are as exact as FMA, whose error grows with the root of the depth. Relative rms
// errors for normal operands, tensor cores and FMA, in 1e-7: depth 2: 1.10 and 0.30; 32: 1.00 and 1.04; 64: 1.09
// and 1.47; 128: 1.21 and 2.03; 256: 1.39 and 2.87. With positive operands 0.63 and 0.87 at 32, 1.00 and 2.45 at 256;
// where sums cancel to a thousandth, a thousand times the first. Left to add up 16 elements at once, the tensor cores
// would be at 1.40 at 32.
inline constexpr int tensor_core_depth = 32;

// sums += a b over the panels' first `depth` elements of a sum of `of_depth`, of which every `groups`-th is this
// warp's.
template <class T, class A, class B>
__device__ void multiply_add(Sums<T>& sums, A a, int row, B b, int column, int depth, int group, int groups,
                             int of_depth, int first_term) {
  if constexpr (sizeof(T) == sizeof(float))
    if (of_depth >= tensor_core_depth) {
#pragma unroll 1
      for (int k = 8 * group; k < depth; k += 8 * groups) multiply_add(sums, a, row, b, column, k, first_term);
      return;
    }
#pragma unroll 1
  for (int k = group; k < depth; k += groups) multiply_add_one(sums, a, row, b, column, k);
}

}  // namespace mamba::cuda::detail
