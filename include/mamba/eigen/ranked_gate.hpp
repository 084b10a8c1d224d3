// The gate of Mamba-3's heads with several outputs (specification, section 14.7): each output has a gate of its own,
// and then they are one.
#pragma once

#include <cmath>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// f(as, p) for P columns that begin at a multiple of P: whole vectors where they fit, else single numbers.
template <int P, class T, class F>
MAMBA_INLINE void each_of_head(F&& f) {
  if constexpr (P % Vector<T>::width == 0)
    for (int p = 0; p < P; p += Vector<T>::width) f(Vectors<T>{}, p);
  else
    for (int p = 0; p < P; ++p) f(Numbers<T>{}, p);
}

// 1 / sqrt(mean of y^2 + epsilon), y (P).
template <int P, class T, class Y>
T rho_of(const Y* y) {
  Vector<T> lanes = Vector<T>::zero();
  T sum = 0;
  each_of_head<P, T>([&](auto as, int p) {
    const auto v = as.load(y + p);
    if constexpr (as.is_vector) lanes = multiply_add(v, v, lanes);
    else sum += v * v;
  });
  return 1 / std::sqrt((sum + lanes.sum()) / T(P) + T(math::norm_epsilon));
}

}  // namespace detail

// o (T, E) <- the sum over r of mimo_o_r y_r silu(mimo_z_r z), y (T, H R P), z (T, E) and mimo_o, mimo_z (H, R P).
// normed: y_r is its RMSNorm over P first, with the weight norm (E) for all ranks.
template <bool normed, class Core, class O, class Y, class Z, class T, int H, int RP, int E, int YC>
void ranked_gate(Core&, Rows<O, E> o, Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z,
                 Weight<T, H, RP> mimo_o, Weight<T, 1, E> norm) {
  constexpr int P = E / H, R = RP / P;
  static_assert(YC == H * RP);
  alignas(64) T sums[padded(P)];
  for (int t = 0; t < y.rows; ++t)
    for (int h = 0; h < H; ++h) {
      for (int r = 0; r < R; ++r) {
        const Y* const from = y[t] + (h * R + r) * P;
        const T rho = normed ? detail::rho_of<P, T>(from) : T(1);
        detail::each_of_head<P, T>([&](auto as, int p) {
          auto value = as.load(from + p);
          if constexpr (normed) value = value * as.broadcast(rho) * as.load(norm.value + h * P + p);
          const auto gate = math::silu(as.load(z[t] + h * P + p) * as.load(mimo_z.row(h) + r * P + p));
          const auto part = value * gate * as.load(mimo_o.row(h) + r * P + p);
          as.store(sums + p, r == 0 ? part : as.load(sums + p) + part);
        });
      }
      detail::each_of_head<P, T>([&](auto as, int p) { as.store(o[t] + h * P + p, as.load(sums + p)); });
    }
  clear_padding(o);
}

// dy (T, H R P), dz (T, E) <- the gradients through it, dmimo_z, dmimo_o (H, R P) and, if normed, dnorm (E) += the
// weights'; d_o (T, E).
template <bool normed, class Core, class T, class D, class Y, class Z, int H, int RP, int E, int YC>
void ranked_gate_backward(Core&, Rows<T, YC> dy, Rows<T, E> dz, WeightGradient<T, H, RP> dmimo_z,
                          WeightGradient<T, H, RP> dmimo_o, WeightGradient<T, 1, E> dnorm, Rows<const D, E> d_o,
                          Rows<const Y, YC> y, Rows<const Z, E> z, Weight<T, H, RP> mimo_z, Weight<T, H, RP> mimo_o,
                          Weight<T, 1, E> norm) {
  constexpr int P = E / H, R = RP / P;
  for (int t = 0; t < y.rows; ++t)
    for (int h = 0; h < H; ++h)
      for (int r = 0; r < R; ++r) {
        const int of_y = (h * R + r) * P, of_rank = r * P;
        const T rho = normed ? detail::rho_of<P, T>(y[t] + of_y) : T(1);
        Vector<T> lanes = Vector<T>::zero();
        T sum = 0;
        detail::each_of_head<P, T>([&](auto as, int p) {
          const int of_head = h * P + p;
          const auto x = as.load(z[t] + of_head), scale = as.load(mimo_z.row(h) + of_rank + p);
          const auto s = math::sigmoid(x * scale), gate = x * scale * s;
          const auto g = as.load(d_o[t] + of_head), out = as.load(mimo_o.row(h) + of_rank + p);
          const auto raw = as.load(y[t] + of_y + p);
          auto value = raw, weight = as.broadcast(T(1));
          if constexpr (normed) weight = as.load(norm.value + of_head), value = raw * as.broadcast(rho) * weight;
          T* const of_out = dmimo_o.row(h) + of_rank + p;
          as.store(of_out, as.load(of_out) + g * value * gate);
          const auto of_gated = g * out, of_z = of_gated * value * math::silu_derivative(x * scale, s);
          T* const of_scale = dmimo_z.row(h) + of_rank + p;
          as.store(of_scale, as.load(of_scale) + of_z * x);
          T* const to_z = dz[t] + of_head;
          as.store(to_z, r == 0 ? of_z * scale : as.load(to_z) + of_z * scale);
          const auto of_value = of_gated * gate;
          as.store(dy[t] + of_y + p, of_value * weight);
          if constexpr (normed) {
            T* const of_weight = dnorm.value + of_head;
            as.store(of_weight, as.load(of_weight) + of_value * raw * as.broadcast(rho));
            const auto product = of_value * weight * raw;
            if constexpr (as.is_vector) lanes = lanes + product;
            else sum += product;
          }
        });
        if constexpr (normed) {
          const T pull = rho * rho * rho * ((sum + lanes.sum()) / T(P));
          detail::each_of_head<P, T>([&](auto as, int p) {
            T* const to = dy[t] + of_y + p;
            as.store(to, as.broadcast(rho) * as.load(to) - as.broadcast(pull) * as.load(y[t] + of_y + p));
          });
        }
      }
  clear_padding(dy);
  clear_padding(dz);
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
