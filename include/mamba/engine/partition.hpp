// How a batch is cut: sequences into tiles, tiles into gradient buffers.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/engine/batch.hpp>

namespace mamba {

// The fixed map from sequences to tiles and from tiles to gradient buffers: a function of the batch and the model's
// size alone, never of the machine, so that every machine and any number of threads adds in the same order.
struct Partition {
  int sequences = 0, per_tile = 1, tiles = 0, buffers = 1;

  // What a backend likes: its tuning says why.
  struct Limits {
    int tile_tokens;
    int tiles_per_buffer;
    std::size_t most_buffers, most_bytes;  // of all buffers
  };

  static Partition of(const Batch& batch, std::size_t parameter_bytes, const Limits& limits) {
    Partition p;
    p.sequences = batch.batch;
    p.per_tile = (std::max)(1, limits.tile_tokens / batch.length);
    p.tiles = (p.sequences + p.per_tile - 1) / p.per_tile;
    const auto affordable =
        static_cast<int>(std::clamp<std::size_t>(limits.most_bytes / parameter_bytes, 1, limits.most_buffers));
    p.buffers = std::clamp(p.tiles / limits.tiles_per_buffer, 1, affordable);
    return p;
  }
  int first_sequence(int tile) const { return (std::min)(sequences, tile * per_tile); }
  int first_tile(int buffer) const { return static_cast<int>(static_cast<long long>(tiles) * buffer / buffers); }
};

}  // namespace mamba
