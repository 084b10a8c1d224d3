// The kernels that run a model: tiles through the whole network and back at the scope of a block, and what follows.
#pragma once

#include <cstddef>

#include <mamba/core/parameters.hpp>
#include <mamba/cuda/block_backend.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/network.hpp>

namespace mamba::cuda {

// Where a tile's numbers lie in the arrays of a call.
struct TilePlace {
  int first, sequences;  // (sequences + 1) in `firsts`
  int tokens;
  int readout, readouts, first_readout;
  int first_sequence;
  int boundary_states;
};

// What a kernel over tiles is given.
template <class A>
struct TileArguments {
  using T = typename A::Scalar;
  network::ModelWeights<A> weights;
  const TilePlace* places;
  const int *firsts, *tokens, *times, *readouts;  // tokens and times: as many as rows
  int tiles;
  std::byte* workspaces;  // of all blocks: activations, then Block::global
  std::size_t workspace_bytes, activation_bytes;

  __device__ network::Tile tile(int i) const {
    const TilePlace& place = places[i];
    return {
        tokens + place.tokens, {firsts + place.first, place.sequences, times + place.tokens}, readouts + place.readout, place.readouts, place.first_readout};
  }
  __device__ Block block() const { return {workspace() + activation_bytes}; }
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
template <class A>
__global__ void __launch_bounds__(Block::threads, 1) forward_tiles(TileArguments<A> call, StateArguments<A> state, typename A::Scalar* logits) {
  constexpr int stride = padded(network::HeadActivations<A>::Vp);
  Block be = call.block();
  for (int i = static_cast<int>(blockIdx.x); i < call.tiles; i += static_cast<int>(gridDim.x)) {
    network::Tile tile = call.tile(i);
    network::TileStates<typename A::Scalar> states = state.states;
    if (states.states) {
      const std::size_t at = static_cast<std::size_t>(call.places[i].first_sequence);
      states.history += at * network::MixerOf<A>::history_size;
      states.states += at * network::MixerOf<A>::state_size;
      tile.positions = state.positions + at;
    }
    network::Activations<A> activations(call.workspace(), call.weights.n_layers, tile.rows(), 0, false);
    network::NoProbe probe;
    network::forward(be, activations, tile, call.weights, states, probe);
    network::read_out(be, activations, tile, call.weights, [&](int first, auto& head) {
      const auto* const from = head.logits.data;
      auto* const to = logits + static_cast<std::size_t>(tile.first_readout + first) * stride;
      detail::each(head.logits.rows * stride, [&](int k) { to[k] = from[k]; });
      __syncthreads();
    });
  }
}

// buffers (blocks, size) <- each block's share of the gradients, shares (tiles) of the loss.
template <class A, class Loss>
__global__ void __launch_bounds__(Block::threads, 1)
    train_tiles(TileArguments<A> call, typename A::Scalar* buffers, std::size_t size, double* shares, Loss loss) {
  using T = typename A::Scalar;
  Block be = call.block();
  T* const sums = buffers + blockIdx.x * size;
  for (std::size_t i = threadIdx.x * 4; i < size; i += Block::threads * 4) detail::store4(sums + i, detail::Quad<T>{});
  __syncthreads();
  const int blocks = static_cast<int>(gridDim.x), number = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(static_cast<long long>(call.tiles) * number / blocks);
  const int last = static_cast<int>(static_cast<long long>(call.tiles) * (number + 1) / blocks);
  for (int i = first; i < last; ++i) {
    const network::Tile tile = call.tile(i);
    network::Activations<A> activations(call.workspace(), call.weights.n_layers, tile.rows(), call.places[i].boundary_states, true);
    network::NoProbe probe;
    const double share = network::loss_and_gradients(
        be, network::ModelGradients<A>{sums, call.weights.n_layers}, activations, tile, call.weights,
        [&](auto dlogits, auto logits, int first_row) { return loss(be, dlogits, logits, first_row); }, probe);
    if (detail::thread() == 0) shares[i] = share;
  }
}

// A stretch of a model's arenas.
struct Stretch {
  std::size_t offset;
  int count;
};

inline constexpr int stretch_elements = 4096;

// derived <- the rates of A_log; the other derived weights are the CPU's.
template <class T>
__global__ void derive_rates(T* derived, const T* values, const Stretch* rates) {
  const Stretch s = rates[blockIdx.x];
  for (int i = detail::thread(); i < s.count; i += Block::threads)
    derived[s.offset + i] = static_cast<T>(-math::log2_e * std::exp(static_cast<double>(values[s.offset + i])));
}

// sum <- the buffers' sum, in their order.
template <class T>
__global__ void sum_buffers(T* sum, const T* buffers, int count, std::size_t size) {
  const std::size_t i = (static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x) * 4;
  if (i >= size) return;
  detail::Quad<T> total = detail::load4(buffers + i);
#pragma unroll 8
  for (int b = 1; b < count; ++b) {
    const auto q = detail::load4(buffers + static_cast<std::size_t>(b) * size + i);
    for (int j = 0; j < 4; ++j) total.at[j] += q.at[j];
  }
  detail::store4(sum + i, total);
}

// The gradient with respect to A_log from the one with respect to A.
template <class T>
__global__ void derive_rates_backward(T* gradients, const T* derived, const Stretch* rates) {
  const Stretch s = rates[blockIdx.x];
  for (int i = detail::thread(); i < s.count; i += Block::threads)
    gradients[s.offset + i] *= static_cast<T>(math::ln2 * static_cast<double>(derived[s.offset + i]));
}

// squares (stretches) <- the sum of each stretch's squares, in double.
template <class T>
__global__ void sum_squares(double* squares, const T* values, const Stretch* stretches) {
  __shared__ double partial[Block::warps];
  const Stretch s = stretches[blockIdx.x];
  double sum = 0;
  for (int i = detail::thread(); i < s.count; i += Block::threads) {
    const auto x = static_cast<double>(values[s.offset + i]);
    sum += x * x;
  }
  sum = detail::warp_sum(sum);
  if (detail::lane() == 0) partial[detail::warp()] = sum;
  __syncthreads();
  if (detail::thread() == 0) {
    sum = 0;
    for (const double p : partial) sum += p;
    squares[blockIdx.x] = sum;
  }
}

template <class T>
__global__ void scale(T* values, T factor, const Stretch* stretches) {
  const Stretch s = stretches[blockIdx.x];
  for (int i = detail::thread(); i < s.count; i += Block::threads) values[s.offset + i] *= factor;
}

template <class T>
__global__ void adamw(T* parameters, T* mean, T* square, const T* gradients, math::AdamWStep step, const Stretch* stretches) {
  const Stretch s = stretches[blockIdx.x];
  for (int i = detail::thread(); i < s.count; i += Block::threads)
    math::adamw(parameters[s.offset + i], mean[s.offset + i], square[s.offset + i], gradients[s.offset + i], step);
}

}  // namespace mamba::cuda
