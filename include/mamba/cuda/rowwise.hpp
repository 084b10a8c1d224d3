// What happens to every row of a tile by itself, by one thread block: norms, gates, activations, sums.
#pragma once

#include <cmath>

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

// finish(i, load(i)) for i in [0, count), shared out: several loads of a thread are on their way before the first result is
// stored, for what lies between is the way to L2.
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

// finish(offset, quads) for every four elements of rows shaped like y; load(offset) gives the quads. `most` at once: a layer's code
// comes by too seldom to stay near the multiprocessor, so that what finish() takes is better written out twice than eight times.
template <int most = 4, class T, int C, class Load, class Finish>
__device__ void each_quad(Rows<T, C> y, Load&& load, Finish&& finish) {
  constexpr int stride = Rows<T, C>::stride, batch = stride >= 8 * most ? most : stride / 8;  // at 128 rows no thread has more
  stream<batch>(
      y.rows * stride / 4, [&](int i) { return load(4 * i); }, [&](int i, const auto& quads) { finish(4 * i, quads); });
  __syncthreads();
}

// y <- f(elements of the inputs, number of the column), element by element.
template <class T, int C, class F, class... Inputs>
__device__ void map(Rows<T, C> y, F&& f, Inputs... inputs) {
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

// How a group of `Width` columns of a row lies in neighbouring lanes: `size` columns at once, `pieces` times.
template <int Width>
struct RowShare {
  static constexpr int size = Width % 4 == 0 ? 4 : 1, units = Width / size;
  static constexpr int lanes = units >= 32 ? 32 : units >= 16 ? 16 : units >= 8 ? 8 : 4;
  static constexpr int pieces = (units + lanes - 1) / lanes, columns = pieces * size;  // of a lane
  static constexpr int groups = Block::threads / lanes;
  static constexpr int batch = columns <= 4 ? 4 : columns <= 8 ? 2 : 1;  // rows that a lane works on at once

  static __device__ int group() { return thread() / lanes; }
  // f(index of the lane's column, column) for the lane's columns.
  template <class F>
  static __device__ void each(F&& f) {
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const int unit = p * lanes + lane() % lanes;
      if (units % lanes == 0 || unit < units) f(p * size, unit * size);
    }
  }
  template <class T>
  static __device__ void load(T (&to)[columns], const T* row) {
    each([&](int i, int column) {
      if constexpr (size == 4) {
        const auto q = load4(row + column);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[i + j] = q.at[j];
      } else {
        to[i] = row[column];
      }
    });
  }
  template <class T>
  static __device__ void store(T* row, const T (&from)[columns]) {
    each([&](int i, int column) {
      if constexpr (size == 4) store4(row + column, Quad<T>{{from[i], from[i + 1], from[i + 2], from[i + 3]}});
      else row[column] = from[i];
    });
  }
  template <class T>
  static __device__ T sum(T x) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0U, x, offset);
    return x;
  }
};

// How the backward pass of a norm over groups of columns is shared out: lanes stay with their columns, so that they can add up the
// weight's gradient; so many of the norm's groups at once, so many rows of each.
template <int D, int Groups>
struct NormShare {
  static constexpr int width = D / Groups;
  using Share = RowShare<width>;
  static constexpr int at_once = Groups < Share::groups ? Groups : Share::groups, row_groups = Share::groups / at_once;

  static __device__ int group(int first_group) { return first_group + Share::group() % at_once; }
  static __device__ int first_row() { return Share::group() / at_once; }
  static __device__ bool takes_part(int first_group) { return group(first_group) < Groups && first_row() < row_groups; }

  // dw += what the rows' groups of lanes have of it, a piece of the columns after the other.
  template <class T>
  static __device__ void add_up(Block& be, WeightGradient<T, 1, D> dw, const T (&of_dw)[Share::columns], int first_group) {
    constexpr int piece = Share::lanes * Share::size;
    T* const partial = be.scratch<T>();  // (row_groups, at_once, piece)
#pragma unroll
    for (int p = 0; p < Share::pieces; ++p) {
      if (takes_part(first_group)) {
#pragma unroll
        for (int i = 0; i < Share::size; ++i) partial[Share::group() * piece + lane() % Share::lanes * Share::size + i] = of_dw[p * Share::size + i];
      }
      __syncthreads();
      each(at_once * piece, [&](int i) {
        const int of_group = p * piece + i % piece, norm = first_group + i / piece;
        if (of_group >= width || norm >= Groups) return;
        T sum = 0;
#pragma unroll 8
        for (int g = 0; g < row_groups; ++g) sum += partial[g * at_once * piece + i];
        dw.value[norm * width + of_group] += sum;
      });
      __syncthreads();
    }
  }
};

}  // namespace detail

// y (T, D) <- x rho w with rho (T, Groups) = 1 / sqrt(mean of x^2 over the group's columns + epsilon); w (D).
template <int Groups = 1, class T, int D>
__device__ void rms_norm(Block&, Rows<T, D> y, T* rho, Rows<const T, D> x, Weight<T, 1, D> w) {
  constexpr int width = D / Groups;
  using Share = detail::RowShare<width>;
  const int count = x.rows * Groups;
  for (int first = 0; first < count; first += Share::groups * Share::batch) {
    T of_x[Share::batch][Share::columns] = {};
    const auto number = [&](int r) { return first + r * Share::groups + Share::group(); };
    const auto place = [&](int r) { return number(r) / Groups * x.stride + number(r) % Groups * width; };
#pragma unroll
    for (int r = 0; r < Share::batch; ++r)
      if (number(r) < count) Share::load(of_x[r], x.data + place(r));
#pragma unroll
    for (int r = 0; r < Share::batch; ++r) {
      T sum = 0;
#pragma unroll
      for (const T v : of_x[r]) sum += v * v;
      const T scale = 1 / std::sqrt(Share::sum(sum) / T(width) + T(math::norm_epsilon));
      if (number(r) >= count) continue;
      if (detail::lane() % Share::lanes == 0) rho[number(r)] = scale;
      T of_w[Share::columns];
      Share::load(of_w, w.value + number(r) % Groups * width);
#pragma unroll
      for (int i = 0; i < Share::columns; ++i) of_x[r][i] *= scale * of_w[i];
      Share::store(y.data + place(r), of_x[r]);
    }
  }
  detail::clear_padding(y);
  __syncthreads();
}

// dx (T, D) += the gradient through the norm, dw (D) += sum over t of dy x rho.
template <int Groups = 1, class T, int D>
__device__ void rms_norm_backward(Block& be, Rows<T, D> dx, WeightGradient<T, 1, D> dw, Rows<const T, D> dy, const T* rho, Rows<const T, D> x,
                                  Weight<T, 1, D> w) {
  using Norm = detail::NormShare<D, Groups>;
  using Share = typename Norm::Share;
  constexpr int row_groups = Norm::row_groups, batch = (Share::batch + 1) / 2;
  for (int first_group = 0; first_group < Groups; first_group += Norm::at_once) {
    const int group = Norm::group(first_group), first_row = Norm::first_row(), column = group * Norm::width;
    const int rows = Norm::takes_part(first_group) ? x.rows : 0;
    T of_w[Share::columns] = {}, of_dw[Share::columns] = {};
    if (rows > 0) Share::load(of_w, w.value + column);
    for (int first = 0; first < x.rows; first += row_groups * batch) {
      T of_x[batch][Share::columns] = {}, of_dy[batch][Share::columns] = {}, of_dx[batch][Share::columns], scale[batch];
      const auto row = [&](int r) { return first + r * row_groups + first_row; };
#pragma unroll
      for (int r = 0; r < batch; ++r)
        if (row(r) < rows) {
          const int place = row(r) * x.stride + column;
          Share::load(of_x[r], x.data + place), Share::load(of_dy[r], dy.data + place), Share::load(of_dx[r], static_cast<const T*>(dx.data) + place);
          scale[r] = rho[row(r) * Groups + group];
        }
#pragma unroll
      for (int r = 0; r < batch; ++r) {
        T sum = 0;
#pragma unroll
        for (int i = 0; i < Share::columns; ++i) sum += of_dy[r][i] * of_w[i] * of_x[r][i];
        sum = Share::sum(sum);
        if (row(r) >= rows) continue;
        const T pull = scale[r] * scale[r] * scale[r] * (sum / T(Norm::width));
#pragma unroll
        for (int i = 0; i < Share::columns; ++i) {
          of_dw[i] += of_dy[r][i] * of_x[r][i] * scale[r];
          of_dx[r][i] += scale[r] * (of_dy[r][i] * of_w[i]) - pull * of_x[r][i];
        }
        Share::store(dx.data + row(r) * x.stride + column, of_dx[r]);
      }
    }
    Norm::add_up(be, dw, of_dw, first_group);
  }
}

// y <- a + b
template <class T, int C>
__device__ void add(Block&, Rows<T, C> y, Rows<const T, C> a, Rows<const T, C> b) {
  detail::map(
      y, [](T v, T w) { return v + w; }, a, b);
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
template <class T, int E>
__device__ void gate(Block&, Rows<T, E> o, Rows<const T, E> y, Rows<const T, E> z) {
  detail::map(
      o, [](T v, T w) { return v * math::silu(w); }, y, z);
}

// dy, dz <- the gradients through the gate.
template <class T, int E>
__device__ void gate_backward(Block&, Rows<T, E> dy, Rows<T, E> dz, Rows<const T, E> d_o, Rows<const T, E> y, Rows<const T, E> z) {
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
template <class T, int E>
__device__ void silu(Block&, Rows<T, E> u, Rows<const T, E> v) {
  detail::map(
      u, [](T x) { return math::silu(x); }, v);
}

// dv <- du silu'(v)
template <class T, int E>
__device__ void silu_backward(Block&, Rows<T, E> dv, Rows<const T, E> du, Rows<const T, E> v) {
  detail::map(
      dv, [](T g, T x) { return g * math::silu_derivative(x, math::sigmoid(x)); }, du, v);
}

// delta <- softplus(x); the padding stays zero.
template <class T, int E>
__device__ void softplus(Block&, Rows<T, E> delta, Rows<const T, E> x) {
  detail::map(
      delta, [](T v) { return math::softplus(v); }, x);
  if constexpr (E % row_alignment != 0) {
    detail::clear_padding(delta);
    __syncthreads();
  }
}

// dx <- ddelta softplus'(x)
template <class T, int E>
__device__ void softplus_backward(Block&, Rows<T, E> dx, Rows<const T, E> ddelta, Rows<const T, E> x) {
  detail::map(
      dx, [](T g, T v) { return g * math::softplus_derivative(v); }, ddelta, x);
}

// pi (T, C) += bias (C), delta (T, C) <- softplus(pi); delta's padding stays zero.
template <class T, int C>
__device__ void step_sizes(Block&, Rows<T, C> delta, Rows<T, C> pi, Weight<T, 1, C> bias) {
  using Pair = detail::Quads<T, 2>;
  detail::each_quad<2>(
      pi,
      [&](int i) {
        return Pair{{detail::load4(in(pi).data + i), detail::load4(bias.value + i % pi.stride)}};
      },
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

// dpi (T, C) <- ddelta softplus'(pi), which may be the same place; dbias (C) += its sum over the rows.
template <class T, int C>
__device__ void step_sizes_backward(Block& be, Rows<T, C> dpi, WeightGradient<T, 1, C> dbias, Rows<const T, C> ddelta, Rows<const T, C> pi) {
  using Share = detail::ColumnShare<C>;
  constexpr int batch = 4;
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

// o (T, E) <- the norm over groups of y silu(z), rho as rms_norm's. Of g, y silu(z), nothing is kept: the backward pass computes it
// again.
template <int Groups, class T, int E>
__device__ void gated_norm(Block&, Rows<T, E> o, Rows<T, E>, T* rho, Rows<const T, E> y, Rows<const T, E> z, Weight<T, 1, E> w) {
  constexpr int width = E / Groups;
  using Share = detail::RowShare<width>;
  const int count = y.rows * Groups;
  for (int first = 0; first < count; first += Share::groups * Share::batch) {
    T g[Share::batch][Share::columns] = {}, of_z[Share::batch][Share::columns] = {};
    const auto number = [&](int r) { return first + r * Share::groups + Share::group(); };
    const auto place = [&](int r) { return number(r) / Groups * y.stride + number(r) % Groups * width; };
#pragma unroll
    for (int r = 0; r < Share::batch; ++r)
      if (number(r) < count) Share::load(g[r], y.data + place(r)), Share::load(of_z[r], z.data + place(r));
#pragma unroll
    for (int r = 0; r < Share::batch; ++r) {
      T sum = 0;
#pragma unroll
      for (int i = 0; i < Share::columns; ++i) g[r][i] *= math::silu(of_z[r][i]), sum += g[r][i] * g[r][i];
      const T scale = 1 / std::sqrt(Share::sum(sum) / T(width) + T(math::norm_epsilon));
      if (number(r) >= count) continue;
      if (detail::lane() % Share::lanes == 0) rho[number(r)] = scale;
      T of_w[Share::columns];
      Share::load(of_w, w.value + number(r) % Groups * width);
#pragma unroll
      for (int i = 0; i < Share::columns; ++i) g[r][i] *= scale * of_w[i];
      Share::store(o.data + place(r), g[r]);
    }
  }
  detail::clear_padding(o);
  __syncthreads();
}

// dy, dz (T, E) <- the gradients through it, dw (E) += the weight's.
template <int Groups, class T, int E>
__device__ void gated_norm_backward(Block& be, Rows<T, E> dy, Rows<T, E> dz, Rows<T, E>, WeightGradient<T, 1, E> dw, Rows<const T, E> d_o, Rows<const T, E>,
                                    const T* rho, Rows<const T, E> y, Rows<const T, E> z, Weight<T, 1, E> w) {
  using Norm = detail::NormShare<E, Groups>;
  using Share = typename Norm::Share;
  constexpr int row_groups = Norm::row_groups, batch = (Share::batch + 1) / 2;
  detail::clear_padding(dy);
  detail::clear_padding(dz);
  for (int first_group = 0; first_group < Groups; first_group += Norm::at_once) {
    const int group = Norm::group(first_group), first_row = Norm::first_row(), column = group * Norm::width;
    const int rows = Norm::takes_part(first_group) ? y.rows : 0;
    T of_w[Share::columns] = {}, of_dw[Share::columns] = {};
    if (rows > 0) Share::load(of_w, w.value + column);
    for (int first = 0; first < y.rows; first += row_groups * batch) {
      T of_y[batch][Share::columns] = {}, of_z[batch][Share::columns] = {}, of_do[batch][Share::columns] = {}, scale[batch];
      const auto row = [&](int r) { return first + r * row_groups + first_row; };
#pragma unroll
      for (int r = 0; r < batch; ++r)
        if (row(r) < rows) {
          const int place = row(r) * y.stride + column;
          Share::load(of_y[r], y.data + place), Share::load(of_z[r], z.data + place), Share::load(of_do[r], d_o.data + place);
          scale[r] = rho[row(r) * Groups + group];
        }
#pragma unroll
      for (int r = 0; r < batch; ++r) {
        T sum = 0;
#pragma unroll
        for (int i = 0; i < Share::columns; ++i) sum += of_do[r][i] * of_w[i] * (of_y[r][i] * math::silu(of_z[r][i]));
        sum = Share::sum(sum);
        if (row(r) >= rows) continue;
        const T pull = scale[r] * scale[r] * scale[r] * (sum / T(Norm::width));
#pragma unroll
        for (int i = 0; i < Share::columns; ++i) {
          const T s = math::sigmoid(of_z[r][i]), open = of_z[r][i] * s, g = of_y[r][i] * open;
          of_dw[i] += of_do[r][i] * g * scale[r];
          const T dg = scale[r] * (of_do[r][i] * of_w[i]) - pull * g;
          of_z[r][i] = dg * of_y[r][i] * math::silu_derivative(of_z[r][i], s);
          of_y[r][i] = dg * open;
        }
        const int place = row(r) * y.stride + column;
        Share::store(dy.data + place, of_y[r]), Share::store(dz.data + place, of_z[r]);
      }
    }
    Norm::add_up(be, dw, of_dw, first_group);
  }
}

// y <- x
template <class T, int C>
__device__ void copy(Block&, Rows<T, C> y, Rows<const T, C> x) {
  detail::map(
      y, [](T v) { return v; }, x);
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
  detail::each(y.rows * y.stride / 4, [&](int i) { detail::store4(y.data + 4 * i, detail::load4(x[rows[4 * i / y.stride]] + 4 * i % y.stride)); });
  __syncthreads();
}
template <class T, int C>
__device__ void scatter(Block&, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  detail::each(x.rows * x.stride / 4, [&](int i) { detail::store4(y[rows[4 * i / x.stride]] + 4 * i % x.stride, detail::load4(x.data + 4 * i)); });
  __syncthreads();
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
