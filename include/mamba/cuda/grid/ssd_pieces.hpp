// Walks along all sequences of a call (ssd_walk.hpp). Where sequences are too few for the device, they are cut into
// pieces: one walk along each gives what the piece adds to a state, a pass over the pieces what is carried into each,
// and another walk the results.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/cuda/grid/ssd_walk.hpp>

namespace mamba::cuda::detail {

// Where sequences begin (null: at zero) and, where somebody asks for it, end; they may be the same. Against time: where
// they end, and where they begin.
struct SsdEnds {
  const float* from = nullptr;
  float* to = nullptr;
};

// of_pieces <- what is carried into each piece, given what each adds by itself. A thread takes one number of a
// sequence's state, and asks for several pieces' at once: it waits for memory, not for arithmetic.
template <class Shape, bool backward, class AnySequences>
__global__ void __launch_bounds__(Block::threads)
    ssd_pass(float* of_pieces, const float* decays, SsdEnds ends, int rows_of_piece, AnySequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Shape::state_size), at = static_cast<int>(i % Shape::state_size);
  if (s >= sequences.count) return;
  const int head = at / static_cast<int>(Shape::head_state), begin = sequences.begin(s),
            pieces = (sequences.end(s) - begin + rows_of_piece - 1) / rows_of_piece,
            first = ssd_slot(begin, s, 0, rows_of_piece);
  const auto slot = [&](int k) { return first + (backward ? pieces - 1 - k : k); };
  float carried = ends.from ? ends.from[i] : 0.0F;
  constexpr int at_once = 8;
  for (int k0 = 0; k0 < pieces; k0 += at_once) {
    float added[at_once], decay[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const bool exists = k0 + k < pieces;
      added[k] = exists ? of_pieces[slot(k0 + k) * Shape::state_size + at] : 0.0F,
      decay[k] = exists ? decays[slot(k0 + k) * Shape::H + head] : 0.0F;
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      if (k0 + k >= pieces) break;
      of_pieces[slot(k0 + k) * Shape::state_size + at] = carried;
      carried = decay[k] * carried + added[k];
    }
  }
  if (ends.to) ends.to[i] = carried;
}

// The rows of a piece, a multiple of a chunk's, such that there are blocks enough: a function of sizes alone.
template <class Shape>
int ssd_rows_of_piece(int rows, int sequences) {
  static_assert(GridTuning::ssd_least_piece % Shape::rows == 0, "slots of chunks rely on it");
  const int pieces = GridTuning::ssd_blocks / (Shape::H * Shape::widths * sequences), length = rows / sequences;
  if (pieces < 2) return whole_sequences;
  const int wanted = (length + pieces - 1) / pieces,
            in_chunks = (std::max)((wanted + Shape::rows - 1) / Shape::rows * Shape::rows, GridTuning::ssd_least_piece);
  return in_chunks < length ? in_chunks : whole_sequences;
}

// The memory of walks in pieces, which there may be none of, and of what a group's heads have in common.
template <class Shape>
struct SsdPieces {
  int rows, slots, chunks;
  float *states = nullptr, *decays = nullptr, *pairs = nullptr;

  SsdPieces(int all_rows, int sequences)
      : rows(ssd_rows_of_piece<Shape>(all_rows, sequences)),
        slots(ssd_slots(all_rows, sequences, rows)),
        chunks(ssd_slots(all_rows, sequences, Shape::rows)) {}
  bool exist() const { return rows != whole_sequences; }
  void carve(Carver& memory) {
    if constexpr (SsdPairs<Shape>::are_shared)
      pairs = memory.take<float>(static_cast<std::size_t>(chunks) * Shape::G * SsdPairs<Shape>::of_chunk);
    if (!exist()) return;
    states = memory.take<float>(static_cast<std::size_t>(slots) * Shape::state_size);
    decays = memory.take<float>(static_cast<std::size_t>(slots) * Shape::H);
  }
};

// Walks along all sequences from their ends' `from`, and leaves what is carried out of them in `to`. gives: the walk's
// results; kept: null, or what is carried into each chunk but zeros.
template <bool gives, class Walk>
void ssd_walk_all(Grid& be, const Walk& walk, const SsdPieces<typename Walk::Shape>& pieces, SsdEnds ends,
                  typename Walk::Shape::Stored* kept, typename Walk::AnySequences sequences) {
  using Shape = typename Walk::Shape;
  const auto run = [&](auto kernel, const SsdPath<Shape>& path) {
    be.launch_shaped(
        "ssd_walk", kernel,
        {pieces.slots * Shape::H * Shape::widths, SsdWalkStage<Walk>::threads, shared_memory<SsdWalkStage<Walk>>}, walk,
        path, sequences);
  };
  using Pairs = SsdPairs<Shape>;
  if constexpr (gives && Pairs::are_shared)
    be.launch_shaped("ssd_pairs", ssd_pairs<Walk>,
                     {pieces.chunks * Shape::G, Pairs::threads, shared_memory<typename Pairs::Stage>}, walk,
                     pieces.pairs, sequences);
  if (!pieces.exist())
    return run(ssd_walk<gives, Walk>, SsdPath<Shape>{pieces.rows, ends.from, ends.to, nullptr, kept, pieces.pairs});
  run(ssd_walk<false, Walk>, SsdPath<Shape>{pieces.rows, nullptr, pieces.states, pieces.decays, nullptr});
  be.launch_over("ssd_pass", ssd_pass<Shape, Walk::backward, typename Walk::AnySequences>,
                 static_cast<std::size_t>(sequences.count) * Shape::state_size, pieces.states,
                 static_cast<const float*>(pieces.decays), ends, pieces.rows, sequences);
  run(ssd_walk<gives, Walk>, SsdPath<Shape>{pieces.rows, pieces.states, nullptr, nullptr, kept, pieces.pairs});
}

}  // namespace mamba::cuda::detail
