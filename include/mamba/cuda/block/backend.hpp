// All primitives of the GPU's backend at the scope of one thread block, and what they need.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/cuda/block/causal_conv.hpp>
#include <mamba/cuda/block/embedding.hpp>
#include <mamba/cuda/block/linear.hpp>
#include <mamba/cuda/block/norm.hpp>
#include <mamba/cuda/block/rowwise.hpp>
#include <mamba/cuda/block/selective_scan.hpp>
#include <mamba/cuda/block/ssd.hpp>
#include <mamba/network/network.hpp>

namespace mamba::cuda {

// Stands for the block on the host, where memory is counted before a kernel runs.
struct Requirements {
  std::size_t global_bytes = 0;  // Block::global
};

template <int N>
int scan_boundaries(Requirements&, Sequences sequences) {
  return states_between_chunks(sequences, scan_chunk<N>);
}
template <int N>
int ssd_boundaries(Requirements&, Sequences sequences) {
  return states_between_chunks(sequences, ssd_chunk);
}
template <class T, int E, int N>
void scan_reserve(Requirements& be, bool /*with_backward*/) {
  be.global_bytes = (std::max)(be.global_bytes, static_cast<std::size_t>(detail::SelectiveScan<T, E, N>::state_size) * sizeof(T));
}
template <class T, int H, int P, int G, int N>
void ssd_reserve(Requirements& be, bool with_backward) {
  if (with_backward) be.global_bytes = (std::max)(be.global_bytes, static_cast<std::size_t>(2 * detail::Ssd<T, H, P, G, N>::state_size) * sizeof(T));
}

// Asked at compile time, in the same way, whether a configuration fits a block.
struct BlockFit {
  bool fits = true;
};
template <class T, int E, int N>
constexpr void scan_reserve(BlockFit& be, bool /*with_backward*/) {
  be.fits = detail::SelectiveScan<T, E, N>::fits_block;
}
template <class T, int H, int P, int G, int N>
constexpr void ssd_reserve(BlockFit& be, bool /*with_backward*/) {
  be.fits = detail::ssd_fits_block<detail::Ssd<T, H, P, G, N>>;
}
template <class A>
inline constexpr bool fits_block = [] {
  BlockFit block;
  network::MixerOf<A>::reserve(block, true);
  return block.fits;
}();

}  // namespace mamba::cuda
