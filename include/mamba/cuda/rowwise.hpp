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
  for (; i + (Batch - 1) * Block::threads < count; i += Batch * Block::threads) {
    decltype(load(0)) loaded[Batch];
#pragma unroll
    for (int k = 0; k < Batch; ++k) loaded[k] = load(i + k * Block::threads);
#pragma unroll
    for (int k = 0; k < Batch; ++k) finish(i + k * Block::threads, loaded[k]);
  }
  for (; i < count; i += Block::threads) finish(i, load(i));
}

template <class T, int Count>
struct Quads {
  Quad<T> of[Count];
};

// finish(offset, quads) for every four elements of rows shaped like y; load(offset) gives the quads.
template <class T, int C, class Load, class Finish>
__device__ void each_quad(Rows<T, C> y, Load&& load, Finish&& finish) {
  constexpr int stride = Rows<T, C>::stride, batch = stride >= 64 ? 8 : stride / 8;  // at 128 rows no thread has more
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
  constexpr int width = D / Groups;
  using Share = detail::RowShare<width>;
  // Lanes stay with their columns, so that they can add up dw's: so many of the norm's groups at once, so many rows of each.
  constexpr int at_once = Groups < Share::groups ? Groups : Share::groups, row_groups = Share::groups / at_once, batch = (Share::batch + 1) / 2;
  for (int first_group = 0; first_group < Groups; first_group += at_once) {
    const int group = first_group + Share::group() % at_once, first_row = Share::group() / at_once;
    const bool takes_part = group < Groups && first_row < row_groups;
    const int column = group * width, rows = takes_part ? x.rows : 0;
    T of_w[Share::columns] = {}, of_dw[Share::columns] = {};
    if (takes_part) Share::load(of_w, w.value + column);
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
        const T pull = scale[r] * scale[r] * scale[r] * (sum / T(width));
#pragma unroll
        for (int i = 0; i < Share::columns; ++i) {
          of_dw[i] += of_dy[r][i] * of_x[r][i] * scale[r];
          of_dx[r][i] += scale[r] * (of_dy[r][i] * of_w[i]) - pull * of_x[r][i];
        }
        Share::store(dx.data + row(r) * x.stride + column, of_dx[r]);
      }
    }
    // What the rows' groups of lanes have of dw, a piece of the columns after the other.
    constexpr int piece = Share::lanes * Share::size;
    T* const partial = be.scratch<T>();  // (row_groups, at_once, piece)
#pragma unroll
    for (int p = 0; p < Share::pieces; ++p) {
      if (takes_part) {
#pragma unroll
        for (int i = 0; i < Share::size; ++i) partial[Share::group() * piece + detail::lane() % Share::lanes * Share::size + i] = of_dw[p * Share::size + i];
      }
      __syncthreads();
      detail::each(at_once * piece, [&](int i) {
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
