// How Mamba-2's recurrence is cut over the grid (ssd.hpp): chunks of every sequence, and what a block does with one: it
// multiplies matrices of up to 64 x 64 results on the tensor cores, from panels in shared memory.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/async_copy.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/tensor_core.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

inline constexpr int ssd_rows = 64;      // of a chunk, and of every result
inline constexpr int ssd_threads = 128;  // of a block: a warp for each part of 32 x 32
static_assert(ssd_rows * ssd_rows == ssd_threads / 32 * part_side * part_side);

// H heads of P channels, G groups of heads that share b and c; xbc's columns are x, b and c.
template <int H_, int P_, int G_, int N_>
struct SsdShape {
  static constexpr int H = H_, P = P_, G = G_, N = N_, E = H * P, C = E + 2 * G * N, heads_of_group = H / G;
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(N) * padded(P), state_size = H * head_state;
  static constexpr int tiles_of_p = (P + ssd_rows - 1) / ssd_rows, tiles_of_n = (N + ssd_rows - 1) / ssd_rows;
  static constexpr bool aligned = P % 4 == 0 && N % 4 == 0;  // whether four numbers are copied at once

  static __device__ int x_column(int head) { return head * P; }
  static __device__ int b_column(int group) { return E + group * N; }
  static __device__ int c_column(int group) { return E + (G + group) * N; }
};

// A chunk of a sequence. Every sequence has as many slots as it has chunks at least, so that a chunk's slot follows
// from where its sequence begins.
struct SsdChunk {
  int sequence, number, first, count;  // number: in the sequence; first: its first row; count: 0 where there is none
  bool is_last;
};
inline int ssd_slots(int rows, int sequences) { return rows / ssd_rows + sequences; }
__device__ inline int ssd_slot(Sequences sequences, int sequence, int number) {
  return sequences.begin(sequence) / ssd_rows + sequence + number;
}
__device__ inline SsdChunk ssd_chunk_of(Sequences sequences, int slot) {
  int low = 0, high = sequences.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (ssd_slot(sequences, middle, 0) <= slot) low = middle;
    else high = middle - 1;
  }
  const int number = slot - ssd_slot(sequences, low, 0), begin = sequences.begin(low), end = sequences.end(low),
            first = begin + number * ssd_rows;
  return {low, number, first, max(0, min(ssd_rows, end - first)), first + ssd_rows >= end};
}

// A head's step sizes in a chunk, and the sums of their decays' logarithms (to 2) up to and with each row. In double: a
// decay is the power of a difference of two sums.
struct SsdDecays {
  float delta[ssd_rows];
  double sum[ssd_rows];

  // By the first warp; a barrier follows before anyone reads it.
  template <int H>
  __device__ void load(Rows<const float, H> steps, const SsdChunk& chunk, int head, float rate) {
    static_assert(ssd_rows == 64);
    if (warp() != 0) return;
    float own[2];
    double sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane() + i;
      own[i] = t < chunk.count ? steps[chunk.first + t][head] : 0.0F;
      sums[i] = static_cast<double>(own[i]) * static_cast<double>(rate);
    }
    double before = sums[0] + sums[1];
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(~0U, before, offset);
      if (lane() >= offset) before += other;
    }
    before -= sums[0] + sums[1];
    delta[2 * lane()] = own[0], delta[2 * lane() + 1] = own[1];
    sum[2 * lane()] = before + sums[0], sum[2 * lane() + 1] = before + sums[0] + sums[1];
  }

  __device__ float from_begin(int i) const { return power(sum[i]); }  // of what comes into the chunk, to row i
  __device__ float to_end(int j) const { return power(sum[ssd_rows - 1] - sum[j]); }  // of row j's, to the chunk's end
  __device__ float between(int j, int i) const { return power(sum[i] - sum[j]); }     // of row j's, to row i >= j
  __device__ float of_chunk() const { return power(sum[ssd_rows - 1]); }

 private:
  static __device__ float power(double exponent) { return math::exp2_nonpositive(static_cast<float>(exponent)); }
};

template <Along along>
using SsdPanel = Panel<float, along, ssd_rows>;
inline constexpr int ssd_depth = SsdPanel<Along::sum>::depth;  // of a sum that a panel holds
inline constexpr int ssd_pieces = ssd_rows / ssd_depth;        // panels for a sum over a chunk's rows

// panel <- the first `lines` lines of `length` numbers of an operand, zeros elsewhere. Asynchronous.
template <bool aligned, Along along>
__device__ void stage_panel(SsdPanel<along> panel, const float* from, std::ptrdiff_t stride, int lines, int length) {
  using P = SsdPanel<along>;
  constexpr int vector = aligned ? 4 : 1, vectors = P::length / vector;
#pragma unroll 4
  for (int i = thread(); i < P::lines * vectors; i += ssd_threads) {
    const int line = i / vectors, at = i % vectors * vector;
    const bool exists = line < lines && at < length;
    copy_async<vector * sizeof(float)>(panel.data + line * P::stride + at, exists ? from + line * stride + at : from,
                                       exists);
  }
}

// What a warp has of a result of 64 x 64, and where.
struct SsdResult {
  Sums<float> sums{};

  static __device__ int row() { return warp() / 2 * part_side; }
  static __device__ int column() { return warp() % 2 * part_side; }

  // += a b over the panels' `depth` elements of a sum of of_depth.
  template <Along along_a, Along along_b>
  __device__ void add(SsdPanel<along_a> a, SsdPanel<along_b> b, int depth, int of_depth, int first_term) {
    multiply_add(sums, a, row(), b, column(), depth, 0, 1, of_depth, first_term);
  }
  // f(row, column, value) for each of the lane's numbers, which f may change.
  template <class F>
  __device__ void each(F&& f) {
    sums.each([&](int r, int c, Quad<float>& quad) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        f(row() + Sums<float>::row() + r, column() + Sums<float>::column() + c + i, quad.at[i]);
    });
  }
};

// Two pairs of panels for operands that come while others are multiplied.
template <Along along_a, Along along_b>
struct SsdPipeline {
  using A = SsdPanel<along_a>;
  using B = SsdPanel<along_b>;
  static constexpr int elements = 2 * (A::elements + B::elements);
  float* memory;

  // result += a b over a sum of `depth`: fetch(a, b, k, count) stages its elements k .. k + count.
  template <class Fetch>
  __device__ void multiply(SsdResult& result, int depth, int first_term, Fetch&& fetch) {
    const auto a = [&](int turn) { return A{memory + turn * (A::elements + B::elements)}; };
    const auto b = [&](int turn) { return B{a(turn).data + A::elements}; };
    const auto next = [&](int turn, int k) {
      if (k < depth) fetch(a(turn), b(turn), k, min(ssd_depth, depth - k));
      commit_copies();
    };
    next(0, 0);
    int turn = 0;
    for (int k = 0; k < depth; k += ssd_depth, turn ^= 1) {
      next(turn ^ 1, k + ssd_depth);
      wait_for_copies<1>();
      __syncthreads();
      result.add(a(turn), b(turn), min(ssd_depth, depth - k), depth, first_term);
      __syncthreads();
    }
  }
};

// What Mamba-2's recurrence reads.
template <class Shape>
struct SsdInputs {
  Rows<const float, Shape::H> delta;
  Rows<const float, Shape::C> xbc;
  Weight<float, 1, Shape::H> a, d;
  int first_term;  // of products (tensor_core.hpp)
};

}  // namespace mamba::cuda::detail
