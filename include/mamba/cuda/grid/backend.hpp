// All primitives of the GPU's backend at the scope of the whole device, and what they need.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/rowwise.hpp>
#include <mamba/cuda/grid/scan.hpp>

namespace mamba::cuda {

// Stands for the grid where memory is counted before a call runs.
struct GridRequirements {
  int rows = 0, sequences = 0;
  std::size_t scratch_bytes = Grid::most_partial_bytes;
};

// How many states a scan over the grid keeps: one for each whole chunk of a tile's rows at most.
inline int grid_boundaries(Sequences sequences) {
  int longest = 0;
  for (int s = 0; s < sequences.count; ++s) longest = (std::max)(longest, sequences.end(s) - sequences.begin(s));
  return longest > grid_scan_chunk ? sequences.rows() / grid_scan_chunk : 0;
}
template <int N>
int scan_boundaries(const Grid&, Sequences sequences) {
  return grid_boundaries(sequences);
}
template <int N>
int ssd_boundaries(const Grid&, Sequences sequences) {
  return grid_boundaries(sequences);
}

namespace detail {
template <class Channels, class T>
void reserve_scan(GridRequirements& be, bool with_backward) {
  if (!with_backward) return;
  ScanPartials<Channels, T> partials;
  Rows<T, Channels::E> steps;
  Carver counter;
  partials.carve(counter, shares_of<Channels>(be.sequences), be.rows);
  counter.take(steps, be.rows);
  be.scratch_bytes = (std::max)(be.scratch_bytes, counter.used());
}
}  // namespace detail

template <class T, int E, int N>
void scan_reserve(GridRequirements& be, bool with_backward) {
  detail::reserve_scan<detail::SelectiveChannels<T, E, N>, T>(be, with_backward);
}
template <class T, int H, int P, int G, int N>
void ssd_reserve(GridRequirements& be, bool with_backward) {
  detail::reserve_scan<detail::SsdChannels<T, H, P, G, N>, T>(be, with_backward);
}

}  // namespace mamba::cuda
