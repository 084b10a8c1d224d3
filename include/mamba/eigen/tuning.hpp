// The CPU's numbers that speed chose, and what chose them. They decide how work is cut, and so the order of sums: a
// change of one gives other last digits.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// Measured by bench/primitives.cpp, training.cpp and language_model.cpp with AVX-512 (two cores of an AMD EPYC,
// 2026-11; bench/README.md has the tables), those of streamed weights with two of an Intel Xeon. What is said of other
// vectors follows from their number of registers.
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
  static constexpr int ssd_chunk =
      64;  // Mamba-2, and Mamba-3's rows of all ranks: a chunk's decays, 64 x 64, stay in the first-level cache

  // --- pieces of one product that threads share ---
  static constexpr int product_piece_rows = 64;
  static constexpr int scan_piece_channels = 64;  // of a scan: a few microseconds of one token
  // Rows of a weight, each of so many bytes: 192 KB, some ten microseconds of memory. Of 48 KB, where threads take
  // turns, a sixth is asked for by the wrong one.
  static constexpr int weight_piece_rows(std::size_t bytes) { return (std::max)(static_cast<int>(196608 / bytes), 4); }
  // Weights of so many columns are read as they lie; of the others there is a transpose, whose panels are faster.
  static constexpr int least_columns_of_streamed_weight = 256;
  static constexpr std::size_t weight_bytes_ahead = 8192;  // that are asked for before their turn
  static constexpr int few_rows = 8;  // of x, to which a streamed weight's rows are given one by one
  // What is transposed of a streamed weight at a time, and how many rows of x meet it: both in a first-level cache.
  static constexpr int packed_depth = 128, packed_rows = 8 * product_rows;
  static constexpr int product_rows_at_once = 256;  // of x: what such a product takes beside it is bounded

  // --- tiles and buffers of a batch ---
  static constexpr int tile_tokens = 64;      // a tile's activations stay in a second-level cache
  static constexpr int tiles_per_buffer = 2;  // a buffer costs a pass over the parameters
  static constexpr std::size_t most_buffers = 32, most_buffer_bytes = std::size_t{128} << 20;

  // --- arenas ---
  static constexpr std::size_t optimiser_piece = 16384;  // elements a task updates
  static constexpr std::size_t sum_piece = 4096;  // elements a task sums over the buffers; a multiple of row_alignment
};

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
