// Products with weight matrices on one core.
//
// One register-blocked kernel serves all three products of a linear layer. Eigen's own product packs its operands,
// which pays for large matrices; ours are a tile's activations and weights that are already in rows of whole vectors
// (bench/primitives.cpp times both).
#pragma once

#include <algorithm>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/eigen/tuning.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// A function of its own, shared by all layers of all sizes: inlined into each it would be most of the code.
// c (Block rows, Vectors vectors) <- or += sum over k of a(row, k) b(k, :), with a(row, k) = a[row * a_row + k * a_k].
template <class V, Write write, int Block, int Vectors, class C, class A, class B>
void product_block(C* c, std::ptrdiff_t c_row, const A* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, const B* b,
                   std::ptrdiff_t b_row, int depth) {
  V sum[Block][Vectors];
  unroll<Block>([&](auto m) {
    unroll<Vectors>([&](auto v) {
      if constexpr (write == Write::add) sum[m][v] = V::load(c + m * c_row + v * V::width);
      else sum[m][v] = V::zero();
    });
  });
  for (int k = 0; k < depth; ++k) {
    V row[Vectors];
    unroll<Vectors>([&](auto v) { row[v] = V::load_unaligned(b + v * V::width); });
    unroll<Block>([&](auto m) {
      const V factor = V::broadcast(a[m * a_row]);
      unroll<Vectors>([&](auto v) { sum[m][v] = multiply_add(factor, row[v], sum[m][v]); });
    });
    a += a_k;
    b += b_row;
  }
  unroll<Block>([&](auto m) { unroll<Vectors>([&](auto v) { sum[m][v].store(c + m * c_row + v * V::width); }); });
}

// Columns are worked on in panels of so many vectors.
inline constexpr int panel_vectors = Tuning::panel_vectors(vector_registers);
template <class T, int Columns>
inline constexpr int panel_count = (vectors_for<Vector<T, Columns>>(Columns) + panel_vectors - 1) / panel_vectors;

// c (rows, Vectors vectors) <- or += a b for any number of rows; b has `depth` rows.
template <class V, Write write, int Vectors, class C, class A, class B>
void product_panel(C* c, std::ptrdiff_t c_row, int rows, const A* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                   const B* b, std::ptrdiff_t b_row, int depth) {
  constexpr int block = Tuning::product_rows;
  int row = 0;
  const auto rows_at = [&](auto count) {
    product_block<V, write, count, Vectors>(c + row * c_row, c_row, a + row * a_row, a_row, a_k, b, b_row, depth);
    row += count;
  };
  while (row + block <= rows) rows_at(std::integral_constant<int, block>{});
  unroll<block - 1>([&](auto i) {
    if (rows - row == block - 1 - i) rows_at(std::integral_constant<int, block - 1 - i>{});
  });
}

// The panels [first, last) of c (rows, Columns) <- or += a b for any number of rows; b has `depth` rows.
template <Write write, int Columns, class C, class A, class B>
void product(C* c, std::ptrdiff_t c_row, int rows, const A* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, const B* b,
             std::ptrdiff_t b_row, int depth, int first_panel = 0,
             int last_panel = panel_count<ComputeOf<C>, Columns>) {
  using V = Vector<ComputeOf<C>, Columns>;
  constexpr int vectors = vectors_for<V>(Columns), panels = vectors / panel_vectors, rest = vectors % panel_vectors;
  const auto panel_at = [&](int first, auto width) {
    const std::ptrdiff_t column = static_cast<std::ptrdiff_t>(first) * V::width;
    product_panel<V, write, width>(c + column, c_row, rows, a, a_row, a_k, b + column, b_row, depth);
  };
  for (int p = first_panel; p < (std::min)(panels, last_panel); ++p)
    panel_at(p * panel_vectors, std::integral_constant<int, panel_vectors>{});
  if constexpr (rest > 0)
    if (last_panel > panels) panel_at(panels * panel_vectors, std::integral_constant<int, rest>{});
}

}  // namespace detail

// Zeroes what lies between the columns and the last whole vector.
template <class T, int Columns>
void clear_padding(Rows<T, Columns> y) {
  if constexpr (Columns % row_alignment != 0)
    for (int t = 0; t < y.rows; ++t) std::fill(y[t] + Columns, y[t] + y.stride, T(0));
}

namespace detail {

// The product of two rows of `Count` elements and their padding. Memory is read once and in order, which is all that
// counts for one token of a large model; `ahead` elements further on it is asked for in time.
template <int Count, class X, class W>
ComputeOf<X> row_product(const X* x, const W* w) {
  using V = Vector<ComputeOf<X>>;
  constexpr int vectors = vectors_for<V>(Count), chains = 4, ahead = 8192 / sizeof(W);
  V sums[chains];
  unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { sums[i] = V::zero(); });
  const auto add = [&](auto i, int v) MAMBA_INLINE_LAMBDA {
    packet::prefetch(reinterpret_cast<const ComputeOf<X>*>(w + v * V::width + ahead));
    sums[i] = multiply_add(V::load(x + v * V::width), V::load(w + v * V::width), sums[i]);
  };
  for (int v = 0; v + chains <= vectors; v += chains)
    unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { add(i, v + i); });
  unroll<vectors % chains>([&](auto i) MAMBA_INLINE_LAMBDA { add(i, vectors / chains * chains + i); });
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum();
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class Core, class Y, class X, class W, int Out, int In, int OfRows, int First>
void linear(Core& core, Rows<Y, Out> y, Rows<const X, In> x, Weight<W, Out, In, OfRows, First> w) {
  using T = ComputeOf<Y>;
  const long long work = static_cast<long long>(x.rows) * Out * In;
  constexpr int piece = Tuning::product_piece_rows, weight_rows = Tuning::weight_piece_rows(In);  // of x, or of W
  const auto rows_and_panels = [&](int first, int rows, int first_panel, int last_panel) {
    detail::product<write, Out>(y[first], y.stride, rows, x[first], x.stride, 1, w.derived, w.transposed_stride, In,
                                first_panel, last_panel);
  };
  if (In >= Tuning::least_columns_of_streamed_weight && x.rows == 1) {
    share_out(core, (Out + weight_rows - 1) / weight_rows, work, [&](int i) {
      for (int o = i * weight_rows; o < (std::min)(Out, (i + 1) * weight_rows); ++o) {
        const T sum = detail::row_product<In>(x.data, w.row(o));
        y.data[o] = write == Write::add ? y.data[o] + sum : sum;
      }
    });
  } else if (constexpr int panels = detail::panel_count<T, Out>; x.rows <= piece) {
    share_out(core, panels, work, [&](int i) { rows_and_panels(0, x.rows, i, i + 1); });
  } else {
    share_out(core, (x.rows + piece - 1) / piece, work,
              [&](int i) { rows_and_panels(i * piece, (std::min)(piece, x.rows - i * piece), 0, panels); });
  }
  clear_padding(y);
}

// dx (T, In) <- or += dy (T, Out) W.
template <Write write, class Core, class X, class Y, class W, int Out, int In, int OfRows, int First>
void linear_backward(Core&, Rows<X, In> dx, Rows<const Y, Out> dy, Weight<W, Out, In, OfRows, First> w) {
  detail::product<write, In>(dx.data, dx.stride, dy.rows, dy.data, dy.stride, 1, w.value, w.stride, Out);
  clear_padding(dx);
}

// dW (Out, In) += dy^T x.
template <class Core, class T, class Y, class X, int Out, int In>
void linear_weight_backward(Core&, WeightGradient<T, Out, In> dw, Rows<const Y, Out> dy, Rows<const X, In> x) {
  detail::product<Write::add, In>(dw.value, dw.stride, Out, dy.data, 1, dy.stride, x.data, x.stride, x.rows);
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
