// Products with weight matrices, by a core or by it and its team.
//
// One register-blocked kernel serves all three products of a linear layer. Eigen's own product packs its operands,
// which pays for large matrices; ours are a tile's activations and weights that are already in rows of whole vectors
// (bench/primitives.cpp times both).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/amx.hpp>
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

// A weight's row as numbers to compute with is what is stored times this.
template <class Compute, class W>
MAMBA_INLINE Compute scale_of_row(const W& w, int row) {
  if constexpr (requires { w.scale; }) return w.scale[row];
  else return Compute(1);
}

// The first-level cache waits for few lines at once: asked for there, weights of 8 bits come no faster than the memory
// answers.
MAMBA_INLINE void prefetch_to_second_level([[maybe_unused]] const void* from, [[maybe_unused]] std::uintptr_t ahead) {
#if defined(__GNUC__)
  // No pointer may go past the end of its array, but a number may.  NOLINTNEXTLINE(performance-no-int-to-ptr)
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(from) + ahead), 0, 2);
#endif
}

// sums[i] <- the product of row i of x with a row of `Count` stored weights and its padding. Memory is read once and in
// order, which is all that counts for a token of a large model; further on it is asked for in time.
template <int Count, int RowsAtOnce, class X, class W>
void row_products(ComputeOf<X> (&sums)[RowsAtOnce], const X* x, std::ptrdiff_t x_row, const W* w) {
  using V = Vector<ComputeOf<X>>;
  constexpr int vectors = vectors_for<V>(Count), chains = RowsAtOnce <= 2 ? 4 : 2;
  V parts[RowsAtOnce][chains];
  unroll<RowsAtOnce>([&](auto r) MAMBA_INLINE_LAMBDA {
    unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { parts[r][i] = V::zero(); });
  });
  const auto add = [&](auto i, int v) MAMBA_INLINE_LAMBDA {
    const W* const from = w + v * V::width;
    if constexpr (i * V::width * sizeof(W) % cache_line == 0)
      prefetch_to_second_level(from, Tuning::weight_bytes_ahead);
    const V weights = V::load(from);
    unroll<RowsAtOnce>([&](auto r) MAMBA_INLINE_LAMBDA {
      parts[r][i] = multiply_add(V::load(x + r * x_row + v * V::width), weights, parts[r][i]);
    });
  };
  for (int v = 0; v + chains <= vectors; v += chains)
    unroll<chains>([&](auto i) MAMBA_INLINE_LAMBDA { add(i, v + i); });
  unroll<vectors % chains>([&](auto i) MAMBA_INLINE_LAMBDA { add(i, vectors / chains * chains + i); });
  unroll<RowsAtOnce>([&](auto r) MAMBA_INLINE_LAMBDA {
    if constexpr (chains == 4) sums[r] = ((parts[r][0] + parts[r][1]) + (parts[r][2] + parts[r][3])).sum();
    else sums[r] = (parts[r][0] + parts[r][1]).sum();
  });
}

// x as numbers to compute with: as it is, or a copy in the core's scratch memory, once and not for each of a weight's
// rows.
template <class T, class Core, class X, int In>
Rows<const T, In> widened(Core& core, Rows<const X, In> x) {
  if constexpr (std::is_same_v<X, T>) {
    return x;
  } else {
    const auto count = static_cast<std::size_t>(x.rows) * x.stride;
    core.scratch.reserve(count * sizeof(T));
    T* const copy = core.scratch.template as<T>();
    for (std::size_t i = 0; i < count; i += Vector<T>::width) Vector<T>::load(x.data + i).store(copy + i);
    return {copy, x.rows};
  }
}

// y <- or += x W^T for the weight's rows [first, last), each of which is read once for all of x.
template <Write write, class Y, class X, class W, int Out, int In>
void products_of_few_rows(Rows<Y, Out> y, Rows<const X, In> x, const W& w, int first, int last) {
  using T = ComputeOf<Y>;
  for (int o = first; o < last; ++o) {
    const T scale = scale_of_row<T>(w, o);
    const auto rows_from = [&](int row, auto count) {
      T sums[count];
      row_products<In, count>(sums, x[row], x.stride, w.row(o));
      for (int r = 0; r < count; ++r) {
        Y& to = y[row + r][o];
        to = write == Write::add ? static_cast<T>(to) + sums[r] * scale : sums[r] * scale;
      }
    };
    int row = 0;
    for (; row + 4 <= x.rows; row += 4) rows_from(row, std::integral_constant<int, 4>{});
    if (x.rows - row >= 2) rows_from(row, std::integral_constant<int, 2>{}), row += 2;
    if (x.rows - row == 1) rows_from(row, std::integral_constant<int, 1>{});
  }
}

// A panel of a weight's transpose, to (depth, Vectors vectors): columns [first_column, first_column + depth) of rows
// [first_row, ...), both of whole vectors; rows that the weight has not are zero.
template <class V, int Vectors, class W>
void pack_panel(typename V::Scalar* to, const W& w, int first_row, int first_column, int depth) {
  using Packet = decltype(V::value);
  for (int v = 0; v < Vectors; ++v)
    for (int k = 0; k < depth; k += V::width) {
      packet::PacketBlock<Packet, V::width> square;
      for (int i = 0; i < V::width; ++i) {
        const int row = first_row + v * V::width + i;
        if (row < W::rows) {
          const V stored = V::load(w.row(row) + first_column + k);
          if constexpr (requires { w.scale; }) square.packet[i] = (stored * V::broadcast(w.scale[row])).value;
          else square.packet[i] = stored.value;
        } else {
          square.packet[i] = V::zero().value;
        }
      }
      packet::ptranspose(square);
      for (int i = 0; i < V::width; ++i)
        V::of(square.packet[i]).store(to + (static_cast<std::ptrdiff_t>(k + i) * Vectors + v) * V::width);
    }
}

// y's columns of one panel <- or += x W^T, from the weight's own rows: a stretch of them at a time is transposed into
// the first-level cache, where all rows of x meet it.
template <class V, Write write, int Vectors, class Y, class T, class W, int Out, int In>
void packed_product(Rows<Y, Out> y, Rows<const T, In> x, const W& w, int panel) {
  constexpr bool sums_apart = !std::is_same_v<Y, T>;  // what is rounded is rounded once
  constexpr int depth = Tuning::packed_depth, rows_at_once = Tuning::packed_rows, width = Vectors * V::width;
  alignas(cache_line) T packed[depth * width];
  alignas(cache_line) T sums[sums_apart ? Tuning::product_rows_at_once / 2 * width : 1];
  const int column = panel * panel_vectors * V::width;
  for (int k = 0; k < In; k += depth) {
    const int here = (std::min)(depth, padded(In) - k);
    pack_panel<V, Vectors>(packed, w, column, k, here);
    for (int row = 0; row < x.rows; row += rows_at_once) {
      const int rows = (std::min)(rows_at_once, x.rows - row);
      const auto multiply = [&](auto kind) {
        if constexpr (sums_apart)
          product_panel<V, kind, Vectors>(sums + row * width, width, rows, x[row] + k, x.stride, 1, packed, width,
                                          here);
        else
          product_panel<V, kind, Vectors>(y[row] + column, y.stride, rows, x[row] + k, x.stride, 1, packed, width,
                                          here);
      };
      if (k > 0) multiply(std::integral_constant<Write, Write::add>{});
      else multiply(std::integral_constant<Write, sums_apart ? Write::set : write>{});
    }
  }
  if constexpr (sums_apart)
    for (int row = 0; row < x.rows; ++row)
      for (int i = 0; i < width; i += V::width) {
        const V sum = V::load(sums + row * width + i);
        (write == Write::add ? V::load(y[row] + column + i) + sum : sum).store(y[row] + column + i);
      }
}

// y <- or += x W^T for all panels; of at most Tuning::product_rows_at_once rows.
template <Write write, class Core, class Y, class X, class W, int Out, int In>
void packed_linear(Core& core, Rows<Y, Out> y, Rows<const X, In> x, const W& w) {
  using T = ComputeOf<Y>;
  using V = Vector<T, Out>;
  constexpr int panels = panel_count<T, Out>, rest = vectors_for<V>(Out) % panel_vectors;
  // Few panels leave threads without work unless rows are shared out, too. Sums that are rounded lie on the stack.
  constexpr int most = std::is_same_v<Y, T> ? Tuning::product_rows_at_once : Tuning::product_rows_at_once / 2,
                piece = panels >= 8 ? most : Tuning::product_piece_rows;
  const int pieces = (x.rows + piece - 1) / piece;
  const Rows<const T, In> of = widened<T>(core, x);
  share_out(core, panels * pieces, static_cast<long long>(x.rows) * Out * In, [&](int i) {
    const int panel = i / pieces, first = i % pieces * piece, count = (std::min)(piece, x.rows - first);
    const Rows<Y, Out> to{y[first], count};
    const Rows<const T, In> from{of[first], count};
    if constexpr (rest > 0)
      if (panel == panels - 1) return packed_product<V, write, rest>(to, from, w, panel);
    if constexpr (vectors_for<V>(Out) >= panel_vectors) packed_product<V, write, panel_vectors>(to, from, w, panel);
  });
}

// The same, by the processor's matrix unit where it has one and may be used.
template <Write write, class Core, class Y, class X, class W, int Out, int In>
void linear_of_many_rows(Core& core, Rows<Y, Out> y, Rows<const X, In> x, const W& w) {
#ifdef MAMBA_AMX
  if constexpr (amx::can_multiply<X, std::remove_cvref_t<decltype(*w.value)>>)
    if (amx::allowed()) return amx::linear<write>(core, y, x, w);
#endif
  packed_linear<write>(core, y, x, w);
}

// The same for up to Tuning::few_rows rows.
template <Write write, class Core, class Y, class X, class W, int Out, int In>
void linear_of_few_rows(Core& core, Rows<Y, Out> y, Rows<const X, In> x, const W& w) {
  using T = ComputeOf<Y>;
  constexpr int weight_rows = Tuning::weight_piece_rows(In * sizeof(*w.value));
  const Rows<const T, In> of = widened<T>(core, x);
  share_out(core, (Out + weight_rows - 1) / weight_rows, static_cast<long long>(x.rows) * Out * In, [&](int i) {
    products_of_few_rows<write>(y, of, w, i * weight_rows, (std::min)(Out, (i + 1) * weight_rows));
  });
}

}  // namespace detail

// Whether products read a weight's rows as they lie, rather than its transpose: of a large one, which one token reads
// from memory, there need be no second copy; of 8 bits there is none.
template <class W, int In>
inline constexpr bool reads_rows = In >= Tuning::least_columns_of_streamed_weight || std::is_same_v<W, std::int8_t>;

// What such a product of so many rows and columns of x takes of a core's scratch memory at most.
inline std::size_t product_scratch_bytes(int rows, int columns) {
  const int at_once = ((std::min)(rows, Tuning::product_rows_at_once) + 31) / 32 * 32;
  return static_cast<std::size_t>(at_once) * static_cast<std::size_t>((columns + 31) / 32 * 32) * 3 * sizeof(BFloat16);
}

// y (T, Out) <- x (T, In) W^T, W (Out, In).
template <Write write = Write::set, class Core, class Y, class X, class W, int Out, int In, int OfRows, int First>
void linear(Core& core, Rows<Y, Out> y, Rows<const X, In> x, Weight<W, Out, In, OfRows, First> w) {
  using T = ComputeOf<Y>;
  if constexpr (reads_rows<W, In>) {
    if (x.rows <= Tuning::few_rows) {
      detail::linear_of_few_rows<write>(core, y, x, w);
    } else {
      // Some rows after the others, so that what is kept beside them is bounded.
      for (int first = 0; first < x.rows; first += Tuning::product_rows_at_once) {
        const int rows = (std::min)(Tuning::product_rows_at_once, x.rows - first);
        detail::linear_of_many_rows<write>(core, Rows<Y, Out>{y[first], rows}, Rows<const X, In>{x[first], rows}, w);
      }
    }
  } else {
    const long long work = static_cast<long long>(x.rows) * Out * In;
    constexpr int piece = Tuning::product_piece_rows, panels = detail::panel_count<T, Out>;
    const auto rows_and_panels = [&](int first, int rows, int first_panel, int last_panel) {
      detail::product<write, Out>(y[first], y.stride, rows, x[first], x.stride, 1, w.derived, w.transposed_stride, In,
                                  first_panel, last_panel);
    };
    if (x.rows <= piece) share_out(core, panels, work, [&](int i) { rows_and_panels(0, x.rows, i, i + 1); });
    else
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
