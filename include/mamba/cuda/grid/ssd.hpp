// Mamba-2's recurrence over the whole device but in double (specification, section 7; Dao and Gu 2024, section 6):
// within chunks as products of matrices on the tensor cores, from chunk to chunk by states (ssd_walk.hpp). The states
// are computed again for the backward pass, which keeps none.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/ssd_backward.hpp>
#include <mamba/cuda/grid/ssd_direction.hpp>
#include <mamba/cuda/grid/ssd_pieces.hpp>

namespace mamba::cuda::detail {

// In double, which has no tensor cores to speak of and is there for checking, the states are walked through (scan.hpp),
// as they are in float where there are more than a chunk has memory for.
template <class S, class T, int N>
inline constexpr bool ssd_runs_in_chunks =
    std::is_same_v<T, float> && (N <= most_ssd_states<S> || !std::is_same_v<S, T>);

// The memory of a call: pieces of walks, and backward states before chunks, adjoints behind them, the chunks' shares.
template <class Shape>
struct SsdMemory {
  using S = typename Shape::Stored;
  SsdPieces<Shape> pieces;
  S *before = nullptr, *behind = nullptr;
  float *of_rates = nullptr, *of_skips = nullptr;

  SsdMemory(int rows, int sequences) : pieces(rows, sequences) {}
  std::size_t slots() const { return static_cast<std::size_t>(pieces.chunks); }
  void carve(Carver& memory, bool with_backward) {
    pieces.carve(memory);
    if (!with_backward) return;
    before = memory.take<S>(slots() * Shape::state_size);
    behind = memory.take<S>(slots() * Shape::state_size);
    of_rates = memory.take<float>(slots() * padded(Shape::H));
    of_skips = memory.take<float>(slots() * padded(Shape::H));
  }
};

// A step of every sequence, whose state is given: a block takes a head's channels, a thread four of them and some of
// their states. These are on their way before the kernel's turn comes: none before it in a graph writes this layer's.
template <class Shape>
__global__ void __launch_bounds__(Block::threads)
    ssd_step(Rows<typename Shape::Stored, Shape::E> y, SsdInputs<Shape> in, float* states, Sequences sequences) {
  constexpr int P = Shape::P, N = Shape::N, width = Shape::width, quads = width / 4, groups = Block::threads / quads,
                at_once = 8;  // states that are asked for together
  alignas(16) __shared__ float shares[groups][width];
  __shared__ float of_b[N], of_c[N];
  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::widths * width;
  index /= Shape::widths;
  const int head = index % Shape::H, s = index / Shape::H, row = sequences.begin(s),
            group = head / Shape::heads_of_group;
  const int quad = thread() % quads, p = p0 + 4 * quad, own = thread() / quads;
  const bool takes = own < groups && p < padded(P);
  float* const state = states + s * Shape::state_size + head * Shape::head_state + p;
  const auto of_state = [&](int n) { return state + static_cast<std::ptrdiff_t>(n) * padded(P); };
  Quad<float> h[at_once];
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      if (const int n = first + i * groups; n < N) h[i] = load4(static_cast<const float*>(of_state(n)));
  };
  if (takes) load(own);
  begin_kernel();
  const auto* const xbc = in.xbc[row];
  for (int n = thread(); n < N; n += Block::threads)
    of_b[n] = static_cast<float>(xbc[Shape::b_column(group) + n]),
    of_c[n] = static_cast<float>(xbc[Shape::c_column(group) + n]);
  const auto x = [&](int column) {
    return column < P ? static_cast<float>(xbc[Shape::x_column(head) + column]) : 0.0F;
  };
  const auto of_head = in.head(head);
  const float step = of_head.step_size(in.stored_step(row, head)), decay = math::decay(step, of_head.rate);
  Quad<float> step_x, sum{};
#pragma unroll
  for (int j = 0; j < 4; ++j) step_x.at[j] = step * x(p + j);
  __syncthreads();
  if (takes)
    for (int first = own; first < N; first += at_once * groups) {
      if (first != own) load(first);
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int n = first + i * groups;
        if (n >= N) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          h[i].at[j] = math::next_state(decay * h[i].at[j], step_x.at[j], of_b[n]);
          sum.at[j] += of_c[n] * h[i].at[j];
        }
        store4(of_state(n), h[i]);
      }
    }
  if (own < groups) store4(&shares[own][4 * quad], sum);
  __syncthreads();
  const int column = p0 + thread();
  if (thread() >= width || column >= P) return;
  float all = shares[0][thread()];
  for (int i = 1; i < groups; ++i) all += shares[i][thread()];
  y[row][Shape::x_column(head) + column] = all + in.d.value[head] * x(column);
}

template <class Shape, class Blocked>
void ssd_in_chunks(Grid& be, Rows<typename Shape::Stored, Shape::E> y, float* states, const SsdInputs<Shape>& in,
                   Sequences sequences, Blocked blocked) {
  clear_padding(be, y);
  if (states && y.rows == sequences.count && std::is_same_v<Blocked, NoRows>) {  // no sequence is empty
    be.launch_shaped("ssd_step", ssd_step<Shape>, {sequences.count * Shape::H * Shape::widths, Block::threads, 0}, y,
                     in, states, sequences);
    return;
  }
  SsdMemory<Shape> memory(y.rows, sequences.count);
  be.carve([&](Carver& carver) { memory.carve(carver, false); });
  ssd_walk_all<true>(be, SsdForward<Shape, Blocked>{{in}, y, blocked}, memory.pieces, {states, states}, nullptr,
                     sequences);
}

template <class Shape, class Passed>
void ssd_in_chunks_backward(Grid& be, Rows<float, Shape::H> ddelta, Rows<float, Shape::C> dxbc,
                            WeightGradient<float, 1, Shape::H> da, WeightGradient<float, 1, Shape::H> dd,
                            Rows<const float, Shape::E> dy, const SsdInputs<Shape>& in, Sequences sequences,
                            Passed passed) {
  using Gradients = SsdChunkGradients<Shape>;
  using Stage = SsdGradientStage<Gradients>;
  SsdMemory<Shape> memory(dy.rows, sequences.count);
  be.carve([&](Carver& carver) { memory.carve(carver, true); });
  clear_padding(be, ddelta);
  clear_padding(be, dxbc);
  be.zero(memory.of_rates, memory.slots() * padded(Shape::H));
  be.zero(memory.of_skips, memory.slots() * padded(Shape::H));
  SsdEnds ends, adjoint_ends;
  if constexpr (Passed::passes) ends.from = passed.from, adjoint_ends = {passed.gradient, passed.gradient};
  ssd_walk_all<false>(be, SsdForward<Shape, NoRows>{{in}, {}, {}}, memory.pieces, ends, memory.before, sequences);
  ssd_walk_all<true>(be, SsdBackward<Shape>{{in}, dy, dxbc}, memory.pieces, adjoint_ends, memory.behind, sequences);
  const int slots = memory.pieces.chunks;
  be.launch_shaped("ssd_chunk_gradients", ssd_chunk_gradients<Gradients>,
                   {slots * Shape::G, Stage::threads, shared_memory<Stage>},
                   Gradients{{in}, dy, ddelta, dxbc, memory.of_rates, memory.of_skips}, memory.before, memory.behind,
                   SsdPassed{ends.from != nullptr, adjoint_ends.from != nullptr}, sequences);
  be.add(da, PartialGradients<float, 1, Shape::H>{memory.of_rates, slots});
  be.add(dd, PartialGradients<float, 1, Shape::H>{memory.of_skips, slots});
}

}  // namespace mamba::cuda::detail
