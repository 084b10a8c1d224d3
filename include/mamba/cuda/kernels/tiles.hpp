// The kernels that run a model at block scope: a thread block takes tiles through the whole network and back.
#pragma once

#include <cstddef>

#include <mamba/core/config.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/backend.hpp>
#include <mamba/cuda/kernels/training_state.hpp>
#include <mamba/cuda/kernels/visits.hpp>
#include <mamba/network/network.hpp>
#include <mamba/network/tile.hpp>

namespace mamba::cuda {

// The shared memory of a block that runs a model.
template <class A>
inline constexpr std::size_t tile_shared_bytes =
    Block::shared_bytes<typename A::Scalar> + sizeof(network::Activations<A>);

// What a kernel over tiles is given.
template <class A>
struct TileArguments {
  using T = typename A::Scalar;
  network::ModelWeights<A> weights;
  const network::TileRange* ranges;
  const int *firsts, *tokens, *times, *readouts;  // tokens and times: as many as rows
  int tiles;
  std::byte* workspaces;  // of all blocks: activations, then Block::global
  std::size_t workspace_bytes, activation_bytes;
  int batch_tokens;  // where two batches take turns: the tokens of one
  Products products;

  // To the second of them, with the loss.
  template <class Loss>
  __device__ void take_second(const Loss*& loss) {
    ranges += tiles, tokens += batch_tokens, ++loss;
  }
  __device__ network::Tile tile(int i) const { return ranges[i].tile(firsts, tokens, times, readouts); }
  __device__ Block block() const { return {workspace() + activation_bytes, products}; }
  __device__ std::byte* workspace() const { return workspaces + blockIdx.x * workspace_bytes; }
};

// A tile's states, if the call has any.
template <class A>
struct StateArguments {
  using T = typename A::Scalar;
  network::TileStates<T> states;  // of the first sequence
  const int* positions = nullptr;
};

// logits (readouts, padded vocabulary with its padding) <- those of all tiles; a block takes every gridDim.x-th tile.
template <class A, class Visits>
__global__ void __launch_bounds__(Block::threads, 1)
    forward_tiles(TileArguments<A> call, StateArguments<A> state, typename A::Scalar* logits, Visits visits) {
  constexpr int stride = padded(network::HeadActivations<A>::Vp);
  Block be = call.block();
  for (int i = static_cast<int>(blockIdx.x); i < call.tiles; i += static_cast<int>(gridDim.x)) {
    network::Tile tile = call.tile(i);
    network::TileStates<typename A::Scalar> states = state.states;
    if (states.states) {
      const std::size_t at = static_cast<std::size_t>(call.ranges[i].first_sequence);
      states.history += at * network::MixerOf<A>::history_size;
      states.states += at * network::MixerOf<A>::state_size;
      tile.positions = state.positions + at;
    }
    auto& activations = be.object<typename A::Scalar, network::Activations<A>>();
    assign(be, activations, {call.workspace(), call.weights.n_layers, tile.rows(), 0, false});
    auto probe = visits.probe(call.ranges[i]);
    network::forward(be, activations, tile, call.weights, states, probe);
    network::read_out(be, activations, tile, call.weights, [&](int first, auto& head) {
      const auto* const from = head.logits.data;
      auto* const to = logits + static_cast<std::size_t>(tile.first_readout + first) * stride;
      detail::each(head.logits.rows * stride, [&](int k) { to[k] = from[k]; });
      __syncthreads();
    });
  }
}

// buffers (blocks, size) <- each block's share of the gradients, shares (tiles) of the loss, which lies in device
// memory. training: null, or a training that may have stopped, and whose batches take turns.
template <class A, class Loss, class Visits>
__global__ void __launch_bounds__(Block::threads, 1)
    train_tiles(TileArguments<A> call, typename A::Scalar* buffers, std::size_t size, double* shares, const Loss* loss,
                const TrainingState* training, Visits visits) {
  using T = typename A::Scalar;
  if (has_stopped(training)) return;
  if (training && training->next % 2 == 1) call.take_second(loss);
  Block be = call.block();
  T* const sums = buffers + blockIdx.x * size;
  for (std::size_t i = threadIdx.x * 4; i < size; i += Block::threads * 4) detail::store4(sums + i, detail::Quad<T>{});
  __syncthreads();
  const int blocks = static_cast<int>(gridDim.x), number = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(static_cast<long long>(call.tiles) * number / blocks);
  const int last = static_cast<int>(static_cast<long long>(call.tiles) * (number + 1) / blocks);
  for (int i = first; i < last; ++i) {
    const network::Tile tile = call.tile(i);
    double share = 0;
    if (tile.sequences.count > 0) {
      auto& activations = be.object<T, network::Activations<A>>();
      assign(be, activations,
             {call.workspace(), call.weights.n_layers, tile.rows(), call.ranges[i].boundary_states, true});
      auto probe = visits.probe(call.ranges[i]);
      share = network::loss_and_gradients(
          be, network::ModelGradients<A>{sums, call.weights.n_layers}, activations, tile, call.weights,
          [&](auto dlogits, auto logits, int first_row) { return (*loss)(be, dlogits, logits, first_row); }, probe);
    }
    if (detail::thread() == 0) shares[i] = share;
  }
}

}  // namespace mamba::cuda
