// The gate of Mamba-3's heads with several outputs (specification, section 14.7), by one thread block: each output has
// a gate of its own, and then they are one.
#pragma once

#include <cmath>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/norm.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

// 1 / sqrt(mean of squares + epsilon) of the P numbers that a share's lanes hold.
template <int P, class T, int columns>
__device__ T rho_of(const T (&values)[columns]) {
  T sum = 0;
#pragma unroll
  for (int i = 0; i < columns; ++i) sum += values[i] * values[i];
  return 1 / std::sqrt(RowShare<P>::sum(sum) / T(P) + T(math::norm_epsilon));
}

}  // namespace detail

// o (T, E) <- the sum over r of mimo_o_r y_r silu(mimo_z_r z), y (T, H R P), z (T, E) and mimo_o, mimo_z (H, R P).
// normed: y_r is its RMSNorm over P first, with the weight norm (E) for all ranks.
template <bool normed, class T, class O, class Y, class Z, int H, int RP, int E, int YC>
__device__ void ranked_gate(Block&, Rows<O, E> o, Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z,
                            Weight<T, H, RP> mimo_o, Weight<T, 1, E> norm) {
  constexpr int P = E / H, R = RP / P;
  static_assert(YC == H * RP);
  using Share = detail::RowShare<P>;
  constexpr int columns = Share::columns;
  const int count = y.rows * H;
#pragma unroll 1
  for (int first = 0; first < count; first += Share::groups) {
    const int item = first + Share::group(), t = item < count ? item / H : 0, h = item % H;
    T of_z[columns] = {}, sums[columns] = {}, weight[columns] = {};
    Share::load(of_z, z[t] + h * P);
    if constexpr (normed) Share::load(weight, norm.value + h * P);
#pragma unroll 1
    for (int r = 0; r < R; ++r) {
      T of_y[columns] = {}, scale[columns] = {}, out[columns] = {};
      Share::load(of_y, y[t] + (h * R + r) * P);
      Share::load(scale, mimo_z.row(h) + r * P), Share::load(out, mimo_o.row(h) + r * P);
      const T rho = normed ? detail::rho_of<P>(of_y) : T(1);
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        if constexpr (normed) of_y[i] *= rho * weight[i];
        sums[i] += of_y[i] * math::silu(of_z[i] * scale[i]) * out[i];
      }
    }
    if (item < count) Share::store(o[t] + h * P, sums);
  }
  detail::clear_padding(o);
  __syncthreads();
}

// dy (T, H R P), dz (T, E) <- the gradients through it, dmimo_z, dmimo_o (H, R P) and, if normed, dnorm (E) += the
// weights'; d_o (T, E). Lanes stay with their columns of a head and rank, so that they can add up the weights'.
template <bool normed, class T, class D, class Y, class Z, int H, int RP, int E, int YC>
__device__ void ranked_gate_backward(Block& be, Rows<T, YC> dy, Rows<T, E> dz, WeightGradient<T, H, RP> dmimo_z,
                                     WeightGradient<T, H, RP> dmimo_o, WeightGradient<T, 1, E> dnorm,
                                     Rows<const D, E> d_o, Rows<const Y, YC> y, Rows<const Z, E> z,
                                     Weight<T, H, RP> mimo_z, Weight<T, H, RP> mimo_o, Weight<T, 1, E> norm) {
  constexpr int P = E / H, R = RP / P;
  static_assert(YC == H * RP);
  using Norm = detail::NormShare<E, H>;
  using Share = typename Norm::Share;
  constexpr int columns = Share::columns;
  detail::clear_padding(dy);
  detail::clear_padding(dz);
#pragma unroll 1
  for (int first_head = 0; first_head < H; first_head += Norm::at_once) {
    const bool takes_part = Norm::takes_part(first_head);
    const int h = takes_part ? Norm::group(first_head) : 0;
    T weight[columns] = {}, of_norm[columns] = {};
    if constexpr (normed) Share::load(weight, norm.value + h * P);
#pragma unroll 1
    for (int r = 0; r < R; ++r) {
      T scale[columns] = {}, out[columns] = {}, of_scale[columns] = {}, of_out[columns] = {};
      Share::load(scale, mimo_z.row(h) + r * P), Share::load(out, mimo_o.row(h) + r * P);
#pragma unroll 1
      for (int first = 0; first < y.rows; first += Norm::row_groups) {
        const int row = first + Norm::first_row();
        const bool exists = takes_part && row < y.rows;
        const int t = exists ? row : 0;
        T of_y[columns] = {}, of_z[columns] = {}, of_o[columns] = {}, to_y[columns], to_z[columns] = {};
        if (exists) {
          Share::load(of_y, y[t] + (h * R + r) * P), Share::load(of_z, z[t] + h * P), Share::load(of_o, d_o[t] + h * P);
          if (r > 0) Share::load(to_z, static_cast<const T*>(dz[t]) + h * P);
        }
        const T rho = normed ? detail::rho_of<P>(of_y) : T(1);
        T sum = 0;
#pragma unroll
        for (int i = 0; i < columns; ++i) {
          const T x = of_z[i] * scale[i], s = math::sigmoid(x), gate = x * s, g = of_o[i];
          const T factor = normed ? rho * weight[i] : T(1), value = of_y[i] * factor;
          const T of_gated = g * out[i], of_x = of_gated * value * math::silu_derivative(x, s);
          of_out[i] += g * value * gate;
          of_scale[i] += of_x * of_z[i];
          to_z[i] += of_x * scale[i];
          to_y[i] = of_gated * gate;
          if constexpr (normed) {
            of_norm[i] += to_y[i] * of_y[i] * rho;
            sum += to_y[i] * weight[i] * of_y[i];
            to_y[i] *= factor;
          }
        }
        if constexpr (normed) {
          const T pull = rho * rho * rho * (Share::sum(sum) / T(P));
#pragma unroll
          for (int i = 0; i < columns; ++i) to_y[i] -= pull * of_y[i];
        }
        if (exists) Share::store(dy[t] + (h * R + r) * P, to_y), Share::store(dz[t] + h * P, to_z);
      }
      Norm::add_up(be, [&](int head) { return dmimo_z.row(head) + r * P; }, of_scale, first_head);
      Norm::add_up(be, [&](int head) { return dmimo_o.row(head) + r * P; }, of_out, first_head);
    }
    if constexpr (normed) Norm::add_up(be, dnorm, of_norm, first_head);
  }
}

}  // namespace mamba::cuda
