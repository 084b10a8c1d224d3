// What happens to every row of a tile by itself, by one thread block: norms, gates, activations, sums.
#pragma once

#include <cmath>

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

template <class T, int C>
__device__ int elements(Rows<T, C> x) {
  return x.rows * x.stride;
}

// f(offset) for every four elements of x; rows lie one behind the other.
template <class T, int C, class F>
__device__ void each_quad(Rows<T, C> x, F&& f) {
  each(elements(x) / 4, [&](int i) { f(4 * i); });
  __syncthreads();
}

template <class T, class F>
__device__ Quad<T> map(const Quad<T>& a, F&& f) {
  Quad<T> r;
#pragma unroll
  for (int j = 0; j < 4; ++j) r.at[j] = f(a.at[j], j);
  return r;
}

}  // namespace detail

// y (T, D) <- x rho w with rho (T, Groups) = 1 / sqrt(mean of x^2 over the group's columns + epsilon); w (D).
template <int Groups = 1, class T, int D>
__device__ void rms_norm(Block&, Rows<T, D> y, T* rho, Rows<const T, D> x, Weight<T, 1, D> w) {
  constexpr int width = D / Groups;
  for (int i = detail::warp(); i < x.rows * Groups; i += Block::warps) {
    const int t = i / Groups, first = i % Groups * width;
    T sum = 0;
    for (int d = detail::lane(); d < width; d += 32) sum += x[t][first + d] * x[t][first + d];
    const T scale = 1 / std::sqrt(detail::warp_sum(sum) / T(width) + T(math::norm_epsilon));
    if (detail::lane() == 0) rho[i] = scale;
    for (int d = detail::lane(); d < width; d += 32) y[t][first + d] = x[t][first + d] * scale * w.value[first + d];
    if constexpr (D % row_alignment != 0)
      for (int d = D + detail::lane(); d < y.stride; d += 32) y[t][d] = 0;
  }
  __syncthreads();
}

// dx (T, D) += the gradient through the norm, dw (D) += sum over t of dy x rho.
template <int Groups = 1, class T, int D>
__device__ void rms_norm_backward(Block& be, Rows<T, D> dx, WeightGradient<T, 1, D> dw, Rows<const T, D> dy, const T* rho, Rows<const T, D> x,
                                  Weight<T, 1, D> w) {
  constexpr int width = D / Groups;
  for (int i = detail::warp(); i < x.rows * Groups; i += Block::warps) {
    const int t = i / Groups, first = i % Groups * width;
    const T scale = rho[i];
    T sum = 0;
    for (int d = first + detail::lane(); d < first + width; d += 32) sum += dy[t][d] * x[t][d] * w.value[d];
    const T pull = scale * scale * scale * (detail::warp_sum(sum) / T(width));
    for (int d = first + detail::lane(); d < first + width; d += 32) dx[t][d] += scale * w.value[d] * dy[t][d] - pull * x[t][d];
  }
  detail::column_sums<1, D, T>(
      be, x.rows, [&](int t, int d, T(&sum)[1]) { sum[0] += dy[t][d] * x[t][d] * rho[t * Groups + d / width]; },
      [&](int d, const T(&sum)[1]) { dw.value[d] += sum[0]; });
}

// y <- a + b
template <class T, int C>
__device__ void add(Block&, Rows<T, C> y, Rows<const T, C> a, Rows<const T, C> b) {
  detail::each_quad(a, [&](int i) {
    const auto other = detail::load4(b.data + i);
    detail::store4(y.data + i, detail::map(detail::load4(a.data + i), [&](T v, int j) { return v + other.at[j]; }));
  });
}

// x (T, C) += bias (C) in every row.
template <class T, int C>
__device__ void add_bias(Block&, Rows<T, C> x, Weight<T, 1, C> bias) {
  detail::each_quad(x, [&](int i) {
    const auto b = detail::load4(bias.value + i % x.stride);
    detail::store4(x.data + i, detail::map(detail::load4(x.data + i), [&](T v, int j) { return v + b.at[j]; }));
  });
}

// dbias (C) += sum over t of dx.
template <class T, int C>
__device__ void add_bias_backward(Block& be, WeightGradient<T, 1, C> dbias, Rows<const T, C> dx) {
  detail::column_sums<1, C, T>(
      be, dx.rows, [&](int t, int c, T(&sum)[1]) { sum[0] += dx[t][c]; }, [&](int c, const T(&sum)[1]) { dbias.value[c] += sum[0]; });
}

// o <- y silu(z)
template <class T, int E>
__device__ void gate(Block&, Rows<T, E> o, Rows<const T, E> y, Rows<const T, E> z) {
  detail::each_quad(y, [&](int i) {
    const auto other = detail::load4(z.data + i);
    detail::store4(o.data + i, detail::map(detail::load4(y.data + i), [&](T v, int j) { return v * math::silu(other.at[j]); }));
  });
}

// dy, dz <- the gradients through the gate.
template <class T, int E>
__device__ void gate_backward(Block&, Rows<T, E> dy, Rows<T, E> dz, Rows<const T, E> d_o, Rows<const T, E> y, Rows<const T, E> z) {
  detail::each_quad(y, [&](int i) {
    const auto g = detail::load4(d_o.data + i), value = detail::load4(y.data + i), gate = detail::load4(z.data + i);
    detail::Quad<T> of_y, of_z;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T s = math::sigmoid(gate.at[j]);
      of_y.at[j] = g.at[j] * (gate.at[j] * s);
      of_z.at[j] = g.at[j] * value.at[j] * math::silu_derivative(gate.at[j], s);
    }
    detail::store4(dy.data + i, of_y);
    detail::store4(dz.data + i, of_z);
  });
}

// u <- silu(v)
template <class T, int E>
__device__ void silu(Block&, Rows<T, E> u, Rows<const T, E> v) {
  detail::each_quad(v, [&](int i) { detail::store4(u.data + i, detail::map(detail::load4(v.data + i), [](T x, int) { return math::silu(x); })); });
}

// dv <- du silu'(v)
template <class T, int E>
__device__ void silu_backward(Block&, Rows<T, E> dv, Rows<const T, E> du, Rows<const T, E> v) {
  detail::each_quad(v, [&](int i) {
    const auto g = detail::load4(du.data + i);
    detail::store4(dv.data + i, detail::map(detail::load4(v.data + i), [&](T x, int j) { return g.at[j] * math::silu_derivative(x, math::sigmoid(x)); }));
  });
}

// delta <- softplus(x); the padding stays zero.
template <class T, int E>
__device__ void softplus(Block&, Rows<T, E> delta, Rows<const T, E> x) {
  detail::each_quad(x, [&](int i) {
    detail::store4(delta.data + i, detail::map(detail::load4(x.data + i), [&](T v, int j) { return i % delta.stride + j < E ? math::softplus(v) : T(0); }));
  });
}

// dx <- ddelta softplus'(x)
template <class T, int E>
__device__ void softplus_backward(Block&, Rows<T, E> dx, Rows<const T, E> ddelta, Rows<const T, E> x) {
  detail::each_quad(x, [&](int i) {
    const auto g = detail::load4(ddelta.data + i);
    detail::store4(dx.data + i, detail::map(detail::load4(x.data + i), [&](T v, int j) { return g.at[j] * math::softplus_derivative(v); }));
  });
}

// y <- x
template <class T, int C>
__device__ void copy(Block&, Rows<T, C> y, Rows<const T, C> x) {
  detail::each_quad(x, [&](int i) { detail::store4(y.data + i, detail::load4(x.data + i)); });
}

// x <- 0
template <class T, int C>
__device__ void zero(Block&, Rows<T, C> x) {
  detail::each_quad(x, [&](int i) { detail::store4(x.data + i, detail::Quad<T>{}); });
}

// y's row i <- x's row rows[i], and back: y's row rows[i] <- x's row i.
template <class T, int C>
__device__ void gather(Block&, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  detail::each_quad(y, [&](int i) { detail::store4(y.data + i, detail::load4(x[rows[i / y.stride]] + i % y.stride)); });
}
template <class T, int C>
__device__ void scatter(Block&, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  detail::each_quad(x, [&](int i) { detail::store4(y[rows[i / y.stride]] + i % y.stride, detail::load4(x.data + i)); });
}

// Softmax cross-entropy of every row over its first `classes` columns, times `weight`: returns the sum of the losses and
// writes their gradient; the columns from `classes` on get none.
template <class T, int Vp>
__device__ double cross_entropy(Block& be, Rows<T, Vp> dlogits, Rows<const T, Vp> logits, const int* labels, int classes, double weight) {
  double* const losses = be.scratch<double>();
  for (int i = detail::warp(); i < logits.rows; i += Block::warps) {
    const T* const x = logits[i];
    T largest = x[0];
    for (int v = detail::lane(); v < classes; v += 32) largest = x[v] > largest ? x[v] : largest;
    for (int offset = 16; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(~0U, largest, offset);
      largest = other > largest ? other : largest;
    }
    T sum = 0;
    for (int v = detail::lane(); v < classes; v += 32) sum += std::exp(x[v] - largest);
    sum = detail::warp_sum(sum);
    const T scale = static_cast<T>(weight) / sum;
    for (int v = detail::lane(); v < dlogits.stride; v += 32)
      dlogits[i][v] = v >= classes ? T(0) : std::exp(x[v] - largest) * scale - (v == labels[i] ? static_cast<T>(weight) : T(0));
    if (detail::lane() == 0) losses[i] = weight * (std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(x[labels[i]]));
  }
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < logits.rows; ++i) sum += losses[i];
  __syncthreads();
  return sum;
}

}  // namespace mamba::cuda
