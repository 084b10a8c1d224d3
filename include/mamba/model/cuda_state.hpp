// A decoding state that lies on the device while a call runs.
#pragma once

#include <mamba/cuda/runtime.hpp>
#include <mamba/model/batch.hpp>
#include <mamba/model/state.hpp>

namespace mamba {

template <class A>
class CudaState {
 public:
  using T = typename A::Scalar;

  void upload(State<A>& state) {
    auto [history, states] = state.buffers();
    history_.upload(history.template as<std::byte>(), history.bytes());
    states_.upload(states.template as<std::byte>(), states.bytes());
    positions_.upload(state.positions().data(), state.positions().size());
    first_ = state.from(0);
    first_.history = history_.template as<T>(), first_.states = states_.template as<T>();
  }
  // Back to the host, after the batch's tokens.
  void download(State<A>& state, const Batch& batch) const {
    auto [history, states] = state.buffers();
    history_.download(history.template as<std::byte>(), history.bytes());
    states_.download(states.template as<std::byte>(), states.bytes());
    for (int s = 0; s < batch.batch; ++s) state.advance(s, batch.length_of(s));
  }

  // Those of the sequences from `sequence` on.
  network::TileStates<T> from(int sequence) const {
    const auto at = static_cast<std::size_t>(sequence);
    return {first_.history + at * State<A>::Mixer::history_size, first_.states + at * State<A>::Mixer::state_size, first_.history_layer, first_.states_layer};
  }
  const int* positions() const { return positions_.template as<int>(); }

 private:
  cuda::DeviceBuffer history_, states_, positions_;
  network::TileStates<T> first_;
};

}  // namespace mamba
