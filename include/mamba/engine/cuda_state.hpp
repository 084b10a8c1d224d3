// A decoding state on the GPU: it stays there until the host asks for it.
#pragma once

#include <mamba/core/policies.hpp>
#include <mamba/cuda/runtime/mirrored.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/state.hpp>

namespace mamba {

template <>
struct StateMemory<Cuda> {
  using type = cuda::Mirrored;
};
template <>
struct StateMemory<CudaBlock> {
  using type = cuda::Mirrored;
};
template <>
struct StateMemory<CudaGrid> {
  using type = cuda::Mirrored;
};

// A state as the kernels of a call see it.
template <class A>
class CudaState {
 public:
  using T = typename A::Scalar;

  explicit CudaState(const cuda::QueuePointer& queue) : queue_(queue), positions_(queue) {}

  void begin(State<A>& state) {
    auto [history, states] = state.memory();
    history.move_to(queue_), states.move_to(queue_);
    positions_.upload(state.positions().data(), state.positions().size());
    first_ = state.tile_states(history.template on_device<T>(), states.template on_device<T>());
  }
  // After the batch's tokens.
  static void advance(State<A>& state, const Batch& batch) {
    for (int s = 0; s < batch.batch; ++s) state.advance(s, batch.length_of(s));
  }

  // Those of the sequences from `sequence` on.
  network::TileStates<T> from(int sequence) const { return State<A>::from(first_, sequence); }
  const int* positions() const { return positions_.template as<int>(); }

 private:
  cuda::QueuePointer queue_;
  cuda::DeviceBuffer positions_;
  network::TileStates<T> first_;
};

}  // namespace mamba
