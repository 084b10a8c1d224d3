// Mamba-2's recurrence over the whole device but in double (specification, section 7; Dao and Gu 2024, section 6):
// within chunks of 64 rows as products of matrices on the tensor cores, between them by states. The states are computed
// again for the backward pass, which keeps none.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/ssd_backward.hpp>
#include <mamba/cuda/grid/ssd_forward.hpp>

namespace mamba::cuda::detail {

// In double, which has no tensor cores to speak of and is there for checking, the states are walked through (scan.hpp).
template <class T>
inline constexpr bool ssd_runs_in_chunks = std::is_same_v<T, float>;

// The memory of a call: states before chunks, adjoints behind them, the chunks' shares.
template <class Shape>
struct SsdMemory {
  using S = typename Shape::Stored;
  S *before = nullptr, *behind = nullptr;
  float *falls = nullptr, *of_rates = nullptr, *of_skips = nullptr;

  void carve(Carver& memory, int rows, int sequences, bool with_backward) {
    const auto slots = static_cast<std::size_t>(ssd_slots(rows, sequences));
    before = memory.take<S>(slots * Shape::state_size);
    falls = memory.take<float>(slots * Shape::H);
    if (!with_backward) return;
    behind = memory.take<S>(slots * Shape::state_size);
    of_rates = memory.take<float>(slots * padded(Shape::H));
    of_skips = memory.take<float>(slots * padded(Shape::H));
  }
};

// A step of every sequence, whose state is given: a block takes a head's channels, and its groups of threads share out
// the states.
template <class Shape>
__global__ void __launch_bounds__(Block::threads)
    ssd_step(Rows<typename Shape::Stored, Shape::E> y, SsdInputs<Shape> in, float* states, Sequences sequences) {
  begin_kernel();
  constexpr int P = Shape::P, N = Shape::N, width = P < ssd_rows ? padded(P) : ssd_rows,
                groups = Block::threads / width;
  __shared__ float shares[groups][width];
  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::tiles_of_p * ssd_rows;
  index /= Shape::tiles_of_p;
  const int head = index % Shape::H, s = index / Shape::H, row = sequences.begin(s),
            group = head / Shape::heads_of_group;
  const int column = thread() % width, p = p0 + column, own = thread() / width;
  const auto* const xbc = in.xbc[row];
  const float step = in.step_size(row, head), decay = math::decay(step, in.a.derived[head]);
  const float x = p < P ? static_cast<float>(xbc[Shape::x_column(head) + p]) : 0.0F;
  float* const state = states + s * Shape::state_size + head * Shape::head_state + p;
  float sum = 0;
  if (own < groups && p < padded(P)) {
    constexpr int at_once = 16;  // states that are asked for together
    for (int first = own; first < N; first += at_once * groups) {
      float h[at_once];
#pragma unroll
      for (int i = 0; i < at_once; ++i)
        if (const int n = first + i * groups; n < N) h[i] = state[static_cast<std::ptrdiff_t>(n) * padded(P)];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int n = first + i * groups;
        if (n >= N) continue;
        h[i] = math::next_state(decay * h[i], step * x, static_cast<float>(xbc[Shape::b_column(group) + n]));
        sum += static_cast<float>(xbc[Shape::c_column(group) + n]) * h[i];
        state[static_cast<std::ptrdiff_t>(n) * padded(P)] = h[i];
      }
    }
  }
  if (own < groups) shares[own][column] = sum;
  __syncthreads();
  if (own != 0 || p >= P) return;
  for (int i = 1; i < groups; ++i) sum += shares[i][column];
  y[row][Shape::x_column(head) + p] = sum + in.d.value[head] * x;
}

template <class Shape, class Blocked>
void ssd_in_chunks(Grid& be, Rows<typename Shape::Stored, Shape::E> y, float* states, const SsdInputs<Shape>& in,
                   Sequences sequences, Blocked blocked) {
  clear_padding(be, y);
  if (states && y.rows == sequences.count && std::is_same_v<Blocked, NoRows>) {  // no sequence is empty
    be.launch_shaped("ssd_step", ssd_step<Shape>, {sequences.count * Shape::H * Shape::tiles_of_p, Block::threads, 0},
                     y, in, states, sequences);
    return;
  }
  SsdMemory<Shape> memory;
  be.carve([&](Carver& carver) { memory.carve(carver, y.rows, sequences.count, false); });
  ssd_states(be, in, memory.before, memory.falls, {states, states}, sequences, blocked);
  ssd_outputs(be, y, in, memory.before, states != nullptr, sequences, blocked);
}

template <class Shape, class Passed>
void ssd_in_chunks_backward(Grid& be, Rows<float, Shape::H> ddelta, Rows<float, Shape::C> dxbc,
                            WeightGradient<float, 1, Shape::H> da, WeightGradient<float, 1, Shape::H> dd,
                            Rows<const float, Shape::E> dy, const SsdInputs<Shape>& in, Sequences sequences,
                            Passed passed) {
  SsdMemory<Shape> memory;
  be.carve([&](Carver& carver) { memory.carve(carver, dy.rows, sequences.count, true); });
  const int slots = ssd_slots(dy.rows, sequences.count);
  clear_padding(be, ddelta);
  clear_padding(be, dxbc);
  be.zero(memory.of_rates, static_cast<std::size_t>(slots) * padded(Shape::H));
  be.zero(memory.of_skips, static_cast<std::size_t>(slots) * padded(Shape::H));
  SsdEnds ends;
  float* gradients = nullptr;
  if constexpr (Passed::passes) ends.from = passed.from, gradients = passed.gradient;
  const SsdPassed states{ends.from != nullptr, gradients != nullptr};
  ssd_states(be, in, memory.before, memory.falls, ends, sequences, NoRows{});
  ssd_adjoints(be, in, dy, memory.behind, memory.falls, gradients, sequences);
  be.launch_shaped("ssd_input_gradients", ssd_input_gradients<Shape>,
                   {slots * Shape::H, ssd_threads, shared_memory<SsdInputStage<typename Shape::Stored>>}, ddelta, dxbc,
                   memory.of_rates, memory.of_skips, in, dy, memory.before, memory.behind, states, sequences);
  be.launch_shaped(
      "ssd_state_gradients", ssd_state_gradients<Shape>,
      {slots * Shape::G * Shape::tiles_of_n, ssd_threads, shared_memory<SsdStateStage<typename Shape::Stored>>}, dxbc,
      in, dy, memory.before, memory.behind, states, sequences);
  be.add(da, PartialGradients<float, 1, Shape::H>{memory.of_rates, slots});
  be.add(dd, PartialGradients<float, 1, Shape::H>{memory.of_skips, slots});
}

}  // namespace mamba::cuda::detail
