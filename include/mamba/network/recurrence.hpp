// The sizes of a mixer's recurrence as a type: what a backend is asked by how much memory the recurrence takes.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>

namespace mamba::network {

// Mamba-1's selective scan: E channels of N states each.
template <class T, int E_, int N_>
struct SelectiveScanSizes {
  using Scalar = T;
  static constexpr int E = E_, N = N_;
};

// Mamba-2's state-space dual: H heads of P channels, whose N states' B and C are shared by the heads of each of G
// groups.
template <class T, int H_, int P_, int G_, int N_>
struct SsdSizes {
  using Scalar = T;
  static constexpr int H = H_, P = P_, G = G_, N = N_;
};

// Mamba-3's: H heads of P channels on N states, whose keys and queries are shared by the heads of each of G groups, but
// for biases and for the angles of Na pairs of states. rank 0: a head has one input and one output; else so many, each
// with factors of its own, and other pairs.
template <class T, int H_, int P_, int G_, int N_, int rank_, int Na_>
struct RotarySsdSizes {
  using Scalar = T;
  static constexpr int H = H_, P = P_, G = G_, N = N_, R = rank_ == 0 ? 1 : rank_, Na = Na_;
  static constexpr bool multiple = rank_ > 0;
  static constexpr int E = H * P, C = E + 2 * R * G * N;  // columns of x, b and c side by side
  // A pair's two states lie as far apart as this, in keys, queries and states, so that vectors hold one of each.
  static constexpr int half = padded(N / 2), Ns = 2 * half;

  // What a sequence remembers beside its states (H, Ns, P): its angles (H, Na), two numbers each (math/turns.hpp), and
  // its last token's keys (H, R, Ns) and x (E).
  static constexpr std::size_t angles_size = static_cast<std::size_t>(padded(2 * H * Na)),
                               keys_size = static_cast<std::size_t>(H) * R * Ns,
                               history_size = angles_size + keys_size + static_cast<std::size_t>(padded(E)),
                               state_size = static_cast<std::size_t>(H) * Ns * padded(P);

  // What threads that share out a head of a token exchange: angles, keys of it and of the one before it, queries,
  // outputs; and whether a GPU's block has room for it without asking.
  static constexpr int token_size = Na + 3 * R * Ns + R * (P + 1);
  static constexpr bool token_fits_block = static_cast<std::size_t>(token_size) * sizeof(T) <= std::size_t{44} << 10;
};

// The weights of such a recurrence, and where their gradients add up. Of rank 0 there are no factors mimo_x.
template <class Sizes, class T = typename Sizes::Scalar>
struct RotaryWeights {
  Weight<T, 1, Sizes::N> b_norm, c_norm;
  Weight<T, Sizes::H, Sizes::R * Sizes::N> b_bias, c_bias;
  Weight<T, 1, Sizes::H> d;
  Weight<T, Sizes::H, Sizes::R * Sizes::P> mimo_x;
};
template <class Sizes, class T = typename Sizes::Scalar>
struct RotaryGradients {
  WeightGradient<T, 1, Sizes::N> b_norm, c_norm;
  WeightGradient<T, Sizes::H, Sizes::R * Sizes::N> b_bias, c_bias;
  WeightGradient<T, 1, Sizes::H> d;
  WeightGradient<T, Sizes::H, Sizes::R * Sizes::P> mimo_x;
};
// The weights of what is behind it: of ranks' gates and outputs, where there are ranks, and of the norm, where there is
// one.
template <class Sizes, class T = typename Sizes::Scalar>
struct RotaryGate {
  Weight<T, Sizes::H, Sizes::R * Sizes::P> z, o;
  Weight<T, 1, Sizes::E> norm;
};

}  // namespace mamba::network
