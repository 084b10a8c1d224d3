// What happens to every row of a tile by itself: norms, gates, activations, sums. Each of a primitive's arguments may
// be stored in a type of its own (core/storage.hpp).
#pragma once

#include <algorithm>
#include <cmath>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// f(offset) for every whole vector of x's rows, which lie one behind the other.
template <class V, class Core, class T, int Columns, class F>
MAMBA_INLINE void each_vector(Core& core, Rows<T, Columns> x, F&& f) {
  constexpr std::ptrdiff_t stride = Rows<T, Columns>::stride;
  share_out_rows(core, x.rows, 8 * stride, [&](int first, int last) MAMBA_INLINE_LAMBDA {
    for (std::ptrdiff_t i = first * stride; i < last * stride; i += V::width) f(i);
  });
}

template <class T, int Columns>
std::ptrdiff_t elements(Rows<T, Columns> x) {
  return static_cast<std::ptrdiff_t>(x.rows) * x.stride;
}

}  // namespace detail

namespace detail {

// f(offset) for the columns of one of `Groups` equal groups: whole vectors where they fit, else single numbers.
template <int D, int Groups, class T, class F>
MAMBA_INLINE void each_of_group(int group, F&& f) {
  constexpr int width = D / Groups;
  if constexpr (Groups == 1 || width % Vector<T>::width == 0)
    for (int d = group * width; d < group * width + width; d += Vector<T>::width) f(Vectors<T>{}, d);
  else
    for (int d = group * width; d < group * width + width; ++d) f(Numbers<T>{}, d);
}

}  // namespace detail

// y (T, D) <- x rho w with rho (T, Groups) = 1 / sqrt(mean of x^2 over the group's columns + epsilon); w (D). RMSNorm
// (Zhang and Sennrich 2019), by groups of D / Groups consecutive columns as in Mamba-2.
template <int Groups = 1, class Core, class Y, class T, class X, int D>
void rms_norm(Core& core, Rows<Y, D> y, T* rho, Rows<const X, D> x, Weight<T, 1, D> w) {
  share_out_rows(core, x.rows, 4 * D, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      for (int group = 0; group < Groups; ++group) {
        Vector<T> lanes = Vector<T>::zero();
        T sum = 0;
        detail::each_of_group<D, Groups, T>(group, [&](auto as, int d) {
          const auto v = as.load(x[t] + d);
          if constexpr (as.is_vector) lanes = multiply_add(v, v, lanes);
          else sum += v * v;
        });
        const T scale = 1 / std::sqrt((sum + lanes.sum()) / T(D / Groups) + T(math::norm_epsilon));
        rho[t * Groups + group] = scale;
        detail::each_of_group<D, Groups, T>(group, [&](auto as, int d) {
          as.store(y[t] + d, as.load(x[t] + d) * as.broadcast(scale) * as.load(w.value + d));
        });
      }
      clear_padding(Rows<Y, D>{y[t], 1});
    }
  });
}

// dx (T, D) += the gradient through the norm, dw (D) += sum over t of dy x rho.
template <int Groups = 1, class Core, class T, class Y, class X, int D>
void rms_norm_backward(Core&, Rows<T, D> dx, WeightGradient<T, 1, D> dw, Rows<const Y, D> dy, const T* rho,
                       Rows<const X, D> x, Weight<T, 1, D> w) {
  for (int t = 0; t < x.rows; ++t)
    for (int group = 0; group < Groups; ++group) {
      const T scale = rho[t * Groups + group];
      Vector<T> lanes = Vector<T>::zero();
      T sum = 0;
      detail::each_of_group<D, Groups, T>(group, [&](auto as, int d) {
        const auto dy_x = as.load(dy[t] + d) * as.load(x[t] + d);
        as.store(dw.value + d, as.load(dw.value + d) + dy_x * as.broadcast(scale));
        if constexpr (as.is_vector) lanes = multiply_add(dy_x, as.load(w.value + d), lanes);
        else sum += dy_x * as.load(w.value + d);
      });
      const T pull = scale * scale * scale * ((sum + lanes.sum()) / T(D / Groups));
      detail::each_of_group<D, Groups, T>(group, [&](auto as, int d) {
        const auto g = as.load(w.value + d) * as.load(dy[t] + d);
        as.store(dx[t] + d, as.load(dx[t] + d) + as.broadcast(scale) * g - as.broadcast(pull) * as.load(x[t] + d));
      });
    }
}

// y <- a + b
template <class Core, class Y, class X, class Z, int C>
void add(Core& core, Rows<Y, C> y, Rows<const X, C> a, Rows<const Z, C> b) {
  using V = Vector<ComputeOf<Y>>;
  detail::each_vector<V>(core, a,
                         [&](std::ptrdiff_t i) { (V::load(a.data + i) + V::load(b.data + i)).store(y.data + i); });
}

// x (T, C) += bias (C) in every row.
template <class Core, class X, class T, int C>
void add_bias(Core& core, Rows<X, C> x, Weight<T, 1, C> bias) {
  using V = Vector<T>;
  share_out_rows(core, x.rows, C, [&](int first, int last) {
    for (int t = first; t < last; ++t)
      for (int c = 0; c < C; c += V::width) (V::load(x[t] + c) + V::load(bias.value + c)).store(x[t] + c);
  });
}

// dbias (C) += sum over t of dx.
template <class Core, class T, class X, int C>
void add_bias_backward(Core&, WeightGradient<T, 1, C> dbias, Rows<const X, C> dx) {
  using V = Vector<T>;
  for (int c = 0; c < C; c += V::width) {
    V sum = V::load(dbias.value + c);
    for (int t = 0; t < dx.rows; ++t) sum = sum + V::load(dx[t] + c);
    sum.store(dbias.value + c);
  }
}

// o <- y silu(z)
template <class Core, class O, class Y, class Z, int E>
void gate(Core& core, Rows<O, E> o, Rows<const Y, E> y, Rows<const Z, E> z) {
  using V = Vector<ComputeOf<O>>;
  detail::each_vector<V>(
      core, y, [&](std::ptrdiff_t i) { (V::load(y.data + i) * math::silu(V::load(z.data + i))).store(o.data + i); });
}

// dy, dz <- the gradients through the gate.
template <class Core, class DY, class DZ, class DO, class Y, class Z, int E>
void gate_backward(Core& core, Rows<DY, E> dy, Rows<DZ, E> dz, Rows<const DO, E> d_o, Rows<const Y, E> y,
                   Rows<const Z, E> z) {
  using V = Vector<ComputeOf<DY>>;
  detail::each_vector<V>(core, y, [&](std::ptrdiff_t i) {
    const V x = V::load(z.data + i), s = math::sigmoid(x), g = V::load(d_o.data + i);
    (g * (x * s)).store(dy.data + i);
    (g * V::load(y.data + i) * math::silu_derivative(x, s)).store(dz.data + i);
  });
}

// u <- silu(v)
template <class Core, class U, class X, int E>
void silu(Core& core, Rows<U, E> u, Rows<const X, E> v) {
  using V = Vector<ComputeOf<U>>;
  detail::each_vector<V>(core, v, [&](std::ptrdiff_t i) { math::silu(V::load(v.data + i)).store(u.data + i); });
}

// dv <- du silu'(v)
template <class Core, class DX, class DU, class X, int E>
void silu_backward(Core& core, Rows<DX, E> dv, Rows<const DU, E> du, Rows<const X, E> v) {
  using V = Vector<ComputeOf<DX>>;
  detail::each_vector<V>(core, v, [&](std::ptrdiff_t i) {
    const V x = V::load(v.data + i);
    (V::load(du.data + i) * math::silu_derivative(x, math::sigmoid(x))).store(dv.data + i);
  });
}

// delta <- softplus(x); the padding, where x is zero, stays zero.
template <class Core, class D, class X, int E>
void softplus(Core& core, Rows<D, E> delta, Rows<const X, E> x) {
  using V = Vector<ComputeOf<D>>;
  detail::each_vector<V>(core, x, [&](std::ptrdiff_t i) { math::softplus(V::load(x.data + i)).store(delta.data + i); });
  clear_padding(delta);
}

// dx <- ddelta softplus'(x)
template <class Core, class DX, class D, class X, int E>
void softplus_backward(Core& core, Rows<DX, E> dx, Rows<const D, E> ddelta, Rows<const X, E> x) {
  using V = Vector<ComputeOf<DX>>;
  detail::each_vector<V>(core, x, [&](std::ptrdiff_t i) {
    (V::load(ddelta.data + i) * math::softplus_derivative(V::load(x.data + i))).store(dx.data + i);
  });
}

// y <- x
template <class Core, class Y, class X, int C>
void copy(Core&, Rows<Y, C> y, Rows<const X, C> x) {
  std::copy_n(x.data, detail::elements(x), y.data);
}

// x <- 0
template <class Core, class T, int C>
void zero(Core&, Rows<T, C> x) {
  std::fill_n(x.data, detail::elements(x), T(0));
}

// y's row i <- x's row rows[i], and back: y's row rows[i] <- x's row i.
template <class Core, class Y, class X, int C>
void gather(Core&, Rows<Y, C> y, Rows<const X, C> x, const int* rows) {
  for (int i = 0; i < y.rows; ++i) std::copy_n(x[rows[i]], x.stride, y[i]);
}
template <class Core, class Y, class X, int C>
void scatter(Core&, Rows<Y, C> y, Rows<const X, C> x, const int* rows) {
  for (int i = 0; i < x.rows; ++i) std::copy_n(x[i], x.stride, y[rows[i]]);
}

// Softmax cross-entropy of every row over its first `classes` columns, times `weight`: returns the sum of the losses
// and writes their gradient; the columns from `classes` on get none.
template <class Core, class T, int Vp>
double cross_entropy(Core&, Rows<T, Vp> dlogits, Rows<const T, Vp> logits, const int* labels, int classes,
                     double weight) {
  using V = Vector<T>;
  double loss = 0;
  for (int i = 0; i < logits.rows; ++i) {
    const T* const x = logits[i];
    T* const dx = dlogits[i];
    T largest = x[0];
    for (int v = 1; v < classes; ++v) largest = (std::max)(largest, x[v]);
    const V shift = V::broadcast(largest);
    for (int v = 0; v < classes; v += V::width) exp(V::load(x + v) - shift).store(dx + v);
    std::fill(dx + classes, dx + dlogits.stride, T(0));
    V sums = V::zero();
    for (int v = 0; v < classes; v += V::width) sums = sums + V::load(dx + v);
    const T sum = sums.sum();
    loss += weight *
            (std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(x[labels[i]]));
    const V scale = V::broadcast(static_cast<T>(weight) / sum);
    for (int v = 0; v < classes; v += V::width) (V::load(dx + v) * scale).store(dx + v);
    dx[labels[i]] -= static_cast<T>(weight);
  }
  return loss;
}

// The loss of one row of logits by itself, over the first `classes`.
template <class T>
double cross_entropy_of_row(const T* x, int classes, int label) {
  using V = Vector<T>;
  const T largest = *std::max_element(x, x + classes);
  const V shift = V::broadcast(largest);
  const int whole = classes / V::width * V::width;
  V sums = V::zero();
  for (int v = 0; v < whole; v += V::width) sums = sums + exp(V::load_unaligned(x + v) - shift);
  T sum = sums.sum();
  for (int v = whole; v < classes; ++v) sum += std::exp(x[v] - largest);
  return std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(x[label]);
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
