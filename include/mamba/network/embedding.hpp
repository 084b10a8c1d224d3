// The stack's input: the tokens' embedding and, where the policy says so, their position.
#pragma once

#include <algorithm>
#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/head.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::network {

// What each position policy means; one without a line here does not compile.
enum class PositionKind {
  none,
  learned,     // Position::positions vectors, one for each position
  sinusoidal,  // sines and cosines
};
template <class Position>
constexpr PositionKind position_of() {
  if constexpr (std::is_same_v<Position, NoPosition>) return PositionKind::none;
  else if constexpr (std::is_same_v<Position, SinusoidalPosition>) return PositionKind::sinusoidal;
  else if constexpr (requires { typename LearnedPosition<Position::positions>; }) {
    static_assert(std::is_same_v<Position, LearnedPosition<Position::positions>>,
                  "mamba: this position policy is no LearnedPosition, though it has positions");
    return PositionKind::learned;
  } else
    static_assert(sizeof(Position) == 0,
                  "mamba: what this position policy means is written nowhere (network/embedding.hpp, position_of)");
}

// The longest sequence that an architecture can read; 0: any.
template <class A>
constexpr int longest_sequence() {
  int longest = A::config.max_seq_len;
  if constexpr (position_of<typename A::Position>() == PositionKind::learned)
    longest = longest == 0 ? A::Position::positions : (std::min)(longest, A::Position::positions);
  return longest;
}

template <class A>
constexpr auto embedding_parameters() {
  constexpr int D = A::config.d_model;
  // Nothing but a tied head multiplies by it.
  constexpr Derived derived = head_of<typename A::Head>() == HeadKind::tied ? Derived::transpose : Derived::none;
  const ParameterTable<1> tokens{matrix_parameter("backbone.embedding.weight", Role::embedding,
                                                  A::config.padded_vocab_size(), D, Law::normal, 0.02, derived)};
  if constexpr (position_of<typename A::Position>() == PositionKind::learned)
    return join(tokens,
                ParameterTable<1>{matrix_parameter("position_embedding.weight", Role::position, A::Position::positions,
                                                   D, Law::normal, 0.02, Derived::none)});
  else return tokens;
}

// x (T, D) <- embedding + position; positions (sequences): how many tokens each sequence has had before, or null.
MAMBA_COMPOSITION
template <class A, class Backend, class T, int D, class FrontWeights>
MAMBA_HOST_DEVICE void embed(Backend& be, Rows<T, D> x, const int* tokens, Sequences sequences, const int* positions,
                             FrontWeights w) {
  embedding(be, x, tokens, w.template get<"backbone.embedding.weight">());
  constexpr PositionKind position = position_of<typename A::Position>();
  if constexpr (position == PositionKind::sinusoidal) add_sinusoids(be, x, sequences, positions);
  if constexpr (position == PositionKind::learned)
    add_positions(be, x, sequences, positions, w.template get<"position_embedding.weight">());
}

// dw += the gradients of the look-ups, given dx (T, D); positions as embed's.
MAMBA_COMPOSITION
template <class A, class Backend, class T, int D, class FrontGradients>
MAMBA_HOST_DEVICE void embed_backward(Backend& be, FrontGradients dw, Rows<const T, D> dx, const int* tokens,
                                      Sequences sequences, const int* positions) {
  embedding_backward(be, dw.template get<"backbone.embedding.weight">(), dx, tokens);
  if constexpr (position_of<typename A::Position>() == PositionKind::learned)
    add_positions_backward(be, dw.template get<"position_embedding.weight">(), dx, sequences, positions);
}

}  // namespace mamba::network
