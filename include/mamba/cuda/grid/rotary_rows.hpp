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

// How a warp's lanes share out N states: in pairs, two neighbours of which are a lane's where all lanes have as many,
// so that memory is read and written in words.
template <class Sizes>
struct RotaryPairs {
  using T = typename Sizes::Scalar;
  static constexpr int pairs = Sizes::N / 2, of_lane = (pairs + 31) / 32, half = Sizes::half;
  static constexpr bool in_twos = pairs % 64 == 0 && Sizes::E % 4 == 0 && Sizes::Na % 2 == 0;
  using Values = T[of_lane][2];  // of a lane's pairs

  // Pair i's states in b, c and weights: neighbours, or half of all states apart.
  static __device__ int first(int i) { return Sizes::multiple ? i : 2 * i; }
  static __device__ int second(int i) { return Sizes::multiple ? i + Sizes::N / 2 : 2 * i + 1; }

  // f(k, i) for the lane's k-th pair, i; or for every second one, the next being its neighbour.
  template <int step = 1, class F>
  static __device__ void each(F&& f) {
#pragma unroll
    for (int k = 0; k < of_lane; k += step) {
      const int i = in_twos ? 2 * (lane() + 32 * (k / 2)) + k % 2 : lane() + 32 * k;
      if (in_twos || i < pairs) f(k, i);
    }
  }

  // Of a row of b or c, or of what has their columns: weights, biases, gradients.
  template <class X>
  static __device__ void load(Values& x, const X* from) {
    if constexpr (in_twos && Sizes::multiple) {
      each<2>([&](int k, int i) {
        const auto one = load_pair(from + first(i)), other = load_pair(from + second(i));
        x[k][0] = one.at[0], x[k][1] = other.at[0], x[k + 1][0] = one.at[1], x[k + 1][1] = other.at[1];
      });
    } else if constexpr (in_twos) {
      each<2>([&](int k, int i) {
        const auto both = load4(from + first(i));
        x[k][0] = both.at[0], x[k][1] = both.at[1], x[k + 1][0] = both.at[2], x[k + 1][1] = both.at[3];
      });
    } else {
      each([&](int k, int i) { x[k][0] = static_cast<T>(from[first(i)]), x[k][1] = static_cast<T>(from[second(i)]); });
    }
  }
  static __device__ void store(T* to, const Values& x) {
    if constexpr (in_twos && Sizes::multiple) {
      each<2>([&](int k, int i) {
        store_pair(to + first(i), x[k][0], x[k + 1][0]), store_pair(to + second(i), x[k][1], x[k + 1][1]);
      });
    } else if constexpr (in_twos) {
      each<2>([&](int k, int i) { store4(to + first(i), Quad<T>{{x[k][0], x[k][1], x[k + 1][0], x[k + 1][1]}}); });
    } else {
      each([&](int k, int i) { to[first(i)] = x[k][0], to[second(i)] = x[k][1]; });
    }
  }
  // Of a row of keys, whose pairs are half of all apart.
  template <class Key>
  static __device__ void load_key(Values& x, const Key* from) {
    if constexpr (in_twos) {
      each<2>([&](int k, int i) {
        const auto one = load_pair(from + i), other = load_pair(from + half + i);
        x[k][0] = one.at[0], x[k][1] = other.at[0], x[k + 1][0] = one.at[1], x[k + 1][1] = other.at[1];
      });
    } else {
      each([&](int k, int i) { x[k][0] = static_cast<T>(from[i]), x[k][1] = static_cast<T>(from[half + i]); });
    }
  }
  // With what pads its halves, which is zero.
  template <class Key>
  static __device__ void store_key(Key* to, const Values& x) {
    if constexpr (in_twos) {
      each<2>([&](int k, int i) {
        store_pair(to + i, x[k][0], x[k + 1][0]), store_pair(to + half + i, x[k][1], x[k + 1][1]);
      });
    } else {
      each([&](int k, int i) { to[i] = Key(x[k][0]), to[half + i] = Key(x[k][1]); });
    }
    if constexpr (pairs < half)
      for (int i = pairs + lane(); i < half; i += 32) to[i] = Key(T(0)), to[half + i] = Key(T(0));
  }

  // The angles by which a lane's pairs turn.
  struct Circles {
    T sine[of_lane], cosine[of_lane];

    template <class I>
    __device__ explicit Circles(const I* turns) {
      const auto set = [&](int k, I turn) { math::sine_cosine<T>(turn, sine[k], cosine[k]); };
      each<in_twos ? 2 : 1>([&](int k, int i) {
        constexpr int together = in_twos ? 2 : 1;
#pragma unroll
        for (int j = 0; j < together; ++j) sine[k + j] = 0, cosine[k + j] = 1;
        if (i >= Sizes::Na) return;
        if constexpr (in_twos) {
          const auto two = load_pair(turns + i);
          set(k, two.at[0]), set(k + 1, two.at[1]);
        } else {
          set(k, turns[i]);
        }
      });
    }
    // to <- x with the bias, turned.
    __device__ void turn(Values& to, const Values& x, const Values& bias) const {
      each([&](int k, int) {
        const T one = x[k][0] + bias[k][0], other = x[k][1] + bias[k][1];
        to[k][0] = cosine[k] * one - sine[k] * other, to[k][1] = sine[k] * one + cosine[k] * other;
      });
    }
    // Back again.
    __device__ void turn_back(Values& to, const Values& x) const {
      each([&](int k, int) {
        to[k][0] = cosine[k] * x[k][0] + sine[k] * x[k][1], to[k][1] = cosine[k] * x[k][1] - sine[k] * x[k][0];
      });
    }
  };
  // Gradients of angles.
  static __device__ void store_angles(T* to, const T (&x)[of_lane]) {
    if constexpr (in_twos) {
      each<2>([&](int k, int i) {
        if (i < Sizes::Na) store_pair(to + i, x[k], x[k + 1]);
      });
    } else {
      each([&](int k, int i) {
        if (i < Sizes::Na) to[i] = x[k];
      });
    }
  }

  // The factor of a row's norm.
  static __device__ T norm_of(const Values& raw) {
    T squares = 0;
    each([&](int k, int) { squares += raw[k][0] * raw[k][0] + raw[k][1] * raw[k][1]; });
    return 1 / std::sqrt(lane_sum(squares) / T(Sizes::N) + static_cast<T>(math::norm_epsilon));
  }
  // x <- a row of b or c, normed.
  template <class X>
  static __device__ void load_normed(Values& x, const X* from, const T* weight) {
    load(x, from);
    Values factor;
    load(factor, weight);
    const T rho = norm_of(x);
    each([&](int k, int) { x[k][0] *= rho * factor[k][0], x[k][1] *= rho * factor[k][1]; });
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
  typename Pairs::Values b[R], c[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    Pairs::load_normed(b[r], from + r * G * N, w.b_norm.value);
    Pairs::load_normed(c[r], from + (R + r) * G * N, w.c_norm.value);
  }
  T* const to_history = history && is_last_row(sequences, row, xbc.rows)
                            ? history + sequence_of(sequences, row) * Sizes::history_size + Sizes::angles_size
                            : nullptr;
  for (int head = group * heads; head < (group + 1) * heads; ++head) {
    const typename Pairs::Circles circles(turns[row] + head * Sizes::Na);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      typename Pairs::Values bias, turned;
      Pairs::load(bias, w.b_bias.row(head) + r * N);
      circles.turn(turned, b[r], bias);
      Pairs::store_key(keys[row * R + r] + head * Ns, turned);
      if (to_history) Pairs::store_key(to_history + (head * R + r) * Ns, turned);
      Pairs::load(bias, w.c_bias.row(head) + r * N);
      circles.turn(turned, c[r], bias);
      Pairs::store_key(queries[row * R + r] + head * Ns, turned);
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
