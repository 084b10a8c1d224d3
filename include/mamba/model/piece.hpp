// A piece of longer sequences, and how its gradients are taken: truncated back-propagation through time, or the whole
// sequence's gradients in pieces, in memory for one of them (Williams and Peng 1990; Sutskever 2013, section 2.8.6).
#pragma once

#include <optional>

#include <mamba/engine/state.hpp>

namespace mamba {

// The gradients of a long text, exactly, in pieces of which each begins with the token that the one before ended with:
//
//   std::vector states{model.initial_state(batch)};  // where each piece begins
//   for (every piece but the last) states.push_back(states.back()), model.prefill(its tokens but the last, ...);
//   auto of_state = model.initial_state(batch);      // zero: nothing follows the last piece
//   for (every piece, from the last one on, k counting down)
//     model.loss_and_gradients(piece k, batch, states[k], {&of_state, weight, k is not the last});
//
// Without of_state gradients end where a piece begins, and one pass from the first piece to the last is enough.
template <class A>
struct Piece {
  // The gradient of the whole loss with respect to the state where the piece ends, which becomes the one with respect
  // to the state where it began. Null: zero, and not wanted. Its positions mean nothing.
  State<A>* of_state = nullptr;
  // Of each of the piece's losses in the whole one; empty: one over their number.
  std::optional<double> weight{};
  // Whether the parameters' gradients are added to those that are there, or take their place.
  bool accumulate = false;
};

}  // namespace mamba
