// How Mamba-3's recurrence (specification, section 14.4) becomes one that Mamba-2's kernels over the grid walk along
// (ssd_walk.hpp): every head is a group with keys for b and queries for c, and a row is one of a token's R ranks, which
// see each other both ways.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/math/rate.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda::detail {

// Sequences whose tokens have so many rows.
template <int ranks>
struct RankedSequences {
  const int* first = nullptr;
  int count = 0;
  int before = 0;

  RankedSequences(Sequences of) : first(of.first), count(of.count), before(of.before) {}
  __device__ int begin(int s) const { return ranks * (first[s] - before); }
  __device__ int end(int s) const { return ranks * (first[s + 1] - before); }
};

// Keys, queries and states are as RotarySsdSizes says: pairs of states apart, and zeros between.
template <class S, class Sizes_>
struct RotaryShape : SsdShape<S, Sizes_::H, Sizes_::P, Sizes_::H, Sizes_::Ns> {
  using Sizes = Sizes_;
  static constexpr int R = Sizes::R, keys = Sizes::H * Sizes::Ns;
  static_assert(unit_side % R == 0, "a token's rows lie in one unit of a product");
  // Where inputs lie: beside b and c, or where ranks have factors of their own, in rows of their own.
  static constexpr int value_columns = Sizes::multiple ? Sizes::E : Sizes::C;
};

// What the walks read, by rows (keys, queries, values) and by tokens.
template <class Shape>
struct RotaryWalkInputs {
  using S = typename Shape::Stored;
  Rows<const S, Shape::keys> keys, queries;
  Rows<const S, Shape::value_columns> values;
  Rows<const float, Shape::H> log_decay;
  Rows<const float, Shape::H> at_once, later;  // how much of an input enters at its token, and for all later ones
  Weight<float, 1, Shape::H> d;
  int first_term;  // of products of float (tensor_core.hpp)

  struct Head {};  // what decays follow from beside steps
  static __device__ Head head(int) { return {}; }
  __device__ float skip(int head) const { return d.value[head]; }
};

// A chunk's decays, and the weights of its rows. A token's decay is its first rank's.
template <class S, int rows, int ranks>
struct RotaryDecays : SsdExponents<S, rows> {
  using typename SsdExponents<S, rows>::Sum;
  using SsdExponents<S, rows>::of_lane;

  float at_once[rows], later[rows];

  struct Steps {
    float log_decay[of_lane], at_once[of_lane], later[of_lane];
  };
  template <bool backward, class Inputs>
  static __device__ Steps load(const Inputs& in, int first, int count, int head) {
    Steps steps{};
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      const int r = of_lane * lane() + i;
      if (r >= count) break;
      const int row = backward ? first + count - 1 - r : first + r, token = row / ranks;
      if (row % ranks == 0) steps.log_decay[i] = in.log_decay.address(token)[head];
      steps.at_once[i] = in.at_once.address(token)[head], steps.later[i] = in.later.address(token)[head];
    }
    return steps;
  }
  template <bool backward, class Head>
  __device__ void set(const Steps& steps, Head) {
    Sum exponents[of_lane];
#pragma unroll
    for (int i = 0; i < of_lane; ++i) {
      exponents[i] = static_cast<Sum>(steps.log_decay[i]) * static_cast<Sum>(math::log2_e);
      if (const int r = of_lane * lane() + i; r < rows) at_once[r] = steps.at_once[i], later[r] = steps.later[i];
    }
    SsdExponents<S, rows>::template set<backward>(exponents);
  }
};

}  // namespace mamba::cuda::detail
