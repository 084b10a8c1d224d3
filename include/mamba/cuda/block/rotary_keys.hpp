// The keys and queries of a chunk of Mamba-3's tokens on the GPU (specification, sections 14.3 and 14.7): half a warp
// makes them in its registers where b and c are loaded.
#pragma once

#include <cmath>
#include <cstdint>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/rotary_chunk.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/turns.hpp>

namespace mamba::cuda::detail {

// sin and cos of an angle; in double a function, for its code is long.
template <class T>
struct SineCosine {
  T sine, cosine;
};
__device__ inline SineCosine<float> sine_cosine_of(std::uint32_t angle) {
  SineCosine<float> of;
  math::sine_cosine(angle, of.sine, of.cosine);
  return of;
}
__device__ __noinline__ inline SineCosine<double> sine_cosine_of(std::uint64_t angle) {
  SineCosine<double> of;
  math::sine_cosine(angle, of.sine, of.cosine);
  return of;
}

// The keys and queries of a chunk of one group's tokens: b and c, normed over the group's states, with a head's biases,
// turned by its angles. A lane makes those of the columns that it holds.
template <class S>
class RotaryKeys {
 public:
  using T = typename S::T;
  using Columns = ChunkColumns<T>;

  // For take_norms or add_squares and set_norms to complete.
  __device__ RotaryKeys(const RotaryInputs<S>& of, int first, int rows, int group)
      : of_(&of), first_(first), rows_(rows), group_(group) {}

  __device__ int first() const { return first_; }
  __device__ int rows() const { return rows_; }
  __device__ const RotaryInputs<S>& inputs() const { return *of_; }
  static __device__ int column(int k) { return k * stretch + 4 * half_lane(); }

  // Columns of b or c as they stand, of all rows or of one.
  template <bool of_c>
  __device__ void load(Columns& to, int k) const {
    if constexpr (S::n_quads && S::R == 1) {
      to.template load<S::N, true>(row<of_c>(0), of_->xbc.stride, rows_, column(k));
    } else {
#pragma unroll
      for (int i = 0; i < ssd_chunk; ++i) {
        const auto q = load_row<of_c>(i, k);
#pragma unroll
        for (int j = 0; j < 4; ++j) to.at[i][j] = q.at[j];
      }
    }
  }
  template <bool of_c>
  __device__ Quad<T> load_row(int i, int k) const {
    return i < rows_ ? quad(row<of_c>(i), column(k)) : Quad<T>{};
  }
  // Four states' columns of a row or a weight; zero beyond the states.
  static __device__ Quad<T> quad(const T* from, int n) {
    if constexpr (S::n_pairs) {
      Quad<T> q{};
      if (n < S::N) {
        const auto first = load_pair(from + n / 2), second = load_pair(from + S::N / 2 + n / 2);
        q = {{first.at[0], second.at[0], first.at[1], second.at[1]}};
      }
      return q;
    } else if constexpr (S::multiple) {
      Quad<T> q{};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (n + j < S::N) q.at[j] = from[S::column(n + j)];
      return q;
    } else {
      return detail::quad<S::N, S::n_quads>(from, n);
    }
  }
  static __device__ void store_row(T* to, int n, const T (&values)[4]) {
    if constexpr (!S::multiple) {
      store_columns<S::N, S::n_quads>(to, n, values);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (n + j < S::N) to[S::column(n + j)] = values[j];
    }
  }

  // The factors of the norms: 1 / sqrt(mean of squares + epsilon), of b's rows, then of c's.
  struct Squares {
    T of[2 * ssd_chunk] = {};

    __device__ void add(const Columns& b, const Columns& c) {
#pragma unroll
      for (int i = 0; i < ssd_chunk; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) of[i] += b.at[i][j] * b.at[i][j], of[ssd_chunk + i] += c.at[i][j] * c.at[i][j];
    }
  };
  __device__ void set_norms(Squares& squares) {
    sum_over_lanes<2 * ssd_chunk, half_lanes>(squares.of);
    rho_ = 1 / std::sqrt(squares.of[0] / T(S::N) + T(math::norm_epsilon));
  }
  __device__ void take_norms() {
    Squares squares;
#pragma unroll(S::kept)
    for (int k = 0; k < stretches(S::N); ++k) {
      Columns b, c;
      load<false>(b, k), load<true>(c, k);
      squares.add(b, c);
    }
    set_norms(squares);
  }
  // The lane's own: lane i of a half has b's row i, lane 8 + i c's.
  __device__ T own_norm() const { return rho_; }
  template <bool of_c>
  __device__ static T of_row(T value, int i) {
    return __shfl_sync(~0U, value, (of_c ? ssd_chunk : 0) + i, half_lanes);
  }
  template <bool of_c>
  __device__ T norm(int i) const {
    return of_row<of_c>(rho_, i);
  }

  // b's columns become keys, c's queries, of a head.
  __device__ void turn(Columns& b, Columns& c, int k, int head) const {
    add_bias<false>(b, k, head), add_bias<true>(c, k, head);
    each_angle(k, head, [&](int i, int j, T sine, T cosine) {
#pragma unroll
      for (int r = 0; r < S::R; ++r) rotate(b.at[i + r], j, sine, cosine), rotate(c.at[i + r], j, sine, cosine);
    });
  }
  template <bool of_c>
  __device__ void load_turned(Columns& to, int k, int head) const {
    load<of_c>(to, k);
    add_bias<of_c>(to, k, head);
    each_angle(k, head, [&](int i, int j, T sine, T cosine) {
#pragma unroll
      for (int r = 0; r < S::R; ++r) rotate(to.at[i + r], j, sine, cosine);
    });
  }
  static __device__ void rotate(T (&of)[4], int j, T sine, T cosine) {
    const T first = of[j], second = of[j + 1];
    of[j] = cosine * first - sine * second;
    of[j + 1] = sine * first + cosine * second;
  }

  // f(a token's first row, the first of a pair's two columns among the lane's four, sine, cosine) for all that turn.
  template <class F>
  __device__ void each_angle(int k, int head, F&& f) const {
    if (k * stretch / 2 >= S::Na) return;
    const int pair = column(k) / 2;
#pragma unroll
    for (int i = 0; i + S::R <= ssd_chunk; i += S::R) {
      if (i >= rows_ || pair >= S::Na) continue;
      const auto* const from = of_->turns[first_ + i / S::R] + head * S::Na + pair;
      if constexpr (S::Na % 2 == 0) {
        const auto angles = load_pair(from);
        const auto a = sine_cosine_of(angles.at[0]), b = sine_cosine_of(angles.at[1]);
        f(i, 0, a.sine, a.cosine), f(i, 2, b.sine, b.cosine);
      } else {
        const auto a = sine_cosine_of(from[0]);
        f(i, 0, a.sine, a.cosine);
        if (pair + 1 < S::Na) {
          const auto b = sine_cosine_of(from[1]);
          f(i, 2, b.sine, b.cosine);
        }
      }
    }
  }

 private:
  template <bool of_c>
  __device__ const T* row(int i) const {
    return of_->xbc[first_ + i / S::R] + S::template key_column<of_c>(group_, i % S::R);
  }
  // Normed, and the biases of a head; rows behind the chunk's stay zero.
  template <bool of_c>
  __device__ void add_bias(Columns& columns, int k, int head) const {
    const auto weight = quad(of_c ? of_->c_norm : of_->b_norm, column(k));
    Quad<T> bias[S::R];
#pragma unroll
    for (int r = 0; r < S::R; ++r) bias[r] = quad(of_->template bias<of_c>(head, r), column(k));
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i) {
      const T rho = norm<of_c>(i);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        columns.at[i][j] = i < rows_ ? columns.at[i][j] * (rho * weight.at[j]) + bias[i % S::R].at[j] : T(0);
    }
  }

  const RotaryInputs<S>* of_;
  int first_, rows_, group_;
  T rho_ = 0;
};

// A chunk's keys and queries for a head, kept in registers where they find room.
template <class S>
struct HeldKeys {
  using T = typename S::T;
  using Columns = ChunkColumns<T>;
  Columns keys[S::kept], queries[S::kept];

  // Of the first of a group's heads: whether b and c are in registers already, once `begin` has taken the norms.
  static constexpr bool at_once = S::keeps_all && S::heads_of_group == 1;

  __device__ void begin(RotaryKeys<S>& of) {
    if constexpr (at_once) {
      typename RotaryKeys<S>::Squares squares;
#pragma unroll
      for (int k = 0; k < S::kept; ++k) {
        of.template load<false>(keys[k], k), of.template load<true>(queries[k], k);
        squares.add(keys[k], queries[k]);
      }
      of.set_norms(squares);
    } else {
      of.take_norms();
    }
  }
  // The k-th stretch of them, where they are not kept.
  __device__ void load(const RotaryKeys<S>& of, int k, int head) {
    if constexpr (!at_once) {
      of.template load<false>(keys[k % S::kept], k);
      of.template load<true>(queries[k % S::kept], k);
    }
    of.turn(keys[k % S::kept], queries[k % S::kept], k, head);
  }
  // q k^T of a head.
  __device__ ChunkDots<T, S::R> dots(const RotaryKeys<S>& of, int head) {
    ChunkDots<T, S::R> sums;
#pragma unroll(S::kept)
    for (int k = 0; k < stretches(S::N); ++k) load(of, k, head), sums.add(queries[k % S::kept], keys[k % S::kept]);
    return sums;
  }
};

}  // namespace mamba::cuda::detail
