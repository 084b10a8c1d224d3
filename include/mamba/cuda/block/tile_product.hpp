// Products of matrices in shared memory, of which a warp's results are operands of the next product where they are, in
// its registers: units of 16 x 16 results, over 16 elements of a sum at a time.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/tensor_core.hpp>

namespace mamba::cuda::detail {

inline constexpr int unit_side = 16;

// A matrix in shared memory, on a multiple of 128 bytes, as its lines are. Their stretches of 32 bytes are mixed, so
// that a warp that reads operands from it, along lines or across them, meets every bank once.
template <class S, int Lines, int Columns>
struct SwizzledTile {
  using Stored = S;
  static constexpr int line_unit = 128 / sizeof(S), stride = (Columns + line_unit - 1) / line_unit * line_unit;
  static constexpr int lines = Lines, columns = Columns, elements = Lines * stride;

  S* data;

  // Numbers stay neighbours within stretches of 32 bytes.
  __device__ S* at(int line, int column) const { return at_unit(0, 0, line, column); }
  // From the unit on that begins at (line, column): what differs from lane to lane is the same for all units.
  __device__ S* at_unit(int line, int column, int own_line, int own_column) const {
    constexpr int stretch = 32 / sizeof(S);
    const int turn = (own_line >> 2 & 1) | ((own_line >> 3 ^ own_line >> 1) & 1) << 1,
              own = (own_column / stretch ^ turn) * stretch;
    return data + line * stride + (own_line * stride + own_column % stretch) + (column ^ own);
  }
};

// A lane's share of a unit of results: rows 2 (lane / 4) + i, columns 4 (lane % 4) .. + 3.
struct Unit {
  Quad<float> row[2] = {};

  static __device__ int first_row() { return lane() / 4 * 2; }
  static __device__ int first_column() { return lane() % 4 * 4; }

  // f(row, the first of four columns, quad), counted from the unit's first.
  template <class F>
  __device__ void each(F&& f) {
#pragma unroll
    for (int i = 0; i < 2; ++i) f(first_row() + i, first_column(), row[i]);
  }
};

// A lane's share of an operand: indices (rows or columns of the result) 2 (lane / 4) + i, elements of the sum 4 (lane %
// 4) .. + 3. A unit is one with its rows as indices. Numbers are split, or rounded, to what the tensor cores take.
template <class S>
struct Operand;

template <>
struct Operand<float> {
  Fragment half[2];  // elements 4 (lane % 4) + 2 h + j

  __device__ void set(int index, const Quad<float>& elements) {
#pragma unroll
    for (int k = 0; k < 4; ++k) split(elements.at[k], half[k / 2].high[index][k % 2], half[k / 2].low[index][k % 2]);
  }
};
template <>
struct Operand<BFloat16> {
  BFloat16Fragment words;

  __device__ void set(int index, const Quad<float>& elements) {
#pragma unroll
    for (int j = 0; j < 2; ++j) words.at[index][j] = bfloat16_pair(elements.at[2 * j], elements.at[2 * j + 1]);
  }
};

template <class S>
__device__ Operand<S> operand_of(const Unit& unit) {
  Operand<S> operand;
#pragma unroll
  for (int i = 0; i < 2; ++i) operand.set(i, unit.row[i]);
  return operand;
}

// Indices are lines from `line` on, elements of the sum columns from `column` on.
template <class S, class Tile>
__device__ Operand<S> along_lines(Tile tile, int line, int column) {
  Operand<S> operand;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto* const from = tile.at_unit(line, column, Unit::first_row() + i, Unit::first_column());
    if constexpr (std::is_same_v<S, BFloat16> && std::is_same_v<typename Tile::Stored, BFloat16>) {
      const uint2 words = *reinterpret_cast<const uint2*>(from);
      operand.words.at[i][0] = words.x, operand.words.at[i][1] = words.y;
    } else {
      operand.set(i, load4(from));
    }
  }
  return operand;
}

// Indices are columns, elements of the sum lines, each of which factors may multiply: those of the lane's four.
template <class S, class Tile>
__device__ Operand<S> across_lines(Tile tile, int line, int column, const Quad<float>* factors = nullptr) {
  using Stored = typename Tile::Stored;
  const auto pair_of = [&](int k) { return tile.at_unit(line, column, Unit::first_column() + k, Unit::first_row()); };
  Operand<S> operand;
  if constexpr (std::is_same_v<S, BFloat16> && std::is_same_v<Stored, BFloat16>) {
    if (!factors) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const auto a = *reinterpret_cast<const std::uint32_t*>(pair_of(2 * j)),
                   b = *reinterpret_cast<const std::uint32_t*>(pair_of(2 * j + 1));
        operand.words.at[0][j] = __byte_perm(a, b, 0x5410), operand.words.at[1][j] = __byte_perm(a, b, 0x7632);
      }
      return operand;
    }
  }
  Quad<float> elements[2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const Stored* const pair = pair_of(k);
    float x[2];
    if constexpr (std::is_same_v<Stored, BFloat16>) {
      const auto word = *reinterpret_cast<const std::uint32_t*>(pair);
      x[0] = __uint_as_float(word << 16), x[1] = __uint_as_float(word & 0xFFFF0000U);
    } else {
      const auto both = *reinterpret_cast<const float2*>(pair);
      x[0] = both.x, x[1] = both.y;
    }
    const float factor = factors ? factors->at[k] : 1.0F;
    elements[0].at[k] = factors ? factor * x[0] : x[0], elements[1].at[k] = factors ? factor * x[1] : x[1];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) operand.set(i, elements[i]);
  return operand;
}

// units (M, N) += a b, over 16 elements of the sum. Of float by up to three multiplications (tensor_core.hpp, which
// says why 8 elements are added up apart), all units' turn before one's next: few units take both halves of the sum at
// once.
template <int M, int N>
__device__ void multiply_add(Unit (&units)[M][N], const Operand<float> (&a)[M], const Operand<float> (&b)[N],
                             int first_term) {
  constexpr int at_once = M * N <= 2 ? 2 : 1;
#pragma unroll
  for (int first = 0; first < 2; first += at_once) {
    float parts[at_once][M][N][2][4] = {};
    const auto each_part = [&](auto&& f) {
#pragma unroll
      for (int h = 0; h < at_once; ++h)
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int side = 0; side < 2; ++side)
              f(parts[h][m][n][side], a[m].half[first + h], b[n].half[first + h], side);
    };
    if (first_term == first_exact_term) {
      each_part(
          [](auto& part, const Fragment& l, const Fragment& r, int side) { multiply_add(part, l.low, r.high[side]); });
      each_part(
          [](auto& part, const Fragment& l, const Fragment& r, int side) { multiply_add(part, l.high, r.low[side]); });
    }
    each_part(
        [](auto& part, const Fragment& l, const Fragment& r, int side) { multiply_add(part, l.high, r.high[side]); });
#pragma unroll
    for (int h = 0; h < at_once; ++h)
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int c = 0; c < 4; ++c) units[m][n].row[i].at[c] += parts[h][m][n][c % 2][2 * i + c / 2];
  }
}
template <int M, int N>
__device__ void multiply_add(Unit (&units)[M][N], const Operand<BFloat16> (&a)[M], const Operand<BFloat16> (&b)[N],
                             int /*first_term*/) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n) multiply_add(units[m][n].row, a[m].words, b[n].words);
}
template <class S>
__device__ void multiply_add(Unit& unit, const Operand<S>& a, const Operand<S>& b, int first_term) {
  Unit one[1][1] = {{unit}};
  const Operand<S> left[1] = {a}, right[1] = {b};
  multiply_add(one, left, right, first_term);
  unit = one[0][0];
}

}  // namespace mamba::cuda::detail
