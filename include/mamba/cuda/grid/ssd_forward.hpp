// Mamba-2's recurrence over the grid (ssd.hpp), forward: what every chunk's rows give, from the state before it.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_states.hpp>

namespace mamba::cuda::detail {

template <class S>
struct SsdForwardStage {
  // Products of c and b, and of c and the state before.
  using Inside = SsdPipeline<SsdPanel<Along::sum, S>, SsdPanel<Along::sum, S>>;
  using FromState = SsdPipeline<SsdPanel<Along::sum, S>, SsdPanel<Along::result, S>>;
  alignas(16) std::byte pipeline[(std::max)(Inside::bytes, FromState::bytes)];
  S weights[ssd_pieces][SsdPanel<Along::sum, S>::elements];  // of rows j in rows i
  S x[ssd_pieces][SsdPanel<Along::result, S>::elements];
  SsdDecays<S> decays;
};

// y <- for each chunk, head and up to 64 of its channels:
//   y_i = from_begin_i c_i . (state before) + sum over j <= i of (c_i . b_j) between_ji delta_j x_j + d x_i
// before: the states before chunks, in their slots; with_states: first chunks, too, have one.
template <class Shape, class Blocked>
__global__ void __launch_bounds__(ssd_threads)
    ssd_outputs_of_chunks(Rows<typename Shape::Stored, Shape::E> y, SsdInputs<Shape> in,
                          const typename Shape::Stored* before, bool with_states, Sequences sequences,
                          Blocked blocked) {
  begin_kernel();
  using S = typename Shape::Stored;
  using Stage = SsdForwardStage<S>;
  using PanelX = SsdPanel<Along::result, S>;
  constexpr int P = Shape::P, N = Shape::N;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::tiles_of_p * ssd_rows;
  index /= Shape::tiles_of_p;
  const int head = index % Shape::H, slot = index / Shape::H, group = head / Shape::heads_of_group;
  const SsdChunk chunk = ssd_chunk_of(sequences, slot);
  if (chunk.count == 0) return;
  const S *const x = in.xbc.address(chunk.first) + Shape::x_column(head) + p0,
                 *const b = in.xbc.address(chunk.first) + Shape::b_column(group),
                 *const c = in.xbc.address(chunk.first) + Shape::c_column(group);
  constexpr std::ptrdiff_t stride = Rows<const S, Shape::C>::stride;
  for (int piece = 0; piece < ssd_pieces; ++piece)
    stage_panel<Shape::aligned>(PanelX{stage.x[piece]}, x + piece * ssd_depth * stride, stride,
                                chunk.count - piece * ssd_depth, P - p0);
  stage.decays.load(in, chunk, head);  // behind the pipeline's barriers

  SsdResult<S> products;
  typename Stage::Inside{stage.pipeline}.multiply(
      products, N, in.first_term, [&](auto left, auto right, int n, int count) {
        stage_panel<Shape::aligned>(left, c + n, stride, chunk.count, count);
        stage_panel<Shape::aligned>(right, b + n, stride, chunk.count, count);
      });
  products.each([&](int i, int j, float value) {
    const bool counts = j <= i && !(j < i && j < chunk.count && blocked.blocked(chunk.first + j));
    stage.weights[j / ssd_depth][i * SsdPanel<Along::sum, S>::stride + j % ssd_depth] =
        counts ? value * stage.decays.between(j, i) * stage.decays.delta[j] : 0.0F;
  });

  SsdResult<S> result;
  if (chunk.number > 0 || with_states) {
    const S* const state = before + slot * Shape::state_size + head * Shape::head_state + p0;
    typename Stage::FromState{stage.pipeline}.multiply(
        result, N, in.first_term, [&](auto left, auto right, int n, int count) {
          stage_panel<Shape::aligned>(left, c + n, stride, chunk.count, count);
          stage_panel<true>(right, state + static_cast<std::ptrdiff_t>(n) * padded(P), padded(P), count,
                            padded(P) - p0);
        });
    result.each([&](int i, int, float& value) { value *= stage.decays.from_begin[i]; });
  }
  __syncthreads();
  for (int piece = 0; piece < ssd_pieces; ++piece)
    result.add(SsdPanel<Along::sum, S>{stage.weights[piece]}, PanelX{stage.x[piece]}, ssd_depth, ssd_rows,
               in.first_term);
  const float skip = in.d.value[head];
  result.each([&](int i, int p, float value) {
    if (i < chunk.count && p0 + p < P)
      y.address(chunk.first + i)[Shape::x_column(head) + p0 + p] =
          value + skip * stage.x[i / ssd_depth][i % ssd_depth * PanelX::stride + p];
  });
}

template <class Shape, class Blocked>
void ssd_outputs(Grid& be, Rows<typename Shape::Stored, Shape::E> y, const SsdInputs<Shape>& in,
                 const typename Shape::Stored* before, bool with_states, Sequences sequences, Blocked blocked) {
  be.launch_shaped("ssd_outputs_of_chunks", ssd_outputs_of_chunks<Shape, Blocked>,
                   {ssd_slots(y.rows, sequences.count) * Shape::H * Shape::tiles_of_p, ssd_threads,
                    shared_memory<SsdForwardStage<typename Shape::Stored>>},
                   y, in, before, with_states, sequences, blocked);
}

}  // namespace mamba::cuda::detail
