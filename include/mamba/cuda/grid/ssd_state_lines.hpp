// A share of a state as the backward pass reads it (ssd_backward.hpp).
#pragma once

#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/tile_product.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// A lane's share of a state's 16 lines by `width` channels, as they are stored: an operand with lines as indices.
template <class Shape>
class SsdStateLines {
 public:
  using S = typename Shape::Stored;

  // Of a state's lines (N, padded(P)) from `from` on, of which so many lines and channels exist.
  __device__ void load(const S* from, int lines, int channels) {
    each([&](int u, int i, int k) {
      const int line = Unit::first_row() + 8 * i;
      const S* const pair = from + line * padded(Shape::P) + u * unit_side + 8 * k + Unit::first_column();
      pairs_[u][i][k] = line < lines && u * unit_side < channels ? *reinterpret_cast<const Pair*>(pair) : Pair{};
    });
  }
  __device__ Operand<S, Side::right> operand(int u) const {
    Operand<S, Side::right> operand;
    each_of(u, [&](int, int i, int k) {
      if constexpr (std::is_same_v<S, BFloat16>) operand.words[operand.place(i, k)] = pairs_[u][i][k];
      else operand.set(i, k, pairs_[u][i][k].x, pairs_[u][i][k].y);
    });
    return operand;
  }
  // The sum of the products with another's, number by number.
  __device__ SsdSum<S> times(const SsdStateLines& other) const {
    using Sum = SsdSum<S>;
    Sum sum = 0;
    each([&](int u, int i, int k) {
      const float2 a = numbers(pairs_[u][i][k]), b = numbers(other.pairs_[u][i][k]);
      sum += static_cast<Sum>(a.x) * static_cast<Sum>(b.x) + static_cast<Sum>(a.y) * static_cast<Sum>(b.y);
    });
    return sum;
  }

 private:
  static constexpr int units = Shape::width / unit_side;
  using Pair = std::conditional_t<std::is_same_v<S, BFloat16>, unsigned, float2>;

  // f(u, i, k) for the pairs of a unit, and of all units.
  template <class F>
  static __device__ void each_of(int u, F&& f) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) f(u, i, k);
  }
  template <class F>
  static __device__ void each(F&& f) {
#pragma unroll
    for (int u = 0; u < units; ++u) each_of(u, f);
  }
  static __device__ float2 numbers(unsigned word) { return {lower_half(word), upper_half(word)}; }
  static __device__ float2 numbers(float2 pair) { return pair; }

  Pair pairs_[units][2][2];
};

}  // namespace mamba::cuda::detail
