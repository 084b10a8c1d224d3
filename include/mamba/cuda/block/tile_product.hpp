// Products of matrices in shared memory, of which a warp's results are operands of the next product where they are, in
// its registers: units of 16 x 16 results, over 16 elements of a sum at a time. Indices and elements are where the
// tensor cores have them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/tensor_core.hpp>

namespace mamba::cuda::detail {

inline constexpr int unit_side = 16;

// A lane's share of a unit of results: rows lane / 4 + 8 i, columns 8 h + 2 (lane % 4) + j.
struct Unit {
  float at[2][2][2] = {};  // h, i, j

  static __device__ int first_row() { return lane() / 4; }
  static __device__ int first_column() { return lane() % 4 * 2; }

  // f(row, the first of two columns, the two), counted from the unit's first.
  template <class F>
  __device__ void each(F&& f) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) f(first_row() + 8 * i, 8 * h + first_column(), at[h][i]);
  }
  // Row i's numbers times a factor.
  __device__ void scale_row(int i, float factor) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 2; ++j) at[h][i][j] *= factor;
  }
};

// A matrix in shared memory, on a multiple of 128 bytes, as its lines are. What lies in a line is mixed so that a warp
// that reads operands from it, along lines or across them, meets every bank once: stretches of 16 bytes where numbers
// have 16 bits, which eight lanes fetch for all (ldmatrix), else of 32.
template <class S, int Lines, int Columns>
struct SwizzledTile {
  using Stored = S;
  static constexpr int in_128_bytes = 128 / sizeof(S), stretch = 8;
  static constexpr int lines = Lines, columns = Columns,
                       stride = (Columns + in_128_bytes - 1) / in_128_bytes * in_128_bytes, elements = Lines * stride;

  S* data;

  // A line's stretches are at their numbers with this one's, in base 2, digit by digit.
  static __device__ int swizzle(int line) { return sizeof(S) == 2 ? line & 7 : (line & 3) ^ (line >> 2 & 1); }
  // Numbers stay neighbours within stretches.
  __device__ S* at(int line, int column) const { return data + line * stride + (column ^ swizzle(line) * stretch); }
};

// Which operand of a product: its rows are the result's rows, or its columns. And how its indices and the elements of
// the sum lie: indices are lines, or elements are.
enum class Side { left, right };
enum class Way { along_lines, across_lines };

// A lane's share of an operand: indices lane / 4 + 8 i, elements 8 k + 2 (lane % 4) + j. A unit is one with its rows as
// indices. Numbers are split, or rounded, to what the tensor cores take.
template <class S, Side side>
struct Operand;

template <Side side>
struct Operand<float, side> {
  std::uint32_t high[2][2][2], low[2][2][2];  // k, i, j

  __device__ void set(int i, int k, float first, float second) {
    split(first, high[k][i][0], low[k][i][0]), split(second, high[k][i][1], low[k][i][1]);
  }
};
template <Side side>
struct Operand<BFloat16, side> {
  std::uint32_t words[4];  // in the order of the tensor cores' registers

  static __device__ constexpr int place(int i, int k) { return side == Side::left ? i + 2 * k : 2 * i + k; }
  __device__ void set(int i, int k, float first, float second) { words[place(i, k)] = bfloat16_pair(first, second); }
};

template <class S, Side side>
__device__ Operand<S, side> operand_of(const Unit& unit) {
  Operand<S, side> operand;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int k = 0; k < 2; ++k) operand.set(i, k, unit.at[k][i][0], unit.at[k][i][1]);
  return operand;
}

// Reads operands from a tile. What differs from lane to lane is computed once; from unit to unit addresses are a
// constant apart. S: what the product is of.
template <class S, Side side, Way way, class Tile>
class TileReader {
 public:
  // first_column: from where on units' columns are counted; with another than 0 there is one column of units.
  explicit __device__ TileReader(Tile tile, int first_column = 0) {
    // The lane's own line and stretch: of its numbers, or where eight lanes fetch for all, of what it fetches.
    const int line = fetches ? 8 * (way == Way::along_lines ? fetched_index() : fetched_element()) + lane() % 8
                     : way == Way::along_lines ? Unit::first_row()
                                               : Unit::first_column(),
              number = first_column / Tile::stretch +
                       (fetches ? (way == Way::along_lines ? fetched_element() : fetched_index()) : 0),
              within = fetches                   ? 0
                       : way == Way::along_lines ? Unit::first_column()
                                                 : Unit::first_row();
#pragma unroll
    for (int q = 0; q < patterns; ++q)
      starts_[q] = tile.data + line * Tile::stride +
                   (number ^ q * (fetches ? 2 : 1) ^ Tile::swizzle(line)) * Tile::stretch + within;
  }

  // Of the unit that begins at (line, column).
  __device__ Operand<S, side> read(int line, int column) const {
    Operand<S, side> operand;
    if constexpr (fetches) {
      load_matrices<way == Way::across_lines>(operand.words, start(line, column / unit_side));
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const Two<float> x = pair(line, column, i, k);
          operand.set(i, k, x.at[0], x.at[1]);
        }
    }
    return operand;
  }
  // The same, elements of the sum times factors: of the lane's four, 8 k + 2 (lane % 4) + j.
  __device__ Operand<S, side> read(int line, int column, const float (&factors)[2][2]) const {
    Operand<S, side> operand;
    if constexpr (fetches) operand = read(line, column);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        Two<float> x;
        if constexpr (fetches) {
          const std::uint32_t word = operand.words[operand.place(i, k)];
          x = {{lower_half(word), upper_half(word)}};
        } else {
          x = pair(line, column, i, k);
        }
        operand.set(i, k, factors[k][0] * x.at[0], factors[k][1] * x.at[1]);
      }
    return operand;
  }

 private:
  using Stored = typename Tile::Stored;
  static constexpr bool fetches = sizeof(Stored) == 2;
  static constexpr int patterns = 4;  // of where units are in 128 bytes

  // Which quarter of a unit the lane fetches: the one that the register of its number wants.
  static __device__ int fetched_index() { return side == Side::left ? lane() / 8 % 2 : lane() / 16; }
  static __device__ int fetched_element() { return side == Side::left ? lane() / 16 : lane() / 8 % 2; }

  // The lane's own, so many units (where it fetches) or stretches from the first on.
  __device__ const Stored* start(int line, int number, int changes = 0) const {
    return starts_[number % patterns ^ changes] + line * Tile::stride + number / patterns * Tile::in_128_bytes;
  }
  // Two elements of the sum.
  __device__ Two<float> pair(int line, int column, int i, int k) const {
    const int first = column / Tile::stretch;
    if constexpr (way == Way::along_lines) {
      return load_pair(start(line + 8 * i, first + k));
    } else {
      // The line behind an even one has its stretches by turns of one more.
      return {static_cast<float>(*start(line + 8 * k, first + i)),
              static_cast<float>(*start(line + 8 * k + 1, first + i, 1))};
    }
  }

  const Stored* starts_[patterns];
};

// units (M, N) += a b, over 16 elements of the sum. Of float by up to three multiplications (tensor_core.hpp, which
// says why 8 elements are added up apart), all units' turn before one's next: few units take both halves of the sum at
// once.
template <int M, int N>
__device__ void multiply_add(Unit (&units)[M][N], const Operand<float, Side::left> (&a)[M],
                             const Operand<float, Side::right> (&b)[N], int first_term) {
  constexpr int at_once = M * N <= 2 ? 2 : 1;
#pragma unroll
  for (int first = 0; first < 2; first += at_once) {
    float parts[at_once][M][N][2][4] = {};
    const auto each_part = [&](auto&& f) {
#pragma unroll
      for (int k = 0; k < at_once; ++k)
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int h = 0; h < 2; ++h) f(k, m, n, h);
    };
    if (first_term == first_exact_term) {
      each_part([&](int k, int m, int n, int h) {
        multiply_add(parts[k][m][n][h], a[m].low[first + k], b[n].high[first + k][h]);
      });
      each_part([&](int k, int m, int n, int h) {
        multiply_add(parts[k][m][n][h], a[m].high[first + k], b[n].low[first + k][h]);
      });
    }
    each_part([&](int k, int m, int n, int h) {
      multiply_add(parts[k][m][n][h], a[m].high[first + k], b[n].high[first + k][h]);
    });
    each_part([&](int k, int m, int n, int h) {
#pragma unroll
      for (int c = 0; c < 4; ++c) units[m][n].at[h][c / 2][c % 2] += parts[k][m][n][h][c];
    });
  }
}
template <int M, int N>
__device__ void multiply_add(Unit (&units)[M][N], const Operand<BFloat16, Side::left> (&a)[M],
                             const Operand<BFloat16, Side::right> (&b)[N], int /*first_term*/) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        auto& d = units[m][n].at[h];
        multiply_add_bfloat16(d[0][0], d[0][1], d[1][0], d[1][1], a[m].words[0], a[m].words[1], a[m].words[2],
                              a[m].words[3], b[n].words[2 * h], b[n].words[2 * h + 1]);
      }
}
template <class S>
__device__ void multiply_add(Unit& unit, const Operand<S, Side::left>& a, const Operand<S, Side::right>& b,
                             int first_term) {
  Unit one[1][1] = {{unit}};
  const Operand<S, Side::left> left[1] = {a};
  const Operand<S, Side::right> right[1] = {b};
  multiply_add(one, left, right, first_term);
  unit = one[0][0];
}

}  // namespace mamba::cuda::detail
