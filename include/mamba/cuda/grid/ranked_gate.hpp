// The gate of Mamba-3's heads with several outputs over the whole device (specification, section 14.7): a warp takes a
// head of a row; backward it takes a head through a slice of the rows, of which its shares of the weights' gradients
// are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

// A warp's channels of a head.
template <int P>
struct HeadChannels {
  static constexpr int of_lane = (P + 31) / 32;

  // f(k, p) for the lane's k-th channel, p.
  template <class F>
  static __device__ void each(F&& f) {
#pragma unroll
    for (int k = 0; k < of_lane; ++k)
      if (const int p = lane() + 32 * k; p < P) f(k, p);
  }
  // 1 / sqrt(mean of y^2 + epsilon).
  template <class T>
  static __device__ T rho(const T (&y)[of_lane]) {
    T sum = 0;
    each([&](int k, int) { sum += y[k] * y[k]; });
    return 1 / std::sqrt(lane_sum(sum) / T(P) + T(math::norm_epsilon));
  }
};

template <bool normed, class O, class Y, class Z, class T, int H, int RP, int E, int YC>
__global__ void __launch_bounds__(Block::threads)
    ranked_gate_rows(Rows<O, E> o, Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z,
                     Weight<T, H, RP> mimo_o, Weight<T, 1, E> norm) {
  begin_kernel();
  constexpr int P = E / H, R = RP / P;
  using Channels = HeadChannels<P>;
  const int item = static_cast<int>(blockIdx.x) * Block::warps + warp(), row = item / H, head = item % H;
  if (row >= y.rows) return;
  T sums[Channels::of_lane] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) {
    T values[Channels::of_lane] = {};
    Channels::each([&](int k, int p) { values[k] = static_cast<T>(y[row][(head * R + r) * P + p]); });
    const T rho = normed ? Channels::rho(values) : T(1);
    Channels::each([&](int k, int p) {
      const T value = normed ? values[k] * rho * norm.value[head * P + p] : values[k];
      const T gate = math::silu(static_cast<T>(z[row][head * P + p]) * mimo_z.row(head)[r * P + p]);
      sums[k] += value * gate * mimo_o.row(head)[r * P + p];
    });
  }
  Channels::each([&](int k, int p) { o[row][head * P + p] = O(sums[k]); });
}

template <class T, int H, int RP, int E>
struct RankedGatePartials {
  PartialGradients<T, H, RP> mimo_z, mimo_o;
  PartialGradients<T, 1, E> norm;
};

template <bool normed, class T, class D, class Y, class Z, int H, int RP, int E, int YC>
__global__ void __launch_bounds__(Block::threads)
    ranked_gate_back(Rows<T, YC> dy, Rows<T, E> dz, RankedGatePartials<T, H, RP, E> partials, Rows<const D, E> d_o,
                     Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z, Weight<T, H, RP> mimo_o,
                     Weight<T, 1, E> norm) {
  begin_kernel();
  constexpr int P = E / H, R = RP / P;
  using Channels = HeadChannels<P>;
  constexpr int of_lane = Channels::of_lane;
  const int item = static_cast<int>(blockIdx.x) * Block::warps + warp(), slice = item / H, head = item % H,
            slices = partials.mimo_z.count;
  if (slice >= slices) return;
  const int first = first_of(slice, slices, y.rows), end = first_of(slice + 1, slices, y.rows);
  T of_z[R][of_lane] = {}, of_o[R][of_lane] = {}, of_norm[of_lane] = {};
  for (int row = first; row < end; ++row) {
    T dz_sums[of_lane] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int of_y = (head * R + r) * P;
      T raw[of_lane] = {}, gradients[of_lane] = {}, pulled = 0;
      Channels::each([&](int k, int p) { raw[k] = static_cast<T>(y[row][of_y + p]); });
      const T rho = normed ? Channels::rho(raw) : T(1);
      Channels::each([&](int k, int p) {
        const T x = static_cast<T>(z[row][head * P + p]), scale = mimo_z.row(head)[r * P + p];
        const T s = math::sigmoid(x * scale), gate = x * scale * s;
        const T g = static_cast<T>(d_o[row][head * P + p]), out = mimo_o.row(head)[r * P + p];
        const T weight = normed ? norm.value[head * P + p] : T(1), value = normed ? raw[k] * rho * weight : raw[k];
        of_o[r][k] += g * value * gate;
        const T of_gated = g * out, of_scaled = of_gated * value * math::silu_derivative(x * scale, s);
        of_z[r][k] += of_scaled * x;
        dz_sums[k] += of_scaled * scale;
        const T of_value = of_gated * gate;
        gradients[k] = of_value * weight;
        if constexpr (normed) {
          of_norm[k] += of_value * raw[k] * rho;
          pulled += of_value * weight * raw[k];
        }
      });
      if constexpr (normed) {
        const T pull = rho * rho * rho * (lane_sum(pulled) / T(P));
        Channels::each([&](int k, int) { gradients[k] = rho * gradients[k] - pull * raw[k]; });
      }
      Channels::each([&](int k, int p) { dy[row][of_y + p] = gradients[k]; });
    }
    Channels::each([&](int k, int p) { dz[row][head * P + p] = dz_sums[k]; });
  }
  const auto own = [&](auto partial, std::ptrdiff_t at) {
    return partial.values + slice * decltype(partial)::size + at;
  };
  Channels::each([&](int k, int p) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(head) * padded(RP) + r * P + p;
      *own(partials.mimo_z, at) = of_z[r][k], *own(partials.mimo_o, at) = of_o[r][k];
    }
    if constexpr (normed) *own(partials.norm, head * P + p) = of_norm[k];
  });
}

}  // namespace detail

// Shapes and meanings are those of ranked_gate.hpp in block/ and eigen/.
template <bool normed, class O, class Y, class Z, class T, int H, int RP, int E, int YC>
void ranked_gate(Grid& be, Rows<O, E> o, Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z,
                 Weight<T, H, RP> mimo_o, Weight<T, 1, E> norm) {
  detail::clear_padding(be, o);
  be.launch("ranked_gate", detail::ranked_gate_rows<normed, O, Y, Z, T, H, RP, E, YC>,
            (y.rows * H + Block::warps - 1) / Block::warps, 0, o, y, z, mimo_z, mimo_o, norm);
}
template <bool normed, class T, class D, class Y, class Z, int H, int RP, int E, int YC>
void ranked_gate_backward(Grid& be, Rows<T, YC> dy, Rows<T, E> dz, WeightGradient<T, H, RP> dmimo_z,
                          WeightGradient<T, H, RP> dmimo_o, WeightGradient<T, 1, E> dnorm, Rows<const D, E> d_o,
                          Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z, Weight<T, H, RP> mimo_o,
                          Weight<T, 1, E> norm) {
  detail::RankedGatePartials<T, H, RP, E> partials;
  const int slices = std::clamp(y.rows / 32, 1, detail::affordable_partials(partials.mimo_z.size * sizeof(T)));
  const auto take = [&](Carver& memory, auto& partial) {
    partial.values = memory.take<T>(partial.size * static_cast<std::size_t>(slices)), partial.count = slices;
  };
  be.carve_zeroed([&](Carver& memory) {
    take(memory, partials.mimo_z), take(memory, partials.mimo_o), take(memory, partials.norm);
  });
  detail::clear_padding(be, dy), detail::clear_padding(be, dz);
  be.launch("ranked_gate_back", detail::ranked_gate_back<normed, T, D, Y, Z, H, RP, E, YC>,
            (slices * H + Block::warps - 1) / Block::warps, 0, dy, dz, partials, d_o, y, z, mimo_z, mimo_o, norm);
  be.add(dmimo_z, partials.mimo_z), be.add(dmimo_o, partials.mimo_o);
  if constexpr (normed) be.add(dnorm, partials.norm);
}

}  // namespace mamba::cuda
