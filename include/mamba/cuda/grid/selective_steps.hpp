// Where Mamba-1's scan over the grid (scan.hpp) has its step sizes from.
#pragma once

#include <algorithm>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/tile_product.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/selective_tile.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda::detail {

// They are given.
struct StepsGiven {
  // Of single steps: what a lane asks for before the kernel's turn comes, and the size.
  struct Early {};
  __device__ Early early(int) const { return {}; }
  template <class Inputs>
  __device__ auto size(const Inputs& in, int row, int e, Early) const {
    using T = typename Inputs::T;
    return e < Inputs::E ? in.delta[row][e] : T(0);
  }

  // Of stretches of a sequence: what a block has in shared memory.
  static constexpr bool projects = false;
  template <class L, class T>
  struct Memory {
    alignas(16) T delta[2][L::steps * L::stride];

    __device__ T* of(int turn) { return delta[turn]; }
  };
  template <class L, class Memory, class Inputs>
  __device__ void fetch(Memory& memory, int turn, const Inputs& in, int row, int count, int first_channel) const {
    stage_rows<L::threads, L::steps, L::channels, L::stride>(memory.delta[turn], in.delta, row, count, first_channel);
  }
};

// They are softplus(r w^T + bias), r's rows for all channels and a row of w for each.
template <class S, class W, int E, int R, int N>
struct StepsProjected {
  using T = ComputeOf<S>;
  using L = SelectiveTile<T, N>;
  Rows<const S, R> r;
  Weight<W, E, R> w;
  Weight<T, 1, E> bias;

  // Of single steps. A channel's lanes share its sum; what they need of w is on its way early.
  static constexpr int lanes = L::lanes, stride_of_r = padded(R), quads = (stride_of_r / 4 + lanes - 1) / lanes;
  static constexpr bool fetches = quads <= 16;  // else they do not fit in registers
  struct Early {
    Quad<T> of_w[fetches ? quads : 1];
  };
  static __device__ int column(int i) { return 4 * (i * lanes + L::lane_of_channel()); }
  __device__ Quad<T> of_weight(int e, int i) const {
    return e < E && column(i) < stride_of_r ? load4(w.row(e) + column(i)) : Quad<T>{};
  }
  __device__ Early early(int e) const {
    Early early;
    if constexpr (fetches)
#pragma unroll
      for (int i = 0; i < quads; ++i) early.of_w[i] = of_weight(e, i);
    return early;
  }
  template <class Inputs>
  __device__ T size(const Inputs&, int row, int e, const Early& early) const {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < quads; ++i) {
      if (column(i) >= stride_of_r) continue;
      const auto of_w = fetches ? early.of_w[fetches ? i : 0] : of_weight(e, i);
      const auto of_r = load4(r[row] + column(i));
#pragma unroll
      for (int j = 0; j < 4; ++j) sum += of_w.at[j] * of_r.at[j];
    }
    sum = lane_sum<lanes>(sum);
    if (e >= E) return 0;
    if constexpr (requires { w.scale; }) sum *= w.scale[e];
    return math::softplus(sum + bias.value[e]);
  }

  // Of stretches, whose sizes are a product on the tensor cores: in 16 bits, where r and w leave room for as many
  // blocks, and where all states have a block's channels at once.
  static constexpr bool projects = true;
  static constexpr bool of_stretches = std::is_same_v<S, BFloat16> && std::is_same_v<W, S> && padded(R) <= 128 &&
                                       N <= L::tile && L::steps % unit_side == 0;
  static constexpr int channels = padded(L::channels);  // in whole units
  template <class, class>
  struct Memory {
    using OfR = SwizzledTile<S, L::steps, padded(R)>;
    using OfW = SwizzledTile<S, channels, padded(R)>;
    alignas(128) S r[OfR::elements];
    S w[OfW::elements];
    T bias[channels], delta[L::steps * L::stride];

    __device__ T* of(int) { return delta; }
  };
  template <class, class Memory, class Inputs>
  __device__ void fetch(Memory&, int, const Inputs&, int, int, int) const {}

  template <class Memory>
  __device__ void fetch_w(Memory& memory, int first_channel) const {
    if (const int own = thread(); own < channels) memory.bias[own] = bias.value[min(first_channel + own, E - 1)];
    using OfW = typename Memory::OfW;
    stage_lines<8, L::threads>(OfW{memory.w}, w.value + first_channel * w.stride, w.stride,
                               min(channels, E - first_channel), padded(R));
  }
  template <class Memory>
  __device__ void fetch_r(Memory& memory, int row, int count) const {
    using OfR = typename Memory::OfR;
    stage_lines<8, L::threads>(OfR{memory.r}, r.address(row), Rows<const S, R>::stride, count, padded(R));
  }
  // delta <- the sizes of the stretch whose r has come.
  template <class Memory>
  __device__ static void project(Memory& memory) {
    using OfR = typename Memory::OfR;
    using OfW = typename Memory::OfW;
    const TileReader<S, Side::left, Way::along_lines, OfR> of_r(OfR{memory.r});
    const TileReader<S, Side::right, Way::along_lines, OfW> of_w(OfW{memory.w});
    constexpr int row_units = L::steps / unit_side, units = row_units * (channels / unit_side);
#pragma unroll 1
    for (int u = warp(); u < units; u += L::warps) {
      const int row = u % row_units * unit_side, column = u / row_units * unit_side;
      Unit sums;
#pragma unroll
      for (int k = 0; k < padded(R); k += unit_side) multiply_add(sums, of_r.read(row, k), of_w.read(column, k), 0);
      sums.each([&](int t, int c, const float(&pair)[2]) {
        const int own = column + c;
        if (own >= L::channels) return;  // there is an even number of them
        const auto size = [&](int j) { return math::softplus(pair[j] + memory.bias[own + j]); };
        store_pair(memory.delta + (row + t) * L::stride + own, size(0), size(1));
      });
    }
  }
};

}  // namespace mamba::cuda::detail
