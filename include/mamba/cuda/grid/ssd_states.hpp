// The states between chunks of Mamba-2's recurrence over the grid (ssd.hpp), and their adjoints: what each chunk adds
// by itself, and then, in the order of time or against it, what comes in from the others. They are stored as the inputs
// are, and carried on in float.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// Left: b or c; right: x or dy, which is scaled in its place, or where it is of another type on its way there.
template <class S, class From>
struct SsdStatesStage {
  static constexpr bool in_place = std::is_same_v<S, From>;
  using Panel = SsdPanel<Along::result, S>;
  using PanelFrom = SsdPanel<Along::result, From>;
  S left[ssd_pieces][Panel::elements], right[ssd_pieces][Panel::elements];
  From elsewhere[in_place ? 1 : ssd_pieces][in_place ? 1 : PanelFrom::elements];
  SsdDecays<S> decays;

  __device__ From* from(int piece) {
    if constexpr (in_place) return right[piece];
    else return elsewhere[piece];
  }
};

// of_chunks (slots, H, N, padded(P)) <- what a chunk adds to the state at its end: sum over its rows of
// to_end_j delta_j b_j x_j^T; adjoint: to the gradient of the state at its begin, sum of from_begin_i c_i dy_i^T. And
// falls (slots, H) <- the whole chunk's decay. Without `all`, only for chunks with a neighbour that asks for it.
template <class Shape, bool adjoint>
using SsdStatesStageOf =
    SsdStatesStage<typename Shape::Stored, std::conditional_t<adjoint, float, typename Shape::Stored>>;
template <class Shape, bool adjoint, class Blocked>
__global__ void __launch_bounds__(ssd_threads)
    ssd_states_of_chunks(SsdInputs<Shape> in, Rows<const float, Shape::E> dy, typename Shape::Stored* of_chunks,
                         float* falls, bool all, Sequences sequences, Blocked blocked) {
  begin_kernel();
  using Stage = SsdStatesStageOf<Shape, adjoint>;
  constexpr int P = Shape::P, N = Shape::N;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::tiles_of_p * ssd_rows;
  index /= Shape::tiles_of_p;
  const int n0 = index % Shape::tiles_of_n * ssd_rows;
  index /= Shape::tiles_of_n;
  const int head = index % Shape::H, slot = index / Shape::H, group = head / Shape::heads_of_group;
  const SsdChunk chunk = ssd_chunk_of(sequences, slot);
  if (chunk.count == 0 || (!all && (adjoint ? chunk.number == 0 : chunk.is_last))) return;
  const int n_column = (adjoint ? Shape::c_column(group) : Shape::b_column(group)) + n0;
  const int p_column = Shape::x_column(head) + p0;
  const auto stage_piece = [&](int piece, const auto& of_p) {
    const int first = chunk.first + piece * ssd_depth, lines = chunk.count - piece * ssd_depth;
    stage_panel<Shape::aligned>(typename Stage::Panel{stage.left[piece]}, in.xbc.address(first) + n_column,
                                in.xbc.stride, lines, N - n0);
    stage_panel<Shape::aligned>(typename Stage::PanelFrom{stage.from(piece)}, of_p.address(first) + p_column,
                                of_p.stride, lines, P - p0);
  };
  for (int piece = 0; piece < ssd_pieces; ++piece) {
    if constexpr (adjoint) stage_piece(piece, dy);
    else stage_piece(piece, in.xbc);
  }
  commit_copies();
  stage.decays.load(in, chunk, head);
  wait_for_copies<0>();
  __syncthreads();
  for (int i = thread(); i < ssd_rows * ssd_rows; i += ssd_threads) {
    const int t = i / ssd_rows, p = i % ssd_rows;
    const int piece = t / ssd_depth, line = t % ssd_depth;
    const float x = stage.from(piece)[line * Stage::PanelFrom::stride + p];
    auto& scaled = stage.right[piece][line * Stage::Panel::stride + p];
    if constexpr (adjoint) scaled = x * stage.decays.from_begin[t];
    else
      scaled =
          x *
          (t < chunk.count && blocked.blocked(chunk.first + t) ? 0.0F : stage.decays.to_end[t] * stage.decays.delta[t]);
  }
  __syncthreads();
  SsdResult<typename Shape::Stored> result;
  for (int piece = 0; piece < ssd_pieces; ++piece)
    result.add(typename Stage::Panel{stage.left[piece]}, typename Stage::Panel{stage.right[piece]}, ssd_depth, ssd_rows,
               in.first_term);
  auto* const to = of_chunks + slot * Shape::state_size + head * Shape::head_state;
  result.each([&](int n, int p, float value) {
    if (n0 + n < N && p0 + p < padded(P)) to[static_cast<std::ptrdiff_t>(n0 + n) * padded(P) + p0 + p] = value;
  });
  if (n0 == 0 && p0 == 0 && thread() == 0) falls[slot * Shape::H + head] = stage.decays.of_chunk();
}

// One after the other of a sequence's chunks: what is carried stands in the place of what the chunk adds, and becomes
// fall * carried + added. slot_of(k): the slot of the k-th, and whether it adds anything that is known.
struct SsdSlot {
  int number;
  bool adds;
};
template <class S, class SlotOf>
__device__ void ssd_pass_through(int chunks, SlotOf&& slot_of, S* of_chunks, const float* falls, std::ptrdiff_t size,
                                 int heads, float& carried) {
  constexpr int at_once = 8;  // whose numbers are asked for together: a thread waits for memory, not for arithmetic
  for (int first = 0; first < chunks; first += at_once) {
    float added[at_once], fall[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const SsdSlot slot = first + i < chunks ? slot_of(first + i) : SsdSlot{0, false};
      added[i] = slot.adds ? static_cast<float>(of_chunks[slot.number * size]) : 0.0F,
      fall[i] = slot.adds ? falls[slot.number * heads] : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (first + i >= chunks) break;
      of_chunks[slot_of(first + i).number * size] = carried;
      carried = fall[i] * carried + added[i];
    }
  }
}

// Where sequences begin (null: at zero) and, where somebody asks for it, end; they may be the same.
struct SsdEnds {
  const float* from = nullptr;
  float* to = nullptr;
};

// of_chunks <- the state before each chunk, given what each adds. A thread takes one number of a sequence's state.
template <class Shape>
__global__ void __launch_bounds__(Block::threads)
    ssd_pass_states(typename Shape::Stored* of_chunks, const float* falls, SsdEnds ends, Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Shape::state_size), at = static_cast<int>(i % Shape::state_size);
  if (s >= sequences.count) return;
  const int head = at / static_cast<int>(Shape::head_state);
  const int chunks = (sequences.end(s) - sequences.begin(s) + ssd_rows - 1) / ssd_rows;
  if (chunks <= 1 && !ends.from) return;
  const int first = ssd_slot(sequences, s, 0),
            known = ends.to ? chunks : chunks - 1;  // of which what they add is known
  float state = ends.from ? ends.from[i] : 0.0F;
  ssd_pass_through(
      chunks, [&](int k) { return SsdSlot{first + k, k < known}; }, of_chunks + at, falls + head, Shape::state_size,
      Shape::H, state);
  if (ends.to) ends.to[i] = state;
}

// of_chunks <- the gradient of the state behind each chunk, given what each adds to that of the state before it;
// gradients: null, or those of where sequences end, which become those of where they begin.
template <class Shape>
__global__ void __launch_bounds__(Block::threads)
    ssd_pass_adjoints(typename Shape::Stored* of_chunks, const float* falls, float* gradients, Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Shape::state_size), at = static_cast<int>(i % Shape::state_size);
  if (s >= sequences.count) return;
  const int head = at / static_cast<int>(Shape::head_state);
  const int chunks = (sequences.end(s) - sequences.begin(s) + ssd_rows - 1) / ssd_rows,
            first = ssd_slot(sequences, s, 0), known = gradients ? chunks : chunks - 1;
  if (chunks <= 1 && !gradients) return;
  float gradient = gradients ? gradients[i] : 0.0F;
  ssd_pass_through(
      chunks, [&](int k) { return SsdSlot{first + chunks - 1 - k, k < known}; }, of_chunks + at, falls + head,
      Shape::state_size, Shape::H, gradient);
  if (gradients) gradients[i] = gradient;
}

// of_chunks <- the state before each chunk that has one.
template <class Shape, class Blocked>
void ssd_states(Grid& be, const SsdInputs<Shape>& in, typename Shape::Stored* of_chunks, float* falls, SsdEnds ends,
                Sequences sequences, Blocked blocked) {
  const int slots = ssd_slots(in.xbc.rows, sequences.count);
  be.launch_shaped("ssd_states_of_chunks", ssd_states_of_chunks<Shape, false, Blocked>,
                   {slots * Shape::H * Shape::tiles_of_n * Shape::tiles_of_p, ssd_threads,
                    shared_memory<SsdStatesStageOf<Shape, false>>},
                   in, Rows<const float, Shape::E>{}, of_chunks, falls, ends.to != nullptr, sequences, blocked);
  be.launch_over("ssd_pass_states", ssd_pass_states<Shape>,
                 static_cast<std::size_t>(sequences.count) * Shape::state_size, of_chunks, falls, ends, sequences);
}
// of_chunks <- the gradient of the state behind each chunk that has one.
template <class Shape>
void ssd_adjoints(Grid& be, const SsdInputs<Shape>& in, Rows<const float, Shape::E> dy,
                  typename Shape::Stored* of_chunks, float* falls, float* gradients, Sequences sequences) {
  const int slots = ssd_slots(in.xbc.rows, sequences.count);
  be.launch_shaped("ssd_adjoints_of_chunks", ssd_states_of_chunks<Shape, true, NoRows>,
                   {slots * Shape::H * Shape::tiles_of_n * Shape::tiles_of_p, ssd_threads,
                    shared_memory<SsdStatesStageOf<Shape, true>>},
                   in, dy, of_chunks, falls, gradients != nullptr, sequences, NoRows{});
  be.launch_over("ssd_pass_adjoints", ssd_pass_adjoints<Shape>,
                 static_cast<std::size_t>(sequences.count) * Shape::state_size, of_chunks, falls, gradients, sequences);
}

}  // namespace mamba::cuda::detail
