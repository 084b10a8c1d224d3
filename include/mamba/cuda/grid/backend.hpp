// All primitives of the GPU's backend at the scope of the whole device, and what they need.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/rowwise.hpp>
#include <mamba/cuda/grid/scan.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

// How much memory primitives over the grid take, known before a call runs.
struct GridMemory {
  // How many states a scan over the grid keeps: one for each whole chunk of a tile's rows at most.
  static int kept_states(Sequences sequences) {
    int longest = 0;
    for (int s = 0; s < sequences.count; ++s) longest = (std::max)(longest, sequences.end(s) - sequences.begin(s));
    return longest > grid_scan_chunk ? sequences.rows() / grid_scan_chunk : 0;
  }

  // The bytes of Grid::scratch for a tile of so many rows and sequences.
  template <class T, int E, int N>
  static std::size_t scratch_bytes(network::SelectiveScanSizes<T, E, N>, int rows, int sequences, bool with_backward) {
    return (std::max)(GridTuning::most_partial_bytes,
                      with_backward ? scan_bytes<detail::SelectiveChannels<T, E, N>, T>(rows, sequences) : 0);
  }
  template <class T, int H, int P, int G, int N>
  static std::size_t scratch_bytes(network::SsdSizes<T, H, P, G, N>, int rows, int sequences, bool with_backward) {
    return (std::max)(GridTuning::most_partial_bytes,
                      with_backward ? scan_bytes<detail::SsdChannels<T, H, P, G, N>, T>(rows, sequences) : 0);
  }

 private:
  template <class Channels, class T>
  static std::size_t scan_bytes(int rows, int sequences) {
    detail::ScanPartials<Channels, T> partials;
    Rows<T, Channels::E> steps;
    Carver counter;
    partials.carve(counter, detail::shares_of<Channels>(sequences), rows);
    counter.take(steps, rows);
    return counter.used();
  }
};

}  // namespace mamba::cuda
