// A chunk of Mamba-3's recurrence on the GPU (specification, section 14.4), for heads with one input and one output:
// how its numbers lie in half a warp, what its steps decay and how its inputs enter, and its keys and queries, which
// are made where b and c are loaded.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda::detail {

// A RotarySsdSizes as the chunks see it: every head is a group, for its keys and queries are its own. What they are
// made of, columns of b and c, is shared by the heads of each of `groups`.
template <class Sizes_>
struct Rotary {
  using Sizes = Sizes_;
  using T = typename Sizes::Scalar;
  using Turns = math::Turns<T>;
  static constexpr int H = Sizes::H, P = Sizes::P, N = Sizes::N, R = Sizes::R, Na = Sizes::Na, E = Sizes::E,
                       C = Sizes::C, A = H * Na, Y = R * E;
  static constexpr int tokens = R <= ssd_chunk ? ssd_chunk / R : 1;  // of a chunk
  static constexpr bool multiple = Sizes::multiple;
  static constexpr int G = H, heads = 1, groups = Sizes::G, heads_of_group = H / groups;
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(Sizes::Ns) * padded(P),
                                  state_size = H * head_state;
  static constexpr bool x_quads = P % 4 == 0, n_quads = E % 4 == 0 && N % 4 == 0 && !multiple,
                        n_pairs = E % 2 == 0 && N % 4 == 0 && multiple;
  // Columns of b and c that are kept in registers until the gradients need them again: all or none.
  static constexpr int kept = sizeof(T) == 4 && stretches(N) <= 2 ? stretches(N) : 1;
  static constexpr bool keeps_all = kept == stretches(N);

  // Where the columns of b, or c, of a group and rank begin.
  template <bool of_c>
  static __device__ int key_column(int group, int rank) {
    return E + ((of_c ? R : 0) + rank) * groups * N + group * N;
  }
  // The column of b, c and their weights that state n has, and the state's row in memory: the two states of a pair,
  // neighbours here, are neighbours there or half of all columns apart, and lie half a state apart.
  static __device__ int column(int n) { return multiple ? n / 2 + n % 2 * (N / 2) : n; }
  static __device__ int place(int n) { return n / 2 + n % 2 * Sizes::half; }

  template <class Out>
  static __device__ Out* output(Rows<Out, Y> y, int first, int row, int head) {
    return y.address(first + row / R) + (head * R + row % R) * P;
  }
};

// Four neighbours from `column` on, of Width; zero beyond.
template <int Width, bool quads, class T>
__device__ Quad<T> quad(const T* from, int column) {
  Quad<T> q{};
  if constexpr (quads) {
    if (column < Width) q = load4(from + column);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j < Width) q.at[j] = from[column + j];
  }
  return q;
}

// What a pass is given.
template <class S_>
struct RotaryInputs {
  using S = S_;
  using T = typename S::T;

  Rows<const T, S::H> delta, log_decay, mu;
  Rows<const typename S::Turns, S::A> turns;
  Rows<const T, S::C> xbc;
  const T *b_norm, *c_norm, *b_bias, *c_bias, *d, *mimo_x;

  __device__ RotaryInputs(Rows<const T, S::H> steps, Rows<const T, S::H> decays, Rows<const T, S::H> weights,
                          Rows<const typename S::Turns, S::A> angles, Rows<const T, S::C> inputs,
                          const network::RotaryWeights<typename S::Sizes>& w)
      : delta(steps),
        log_decay(decays),
        mu(weights),
        turns(angles),
        xbc(inputs),
        b_norm(w.b_norm.value),
        c_norm(w.c_norm.value),
        b_bias(w.b_bias.value),
        c_bias(w.c_bias.value),
        d(w.d.value),
        mimo_x(w.mimo_x.value) {}

  // A head's biases and input factors, those of a rank.
  template <bool of_c>
  __device__ const T* bias(int head, int rank) const {
    return (of_c ? c_bias : b_bias) + static_cast<std::ptrdiff_t>(head) * padded(S::R * S::N) + rank * S::N;
  }
  __device__ const T* factors(int head, int rank) const {
    return mimo_x + static_cast<std::ptrdiff_t>(head) * padded(S::R * S::P) + rank * S::P;
  }
  static __device__ Quad<T> channels(const T* from, int column) { return quad<S::P, S::x_quads>(from, column); }

  // A head's inputs: x, for each rank by its own factors.
  __device__ void load_inputs(ChunkColumns<T>& to, int first, int rows, int head, int column) const {
    if constexpr (!S::multiple) {
      to.template load<S::P, S::x_quads>(xbc[first] + head * S::P, xbc.stride, rows, column);
    } else {
#pragma unroll
      for (int i = 0; i < ssd_chunk; ++i) {
        Quad<T> x{}, factor{};
        if (i < rows)
          x = channels(xbc[first + i / S::R] + head * S::P, column), factor = channels(factors(head, i % S::R), column);
#pragma unroll
        for (int j = 0; j < 4; ++j) to.at[i][j] = x.at[j] * factor.at[j];
      }
    }
  }
};

// The steps of a chunk for one head, as ChunkSteps; behind the chunk's rows, steps of size zero. What the decays
// between two tokens take is a sum of exponents of one sign, never a difference of sums: one token that forgets all
// costs the others no digits.
template <class T>
struct RotarySteps {
  T delta, mu;
  T exponent;        // log2 of the step's decay
  T at_once, later;  // how much of an input enters at once, and for all later tokens
  T rise, rest;      // as ChunkSteps
  T weight;          // what is left behind the chunk of an input for all later tokens

  // Of the chunk's rows, of which a token's first has its exponent; the sequence ends at `end`, or is taken to: what
  // enters behind it is left out.
  template <class S>
  __device__ RotarySteps(const RotaryInputs<S>& of, int first, int rows, int end, int head) {
    const int t = lane() % ssd_chunk, row = first + t / S::R;
    const bool exists = t < rows, has_next = exists && row + 1 < end;
    delta = exists ? of.delta[row][head] : T(0);
    mu = exists ? of.mu[row][head] : T(0);
    exponent = exists && t % S::R == 0 ? of.log_decay[row][head] * T(math::log2_e) : T(0);
    const T next = has_next ? (1 - of.mu[row + 1][head]) * of.delta[row + 1][head] : T(0);
    at_once = mu * delta;
    later = at_once + next;
    T before = exponent, behind = exponent;
#pragma unroll
    for (int offset = 1; offset < ssd_chunk; offset *= 2) {
      const T from_before = __shfl_up_sync(~0U, before, offset, ssd_chunk),
              from_behind = __shfl_down_sync(~0U, behind, offset, ssd_chunk);
      if (t >= offset) before += from_before;
      if (t + offset < ssd_chunk) behind += from_behind;
    }
    behind = __shfl_down_sync(~0U, behind, 1, ssd_chunk);
    rise = math::exp2_nonpositive(before);
    rest = math::exp2_nonpositive(t + 1 < ssd_chunk ? behind : T(0));
    weight = rest * later;
  }
  static __device__ T of(T value, int t) { return __shfl_sync(~0U, value, t, ssd_chunk); }
  __device__ T fall() const { return of(rise, ssd_chunk - 1); }

  // lam(i, j) as ChunkDecays has it, and the weights of the columns: at_once where a token sees itself, later below.
  template <int R, class Blocked>
  __device__ ChunkDecays<T> decays(int first, int rows, Blocked blocked) const {
    using Entries = TriangleEntries<T>;
    const int i = Entries::row();
    T upper[4], lower[4], sum = 0;  // of columns 4 to 7 and 0 to 3: the exponents behind the column, up to row i
    upper[3] = 0;
#pragma unroll
    for (int t = ssd_chunk - 1; t > 0; --t) {
      const T of_t = of(exponent, t);
      sum += t <= i ? of_t : T(0);
      (t > 4 ? upper : lower)[(t - 1) % 4] = sum;
    }
    ChunkDecays<T> d;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int j = Entries::column() + k;
      const bool of_token = j / R == i / R,
                 cut = j > last_of_token<R>(i) || (!of_token && j < rows && blocked.blocked(first + j / R));
      d.lam[k] = cut ? T(0) : math::exp2_nonpositive(Entries::column() > 0 ? upper[k] : lower[k]);
      const T of_later = of(later, j);
      d.delta[k] = of_token ? at_once : of_later;  // lane i % 8 knows row i's token's
    }
    return d;
  }
};

}  // namespace mamba::cuda::detail
