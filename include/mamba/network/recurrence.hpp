// The sizes of a mixer's recurrence as a type: what a backend is asked by how much memory the recurrence takes.
#pragma once

namespace mamba::network {

// Mamba-1's selective scan: E channels of N states each.
template <class T, int E_, int N_>
struct SelectiveScanSizes {
  using Scalar = T;
  static constexpr int E = E_, N = N_;
};

// Mamba-2's state-space dual: H heads of P channels, whose N states' B and C are shared by the heads of each of G
// groups.
template <class T, int H_, int P_, int G_, int N_>
struct SsdSizes {
  using Scalar = T;
  static constexpr int H = H_, P = P_, G = G_, N = N_;
};

}  // namespace mamba::network
