// A layer's step of some sequences, one token each, in few kernels: what stands before a product, and behind it, is
// part of it (network/fused.hpp).
#pragma once

#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/step_product.hpp>
#include <mamba/network/conv.hpp>
#include <mamba/network/fused.hpp>

namespace mamba::cuda {

namespace detail {

// in_proj's outputs, of which those that the convolution reads go on through it: a lane has a channel of a row, and
// that channel's history.
template <network::Bypass bypass, class S, int E, int C, int H, int K>
struct ConvolvedResult {
  using T = ComputeOf<S>;
  using Places = network::InnerRows<S, E, C, H>;
  struct Early {
    T history[K], taps[K], bias;  // history: K - 1 of them
  };
  Places to;
  T* history;  // (rows, K-1, C)
  Weight<S, C, K> taps;
  Weight<T, 1, C> bias;

  static __device__ bool is_convolved(int output) { return output >= Places::u_first && output < Places::u_first + C; }
  __device__ T* past(int row, int e) const {
    return history + static_cast<std::ptrdiff_t>(row) * (K - 1) * Rows<S, C>::stride + e;
  }
  __device__ Early early(int row, int output) const {
    Early early{};
    if (!is_convolved(output)) return early;
    const int e = output - Places::u_first;
    early.bias = bias.value[e];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      early.taps[k] = static_cast<T>(taps.row(e)[k]);
      if (k < K - 1) early.history[k] = past(row, e)[k * Rows<S, C>::stride];
    }
    return early;
  }
  __device__ void take(int row, int output, T sum, const Early& early) const {
    if (!is_convolved(output)) return to.place(row, output, sum);
    const int e = output - Places::u_first;
    const T x = static_cast<T>(static_cast<S>(sum));  // as it is stored elsewhere
    T v = early.bias + early.taps[K - 1] * x;
#pragma unroll
    for (int k = 0; k < K - 1; ++k) v += early.taps[k] * early.history[k];
    T u = math::silu(v);
    if constexpr (bypass == network::Bypass::identity) u += x;
    if constexpr (bypass == network::Bypass::gate) u = x * math::silu(v);
    to.u[row][e] = u;
#pragma unroll
    for (int k = 0; k + 1 < K; ++k) past(row, e)[k * Rows<S, C>::stride] = k + 2 < K ? early.history[k + 1] : x;
  }
};

}  // namespace detail

// Whether a product of so many rows is one of few.
template <class S>
bool has_few_rows(const Grid&, int rows) {
  return rows <= detail::most_few_rows<S>;
}

// y <- rms_norm(x) W^T, of few rows.
template <class Y, class T, class S, int Out, int In, int OfRows, int First>
void normed_linear(Grid& be, Rows<Y, Out> y, Rows<const T, In> x, Weight<T, 1, In> norm,
                   Weight<S, Out, In, OfRows, First> w) {
  detail::launch_few<Out>(be, detail::PlainResult<Y, 1>{detail::side_by_side(beside(y)), false},
                          detail::NormedOperand<T, In>{x, norm.value}, detail::stored_rows(w), x.rows);
  detail::clear_padding(be, y);
}

// The same of what in_proj gives for a step, the convolution's part convolved. What pads pi's rows stays as it is: a
// step's recurrence does not read it.
template <network::Bypass bypass, class T, class S, class W, int E, int C, int H, int D, int Out, int K>
void normed_linear_conv(Grid& be, network::InnerRows<S, E, C, H> to, Rows<const T, D> x, Weight<T, 1, D> norm,
                        Weight<W, Out, D> w, Weight<S, C, K> taps, Weight<T, 1, C> bias,
                        std::type_identity_t<T>* history) {
  static_assert(Out == E + C + H);
  detail::step_product<S>(be, detail::ConvolvedResult<bypass, S, E, C, H, K>{to, history, taps, bias},
                          detail::NormedOperand<T, D>{x, norm.value}, w);
  detail::clear_padding(be, to.z);
  detail::clear_padding(be, to.u);
}

// y += rms_norm(y_in silu(z)) W^T
template <class T, class S, class W, int Out, int In, int OfRows, int First>
void gated_normed_linear(Grid& be, Rows<T, Out> y, Rows<const S, In> y_in, Rows<const S, In> z, Weight<T, 1, In> norm,
                         Weight<W, Out, In, OfRows, First> w) {
  detail::step_product<S>(be, detail::PlainResult<T, 1>{detail::side_by_side(beside(y)), true},
                          detail::GatedNormedOperand<S, In>{y_in, z, norm.value}, w);
}

}  // namespace mamba::cuda
