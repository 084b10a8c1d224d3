// The memory of Mamba-3's recurrence over the grid for a call (rotary_ssd.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/rotary_back.hpp>
#include <mamba/cuda/grid/rotary_scan.hpp>
#include <mamba/cuda/grid/rotary_shape.hpp>
#include <mamba/cuda/grid/ssd_pieces.hpp>

namespace mamba::cuda::detail {

// Whether it goes by chunks; else token by token.
template <class S, class Sizes>
inline constexpr bool rotary_runs_in_chunks =
    std::is_same_v<typename Sizes::Scalar, float> && unit_side % Sizes::R == 0 && Sizes::Ns <= most_ssd_states<S>;

// What walks by chunks need for themselves: of pieces, inputs of ranks that have factors, how much of them enters;
// backward states before chunks and adjoints behind them.
template <class S, class Sizes>
struct RotaryChunkMemory {
  using Key = S;
  using Shape = RotaryShape<S, Sizes>;
  static constexpr int R = Sizes::R;
  SsdPieces<Shape> pieces;
  std::size_t slots;  // that have shares of the skips' gradients
  Rows<S, Sizes::E> values;
  Rows<float, Sizes::H> at_once, later;
  S *before = nullptr, *behind = nullptr;

  RotaryChunkMemory(int tokens, int sequences)
      : pieces(tokens * R, sequences), slots(static_cast<std::size_t>(ssd_slots(tokens * R, sequences, Shape::rows))) {}
  void carve_own(Carver& memory, int tokens, int, bool with_backward) {
    pieces.carve(memory);
    if constexpr (Sizes::multiple) memory.take(values, tokens * R);
    memory.take(at_once, tokens), memory.take(later, tokens);
    if (!with_backward) return;
    before = memory.take<S>(slots * Shape::state_size), behind = memory.take<S>(slots * Shape::state_size);
  }
  static constexpr bool keeps_value_gradients = Sizes::multiple;
};

// The same token by token: where sequences are, and backward the states before stretches and of a stretch.
template <class Sizes>
struct RotaryScanMemory {
  using T = typename Sizes::Scalar;
  using Key = T;
  std::size_t slots, stretches;
  T *states = nullptr, *kept = nullptr, *of_stretch = nullptr;

  RotaryScanMemory(int tokens, int sequences)
      : slots(static_cast<std::size_t>(sequences)),
        stretches(static_cast<std::size_t>(ssd_slots(tokens, sequences, rotary_stretch))) {}
  void carve_own(Carver& memory, int, int sequences, bool with_backward) {
    const auto count = static_cast<std::size_t>(sequences);
    states = memory.take<T>(count * Sizes::state_size);
    if (!with_backward) return;
    kept = memory.take<T>(stretches * Sizes::state_size);
    of_stretch = memory.take<T>(count * rotary_stretch * Sizes::state_size);
  }
  static constexpr bool keeps_value_gradients = true;
};

template <class S, class Sizes>
struct RotaryCallMemory
    : std::conditional_t<rotary_runs_in_chunks<S, Sizes>, RotaryChunkMemory<S, Sizes>, RotaryScanMemory<Sizes>> {
  using Own = std::conditional_t<rotary_runs_in_chunks<S, Sizes>, RotaryChunkMemory<S, Sizes>, RotaryScanMemory<Sizes>>;
  using T = typename Sizes::Scalar;
  static constexpr int H = Sizes::H, R = Sizes::R, key_columns = Sizes::H * Sizes::Ns;
  int tokens, sequences;
  Rows<typename Own::Key, key_columns> keys, queries;  // (T R, H Ns)
  // Backward: gradients as they are computed, where sequences begin, and shares of weights' gradients.
  Rows<T, key_columns> dkeys, dqueries;
  Rows<T, Sizes::E> dvalues;  // (T R, E)
  Rows<T, H> dat_once, dlater;
  T *of_skips = nullptr, *began = nullptr, *adjoint = nullptr, *of_previous = nullptr, *of_factors = nullptr;
  RotaryPartials<Sizes> partials;

  RotaryCallMemory(int rows, int sequences_) : Own(rows, sequences_), tokens(rows), sequences(sequences_) {}

  // passes: gradients through states.
  void carve(Carver& memory, bool with_backward, bool passes) {
    memory.take(keys, tokens * R), memory.take(queries, tokens * R);
    this->carve_own(memory, tokens, sequences, with_backward);
    if (!with_backward) return;
    const auto count = static_cast<std::size_t>(sequences);
    memory.take(dkeys, tokens * R), memory.take(dqueries, tokens * R);
    if constexpr (Own::keeps_value_gradients) memory.take(dvalues, tokens * R);
    memory.take(dat_once, tokens), memory.take(dlater, tokens);
    if (passes) began = memory.take<T>(count * Sizes::state_size), of_previous = memory.take<T>(count * H);
    if (passes && Sizes::multiple) of_factors = memory.take<T>(count * decltype(partials.mimo_x)::size);
    if (passes || !rotary_runs_in_chunks<S, Sizes>) adjoint = memory.take<T>(count * Sizes::state_size);
    of_skips = memory.take<T>(this->slots * padded(H));
    const int slices = std::clamp(tokens / 32, 1,
                                  (std::min)(affordable_partials(partials.b_bias.size * sizeof(T)),
                                             (std::max)(1, GridTuning::most_partials / Sizes::G)));
    take(memory, partials.b_bias, slices), take(memory, partials.c_bias, slices);
    take(memory, partials.b_norm, slices * Sizes::G), take(memory, partials.c_norm, slices * Sizes::G);
    if constexpr (Own::keeps_value_gradients)
      take(memory, partials.mimo_x, std::clamp(tokens / 64, 1, affordable_partials(partials.mimo_x.size * sizeof(T))));
  }
  // What kernels add to is zero, and what they leave out: the padding of shares.
  void clear(Grid& be) const {
    be.zero(of_skips, this->slots * padded(H));
    be.zero(partials.b_norm.values, size_of(partials.b_norm)),
        be.zero(partials.c_norm.values, size_of(partials.c_norm));
    if constexpr (R * Sizes::N % padded(1) != 0)
      be.zero(partials.b_bias.values, size_of(partials.b_bias)),
          be.zero(partials.c_bias.values, size_of(partials.c_bias));
    if constexpr (Sizes::multiple) {
      be.zero(partials.mimo_x.values, size_of(partials.mimo_x));
      if (of_factors) be.zero(of_factors, static_cast<std::size_t>(sequences) * decltype(partials.mimo_x)::size);
    }
  }

 private:
  template <int Rows_, int Columns>
  static std::size_t size_of(const PartialGradients<T, Rows_, Columns>& shares) {
    return shares.size * static_cast<std::size_t>(shares.count);
  }
  template <int Rows_, int Columns>
  static void take(Carver& memory, PartialGradients<T, Rows_, Columns>& to, int count) {
    to.count = count;
    to.values = memory.take<T>(to.size * static_cast<std::size_t>(count));
  }
};

}  // namespace mamba::cuda::detail
