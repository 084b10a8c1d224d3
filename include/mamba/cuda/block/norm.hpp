// Norms of every row of a tile, and Mamba-2's gate with its norm, by one thread block.
#pragma once

#include <cmath>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

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
  template <class T, class S>
  static __device__ void load(T (&to)[columns], const S* row) {
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
  template <class S, class T>
  static __device__ void store(S* row, const T (&from)[columns]) {
    each([&](int i, int column) {
      if constexpr (size == 4) store4(row + column, Quad<T>{{from[i], from[i + 1], from[i + 2], from[i + 3]}});
      else row[column] = from[i];
    });
  }
  template <class T>
  static __device__ T sum(T x) {
    return lane_sum<lanes>(x);
  }
};

// How the backward pass of a norm over groups of columns is shared out: lanes stay with their columns, so that they can
// add up the weight's gradient; so many of the norm's groups at once, so many rows of each.
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
  static __device__ void add_up(Block& be, WeightGradient<T, 1, D> dw, const T (&of_dw)[Share::columns],
                                int first_group) {
    add_up(be, [&](int norm) { return dw.value + norm * width; }, of_dw, first_group);
  }
  // The same where a group's columns stand at to(its number).
  template <class T, class To>
  static __device__ void add_up(Block& be, To&& to, const T (&of_dw)[Share::columns], int first_group) {
    constexpr int piece = Share::lanes * Share::size;
    static_assert(Share::groups * piece <= Block::exchanged_elements);
    T* const partial = be.scratch<T>();  // (row_groups, at_once, piece)
#pragma unroll
    for (int p = 0; p < Share::pieces; ++p) {
      if (takes_part(first_group)) {
#pragma unroll
        for (int i = 0; i < Share::size; ++i)
          partial[Share::group() * piece + lane() % Share::lanes * Share::size + i] = of_dw[p * Share::size + i];
      }
      __syncthreads();
      each(at_once * piece, [&](int i) {
        const int of_group = p * piece + i % piece, norm = first_group + i / piece;
        if (of_group >= width || norm >= Groups) return;
        T sum = 0;
#pragma unroll 8
        for (int g = 0; g < row_groups; ++g) sum += partial[g * at_once * piece + i];
        to(norm)[of_group] += sum;
      });
      __syncthreads();
    }
  }
};

// What is normed: rows as they stand, or y silu(z). A lane's share of `batch` rows: all are loaded,
// then each is prepared once.
template <class T, int batch, int columns, class X>
struct PlainRows {
  X x;
  T values[batch][columns] = {};

  template <class Share>
  __device__ void load(int r, int offset) {
    Share::load(values[r], x.data + offset);
  }
  __device__ T (&prepared(int r))[columns] { return values[r]; }
};
template <class T, int batch, int columns, class Y, class Z>
struct GatedRows {
  Y y;
  Z z;
  T values[batch][columns] = {}, of_z[batch][columns] = {};

  template <class Share>
  __device__ void load(int r, int offset) {
    Share::load(values[r], y.data + offset), Share::load(of_z[r], z.data + offset);
  }
  __device__ T (&prepared(int r))[columns] {
#pragma unroll
    for (int i = 0; i < columns; ++i) values[r][i] *= math::silu(of_z[r][i]);
    return values[r];
  }
};

// y (T, D) <- v rho w with rho (T, Groups) = 1 / sqrt(mean of v^2 over the group's columns + epsilon), of rows v that
// Values makes of `from`; w (D).
template <int Groups, template <class, int, int, class...> class Values, class Y, class T, int D, class... From>
__device__ void norm_rows(Rows<Y, D> y, T* rho, Weight<T, 1, D> w, From... from) {
  constexpr int width = D / Groups;
  using Share = RowShare<width>;
  const int count = y.rows * Groups;
  for (int first = 0; first < count; first += Share::groups * Share::batch) {
    Values<T, Share::batch, Share::columns, From...> values{from...};
    const auto number = [&](int r) { return first + r * Share::groups + Share::group(); };
    const auto offset = [&](int r) { return number(r) / Groups * y.stride + number(r) % Groups * width; };
#pragma unroll
    for (int r = 0; r < Share::batch; ++r)
      if (number(r) < count) values.template load<Share>(r, offset(r));
#pragma unroll
    for (int r = 0; r < Share::batch; ++r) {
      T(&v)[Share::columns] = values.prepared(r);
      T sum = 0;
#pragma unroll
      for (const T x : v) sum += x * x;
      const T scale = 1 / std::sqrt(Share::sum(sum) / T(width) + T(math::norm_epsilon));
      if (number(r) >= count) continue;
      if (lane() % Share::lanes == 0) rho[number(r)] = scale;
      T of_w[Share::columns];
      Share::load(of_w, w.value + number(r) % Groups * width);
#pragma unroll
      for (int i = 0; i < Share::columns; ++i) v[i] *= scale * of_w[i];
      Share::store(y.data + offset(r), v);
    }
  }
  clear_padding(y);
  __syncthreads();
}

}  // namespace detail

// y (T, D) <- x rho w with rho (T, Groups) = 1 / sqrt(mean of x^2 over the group's columns + epsilon); w (D).
template <int Groups = 1, class Y, class T, class X, int D>
__device__ void rms_norm(Block&, Rows<Y, D> y, T* rho, Rows<const X, D> x, Weight<T, 1, D> w) {
  detail::norm_rows<Groups, detail::PlainRows>(y, rho, w, x);
}

// dx (T, D) += the gradient through the norm, dw (D) += sum over t of dy x rho.
template <int Groups = 1, class T, class X, int D>
__device__ void rms_norm_backward(Block& be, Rows<T, D> dx, WeightGradient<T, 1, D> dw, Rows<const T, D> dy,
                                  const T* rho, Rows<const X, D> x, Weight<T, 1, D> w) {
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
          const int offset = row(r) * x.stride + column;
          Share::load(of_x[r], x.data + offset), Share::load(of_dy[r], dy.data + offset),
              Share::load(of_dx[r], static_cast<const T*>(dx.data) + offset);
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

// o (T, E) <- the norm over groups of y silu(z), rho as rms_norm's. Of g, y silu(z), nothing is kept: the backward pass
// computes it again.
template <int Groups, class S, class T, int E>
__device__ void gated_norm(Block&, Rows<S, E> o, Rows<S, E>, T* rho, Rows<const S, E> y, Rows<const S, E> z,
                           Weight<T, 1, E> w) {
  detail::norm_rows<Groups, detail::GatedRows>(o, rho, w, y, z);
}

// dy, dz (T, E) <- the gradients through it, dw (E) += the weight's.
template <int Groups, class S, class T, int E>
__device__ void gated_norm_backward(Block& be, Rows<T, E> dy, Rows<T, E> dz, Rows<T, E>, WeightGradient<T, 1, E> dw,
                                    Rows<const T, E> d_o, Rows<const S, E>, const T* rho, Rows<const S, E> y,
                                    Rows<const S, E> z, Weight<T, 1, E> w) {
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
      T of_y[batch][Share::columns] = {}, of_z[batch][Share::columns] = {}, of_do[batch][Share::columns] = {},
        scale[batch];
      const auto row = [&](int r) { return first + r * row_groups + first_row; };
#pragma unroll
      for (int r = 0; r < batch; ++r)
        if (row(r) < rows) {
          const int offset = row(r) * y.stride + column;
          Share::load(of_y[r], y.data + offset), Share::load(of_z[r], z.data + offset),
              Share::load(of_do[r], d_o.data + offset);
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
        const int offset = row(r) * y.stride + column;
        Share::store(dy.data + offset, of_y[r]), Share::store(dz.data + offset, of_z[r]);
      }
    }
    Norm::add_up(be, dw, of_dw, first_group);
  }
}

}  // namespace mamba::cuda
