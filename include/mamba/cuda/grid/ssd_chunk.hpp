// How Mamba-2's recurrence is cut over the grid (ssd.hpp): chunks of every sequence, and what a block does with one: it
// multiplies matrices of up to 64 x 64 results on the tensor cores, from panels in shared memory.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/async_copy.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/tensor_core.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

inline constexpr int ssd_rows = 64;      // of a chunk, and of every result
inline constexpr int ssd_threads = 128;  // of a block: a warp for each part of 32 x 32
static_assert(ssd_rows * ssd_rows == ssd_threads / 32 * part_side * part_side);

// H heads of P channels, G groups of heads that share b and c; xbc's columns are x, b and c, stored as S.
template <class S, int H_, int P_, int G_, int N_>
struct SsdShape {
  using Stored = S;
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

// What sums that cancel are of: numbers of 16 bits ask for no more than float.
template <class S>
using SsdSum = std::conditional_t<std::is_same_v<S, float>, double, float>;

// A head's step sizes in a chunk, and the sums of their decays' logarithms (to 2) up to and with each row, of which a
// decay is the power of a difference.
template <class S>
struct SsdDecays {
  using Sum = SsdSum<S>;
  Sum sum[ssd_rows];
  float delta[ssd_rows];
  float from_begin[ssd_rows];  // the decay of what comes into the chunk, to row i
  float to_end[ssd_rows];      // of row j's, to the chunk's end

  // By the first warp; a barrier follows before anyone reads it.
  template <class Inputs>
  __device__ void load(const Inputs& in, const SsdChunk& chunk, int head) {
    static_assert(ssd_rows == 64);
    if (warp() != 0) return;
    float own[2];
    Sum sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane() + i;
      own[i] = t < chunk.count ? in.step_size(chunk.first + t, head) : 0.0F;
      sums[i] = static_cast<Sum>(own[i]) * static_cast<Sum>(in.a.derived[head]);
    }
    const Sum own_sum = sums[0] + sums[1];
    Sum before = own_sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const Sum other = __shfl_up_sync(~0U, before, offset);
      if (lane() >= offset) before += other;
    }
    before -= own_sum;
    sums[0] += before, sums[1] += sums[0];
    const Sum all = __shfl_sync(~0U, sums[1], 31);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane() + i;
      sum[t] = sums[i], delta[t] = own[i], from_begin[t] = power(sums[i]), to_end[t] = power(all - sums[i]);
    }
  }

  __device__ float between(int j, int i) const { return power(sum[i] - sum[j]); }  // of row j's, to row i >= j
  __device__ float of_chunk() const { return from_begin[ssd_rows - 1]; }

 private:
  static __device__ float power(Sum exponent) { return math::exp2_nonpositive(static_cast<float>(exponent)); }
};

template <Along along, class S = float>
using SsdPanel = Panel<S, along, ssd_rows>;
inline constexpr int ssd_depth = SsdPanel<Along::sum>::depth;  // of a sum that a panel holds
inline constexpr int ssd_pieces = ssd_rows / ssd_depth;        // panels for a sum over a chunk's rows

// panel <- the first `lines` lines of `length` numbers of an operand, zeros elsewhere. Asynchronous, but for single
// numbers of 16 bits, which are none of copy_async's sizes.
template <bool aligned, class S, Along along>
__device__ void stage_panel(Panel<S, along, ssd_rows> panel, const S* from, std::ptrdiff_t stride, int lines,
                            int length) {
  using P = SsdPanel<along, S>;
  constexpr int vector = aligned ? 4 : 1, vectors = P::length / vector;
#pragma unroll 4
  for (int i = thread(); i < P::lines * vectors; i += ssd_threads) {
    const int line = i / vectors, at = i % vectors * vector;
    const bool exists = line < lines && at < length;
    S* const to = panel.data + line * P::stride + at;
    if constexpr (vector * sizeof(S) < 4) *to = exists ? from[line * stride + at] : S(0);
    else copy_async<vector * sizeof(S)>(to, exists ? from + line * stride + at : from, exists);
  }
}

// What a warp has of a result of 64 x 64, and where. S: what the recurrence's inputs are stored in; where that is 16
// bits, all operands are rounded to it.
template <class S>
struct SsdResult {
  Sums<float> sums{};

  static __device__ int row() { return warp() / 2 * part_side; }
  static __device__ int column() { return warp() % 2 * part_side; }

  // += a b over the panels' `depth` elements of a sum of of_depth; beyond them they hold zeros.
  template <class A, class B>
  __device__ void add(A a, B b, int depth, int of_depth, int first_term) {
    if constexpr (std::is_same_v<S, float>) {
      multiply_add(sums, a, row(), b, column(), depth, 0, 1, of_depth, first_term);
    } else {
#pragma unroll 1
      for (int k = 0; k < depth; k += 16) multiply_add_bfloat16(sums, a, row(), b, column(), k);
    }
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
template <class A, class B>
struct SsdPipeline {
  static constexpr std::size_t bytes = 2 * (A::bytes + B::bytes);
  std::byte* memory;

  // result += a b over a sum of `depth`: fetch(a, b, k, count) stages its elements k .. k + count.
  template <class Result, class Fetch>
  __device__ void multiply(Result& result, int depth, int first_term, Fetch&& fetch) {
    const auto a = [&](int turn) {
      return A{reinterpret_cast<typename A::Stored*>(memory + turn * (A::bytes + B::bytes))};
    };
    const auto b = [&](int turn) { return B{reinterpret_cast<typename B::Stored*>(a(turn).data + A::elements)}; };
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
  Rows<const float, Shape::H> delta;  // step sizes, or where a bias is given what becomes them with it
  Weight<float, 1, Shape::H> bias;
  Rows<const typename Shape::Stored, Shape::C> xbc;
  Weight<float, 1, Shape::H> a, d;
  int first_term;  // of products of float (tensor_core.hpp)

  __device__ float step_size(int row, int head) const {
    const float x = delta[row][head];
    return bias.value ? math::softplus(x + bias.value[head]) : x;
  }
};

}  // namespace mamba::cuda::detail
