// The CPU's numbers that speed chose, and what chose them. They decide how work is cut, and so the order of sums: a
// change of one gives other last digits.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// Measured by bench/primitives.cpp, training.cpp and language_model.cpp with AVX-512 (two cores of an AMD EPYC,
// 2026-11; bench/README.md has the tables). What is said of other vectors follows from their number of registers.
struct Tuning {
  // --- a machine with `registers` vector registers (AVX-512 and NEON: 32; SSE and AVX: 16) ---
  // A product's panel: this many vectors of columns, of `product_rows` rows, stay in registers.
  static constexpr int panel_vectors(int registers) { return registers >= 32 ? 4 : 2; }
  static constexpr int product_rows = 6;
  // A scan's block: so many vectors of states stay in registers; of one channel at most these.
  static constexpr int scan_vectors(int registers) { return registers >= 32 ? 8 : 4; }
  static constexpr int scan_channel_vectors = 8, scan_backward_channel_vectors = 4;

  // --- chunks of time: states kept for the backward pass against steps computed again ---
  static constexpr int scan_chunk = 16;  // Mamba-1
  static constexpr int ssd_chunk = 64;   // Mamba-2: a chunk's decays, 64 x 64, stay in the first-level cache

  // --- pieces of one product that threads share ---
  static constexpr int product_piece_rows = 64;
  // Rows of a weight of so many columns: 48 KB, a few microseconds of memory.
  static constexpr int weight_piece_rows(int columns) { return std::clamp(12288 / columns, 4, 64); }
  static constexpr int least_columns_of_streamed_weight = 256;  // of one row of x; below, a panel is faster

  // --- tiles and buffers of a batch ---
  static constexpr int tile_tokens = 64;      // a tile's activations stay in a second-level cache
  static constexpr int tiles_per_buffer = 2;  // a buffer costs a pass over the parameters
  static constexpr std::size_t most_buffers = 32, most_buffer_bytes = std::size_t{128} << 20;

  // --- arenas ---
  static constexpr std::size_t optimiser_piece = 16384;  // elements a task updates
  static constexpr std::size_t sum_piece = 4096;  // elements a task sums over the buffers; a multiple of row_alignment
};

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
