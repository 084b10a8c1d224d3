// All primitives of the GPU's backend at the scope of the whole device, and what they need.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/cuda/grid/causal_conv.hpp>
#include <mamba/cuda/grid/choice.hpp>
#include <mamba/cuda/grid/cross_entropy.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/ranked_gate.hpp>
#include <mamba/cuda/grid/rotary_ssd.hpp>
#include <mamba/cuda/grid/rotary_token.hpp>
#include <mamba/cuda/grid/rowwise.hpp>
#include <mamba/cuda/grid/scan.hpp>
#include <mamba/cuda/grid/step_product.hpp>
#include <mamba/cuda/grid/token_step.hpp>
#include <mamba/cuda/grid/trapezoid.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

// How much memory primitives over the grid take, known before a call runs.
struct GridMemory {
  // How many states a scan over the grid keeps: one for each whole stretch of a tile's rows at most.
  template <class T, int E, int N>
  static int kept_states(network::SelectiveScanSizes<T, E, N>, Sequences sequences) {
    return detail::most_kept_states(sequences, detail::SelectiveTile<T, N>::steps);
  }
  template <class T, int H, int P, int G, int N>
  static int kept_states(network::SsdSizes<T, H, P, G, N>, Sequences sequences) {
    return detail::ssd_runs_in_chunks<T, T, N> ? 0 : detail::most_kept_states(sequences, grid_scan_chunk);
  }
  // None: Mamba-3's are computed again.
  template <class T, int H, int P, int G, int N, int rank, int Na>
  static int kept_states(network::RotarySsdSizes<T, H, P, G, N, rank, Na>, Sequences) {
    return 0;
  }

  // How many rows of logits of so many elements exist at once, where so many are wanted.
  static int rows_of_head(int stride, int wanted) {
    return std::clamp(GridTuning::head_elements / stride, 1, (std::max)(wanted, 1));
  }

  // The bytes of Grid::scratch for the products of a forward pass of so many rows, of so many columns at most. S: what
  // weights are stored in.
  template <class S>
  static std::size_t of_products(int rows, int columns) {
    if (rows <= detail::most_few_rows<S>) return 0;
    const std::size_t share =
        sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(padded(columns));
    return (std::max)(rows <= GridTuning::step_rows ? share : 0,
                      (std::min)(GridTuning::most_partial_bytes, GridTuning::most_product_shares * share));
  }

  // The same for what a step's product multiplies, of so many columns at most. S: what it is stored in; W: what weights
  // are.
  template <class S, class W, int Columns>
  static std::size_t of_step_operand(int rows) {
    if (rows <= detail::most_few_rows<W> || rows > most_step_rows<S>) return 0;
    Carver counter;
    detail::StepOperandMemory<S, Columns>().carve(counter, rows);
    return counter.used();
  }

  // The same for the gradients of a product of so many columns, of another type than what it multiplies or not.
  template <class S, class T>
  static std::size_t of_operands(int rows, int columns) {
    if (std::is_same_v<S, double>) return 0;
    const int copied = std::is_same_v<S, T> ? (std::min)(columns, GridTuning::narrow_columns) : columns;
    return detail::operand_place<S> +
           static_cast<std::size_t>(rows) * static_cast<std::size_t>(padded(copied)) * sizeof(S);
  }

  // The same for the recurrence of a tile of so many rows and sequences, and for all primitives of its pass.
  template <class S, class T, int E, int N>
  static std::size_t of_recurrence(network::SelectiveScanSizes<T, E, N>, int rows, int sequences, bool with_backward) {
    Carver counter;
    const int length = detail::piece_rows(rows, sequences, detail::selective_slices<T, E, N>);
    detail::SelectivePieces<T, E, N> pieces(rows, sequences, length > 0 ? length : rows + 1);
    if (with_backward) detail::SelectivePartials<T, E, N>(length > 0 ? pieces.slots : sequences).carve(counter, rows);
    if (length > 0) pieces.carve(counter, with_backward);
    return counter.used();
  }
  template <class S, class T, int H, int P, int G, int N>
  static std::size_t of_recurrence(network::SsdSizes<T, H, P, G, N>, int rows, int sequences, bool with_backward) {
    Carver counter;
    if constexpr (detail::ssd_runs_in_chunks<S, T, N>) {
      detail::SsdMemory<detail::SsdShape<S, H, P, G, N>>(rows, sequences).carve(counter, with_backward);
    } else if (with_backward) {
      using Channels = detail::SsdChannels<T, H, P, G, N>;
      detail::ScanPartials<Channels, T> partials;
      Rows<T, Channels::E> steps;
      partials.carve(counter, detail::shares_of<Channels>(sequences), rows);
      counter.take(steps, rows);
    }
    return counter.used();
  }
  template <class S, class T, int H, int P, int G, int N, int rank, int Na>
  static std::size_t of_recurrence(network::RotarySsdSizes<T, H, P, G, N, rank, Na> sizes, int rows, int sequences,
                                   bool with_backward) {
    Carver counter;
    detail::RotaryCallMemory<S, decltype(sizes)>(rows, sequences).carve(counter, with_backward, false);
    return (std::max)(counter.used(), detail::trapezoid_bytes(sizes, rows, sequences, with_backward));
  }
  // The same for a single token of so many sequences.
  template <class S, class Recurrence>
  static std::size_t of_step(Recurrence, int) {
    return 0;
  }
  template <class S, class T, int H, int P, int G, int N, int rank, int Na>
  static std::size_t of_step(network::RotarySsdSizes<T, H, P, G, N, rank, Na> sizes, int sequences) {
    return sizes.token_fits_block ? 0 : of_recurrence<S>(sizes, sequences, sequences, false);
  }
  template <class S, class Recurrence>
  static std::size_t scratch_bytes(Recurrence recurrence, int rows, int sequences, bool with_backward) {
    return (std::max)(GridTuning::most_partial_bytes, of_recurrence<S>(recurrence, rows, sequences, with_backward));
  }
};

}  // namespace mamba::cuda
