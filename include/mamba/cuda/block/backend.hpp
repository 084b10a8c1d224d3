// All primitives of the GPU's backend at the scope of one thread block, and what they need.
#pragma once

#include <cstddef>

#include <mamba/cuda/block/causal_conv.hpp>
#include <mamba/cuda/block/embedding.hpp>
#include <mamba/cuda/block/linear.hpp>
#include <mamba/cuda/block/norm.hpp>
#include <mamba/cuda/block/ranked_gate.hpp>
#include <mamba/cuda/block/rotary_ssd.hpp>
#include <mamba/cuda/block/rowwise.hpp>
#include <mamba/cuda/block/selective_scan.hpp>
#include <mamba/cuda/block/ssd.hpp>
#include <mamba/cuda/block/trapezoid.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

// How much memory the recurrences take at block scope, known on the host before a kernel runs.
struct BlockMemory {
  // How many boundary states the sequences of a tile need.
  template <class T, int E, int N>
  static int kept_states(network::SelectiveScanSizes<T, E, N>, Sequences sequences) {
    return states_between_chunks(sequences, scan_chunk<N>);
  }
  template <class T, int H, int P, int G, int N>
  static int kept_states(network::SsdSizes<T, H, P, G, N>, Sequences sequences) {
    return states_between_chunks(sequences, ssd_chunk);
  }
  template <class T, int H, int P, int G, int N, int rank, int Na>
  static int kept_states(network::RotarySsdSizes<T, H, P, G, N, rank, Na> sizes, Sequences sequences) {
    return states_between_chunks(sequences, detail::Rotary<decltype(sizes)>::tokens);
  }

  // The bytes of Block::global.
  template <class T, int E, int N>
  static constexpr std::size_t global_bytes(network::SelectiveScanSizes<T, E, N>, bool /*with_backward*/) {
    return static_cast<std::size_t>(detail::SelectiveScan<T, E, N>::state_size) * sizeof(T);
  }
  template <class T, int H, int P, int G, int N>
  static constexpr std::size_t global_bytes(network::SsdSizes<T, H, P, G, N>, bool with_backward) {
    return with_backward ? static_cast<std::size_t>(2 * detail::Ssd<T, H, P, G, N>::state_size) * sizeof(T) : 0;
  }
  template <class T, int H, int P, int G, int N, int rank, int Na>
  static constexpr std::size_t global_bytes(network::RotarySsdSizes<T, H, P, G, N, rank, Na> sizes,
                                            bool with_backward) {
    using Memory = detail::RotaryMemory<detail::Rotary<decltype(sizes)>>;
    return with_backward ? static_cast<std::size_t>(Memory::elements) * sizeof(T) : 0;
  }

  // Whether such a recurrence runs in one block.
  template <class T, int E, int N>
  static constexpr bool fits(network::SelectiveScanSizes<T, E, N>) {
    return detail::SelectiveScan<T, E, N>::fits_block;
  }
  template <class T, int H, int P, int G, int N>
  static constexpr bool fits(network::SsdSizes<T, H, P, G, N>) {
    return detail::ssd_fits_block<detail::Ssd<T, H, P, G, N>>;
  }
  template <class T, int H, int P, int G, int N, int rank, int Na>
  static constexpr bool fits(network::RotarySsdSizes<T, H, P, G, N, rank, Na> sizes) {
    return detail::rotary_fits_block<detail::Rotary<decltype(sizes)>>;
  }
};

template <class A>
inline constexpr bool fits_block = std::is_same_v<typename A::WeightStorage, typename A::Scalar> &&
                                   BlockMemory::fits(typename network::MixerOf<A>::Recurrence{});

}  // namespace mamba::cuda
