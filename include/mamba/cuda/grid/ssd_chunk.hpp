// How Mamba-2's recurrence is cut over the grid (ssd.hpp): sequences into chunks, which products of matrices take as a
// whole; what these read, and how rows of a chunk decay to each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/tile_product.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// As many states as chunks of 16 rows have shared memory for.
template <class S>
inline constexpr int most_ssd_states = sizeof(S) == 2 ? 512 : 256;

// H heads of P channels, G groups of heads that share b and c; xbc's columns are x, b and c, stored as S.
template <class S, int H_, int P_, int G_, int N_>
struct SsdShape {
  using Stored = S;
  static constexpr int H = H_, P = P_, G = G_, N = N_, E = H * P, C = E + 2 * G * N, heads_of_group = H / G;
  static_assert(N <= most_ssd_states<S>, "mamba: over the grid Mamba-2 in 16 bits takes a d_state of at most 512");
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(N) * padded(P), state_size = H * head_state;

  // A chunk's rows: as many as leave its b, or its c, 16 KiB of shared memory; in float, where a product costs more, a
  // half of what they are in 16 bits. Its longest sums within itself are of so many elements.
  static constexpr int rows = [] {
    int most = sizeof(S) == 2 ? 64 : 32;
    while (most > unit_side && most * padded(N) * static_cast<int>(sizeof(S)) > 16384) most /= 2;
    return most;
  }();
  static constexpr int row_units = rows / unit_side, state_units = padded(N) / unit_side;
  // Channels of a head that a block takes, and how many blocks that are.
  static constexpr int width = (std::min)(64, padded(P)), widths = (P + width - 1) / width;
  // How many numbers of xbc, and of y's gradient, are copied at once.
  static constexpr int vector = P % 8 == 0 && N % 8 == 0 && sizeof(S) == 2 ? 8
                                : P % 4 == 0 && N % 4 == 0                 ? 4
                                                                           : 1,
                       gradient_vector = P % 4 == 0 ? 4 : 1;

  static __device__ int x_column(int head) { return head * P; }
  static __device__ int b_column(int group) { return E + group * N; }
  static __device__ int c_column(int group) { return E + (G + group) * N; }
};

// A stretch of a sequence: a chunk, a piece of several, or all of it. Every sequence has as many slots as it has
// stretches at least, so that a stretch's slot follows from where its sequence begins.
struct SsdStretch {
  int sequence, number, first, count;  // number: in the sequence; first: its first row; count: 0 where there is none
  bool is_last;
};
inline constexpr int whole_sequences = 1 << 30;  // rows of a stretch
inline int ssd_slots(int rows, int sequences, int rows_of_stretch) { return rows / rows_of_stretch + sequences; }
__device__ inline int ssd_slot(int begin, int sequence, int number, int rows_of_stretch) {
  return begin / rows_of_stretch + sequence + number;
}
template <class AnySequences>
__device__ SsdStretch ssd_stretch_of(const AnySequences& sequences, int slot, int rows_of_stretch) {
  int low = 0, high = sequences.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (ssd_slot(sequences.begin(middle), middle, 0, rows_of_stretch) <= slot) low = middle;
    else high = middle - 1;
  }
  const int begin = sequences.begin(low), end = sequences.end(low),
            number = slot - ssd_slot(begin, low, 0, rows_of_stretch), first = begin + number * rows_of_stretch;
  return {low, number, first, max(0, min(rows_of_stretch, end - first)), end - first <= rows_of_stretch};
}

// What Mamba-2's recurrence reads.
template <class Shape>
struct SsdInputs {
  Rows<const float, Shape::H> delta;  // step sizes, or where a bias is given what becomes them with it
  Weight<float, 1, Shape::H> bias;
  Rows<const typename Shape::Stored, Shape::C> xbc;
  Weight<float, 1, Shape::H> a, d;
  int first_term;  // of products of float (tensor_core.hpp)

  __device__ float skip(int head) const { return d.value[head]; }
  // A step as it is stored, which may be asked for long before it is of use; and one of no size.
  __device__ float stored_step(int row, int head) const { return delta.address(row)[head]; }
  __device__ float no_step() const { return bias.value ? -INFINITY : 0.0F; }

  // What a head's decays follow from, beside stored steps.
  struct Head {
    float rate, bias;
    bool has_bias;

    __device__ float step_size(float stored) const { return has_bias ? math::softplus(stored + bias) : stored; }
  };
  __device__ Head head(int head) const {
    return {a.derived[head], bias.value ? bias.value[head] : 0.0F, bias.value != nullptr};
  }
};

// What sums that cancel are of: numbers of 16 bits ask for no more than float.
template <class S>
using SsdSum = std::conditional_t<std::is_same_v<S, float>, double, float>;

// How the rows of a head's chunk, taken one way or the other, decay to each other: the sums of their decays' logarithms
// (to 2), of which a decay is the power of a difference. Forward, a row's own decay lies before it; backward, where
// what is carried is the state's gradient, behind.
template <class S, int rows>
struct SsdExponents {
  using Sum = SsdSum<S>;
  static constexpr int of_lane = (rows + 31) / 32;  // a lane's rows, one behind the other

  Sum sum[rows];
  float from_begin[rows];  // the decay of what comes into the chunk, to row r
  float to_end[rows];      // of what row r gives, to the chunk's end
  float of_chunk;

  // By a warp, given its lanes' rows' logarithms.
  template <bool backward>
  __device__ void set(const Sum (&exponents)[of_lane]) {
    Sum up_to[of_lane + 1];
    up_to[0] = 0;
#pragma unroll
    for (int i = 0; i < of_lane; ++i) up_to[i + 1] = up_to[i] + exponents[i];
    Sum before = up_to[of_lane];
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const Sum other = __shfl_up_sync(~0U, before, offset);
      if (lane() >= offset) before += other;
    }
    const Sum all = __shfl_sync(~0U, before, 31);
    before -= up_to[of_lane];
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const int r = of_lane * lane() + i;
      if (r >= rows) break;
      const Sum here = before + up_to[backward ? i : i + 1];
      sum[r] = here, from_begin[r] = power(here), to_end[r] = power(all - here);
    }
    if (lane() == 0) of_chunk = power(all);
  }

  // Of what row r gives, to a later row.
  __device__ float between(int r, int later) const { return power(sum[later] - sum[r]); }

 private:
  static __device__ float power(Sum exponent) { return math::exp2_nonpositive(static_cast<float>(exponent)); }
};

// The same by step sizes and a rate.
template <class S, int rows>
struct SsdDecays : SsdExponents<S, rows> {
  using typename SsdExponents<S, rows>::Sum;
  using SsdExponents<S, rows>::of_lane;

  float delta[rows];

  // A lane's steps, as they are stored: asked for early by the warp that will set the rest.
  struct Steps {
    float of[of_lane];
  };
  template <bool backward, class Inputs>
  static __device__ Steps load(const Inputs& in, int first, int count, int head) {
    Steps steps;
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const int r = of_lane * lane() + i;
      steps.of[i] = r < count ? in.stored_step(backward ? first + count - 1 - r : first + r, head) : in.no_step();
    }
    return steps;
  }
  template <bool backward, class Head>
  __device__ void set(const Steps& steps, const Head& head) {
    Sum exponents[of_lane];
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const float step = head.step_size(steps.of[i]);
      exponents[i] = static_cast<Sum>(step) * static_cast<Sum>(head.rate);
      if (const int r = of_lane * lane() + i; r < rows) delta[r] = step;
    }
    SsdExponents<S, rows>::template set<backward>(exponents);
  }
};

// Of a chunk's pairs of rows, the units on and below the diagonal, shared out among warps: those of this one.
template <int tiles, int warps>
class SsdPairUnits {
 public:
  static constexpr int all = tiles * (tiles + 1) / 2, own = (all + warps - 1) / warps;

  __device__ SsdPairUnits() {
#pragma unroll
    for (int u = 0; u < own; ++u) {
      row_[u] = 0, column_[u] = min(u * warps + warp(), all - 1);
      while (column_[u] > row_[u]) column_[u] -= ++row_[u];
    }
  }
  // A unit's first.
  __device__ int row(int u) const { return row_[u] * unit_side; }
  __device__ int column(int u) const { return column_[u] * unit_side; }
  // Of the last, not every warp has one.
  static __device__ bool exists(int u) { return u * warps + warp() < all; }

 private:
  int row_[own], column_[own];  // in units
};

// tile <- `lines` lines of so many numbers, from line_of(line) on, zeros elsewhere. Asynchronous, but for single
// numbers of 16 bits, which are none of copy_async's sizes.
template <int vector, int threads, class Tile, class LineOf>
__device__ void stage_lines(Tile tile, LineOf&& line_of, int lines, int length) {
  using S = typename Tile::Stored;
  constexpr int vectors = Tile::columns / vector;
  static_assert(Tile::columns % vector == 0);
  const auto copy = [&](int line, int column) {
    const bool exists = line < lines && column < length;
    S* const to = tile.at(line, column);
    if constexpr (vector * sizeof(S) < 4) *to = exists ? line_of(line)[column] : S(0);
    else copy_async<vector * sizeof(S)>(to, exists ? line_of(line) + column : line_of(0), exists);
  };
  if constexpr (threads % vectors == 0) {  // a thread stays in its column
    constexpr int at_once = threads / vectors;
#pragma unroll
    for (int line = 0; line < Tile::lines; line += at_once) {
      const int own = line + thread() / vectors;
      if (Tile::lines % at_once == 0 || own < Tile::lines) copy(own, thread() % vectors * vector);
    }
  } else {
    for (int i = thread(); i < Tile::lines * vectors; i += threads) copy(i / vectors, i % vectors * vector);
  }
}
// The same of lines that are `stride` apart, which may be negative.
template <int vector, int threads, class Tile, class S = typename Tile::Stored>
__device__ void stage_lines(Tile tile, const S* from, std::ptrdiff_t stride, int lines, int length) {
  stage_lines<vector, threads>(tile, [from, stride](int line) { return from + line * stride; }, lines, length);
}

}  // namespace mamba::cuda::detail
