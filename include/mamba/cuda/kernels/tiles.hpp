// The kernels that run a model: tiles through the whole network and back at the scope of a block, and what follows.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/backend.hpp>
#include <mamba/cuda/kernels/training_state.hpp>
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

// The shared memory of a block that runs a model.
template <class A>
inline constexpr std::size_t tile_shared_bytes = Block::shared_bytes<typename A::Scalar> + sizeof(network::Activations<A>);

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
  int batch_tokens;  // where two batches take turns: the tokens of one

  // To the second of them, with the loss.
  template <class Loss>
  __device__ void take_second(const Loss*& loss) {
    places += tiles, tokens += batch_tokens, ++loss;
  }
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
    auto& activations = be.object<typename A::Scalar, network::Activations<A>>();
    assign(be, activations, {call.workspace(), call.weights.n_layers, tile.rows(), 0, false});
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

// buffers (blocks, size) <- each block's share of the gradients, shares (tiles) of the loss, which lies in device memory.
// training: null, or a training that may have stopped, and whose batches take turns.
template <class A, class Loss>
__global__ void __launch_bounds__(Block::threads, 1)
    train_tiles(TileArguments<A> call, typename A::Scalar* buffers, std::size_t size, double* shares, const Loss* loss, const TrainingState* training) {
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
      assign(be, activations, {call.workspace(), call.weights.n_layers, tile.rows(), call.places[i].boundary_states, true});
      network::NoProbe probe;
      share = network::loss_and_gradients(
          be, network::ModelGradients<A>{sums, call.weights.n_layers}, activations, tile, call.weights,
          [&](auto dlogits, auto logits, int first_row) { return (*loss)(be, dlogits, logits, first_row); }, probe);
    }
    if (detail::thread() == 0) shares[i] = share;
  }
}

// --- over arenas: one thread for every four elements, which belong to one parameter ----------------------------------------

// What is done with four elements of an arena.
struct Kind {
  bool trained, rate;  // rate: of A_log, whose derived weight is the rate
};

struct ArenaPlace {
  std::size_t quads;
  const Kind* kinds;  // (quads)

  unsigned blocks() const { return static_cast<unsigned>((quads + Block::threads - 1) / Block::threads); }
  // f(offset, kind) for the thread's elements.
  template <class F>
  __device__ void visit(F&& f) const {
    const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
    if (i < quads) f(4 * i, kinds[i]);
  }
};

namespace detail {

template <class T>
__device__ T rate_of(T a_log) {
  return static_cast<T>(-math::log2_e * std::exp(static_cast<double>(a_log)));
}

template <class T>
__device__ double square_sum(const Quad<T>& q) {
  double sum = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) sum += static_cast<double>(q.at[j]) * static_cast<double>(q.at[j]);
  return sum;
}

// sums[block] <- the sum of its threads' values.
__device__ inline void leave_block_sum(double* sums, double value) {
  __shared__ double partial[Block::warps];
  value = warp_sum(value);
  if (lane() == 0) partial[warp()] = value;
  __syncthreads();
  if (thread() != 0) return;
  value = 0;
  for (const double p : partial) value += p;
  sums[blockIdx.x] = value;
}

}  // namespace detail

// derived <- the rates of A_log; the other derived weights are the CPU's.
template <class T>
__global__ void derive_rates(T* derived, const T* values, ArenaPlace place) {
  place.visit([&](std::size_t at, Kind kind) {
    if (!kind.rate) return;
    for (std::size_t j = at; j < at + 4; ++j) derived[j] = detail::rate_of(values[j]);
  });
}

// How the sum of buffers is shared out: where there are many, a warp of a block takes some of them, so that more loads are under way.
struct BufferSum {
  static constexpr int lanes = 32;

  static MAMBA_HOST_DEVICE int warps(int buffers) { return buffers >= 4 * Block::warps ? Block::warps : 1; }  // that share a sum
  static std::size_t blocks(ArenaPlace place, int buffers) {
    const auto at_once = static_cast<std::size_t>(Block::threads / warps(buffers));
    return (place.quads + at_once - 1) / at_once;
  }
};

// gradients <- the sum of `count` buffers, in an order that depends on their number alone, with respect to A_log where the buffers' is
// to A; squares (blocks) <- the sums of the trained ones' squares.
template <class T>
__global__ void sum_buffers(T* gradients, const T* buffers, int count, const T* derived, double* squares, ArenaPlace place, const TrainingState* training) {
  __shared__ detail::Quad<T> partial[Block::warps][BufferSum::lanes];
  if (has_stopped(training)) return;
  const int warps = BufferSum::warps(count);
  const bool shared = warps > 1;
  const std::size_t i =
      shared ? static_cast<std::size_t>(blockIdx.x) * BufferSum::lanes + detail::lane() : static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const std::size_t at = 4 * i, size = 4 * place.quads;
  detail::Quad<T> total{};
  if (i < place.quads) {
    const int first = shared ? count * detail::warp() / warps : 0, last = shared ? count * (detail::warp() + 1) / warps : count;
    total = detail::load4(buffers + static_cast<std::size_t>(first) * size + at);
#pragma unroll 8
    for (int b = first + 1; b < last; ++b) detail::add_to(total, detail::load4(buffers + static_cast<std::size_t>(b) * size + at));
  }
  if (shared) {
    partial[detail::warp()][detail::lane()] = total;
    __syncthreads();
  }
  double square = 0;
  if (i < place.quads && (!shared || detail::warp() == 0)) {
    if (shared)
#pragma unroll
      for (int w = 1; w < Block::warps; ++w) detail::add_to(total, partial[w][detail::lane()]);
    const Kind kind = place.kinds[i];
    if (kind.rate)
#pragma unroll
      for (int j = 0; j < 4; ++j) total.at[j] *= static_cast<T>(math::ln2 * static_cast<double>(derived[at + j]));
    detail::store4(gradients + at, total);
    if (kind.trained) square = detail::square_sum(total);
  }
  detail::leave_block_sum(squares, square);
}

// squares (blocks) <- the sums of the trained elements' squares.
template <class T>
__global__ void sum_squares(double* squares, const T* values, ArenaPlace place) {
  double square = 0;
  place.visit([&](std::size_t at, Kind kind) {
    if (kind.trained) square = detail::square_sum(detail::load4(values + at));
  });
  detail::leave_block_sum(squares, square);
}

template <class T>
__global__ void scale(T* values, T factor, ArenaPlace place) {
  place.visit([&](std::size_t at, Kind kind) {
    if (kind.trained)
      for (std::size_t j = at; j < at + 4; ++j) values[j] *= factor;
  });
}

template <class T>
__global__ void adamw(T* parameters, T* mean, T* square, const T* gradients, math::AdamWStep step, ArenaPlace place) {
  place.visit([&](std::size_t at, Kind kind) {
    if (kind.trained)
      for (std::size_t j = at; j < at + 4; ++j) math::adamw(parameters[j], mean[j], square[j], gradients[j], step);
  });
}

}  // namespace mamba::cuda
