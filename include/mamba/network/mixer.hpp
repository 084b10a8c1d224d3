// What the network asks of a mixer. Each mixer header specialises MixerOf for its policy with
//   parameters()              its table
//   Saved, Gradient           what forward leaves for backward, what backward needs for itself
//   history_size, state_size  the elements of a sequence's state between calls: of what it remembers of its last tokens
//                             (the convolution's inputs; Mamba-3: angles, keys and x), and of its recurrence
//   rate_per_state            whether A has a value for each state of a channel, or one for each head
//   conv_channels             channels of its convolution; 0: it has none
//   widest                    columns of the widest rows of its activations
//   most_outputs              columns of all that one of its products gives, at most
//   Recurrence                the sizes of its recurrence (recurrence.hpp), by which backends count memory
//   forward, backward         n (T, D) -> m (T, D); backward takes what it has of the states (PassedStates below)
//   recompute                 what Saved shares with other layers, before backward
//   has_step                  whether it has a token between its products in one piece, and with it
//   step                      residual += mixer(norm(residual)) for sequences' next tokens, where a backend has it
//                             in few kernels (fused.hpp, fuses_token_steps)
#pragma once

#include <mamba/core/policies.hpp>
#include <mamba/network/probe.hpp>

namespace mamba::network {

template <class A, class Mixer = typename A::Mixer>
struct MixerOf {
  static_assert(sizeof(A) == 0,
                "mamba: what this mixer policy means is written nowhere (a specialisation of network::MixerOf)");
};

// The states of a tile's sequences in one layer, read at the beginning and left at the end; null: they begin at zero.
template <class T>
struct MixerState {
  T* history = nullptr;  // (sequences, history_size)
  T* states = nullptr;   // (sequences, state_size)
};

// What a backward pass has of those states. Nothing: the sequences began at zero, and nobody asks what becomes of them.
struct NoPassedState {
  static constexpr bool passes = false;
};
// Of one kind of them: where the sequences began, and the gradient with respect to where they ended, which becomes the
// one with respect to where they began; null: zero, and not wanted.
template <class T>
struct PassedState {
  static constexpr bool passes = true;
  const T* from = nullptr;
  T* gradient = nullptr;
};
struct NoPassedStates {
  static constexpr bool passes = false;
  NoPassedState history, states;
};
template <class T>
struct PassedStates {
  static constexpr bool passes = true;
  PassedState<T> history;  // (sequences, history_size)
  PassedState<T> states;   // (sequences, state_size)
};

}  // namespace mamba::network
