// Mamba-3's recurrence over the grid: what its walks read (rotary_shape.hpp), made of a tile's rows. Keys and queries
// are a group's b and c, normed, with a head's biases, turned by a head's angles (specification, section 14.3); how
// much of an input enters at once and how much later; inputs that ranks have factors for; what a sequence's history
// passes on.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda::detail {

// How a warp's lanes share out N states: in pairs.
template <class Sizes>
struct RotaryPairs {
  using T = typename Sizes::Scalar;
  static constexpr int pairs = Sizes::N / 2, of_lane = (pairs + 31) / 32, half = Sizes::half;

  // Pair i's states in b, c and weights: neighbours, or half of all states apart.
  static __device__ int first(int i) { return Sizes::multiple ? i : 2 * i; }
  static __device__ int second(int i) { return Sizes::multiple ? i + Sizes::N / 2 : 2 * i + 1; }

  // f(k, i) for the lane's k-th pair, i.
  template <class F>
  static __device__ void each(F&& f) {
#pragma unroll
    for (int k = 0; k < of_lane; ++k)
      if (const int i = lane() + 32 * k; i < pairs) f(k, i);
  }
  // The angle by which a pair turns.
  template <class I>
  static __device__ void circle(const I* turns, int i, T& sine, T& cosine) {
    sine = 0, cosine = 1;
    if (i < Sizes::Na) math::sine_cosine<T>(turns[i], sine, cosine);
  }
  struct Pair {
    T one, other;
  };
  // A pair of a row, with its bias, turned.
  static __device__ Pair turned(const T (&x)[2], const T* bias, int i, T sine, T cosine) {
    const T one = x[0] + bias[first(i)], other = x[1] + bias[second(i)];
    return {cosine * one - sine * other, sine * one + cosine * other};
  }
  // Into a row of keys.
  template <class Key>
  static __device__ void put(Key* to, int i, Pair pair) {
    to[i] = Key(pair.one), to[half + i] = Key(pair.other);
  }
  // A lane's numbers, to where they lie in b, c and weights.
  static __device__ void give(T* to, const T (&x)[of_lane][2]) {
    each([&](int k, int i) { to[first(i)] = x[k][0], to[second(i)] = x[k][1]; });
  }
  static __device__ void add(T* to, const T (&x)[of_lane][2]) {
    each([&](int k, int i) { to[first(i)] += x[k][0], to[second(i)] += x[k][1]; });
  }
  // A row of b or c: its lane's numbers and the norm's factor.
  template <class X>
  static __device__ T take(T (&raw)[of_lane][2], const X* from) {
    T squares = 0;
    each([&](int k, int i) {
      raw[k][0] = static_cast<T>(from[first(i)]), raw[k][1] = static_cast<T>(from[second(i)]);
      squares += raw[k][0] * raw[k][0] + raw[k][1] * raw[k][1];
    });
    return 1 / std::sqrt(lane_sum(squares) / T(Sizes::N) + static_cast<T>(math::norm_epsilon));
  }
};

// Whether a row is its sequence's last.
__device__ inline bool is_last_row(Sequences sequences, int row, int rows) {
  return row + 1 == rows || sequences.times[row + 1] == 0;
}

// keys, queries (T R, H Ns) <- those of all tokens; the last ones of sequences that have a history go there, too. A
// warp takes a token's b and c of a group through the group's heads.
template <class Sizes, class Key, class X, class I, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_operands(Rows<Key, Sizes::H * Sizes::Ns> keys, Rows<Key, Sizes::H * Sizes::Ns> queries,
                    Rows<const X, Sizes::C> xbc, Rows<const I, Sizes::H * Sizes::Na> turns,
                    network::RotaryWeights<Sizes> w, T* history, Sequences sequences) {
  begin_kernel();
  using Pairs = RotaryPairs<Sizes>;
  constexpr int G = Sizes::G, N = Sizes::N, R = Sizes::R, Ns = Sizes::Ns, heads = Sizes::H / G;
  const int item = static_cast<int>(blockIdx.x) * Block::warps + warp(), row = item / G, group = item % G;
  if (row >= xbc.rows) return;
  const X* const from = xbc[row] + Sizes::E + group * N;
  T b[R][Pairs::of_lane][2], c[R][Pairs::of_lane][2];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const T of_b = Pairs::take(b[r], from + r * G * N), of_c = Pairs::take(c[r], from + (R + r) * G * N);
    Pairs::each([&](int k, int i) {
      b[r][k][0] *= of_b * w.b_norm.value[Pairs::first(i)], b[r][k][1] *= of_b * w.b_norm.value[Pairs::second(i)];
      c[r][k][0] *= of_c * w.c_norm.value[Pairs::first(i)], c[r][k][1] *= of_c * w.c_norm.value[Pairs::second(i)];
    });
  }
  T* const to_history = history && is_last_row(sequences, row, xbc.rows)
                            ? history + sequence_of(sequences, row) * Sizes::history_size + Sizes::angles_size
                            : nullptr;
  for (int head = group * heads; head < (group + 1) * heads; ++head) {
    Pairs::each([&](int k, int i) {
      T sine, cosine;
      Pairs::circle(turns[row] + head * Sizes::Na, i, sine, cosine);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const auto key = Pairs::turned(b[r][k], w.b_bias.row(head) + r * N, i, sine, cosine),
                   query = Pairs::turned(c[r][k], w.c_bias.row(head) + r * N, i, sine, cosine);
        Pairs::put(keys[row * R + r] + head * Ns, i, key), Pairs::put(queries[row * R + r] + head * Ns, i, query);
        if (to_history) Pairs::put(to_history + (head * R + r) * Ns, i, key);
      }
    });
    for (int i = Pairs::pairs + lane(); i < Pairs::half; i += 32)  // what pads a half is zero
      for (int r = 0; r < R; ++r) {
        const typename Pairs::Pair zero{};
        Pairs::put(keys[row * R + r] + head * Ns, i, zero), Pairs::put(queries[row * R + r] + head * Ns, i, zero);
        if (to_history) Pairs::put(to_history + (head * R + r) * Ns, i, zero);
      }
  }
}

// at_once, later (T, H) <- how much of a token's input enters at once, and how much for all later tokens: none of a
// blocked one's.
template <class T, int H, class Blocked>
__global__ void __launch_bounds__(Block::threads)
    rotary_parts(Rows<T, H> at_once, Rows<T, H> later, Rows<const T, H> delta, Rows<const T, H> mu, Blocked blocked,
                 Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), row = i / H, head = i % H;
  if (row >= delta.rows) return;
  const T now = mu[row][head] * delta[row][head];
  const bool has_next = !is_last_row(sequences, row, delta.rows);
  const T next = has_next ? (1 - mu[row + 1][head]) * delta[row + 1][head] : T(0);
  at_once[row][head] = now;
  later[row][head] = blocked.blocked(row) ? T(0) : now + next;
}

// A head's input of a rank at channel p, x being the token's.
template <class Sizes, class X>
__device__ typename Sizes::Scalar rotary_value(
    const X* x, const Weight<typename Sizes::Scalar, Sizes::H, Sizes::R * Sizes::P>& mimo_x, int head, int r, int p) {
  const auto value = static_cast<typename Sizes::Scalar>(x[head * Sizes::P + p]);
  if constexpr (Sizes::multiple) return value * mimo_x.row(head)[r * Sizes::P + p];
  else return value;
}

// values (T R, E) <- x by each rank's factors.
template <class Sizes, class S, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads) rotary_values(Rows<S, Sizes::E> values, Rows<const S, Sizes::C> xbc,
                                                                Weight<T, Sizes::H, Sizes::R * Sizes::P> mimo_x) {
  begin_kernel();
  constexpr int stride = Rows<S, Sizes::E>::stride;
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int row = static_cast<int>(i / stride), e = static_cast<int>(i % stride);
  if (row >= values.rows) return;
  values[row][e] =
      S(e < Sizes::E ? rotary_value<Sizes>(xbc[row / Sizes::R], mimo_x, e / Sizes::P, row % Sizes::R, e % Sizes::P)
                     : T(0));
}

// How much of the token before enters where a sequence goes on from it.
template <class T, int H>
__device__ T rotary_previous(Rows<const T, H> delta, Rows<const T, H> mu, int row, int head) {
  return (1 - mu[row][head]) * delta[row][head];
}

// states (sequences, H, Ns, padded(P)) <- from and what enters of the tokens before, which histories keep; they may be
// the same. Sequences without tokens stay as they are.
template <class Sizes, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_enter(T* states, const T* from, const T* history, Rows<const T, Sizes::H> delta, Rows<const T, Sizes::H> mu,
                 Weight<T, Sizes::H, Sizes::R * Sizes::P> mimo_x, Sequences sequences) {
  begin_kernel();
  constexpr int P = Sizes::P, Ns = Sizes::Ns, R = Sizes::R;
  const std::size_t at = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(at / Sizes::state_size);
  if (s >= sequences.count) return;
  const auto i = static_cast<int>(at % Sizes::state_size);
  const int p = i % padded(P), n = i / padded(P) % Ns, head = i / padded(P) / Ns, row = sequences.begin(s);
  T sum = from[at];
  if (p < P && row < sequences.end(s)) {
    const T* const keys = history + s * Sizes::history_size + Sizes::angles_size;
    const T* const x = keys + Sizes::keys_size;
    T more = 0;
    for (int r = 0; r < R; ++r) more += keys[(head * R + r) * Ns + n] * rotary_value<Sizes>(x, mimo_x, head, r, p);
    sum += rotary_previous(delta, mu, row, head) * more;
  }
  states[at] = sum;
}

// What histories keep of x.
template <class Sizes, class X, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_leave(T* history, Rows<const X, Sizes::C> xbc, Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / Sizes::E, e = i % Sizes::E;
  if (s >= sequences.count || sequences.begin(s) == sequences.end(s)) return;
  history[s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size + e] =
      static_cast<T>(xbc[sequences.end(s) - 1][e]);
}

}  // namespace mamba::cuda::detail
