// What happens to every row of a tile by itself, by one thread block: gates, activations, sums. Arguments may be stored
// in types of their own (core/storage.hpp).
#pragma once

#include <cmath>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

// finish(i, load(i)) for i in [0, count), shared out: several loads of a thread are on their way before the first
// result is stored, for what lies between is the way to L2.
template <int Batch, class Load, class Finish>
__device__ void stream(int count, Load&& load, Finish&& finish) {
  int i = thread();
#pragma unroll 1
  for (; i + (Batch - 1) * Block::threads < count; i += Batch * Block::threads) {
    decltype(load(0)) loaded[Batch];
#pragma unroll
    for (int k = 0; k < Batch; ++k) loaded[k] = load(i + k * Block::threads);
#pragma unroll
    for (int k = 0; k < Batch; ++k) finish(i + k * Block::threads, loaded[k]);
  }
#pragma unroll 1
  for (; i < count; i += Block::threads) finish(i, load(i));
}

template <class T, int Count>
struct Quads {
  Quad<T> of[Count];
};

// finish(offset, quads) for every four elements of rows shaped like y; load(offset) gives the quads. `most` at once: a
// layer's code comes by too seldom to stay near the multiprocessor, so that what finish() takes is better written out
// twice than eight times.
template <int most = 4, class T, int C, class Load, class Finish>
__device__ void each_quad(Rows<T, C> y, Load&& load, Finish&& finish) {
  constexpr int stride = Rows<T, C>::stride,
                batch = stride >= 8 * most ? most : stride / 8;  // at 128 rows no thread has more
  stream<batch>(
      y.rows * stride / 4, [&](int i) { return load(4 * i); }, [&](int i, const auto& quads) { finish(4 * i, quads); });
  __syncthreads();
}

// y <- f(elements of the inputs), element by element.
template <class Y, int C, class F, class... Inputs>
__device__ void map(Rows<Y, C> y, F&& f, Inputs... inputs) {
  using T = ComputeOf<Y>;
  each_quad(
      y, [&](int i) { return Quads<T, sizeof...(Inputs)>{{load4(inputs.data + i)...}}; },
      [&](int i, const Quads<T, sizeof...(Inputs)>& in) {
        Quad<T> out;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if constexpr (sizeof...(Inputs) == 1) out.at[j] = f(in.of[0].at[j]);
          else if constexpr (sizeof...(Inputs) == 2) out.at[j] = f(in.of[0].at[j], in.of[1].at[j]);
          else static_assert(sizeof...(Inputs) == 1);
        }
        store4(y.data + i, out);
      });
}

}  // namespace detail

// y <- a + b
template <class Y, class X, class Z, int C>
__device__ void add(Block&, Rows<Y, C> y, Rows<const X, C> a, Rows<const Z, C> b) {
  detail::map(y, [](auto v, auto w) { return v + w; }, a, b);
}

// x (T, C) += bias (C) in every row.
template <class T, int C>
__device__ void add_bias(Block&, Rows<T, C> x, Weight<T, 1, C> bias) {
  detail::each_quad(
      x,
      [&](int i) {
        return detail::Quads<T, 2>{{detail::load4(in(x).data + i), detail::load4(bias.value + i % x.stride)}};
      },
      [&](int i, const detail::Quads<T, 2>& in) {
        detail::Quad<T> sum;
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] = in.of[0].at[j] + in.of[1].at[j];
        detail::store4(x.data + i, sum);
      });
}

// dbias (C) += sum over t of dx.
template <class T, int C>
__device__ void add_bias_backward(Block& be, WeightGradient<T, 1, C> dbias, Rows<const T, C> dx) {
  detail::column_sums<1>(
      be, dx,
      [&](int t, int c, detail::Quad<T>(&sum)[1]) {
        const auto g = detail::load4(dx[t] + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[0].at[j] += g.at[j];
      },
      [&](int c, int, T sum) { dbias.value[c] += sum; });
}

// o <- y silu(z)
template <class O, class Y, class Z, int E>
__device__ void gate(Block&, Rows<O, E> o, Rows<const Y, E> y, Rows<const Z, E> z) {
  detail::map(o, [](auto v, auto w) { return v * math::silu(w); }, y, z);
}

// dy, dz <- the gradients through the gate.
template <class DY, class DZ, class DO, class Y, class Z, int E>
__device__ void gate_backward(Block&, Rows<DY, E> dy, Rows<DZ, E> dz, Rows<const DO, E> d_o, Rows<const Y, E> y,
                              Rows<const Z, E> z) {
  using T = ComputeOf<DY>;
  detail::each_quad(
      y,
      [&](int i) {
        return detail::Quads<T, 3>{{detail::load4(d_o.data + i), detail::load4(y.data + i), detail::load4(z.data + i)}};
      },
      [&](int i, const detail::Quads<T, 3>& in) {
        detail::Quad<T> of_y, of_z;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const T g = in.of[0].at[j], gate = in.of[2].at[j], s = math::sigmoid(gate);
          of_y.at[j] = g * (gate * s);
          of_z.at[j] = g * in.of[1].at[j] * math::silu_derivative(gate, s);
        }
        detail::store4(dy.data + i, of_y);
        detail::store4(dz.data + i, of_z);
      });
}

// u <- silu(v)
template <class U, class X, int E>
__device__ void silu(Block&, Rows<U, E> u, Rows<const X, E> v) {
  detail::map(u, [](auto x) { return math::silu(x); }, v);
}

// dv <- du silu'(v)
template <class DX, class DU, class X, int E>
__device__ void silu_backward(Block&, Rows<DX, E> dv, Rows<const DU, E> du, Rows<const X, E> v) {
  detail::map(dv, [](auto g, auto x) { return g * math::silu_derivative(x, math::sigmoid(x)); }, du, v);
}

// delta <- softplus(x); the padding stays zero.
template <class T, int E>
__device__ void softplus(Block&, Rows<T, E> delta, Rows<const T, E> x) {
  detail::map(delta, [](T v) { return math::softplus(v); }, x);
  if constexpr (E % row_alignment != 0) {
    detail::clear_padding(delta);
    __syncthreads();
  }
}

// dx <- ddelta softplus'(x)
template <class T, int E>
__device__ void softplus_backward(Block&, Rows<T, E> dx, Rows<const T, E> ddelta, Rows<const T, E> x) {
  detail::map(dx, [](T g, T v) { return g * math::softplus_derivative(v); }, ddelta, x);
}

// pi (T, C) += bias (C), delta (T, C) <- softplus(pi), which may be the same memory and pi be lost; delta's padding
// stays zero.
template <class T, int C>
__device__ void step_sizes(Block&, Rows<T, C> delta, Rows<T, C> pi, Weight<T, 1, C> bias) {
  using Pair = detail::Quads<T, 2>;
  detail::each_quad<2>(
      pi, [&](int i) { return Pair{{detail::load4(in(pi).data + i), detail::load4(bias.value + i % pi.stride)}}; },
      [&](int i, const Pair& in) {
        detail::Quad<T> sum, step;
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] = in.of[0].at[j] + in.of[1].at[j], step.at[j] = math::softplus(sum.at[j]);
        detail::store4(pi.data + i, sum);
        detail::store4(delta.data + i, step);
      });
  if constexpr (C % row_alignment != 0) {
    detail::clear_padding(delta);
    __syncthreads();
  }
}

// dpi (T, C) <- ddelta softplus'(pi), which may be the same memory; dbias (C) += its sum over the rows.
template <class P, class T, int C>
__device__ void step_sizes_backward(Block& be, Rows<P, C> dpi, WeightGradient<T, 1, C> dbias, Rows<const T, C> ddelta,
                                    Rows<const T, C> pi) {
  using Share = detail::ColumnShare<C>;
  constexpr int batch = BlockTuning::rowwise_batch;
  const auto [begin, end] = Share::rows(pi.rows);
  for (int first_quad = 0; first_quad < Share::quads; first_quad += Share::width) {
    const int c = 4 * Share::quad(first_quad);
    detail::Quad<T> sum[1] = {};
    for (int first = begin; first < end && Share::takes_part(first_quad); first += batch) {
      detail::Quad<T> g[batch], x[batch];
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const int t = min(first + i, end - 1);
        g[i] = detail::load4(ddelta[t] + c), x[i] = detail::load4(pi[t] + c);
      }
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        if (first + i >= end) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) g[i].at[j] *= math::softplus_derivative(x[i].at[j]), sum[0].at[j] += g[i].at[j];
        detail::store4(dpi[first + i] + c, g[i]);
      }
    }
    Share::template add_up<1>(be, sum, first_quad, [&](int column, int, T value) { dbias.value[column] += value; });
  }
}

// y <- x
template <class T, int C>
__device__ void copy(Block&, Rows<T, C> y, Rows<const T, C> x) {
  detail::map(y, [](T v) { return v; }, x);
}

// x <- 0
template <class T, int C>
__device__ void zero(Block&, Rows<T, C> x) {
  detail::each(x.rows * x.stride / 4, [&](int i) { detail::store4(x.data + 4 * i, detail::Quad<T>{}); });
  __syncthreads();
}

// y's row i <- x's row rows[i], and back: y's row rows[i] <- x's row i.
template <class T, int C>
__device__ void gather(Block&, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  detail::each(y.rows * y.stride / 4, [&](int i) {
    detail::store4(y.data + 4 * i, detail::load4(x[rows[4 * i / y.stride]] + 4 * i % y.stride));
  });
  __syncthreads();
}
template <class T, int C>
__device__ void scatter(Block&, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  detail::each(x.rows * x.stride / 4, [&](int i) {
    detail::store4(y[rows[4 * i / x.stride]] + 4 * i % x.stride, detail::load4(x.data + 4 * i));
  });
  __syncthreads();
}

// Softmax cross-entropy of every row over its first `classes` columns, times `weight`: returns the sum of the losses
// and writes their gradient; the columns from `classes` on get none.
template <class T, int Vp>
__device__ double cross_entropy(Block& be, Rows<T, Vp> dlogits, Rows<const T, Vp> logits, const int* labels,
                                int classes, double weight) {
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
    sum = detail::lane_sum(sum);
    const T scale = static_cast<T>(weight) / sum;
    for (int v = detail::lane(); v < dlogits.stride; v += 32)
      dlogits[i][v] =
          v >= classes ? T(0) : std::exp(x[v] - largest) * scale - (v == labels[i] ? static_cast<T>(weight) : T(0));
    if (detail::lane() == 0)
      losses[i] = weight * (std::log(static_cast<double>(sum)) + static_cast<double>(largest) -
                            static_cast<double>(x[labels[i]]));
  }
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < logits.rows; ++i) sum += losses[i];
  __syncthreads();
  return sum;
}

}  // namespace mamba::cuda
