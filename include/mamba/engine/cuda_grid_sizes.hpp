// How large the tiles of the grid's runner are, and what memory one takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/backend.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/packing.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

// Functions of sizes alone; firsts: scratch.
template <class A>
struct GridTileSizes {
  using S = typename A::Storage;
  using T = typename A::Scalar;
  using Activations = network::Activations<A, network::KeepsLittle>;
  static constexpr int Vp = network::HeadActivations<A>::Vp, logits_stride = padded(Vp);

  static Activations activations_of(void* block, int n_layers, Sequences on_host, int readouts, bool with_backward) {
    const int boundaries = with_backward ? Memory::kept_states(Recurrence{}, on_host) : 0;
    return {block, n_layers, on_host.rows(), boundaries, with_backward, Memory::rows_of_head(logits_stride, readouts)};
  }

  // The batch, halved until a tile is no larger than it may be: it decides the order of sums. One sequence is the
  // least: what memory that lacks, its allocation says.
  static int sequences_of_tile(std::vector<int>& firsts, int n_layers, const Batch& batch, bool with_backward,
                               std::size_t tile_bytes) {
    int count = batch.batch;
    while (count > 1 &&
           (static_cast<long long>(count) * batch.length > network::most_tile_rows<A>() ||
            bytes_of_tile(firsts, n_layers, count, batch.length, count * batch.length, with_backward) > tile_bytes))
      count = (count + 1) / 2;
    return count;
  }
  // For `count` sequences of this length, of which so many rows are read out.
  static std::size_t bytes_of_tile(std::vector<int>& firsts, int n_layers, int count, int length, int readouts,
                                   bool with_backward) {
    const Sequences sequences = equal_sequences(firsts, count, length);
    return activations_of(nullptr, n_layers, sequences, readouts, with_backward).bytes() +
           scratch_bytes(count, count * length, with_backward);
  }
  // What no primitive over such a tile needs more than.
  static std::size_t scratch_bytes(int sequences, int rows, bool with_backward) {
    const std::size_t bytes = Memory::scratch_bytes<S>(Recurrence{}, rows, sequences, with_backward);
    if (!with_backward) return bytes;
    return (std::max)(bytes, Memory::of_operands<S, T>(rows, Mixer::most_outputs));
  }
  // The same of a forward pass, whose recurrence may be a single token's.
  static std::size_t forward_scratch_bytes(int sequences, int rows, int length) {
    const std::size_t of_recurrence =
        length == 1 ? 0 : Memory::template of_recurrence<S>(Recurrence{}, rows, sequences, false);
    return (std::max)(step_scratch_bytes(rows), of_recurrence);
  }
  static std::size_t step_scratch_bytes(int rows) {
    using W = typename A::WeightStorage;
    constexpr int widest = (std::max)(A::config.d_model, A::config.d_inner());
    const std::size_t of_products =
        Memory::of_products<W>(rows, most_outputs) + Memory::template of_step_operand<S, W, widest>(rows);
    return (std::max)(of_products, Memory::template of_step<S>(Recurrence{}, rows));
  }

 private:
  using Memory = cuda::GridMemory;
  using Mixer = network::MixerOf<A>;
  using Recurrence = typename Mixer::Recurrence;
  // Columns of all that a product gives.
  static constexpr int most_outputs = (std::max)({Vp, A::config.d_model, Mixer::most_outputs});
};

}  // namespace mamba
