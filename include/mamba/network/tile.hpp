// What the network is told about a tile before it runs: its tokens, where its sequences begin, which rows are read out,
// the states that its sequences begin from.
#pragma once

#include <cstddef>

#include <mamba/core/macros.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/mixer.hpp>

namespace mamba::network {

// What is said about a tile before it runs.
struct Tile {
  const int* tokens = nullptr;  // (T)
  Sequences sequences;
  const int* readout = nullptr;  // (readouts) the rows whose logits are wanted, rising
  int readouts = 0;
  int first_readout = 0;           // the number of the first of them in the whole call
  const int* positions = nullptr;  // (sequences) how many tokens each has had before, or null for none

  MAMBA_HOST_DEVICE int rows() const { return sequences.rows(); }
};

// The states of a tile's sequences in all layers, a layer's `..._layer` elements behind the last's; null: from zero.
template <class T>
struct TileStates {
  T* history = nullptr;
  T* states = nullptr;
  std::size_t history_layer = 0, states_layer = 0;

  MAMBA_HOST_DEVICE MixerState<T> layer(int l) const {
    if (!states) return {};
    return {history + static_cast<std::size_t>(l) * history_layer, states + static_cast<std::size_t>(l) * states_layer};
  }
};

// What a backward pass has of a tile's states: nothing, or where its sequences began and the gradients (mixer.hpp).
struct NoPassage {
  MAMBA_HOST_DEVICE static NoPassedStates layer(int) { return {}; }
};
template <class T>
struct Passage {
  TileStates<T> from, gradient;

  MAMBA_HOST_DEVICE PassedStates<T> layer(int l) const {
    const MixerState<T> began = from.layer(l), of_end = gradient.layer(l);
    return {{began.history, of_end.history}, {began.states, of_end.states}};
  }
};

// Where a tile's numbers lie in the lists of a packed batch (engine/packing.hpp): offsets into the lists, and how many
// of each are its.
struct TileRange {
  int first, sequences;  // (sequences + 1) row numbers in `firsts`
  int tokens;            // in `tokens` and `times`, one for each row
  int readout, readouts, first_readout;
  int first_sequence;   // the number of its first sequence in the batch
  int boundary_states;  // the states that its forward pass keeps for the backward pass

  // The tile over those lists, wherever they lie; times may be null on the CPU.
  MAMBA_HOST_DEVICE Tile tile(const int* firsts, const int* all_tokens, const int* times,
                              const int* readout_rows) const {
    return {all_tokens + tokens,
            {firsts + first, sequences, times ? times + tokens : nullptr},
            readout_rows + readout,
            readouts,
            first_readout};
  }
};

}  // namespace mamba::network
