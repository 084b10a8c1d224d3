// Mamba-1's scan over the grid (scan.hpp) parallel in time: where sequences are so few that a walk along each of them
// leaves the device idle, they are cut into pieces, which the same kernels take for sequences. First all pieces run
// from zero, for what each adds to the state at its end; then the states are passed from piece to piece, in order; then
// they run from these. Backward the same with the gradients of the states, from the last piece to the first.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/selective_tile.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda::detail {

// The rows of a piece, a multiple of every stretch between kept states; 0: sequences run as they are. A function of
// sizes alone. slices: blocks that share out a sequence's channels.
inline int piece_rows(int rows, int sequences, int slices) {
  constexpr int grain = 64, blocks = GridTuning::scan_piece_blocks;
  if (4LL * sequences * slices > blocks) return 0;
  const auto wanted = static_cast<int>((static_cast<long long>(rows) * slices + blocks - 1) / blocks);
  const int length = (std::max)((wanted + grain - 1) / grain * grain, GridTuning::scan_least_piece);
  return rows >= 2LL * length * sequences ? length : 0;
}

// Every sequence has as many slots as it has pieces at least, some of them empty at its end, so that a piece's slot
// follows from where its sequence begins.
__host__ __device__ inline int piece_slot(int begin, int sequence, int rows_of_piece) {
  return begin / rows_of_piece + sequence;
}

// The pieces of a call and what they take of scratch memory.
template <class T, int E, int N>
struct SelectivePieces {
  static constexpr std::size_t state_size = static_cast<std::size_t>(E) * padded(N);
  int rows_of_piece, slots;
  int* firsts = nullptr;   // (slots + 1)
  T* states = nullptr;     // (slots, E, padded(N)) what pieces add, then where they begin
  T* gradients = nullptr;  // the same of the gradients of where they end
  T* steps = nullptr;      // (slots, E) the sum of a piece's step sizes, of which its decay is a power

  SelectivePieces(int rows, int sequences, int length) : rows_of_piece(length), slots(rows / length + sequences) {}
  void carve(Carver& memory, bool with_backward) {
    const auto count = static_cast<std::size_t>(slots);
    firsts = memory.take<int>(count + 1);
    steps = memory.take<T>(count * E);
    states = memory.take<T>(count * state_size);
    if (with_backward) gradients = memory.take<T>(count * state_size);
  }
  Sequences as_sequences() const { return {firsts, slots, nullptr}; }

  // f(slot, rows before it in the sequence) for the pieces of a sequence, in order or against it.
  template <bool forward, class F>
  __device__ void each_of(Sequences sequences, int s, F&& f) const {
    const int begin = sequences.begin(s), first = piece_slot(begin, s, rows_of_piece),
              count = (sequences.end(s) - begin + rows_of_piece - 1) / rows_of_piece;
    for (int i = 0; i < count; ++i) {
      const int k = forward ? i : count - 1 - i;
      f(first + k, k * rows_of_piece);
    }
  }
};

// firsts (slots + 1) <- where each piece begins, and their end: a thread for each. A template, for each source has its
// own.
template <class Number>
__global__ void __launch_bounds__(Block::threads)
    cut_into_pieces(Number* firsts, int slots, int rows_of_piece, Sequences sequences) {
  begin_kernel();
  const int slot = static_cast<int>(blockIdx.x) * Block::threads + thread();
  if (slot > slots) return;
  if (slot == slots) {
    firsts[slot] = sequences.rows();
    return;
  }
  int low = 0, high = sequences.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (piece_slot(sequences.begin(middle), middle, rows_of_piece) <= slot) low = middle;
    else high = middle - 1;
  }
  const int begin = sequences.begin(low), number = slot - piece_slot(begin, low, rows_of_piece);
  firsts[slot] = min(begin + number * rows_of_piece, sequences.end(low));
}

// steps <- the sums of each piece's step sizes: a thread for each channel.
template <class T, int E, int N>
__global__ void __launch_bounds__(Block::threads)
    sum_steps_of_pieces(SelectivePieces<T, E, N> pieces, Rows<const T, E> delta) {
  begin_kernel();
  constexpr int blocks = (E + Block::threads - 1) / Block::threads, at_once = 16;
  const int slot = static_cast<int>(blockIdx.x) / blocks,
            e = static_cast<int>(blockIdx.x) % blocks * Block::threads + thread();
  if (e >= E) return;
  const int begin = pieces.firsts[slot], end = pieces.firsts[slot + 1];
  T sum = 0;
  for (int first = begin; first < end; first += at_once) {
    T step[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) step[i] = first + i < end ? delta[first + i][e] : T(0);
#pragma unroll
    for (int i = 0; i < at_once; ++i) sum += step[i];
  }
  pieces.steps[static_cast<std::ptrdiff_t>(slot) * E + e] = sum;
}

// A thread for each number of a sequence's state; false beyond them.
template <class T, int E, int N>
struct StateNumber {
  int sequence, e, n;
  std::size_t at;  // in a state

  __device__ bool find(int sequences) {
    const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
    constexpr std::size_t size = SelectivePieces<T, E, N>::state_size;
    sequence = static_cast<int>(i / size), at = i % size;
    e = static_cast<int>(at / padded(N)), n = static_cast<int>(at % padded(N));
    return sequence < sequences && n < N;
  }
};

// pieces.states <- where each piece begins, given what each adds. states: null, or where the sequences begin and,
// afterwards, end; boundaries: null, or the kept states, of which those between pieces are written here.
template <int steps, class T, int E, int N>
__global__ void __launch_bounds__(Block::threads)
    pass_states_of_pieces(SelectivePieces<T, E, N> pieces, T* boundaries, T* states, Weight<T, E, N> a,
                          Sequences sequences) {
  begin_kernel();
  StateNumber<T, E, N> own;
  if (!own.find(sequences.count)) return;
  const std::size_t of_sequence = own.sequence * pieces.state_size + own.at;
  const T rate = a.derived[own.e * a.stride + own.n];
  T carried = states ? states[of_sequence] : T(0);
  pieces.template each_of<true>(sequences, own.sequence, [&](int slot, int time) {
    T& here = pieces.states[slot * pieces.state_size + own.at];
    const T added = here;
    here = carried;
    if (boundaries && time > 0)
      boundaries[kept_state<steps>(sequences.begin(own.sequence), time) * pieces.state_size + own.at] = carried;
    carried = math::decay(pieces.steps[static_cast<std::ptrdiff_t>(slot) * E + own.e], rate) * carried + added;
  });
  if (states) states[of_sequence] = carried;
}

// pieces.states <- where each piece begins, from the kept states. from: null, or where the sequences do.
template <int steps, class T, int E, int N>
__global__ void __launch_bounds__(Block::threads)
    gather_states_of_pieces(SelectivePieces<T, E, N> pieces, const T* boundaries, const T* from, Sequences sequences) {
  begin_kernel();
  StateNumber<T, E, N> own;
  if (!own.find(sequences.count)) return;
  const T first = from ? from[own.sequence * pieces.state_size + own.at] : T(0);
  pieces.template each_of<true>(sequences, own.sequence, [&](int slot, int time) {
    pieces.states[slot * pieces.state_size + own.at] =
        time == 0 ? first
                  : boundaries[kept_state<steps>(sequences.begin(own.sequence), time) * pieces.state_size + own.at];
  });
}

// pieces.gradients <- the gradient of where each piece ends, given what each adds to that of where it begins.
// gradients: null, or that of where the sequences end, which becomes that of where they begin.
template <class T, int E, int N>
__global__ void __launch_bounds__(Block::threads)
    pass_gradients_of_pieces(SelectivePieces<T, E, N> pieces, T* gradients, Weight<T, E, N> a, Sequences sequences) {
  begin_kernel();
  StateNumber<T, E, N> own;
  if (!own.find(sequences.count)) return;
  const std::size_t of_sequence = own.sequence * pieces.state_size + own.at;
  const T rate = a.derived[own.e * a.stride + own.n];
  T carried = gradients ? gradients[of_sequence] : T(0);
  pieces.template each_of<false>(sequences, own.sequence, [&](int slot, int) {
    T& here = pieces.gradients[slot * pieces.state_size + own.at];
    const T added = here;
    here = carried;
    carried = math::decay(pieces.steps[static_cast<std::ptrdiff_t>(slot) * E + own.e], rate) * carried + added;
  });
  if (gradients) gradients[of_sequence] = carried;
}

// The cut, and the sums of steps.
template <class T, int E, int N>
void begin_pieces(Grid& be, const SelectivePieces<T, E, N>& pieces, Rows<const T, E> delta, Sequences sequences) {
  be.launch_over("cut_into_pieces", cut_into_pieces<int>, static_cast<std::size_t>(pieces.slots) + 1, pieces.firsts,
                 pieces.slots, pieces.rows_of_piece, sequences);
  be.launch_shaped("sum_steps_of_pieces", sum_steps_of_pieces<T, E, N>,
                   {pieces.slots * ((E + Block::threads - 1) / Block::threads), Block::threads, 0}, pieces, delta);
}

}  // namespace mamba::cuda::detail
