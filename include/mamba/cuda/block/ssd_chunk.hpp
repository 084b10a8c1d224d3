// What Mamba-2's and Mamba-3's chunks of time have in common on the GPU (specification, sections 7 and 14.4): how their
// rows lie in half a warp, what their steps decay, and products with the lower triangle of 8 by 8 that a chunk's tokens
// see each other through.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda {

// The tokens of a chunk: as many as the sums of c b^T that a lane can hold in registers allow.
inline constexpr int ssd_chunk = BlockTuning::ssd_chunk;

namespace detail {

// H heads of P channels, G groups of heads that share b and c, N states; xbc's columns are x (H P), b (G N), c (G N).
template <class T_, int H_, int P_, int G_, int N_>
struct Ssd {
  using T = T_;
  static constexpr int H = H_, P = P_, G = G_, N = N_, E = H * P, heads = H / G, C = E + 2 * G * N;
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(N) * padded(P), state_size = H * head_state;
  // Whether four neighbouring columns of x, of b and of c may be loaded at once.
  static constexpr bool x_quads = P % 4 == 0, n_quads = E % 4 == 0 && N % 4 == 0;

  static __device__ int b_column(int group) { return E + group * N; }
  static __device__ int c_column(int group) { return E + (G + group) * N; }
  static __device__ int place(int n) { return n; }        // the row of state n
  static constexpr int R = 1, tokens = ssd_chunk, Y = E;  // a chunk's rows of a token; its tokens; columns of outputs
  // Where a head's channels begin of a row of a chunk of outputs.
  template <class Out>
  static __device__ Out* output(Rows<Out, Y> y, int first, int row, int head) {
    return y.address(first + row) + head * P;
  }
};

// Half a warp holds a stretch of 64 columns of a chunk's rows, each lane four neighbouring ones.
inline constexpr int half_lanes = 16, half_warps = 2 * Block::warps, stretch = 4 * half_lanes;
__device__ inline int half_lane() { return lane() % half_lanes; }
__device__ inline int half_warp() { return thread() / half_lanes; }
MAMBA_HOST_DEVICE constexpr int stretches(int columns) { return (columns + stretch - 1) / stretch; }

template <class T>
struct ChunkColumns {
  T at[ssd_chunk][4];

  // Columns column .. column + 3 of `Width` from row(i) on; zero beyond, and in the rows from `rows` on.
  template <int Width, bool quads, class Row>
  __device__ void load_rows(Row&& row, int rows, int column) {
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i) {
      Quad<T> q{};
      if constexpr (quads) {
        if (i < rows && column < Width) q = load4(row(i) + column);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (i < rows && column + j < Width) q.at[j] = row(i)[column + j];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) at[i][j] = q.at[j];
    }
  }
  // The same of rows `row_stride` apart.
  template <int Width, bool quads>
  __device__ void load(const T* from, int row_stride, int rows, int column) {
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i, from += row_stride) {
      if constexpr (quads) {
        Quad<T> q{};
        if (i < rows && column < Width) q = load4(from + column);
#pragma unroll
        for (int j = 0; j < 4; ++j) at[i][j] = q.at[j];
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) at[i][j] = i < rows && column + j < Width ? from[column + j] : T(0);
      }
    }
  }
};

// Four neighbouring numbers into global memory, at once for certain: the compiler takes plain stores apart where it
// cannot keep the numbers in neighbouring registers.
template <class T>
__device__ void store_quad(T* to, const T (&from)[4]) {
  if constexpr (sizeof(T) == 4) {
    __stwb(reinterpret_cast<float4*>(to), make_float4(from[0], from[1], from[2], from[3]));
  } else {
    __stwb(reinterpret_cast<double2*>(to), make_double2(from[0], from[1]));
    __stwb(reinterpret_cast<double2*>(to) + 1, make_double2(from[2], from[3]));
  }
}

// One row of four columns of `Width`.
template <int Width, bool quads, class T>
__device__ void store_columns(T* to, int column, const T (&from)[4]) {
  if constexpr (quads) {
    if (column < Width) store_quad(to + column, from);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j < Width) to[column + j] = from[j];
  }
}

// f(first token, rows, group) for every chunk of every sequence and every group, shared out among the half-warps; rows,
// R of a token, is 0 where one has nothing left to do. The lanes of a warp call f together.
template <int Groups, int R = 1, class F>
__device__ void each_chunk(Sequences sequences, F&& f) {
  constexpr int tokens = ssd_chunk / R;
  for (int s = lane(); s - lane() < sequences.count; s += 32) {
    const int begin = s < sequences.count ? sequences.begin(s) : 0, end = s < sequences.count ? sequences.end(s) : 0;
    const int chunks = (end - begin + tokens - 1) / tokens;
    int behind = chunks;  // of these 32 sequences: the chunks up to the end of this lane's
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(~0U, behind, offset);
      if (lane() >= offset) behind += before;
    }
    const int pieces = __shfl_sync(~0U, behind, 31) * Groups;
#pragma unroll 1
    for (int k = 2 * warp(); k < pieces; k += half_warps) {
      const int lower = __popc(__ballot_sync(~0U, behind <= k / Groups)),
                upper = __popc(__ballot_sync(~0U, behind <= (k + 1) / Groups));
      const int piece = k + lane() / half_lanes, from = (lane() < half_lanes ? lower : upper) % 32;
      const int number = piece / Groups - __shfl_sync(~0U, behind - chunks, from);
      const int first = __shfl_sync(~0U, begin, from) + number * tokens, rest = __shfl_sync(~0U, end, from) - first;
      if (piece < pieces) f(first, (rest < tokens ? rest : tokens) * R, piece % Groups);
      else f(0, 0, 0);
    }
  }
}

// The steps of a chunk for one head: lanes t, t + 8, t + 16 and t + 24 know that of row t; behind the chunk's rows,
// steps of size zero.
template <class T>
struct ChunkSteps {
  T delta;
  T gamma;   // log2 of the decay from the chunk's beginning to here
  T rise;    // what is left here of the state before the chunk
  T rest;    // what is left behind the chunk of what comes in here
  T weight;  // the same of x b^T

  template <int H>
  __device__ ChunkSteps(Rows<const T, H> steps, int first, int rows, int head, T rate) {
    const int t = lane() % ssd_chunk;
    delta = t < rows ? steps[first + t][head] : T(0);
    gamma = delta * rate;
#pragma unroll
    for (int offset = 1; offset < ssd_chunk; offset *= 2) {
      const T before = __shfl_up_sync(~0U, gamma, offset, ssd_chunk);
      if (t >= offset) gamma += before;
    }
    rise = math::exp2_nonpositive(gamma);
    rest = math::exp2_nonpositive(of(gamma, ssd_chunk - 1) - gamma);
    weight = rest * delta;
  }
  static __device__ T of(T value, int t) { return __shfl_sync(~0U, value, t, ssd_chunk); }
  __device__ T fall() const { return of(rise, ssd_chunk - 1); }  // what is left behind the chunk of the state before it
};

// A lower triangle of 8 by 8 in half a warp: lane l holds row l % 8, columns 4 (l / 8) and the next three.
template <class T>
struct TriangleEntries {
  T at[4];

  static __device__ int row() { return lane() % ssd_chunk; }
  static __device__ int column() { return half_lane() / ssd_chunk * 4; }
};

// The last column that row i of a chunk's matrix has where a token's own R rows see each other.
template <int R>
MAMBA_HOST_DEVICE constexpr int last_of_token(int i) {
  return i / R * R + R - 1;
}

inline constexpr int triangle_size = ssd_chunk * (ssd_chunk + 1) / 2;
MAMBA_HOST_DEVICE constexpr int triangle_index(int i, int j) { return i * (i + 1) / 2 + j; }

// What half-warps exchange in shared memory: a matrix, row after row, and a triangle. The sum is no multiple of 32, so
// that the halves of a warp read different banks.
inline constexpr int exchange_size = ssd_chunk * ssd_chunk + triangle_size;

// a_i . b_j for j <= i, over the columns of half a warp.
template <class T>
struct Dots {
  static constexpr int most = 32;  // in two parts, each a power of 2
  T sums[most] = {}, rest[triangle_size - most] = {};

  __device__ void add(const ChunkColumns<T>& a, const ChunkColumns<T>& b) {
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i)
#pragma unroll
      for (int j = 0; j <= i; ++j) {
        const int index = triangle_index(i, j);
        T& sum = index < most ? sums[index < most ? index : 0] : rest[index < most ? 0 : index - most];
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += a.at[i][k] * b.at[j][k];
      }
  }

  // Adds the lanes' shares up; exchange: the half-warp's.
  __device__ TriangleEntries<T> entries(T* exchange) {
    T* const triangle = exchange + ssd_chunk * ssd_chunk;
    const int l = half_lane();
    sum_over_lanes<most, half_lanes>(sums);
    sum_over_lanes<triangle_size - most, half_lanes>(rest);
    __syncwarp();
    triangle[2 * l] = sums[0];
    triangle[2 * l + 1] = sums[1];
    if (l % 4 == 0) triangle[most + l / 4] = rest[0];
    __syncwarp();
    TriangleEntries<T> e;
    const int i = e.row();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int j = e.column() + k;
      e.at[k] = j <= i ? triangle[triangle_index(i, j)] : T(0);
    }
    return e;
  }
};

// a_i . b_j for j up to row i's token's last, over the columns of half a warp.
template <class T, int R>
struct BlockDots {
  T sums[ssd_chunk * ssd_chunk] = {};

  __device__ void add(const ChunkColumns<T>& a, const ChunkColumns<T>& b) {
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i)
#pragma unroll
      for (int j = 0; j <= last_of_token<R>(i) && j < ssd_chunk; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[ssd_chunk * i + j] += a.at[i][k] * b.at[j][k];
  }
  __device__ TriangleEntries<T> entries(T* exchange) {
    const int at = sum_over_lanes<ssd_chunk * ssd_chunk, half_lanes>(sums);
    __syncwarp();
    store4(exchange + at, Quad<T>{sums[0], sums[1], sums[2], sums[3]});
    __syncwarp();
    TriangleEntries<T> e;
    const auto q = load4(static_cast<const T*>(exchange) + ssd_chunk * e.row() + e.column());
#pragma unroll
    for (int k = 0; k < 4; ++k) e.at[k] = q.at[k];
    return e;
  }
};
template <class T, int R>
using ChunkDots = std::conditional_t<R == 1, Dots<T>, BlockDots<T, R>>;

// The entries as a matrix in shared memory, for all lanes of the half-warp to read.
template <class T>
__device__ void exchange_matrix(T* exchange, const TriangleEntries<T>& e) {
  __syncwarp();
  store4(exchange + ssd_chunk * e.row() + e.column(), Quad<T>{e.at[0], e.at[1], e.at[2], e.at[3]});
  __syncwarp();
}

// f(i, row i of the matrix as far as it is not zero).
template <int R = 1, class T, class F>
__device__ void each_row(const T* matrix, F&& f) {
#pragma unroll
  for (int i = 0; i < ssd_chunk; ++i) {
    T row[ssd_chunk];
#pragma unroll
    for (int j = 0; j <= last_of_token<R>(i) && j < ssd_chunk; j += 4) {
      const auto q = load4(matrix + ssd_chunk * i + j);
#pragma unroll
      for (int k = 0; k < 4; ++k) row[j + k] = q.at[k];
    }
    f(i, row);
  }
}

// use(i, sum over j <= i, or up to row i's token's last, of m(i, j) from_j).
template <int R = 1, class T, class Use>
__device__ void lower_times(const T* matrix, const ChunkColumns<T>& from, Use&& use) {
  each_row<R>(matrix, [&](int i, const T(&m)[ssd_chunk]) {
    T sums[4] = {};
#pragma unroll
    for (int j = 0; j <= last_of_token<R>(i) && j < ssd_chunk; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[k] += m[j] * from.at[j][k];
    use(i, sums);
  });
}

// use(j, sum over i >= j, or from row j's token's first on, of m(i, j) from_i).
template <int R = 1, class T, class Use>
__device__ void lower_transposed_times(const T* matrix, const ChunkColumns<T>& from, Use&& use) {
  T sums[ssd_chunk][4] = {};
  each_row<R>(matrix, [&](int i, const T(&m)[ssd_chunk]) {
#pragma unroll
    for (int j = 0; j <= last_of_token<R>(i) && j < ssd_chunk; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[j][k] += m[j] * from.at[i][k];
  });
#pragma unroll
  for (int j = 0; j < ssd_chunk; ++j) use(j, sums[j]);
}

// The decays between a chunk's tokens, lam(i, j) = 2^(gamma_i - gamma_j) for j <= i, blocked columns cut below the
// diagonal, and the step of every column.
template <class T>
struct ChunkDecays {
  T lam[4], delta[4];

  ChunkDecays() = default;
  template <class Blocked>
  __device__ ChunkDecays(const ChunkSteps<T>& steps, int first, int rows, Blocked blocked) {
    using Entries = TriangleEntries<T>;
    const int i = Entries::row();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int j = Entries::column() + k;
      const T difference = steps.gamma - steps.of(steps.gamma, j);  // lane i % 8 knows gamma_i
      const bool cut = j > i || (j < i && j < rows && blocked.blocked(first + j));
      lam[k] = cut ? T(0) : math::exp2_nonpositive(difference);
      delta[k] = steps.of(steps.delta, j);
    }
  }

  // What y = m x and dx = m^T dy take: the decays, c b^T, the steps and the skip.
  __device__ TriangleEntries<T> mixing(const TriangleEntries<T>& cb, T skip) const {
    TriangleEntries<T> m;
#pragma unroll
    for (int k = 0; k < 4; ++k) m.at[k] = lam[k] * cb.at[k] * delta[k] + (m.column() + k == m.row() ? skip : T(0));
    return m;
  }
};

}  // namespace detail
}  // namespace mamba::cuda
