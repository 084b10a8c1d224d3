// What a model remembers of a batch of sequences between calls: for decoding one token, or a few, at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

// Where the models of a backend keep their states.
template <class Backend>
struct StateMemory {
  using type = Buffer;
};

// The mixer's history (network/mixer.hpp: the convolution's last K-1 inputs, or of Mamba-3, which has no convolution,
// angles, last keys and last x) and the state-space model's state of every layer and sequence, and how many tokens
// each sequence has had. Begins at zero. Lies where its model runs until the host asks for it. Can be copied; the copy
// goes its own way.
template <class A>
class State {
 public:
  using T = typename A::Scalar;
  using Mixer = network::MixerOf<A>;
  using Memory = typename StateMemory<typename A::Backend>::type;

  // make_memory(bytes): such a memory, zeroed.
  template <class MakeMemory>
  State(int n_layers, int batch, MakeMemory&& make_memory)
      : n_layers_(n_layers),
        batch_(batch),
        history_(make_memory(elements(Mixer::history_size) * sizeof(T))),
        states_(make_memory(elements(Mixer::state_size) * sizeof(T))),
        positions_(static_cast<std::size_t>(batch), 0) {}

  int n_layers() const { return n_layers_; }
  int batch() const { return batch_; }
  // (batch) how many tokens each sequence has had.
  const std::vector<int>& positions() const { return positions_; }
  std::size_t bytes() const { return elements(Mixer::history_size + Mixer::state_size) * sizeof(T); }

  // All zeros, and no token: the gradient of nothing, or a beginning.
  void clear() {
    history_.clear(), states_.clear();
    std::fill(positions_.begin(), positions_.end(), 0);
  }

  // For the engine: the memory of the histories and of the states; what lies there, as kernels see it; of
  // that, what belongs to the sequences from `sequence` on.
  std::pair<Memory&, Memory&> memory() { return {history_, states_}; }
  network::TileStates<T> tile_states(T* history, T* states) const {
    const auto all = static_cast<std::size_t>(batch_);
    return {history, states, all * Mixer::history_size, all * Mixer::state_size};
  }
  static network::TileStates<T> from(network::TileStates<T> first, int sequence) {
    const auto at = static_cast<std::size_t>(sequence);
    first.history += at * Mixer::history_size, first.states += at * Mixer::state_size;
    return first;
  }
  void advance(int sequence, int tokens) { positions_[static_cast<std::size_t>(sequence)] += tokens; }

  // The elements as one list each, padding included: what save and load move.
  HostTensor<T> history_tensor() const { return tensor(history_, Mixer::history_size); }
  HostTensor<T> state_tensor() const { return tensor(states_, Mixer::state_size); }
  void restore(const HostTensor<T>& history, const HostTensor<T>& states, const std::vector<int>& positions) {
    const auto check = [](const HostTensor<T>& given, const HostTensor<T>& own, const char* what) {
      if (given.shape != own.shape || given.values.size() != own.values.size())
        fail(ErrorKind::bad_file, "the ", what, " are those of another model or batch");
    };
    check(history, history_tensor(), "histories");
    check(states, state_tensor(), "states");
    if (positions.size() != positions_.size())
      fail(ErrorKind::bad_file, positions.size(), " positions for ", batch_, " sequences");
    constexpr int longest = network::longest_sequence<A>();
    for (const int p : positions)
      if (p < 0 || (longest > 0 && p > longest))
        fail(ErrorKind::bad_file, "a sequence's position is ", p, ", not in 0..",
             longest > 0 ? longest : (std::numeric_limits<int>::max)());
    std::copy(history.values.begin(), history.values.end(), history_.template as<T>());
    std::copy(states.values.begin(), states.values.end(), states_.template as<T>());
    positions_ = positions;
  }

 private:
  std::size_t elements(std::size_t size) const {
    return static_cast<std::size_t>(n_layers_) * static_cast<std::size_t>(batch_) * size;
  }
  HostTensor<T> tensor(const Memory& buffer, std::size_t size) const {
    const T* const first = buffer.template as<T>();
    return {{n_layers_, batch_, static_cast<std::int64_t>(size)}, {first, first + elements(size)}};
  }

  int n_layers_, batch_;
  Memory history_, states_;
  std::vector<int> positions_;
};

}  // namespace mamba
