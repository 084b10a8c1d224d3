// The GPU's numbers that speed chose, and what chose them. They decide how work is cut, and so the order of sums: a
// change of one gives other last digits. None is asked of the card at hand, so that all cards add in the same order.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/macros.hpp>

namespace mamba::cuda {

// One thread block, measured by bench/cuda_primitives.cu and bench/cuda_training.cu on H100 and H200 (2026-11).
struct BlockTuning {
  static constexpr int threads = 256;
  static constexpr int shared_elements =
      24576;  // that primitives exchange: 96 KiB of float, so that double takes what Hopper has
  static constexpr int rowwise_batch = 4;  // rows whose loads are under way at once

  // Mamba-1's scan: steps between kept states, for so many states a lane; channels that a group of lanes works on at
  // once.
  static constexpr int scan_chunk(int states) { return states <= 4 ? 8 : states <= 8 ? 4 : states <= 16 ? 2 : 1; }
  static constexpr int scan_ways(int channels, int groups) {
    return channels >= 4 * groups ? 4 : channels >= 2 * groups ? 2 : 1;
  }
  static constexpr int scan_slab = 64;  // channels that a pass loads at least

  static constexpr int ssd_chunk = 8;  // Mamba-2: half a warp holds a chunk's triangle
};

// The whole device. What belongs to scans, few rows and the head was chosen with the kernels of a language model of 130
// million parameters on an H200 (2026-11, bench/cuda_language_model.cu); slices were chosen so that every size runs.
struct GridTuning {
  // Of rows: about, in whole rounds of a block's warps; as many where there are few rows.
  static constexpr int slice_elements = 8192, slices = 264;
  static constexpr int gradient_slice_rows = 64;  // rows of a slice with a partial gradient
  static constexpr std::size_t most_partial_bytes = std::size_t{64} << 20;
  static constexpr int few_rows = 8;          // of a product by warps
  static constexpr int few_stored_rows = 4;   // the same of 16 bits, whose products on tensor cores are faster
  static constexpr int narrow_columns = 128;  // of outputs side by side: so few are one product
  static constexpr int step_rows = 256;       // of products that are never cuBLAS's, so that they are recorded
  // Of such a product: the multiprocessors that have work where there is enough; shares of a sum at most. In the time
  // that a block of side 128 takes for a panel: one of side 64 for its own, a tile's begin and end, a second kernel
  // that adds shares up and each byte of these.
  static constexpr int product_multiprocessors = 132, most_product_shares = 16;
  static constexpr double product_small_panel = 0.6, product_begin = 3, product_meeting = 2,
                          product_meeting_byte = 1.4e-7;
  static constexpr int head_elements = 1 << 26;  // of the logits that exist at once
  static constexpr int token_blocks = 264;       // that look for tokens whose rows of a table they add to
  static constexpr int most_partials = 256, most_sequence_blocks = 65536;

  // Mamba-1's scan: threads of a block; what it has of each input, and of b and c, in shared memory; blocks of the
  // backward pass, where there is work for so many.
  // Where sequences are few, pieces of them: blocks that are to have work; rows of a piece at least.
  static constexpr int scan_piece_blocks = 1056, scan_least_piece = 256;
  static constexpr int scan_threads = 128, scan_input_bytes = 8192, scan_state_bytes = 4096, scan_blocks = 1024;
  static constexpr int scan_chunk = 8;         // Mamba-2's but in chunks: steps between kept states
  static constexpr int scan_all_blocks = 512;  // of its backward pass
  // Mamba-2's chunks: blocks that are to walk along sequences; rows of a piece of one at least.
  static constexpr int ssd_blocks = 264, ssd_least_piece = 256;
  static constexpr std::size_t scan_partial_elements = std::size_t{1} << 26;
};

// Products of few rows with a weight (grid/few_rows.hpp): outputs that a warp has at once, warps that are to have work,
// stretches of rows that a lane asks for, a multiprocessor's blocks; from how many elements on a weight is large. Of
// 29 ways, each timed for eight shapes from (80, 1536) to (50280, 2560), 1, 4 and 8 rows and three types on an H200
// (2026-12), the ones that were best or near it. That a weight which is not large is asked for as a whole, by three
// blocks, follows from how kernels begin early and from ptxas, and was not timed.
struct FewRowsTuning {
  static constexpr int most_outputs = 2, most_outputs_of_large = 4;
  static constexpr int least_warps = 3072, least_warps_of_large = 6144;  // the latter of more rows than one
  static constexpr int most_stretches = 8, stretches_of_large = 2;       // the former of a warp's outputs together
  static constexpr int blocks = 3, blocks_of_large = 2;
  static constexpr std::size_t large_weight = std::size_t{1} << 22;
};

// How a batch is cut at block scope (bench/cuda_training.cu; H100 and H200, 2026-11).
struct TileTuning {
  static constexpr int tokens = 128;                // of a tile
  static constexpr std::size_t most_buffers = 132;  // the multiprocessors of the largest devices
  static constexpr std::size_t most_buffer_bytes = std::size_t{8} << 30;
  static constexpr int most_forward_blocks = 264;  // two for each
  static constexpr int draw_threads = 1024;  // a thread a sequence, on few multiprocessors: it runs beside the tiles
};

// A layer's microseconds at block and at grid scope (engine/cuda_scope.hpp): drawn by bench/cuda_scope.cu on an H200
// (2026-11), then with d_model 64, 256 and 512, too, and batches of 64 to 32,768 tokens. Of a gradient; a forward pass
// takes a share.
struct ScopeTuning {
  // A tile's rows, one after the other: each, and for each parameter that it meets.
  static constexpr double block_row = 1.64, block_parameter = 4.3e-5, rows_of_tile = 128, tiles_at_once = 132;
  // The kernels' launches; and for each token what its channels, their states (of Mamba-1, of Mamba-2) and the
  // parameters that it meets take.
  static constexpr double grid_launches = 400, grid_channel = 7.5e-5, grid_parameter = 1.35e-7;
  static constexpr double grid_own_state = 3.4e-6, grid_shared_state = 8e-7;
  static constexpr double forward_of_block = 0.28, forward_of_launches = 0.3, forward_of_grid = 0.35;
};

}  // namespace mamba::cuda
