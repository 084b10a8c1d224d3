// How a batch is cut and launched at block scope: by whoever runs the tile kernels (cuda/kernels/tiles.hpp).
#pragma once

#include <cstddef>

#include <mamba/cuda/kernels/tiles.hpp>
#include <mamba/cuda/runtime/launch.hpp>
#include <mamba/cuda/runtime/queue.hpp>
#include <mamba/cuda/tuning.hpp>
#include <mamba/engine/partition.hpp>

namespace mamba {

template <class A>
struct BlockTiles {
  using T = typename A::Scalar;
  using Recurrence = typename network::MixerOf<A>::Recurrence;
  static constexpr std::size_t shared_bytes = cuda::tile_shared_bytes<A>;
  static constexpr bool runs_anywhere = shared_bytes <= std::size_t{99} << 10;  // every device from 8.0 on has as much

  static Partition partition(const Batch& batch, int n_layers) {
    return Partition::of(
        batch, network::Tables<A>::size(n_layers) * sizeof(T),
        {cuda::TileTuning::tokens, 1, cuda::TileTuning::most_buffers, cuda::TileTuning::most_buffer_bytes});
  }

  // The memory of a block: activations, then Block::global.
  static std::size_t workspace_bytes(std::size_t activation_bytes, bool with_backward) {
    return (activation_bytes + cuda::BlockMemory::global_bytes(Recurrence{}, with_backward) + 255) / 256 * 256;
  }
  // How many states a tile's forward pass keeps where a backward pass follows.
  static int kept_states(Sequences sequences) { return cuda::BlockMemory::kept_states(Recurrence{}, sequences); }

  template <class Kernel>
  static void allow_shared_memory(Kernel* kernel) {
    cuda::allow_shared_memory(kernel, shared_bytes);
  }
  template <class... Parameters, class... Arguments>
  static void launch(const char* name, const cuda::Queue& queue, void (*kernel)(Parameters...), int blocks,
                     const Arguments&... arguments) {
    allow_shared_memory(kernel);
    cuda::launch_kernel(name, kernel, {blocks, cuda::Block::threads, shared_bytes}, queue.stream(),
                        static_cast<Parameters>(arguments)...);
  }
};

}  // namespace mamba
