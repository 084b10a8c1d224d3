// Products with weight matrices over the whole device (specification, section 1): those of few rows, those of a
// decoding step, those with weights of 8 bits, and those of float that are to be exact, by kernels of our own, the
// others by cuBLAS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/product.hpp>
#include <mamba/cuda/grid/stored_rows.hpp>

namespace mamba::cuda {

// Up to so many rows cuBLAS has no part in linear(), so that a graph can hold it. S: what the operands are stored in.
template <class S>
inline constexpr int most_step_rows = std::is_same_v<S, double> ? GridTuning::few_rows : GridTuning::step_rows;

// Whether so many rows are a step of so few sequences, a token each. S: what weights are stored in.
template <class S>
bool is_token_step(const Grid&, int rows, Sequences sequences) {
  return rows == sequences.count && rows <= most_step_rows<S>;
}

namespace detail {

template <class T, int C>
__global__ void __launch_bounds__(Block::threads) clear_padding_of_rows(Rows<T, C> x) {
  begin_kernel();
  constexpr int width = Rows<T, C>::stride - C;
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  if (i / width < static_cast<std::size_t>(x.rows)) x[static_cast<std::ptrdiff_t>(i / width)][C + i % width] = 0;
}
template <class T, int C>
void clear_padding(Grid& be, Rows<T, C> x) {
  constexpr int width = Rows<T, C>::stride - C;
  if constexpr (width > 0)
    be.launch_over("clear_padding_of_rows", clear_padding_of_rows<T, C>, static_cast<std::size_t>(x.rows) * width, x);
}

// f(rows, std::integral_constant of its first column) for each of several matrices side by side.
template <class T, int... Columns, class F>
void each_piece(Beside<T, Columns...> pieces, F&& f) {
  [&]<int... piece>(std::integer_sequence<int, piece...>) {
    (f(pieces.template get<piece>(), std::integral_constant<int, Beside<T, Columns...>::first(piece)>()), ...);
  }(std::make_integer_sequence<int, sizeof...(Columns)>());
}

inline std::size_t narrow_bytes(int rows, int columns) {
  return sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(padded(columns));
}

// Whether cuBLAS has no part in a product whatever its sizes: where it is to be as exact as float, and where what is
// multiplied is stored in two ways.
template <class S, class LinesOfB>
inline constexpr bool is_mixed = !std::is_same_v<S, typename LinesOfB::Stored>;
template <class S, class LinesOfB>
bool is_ours(const Grid& be) {
  return is_mixed<S, LinesOfB> || (std::is_same_v<S, float> && be.precision() == Products::exact);
}

// c <- or += a b; a's lines lie along the result's rows or along the sum, b's along its columns or along the sum.
// without_cublas: as recorded kernels must be.
template <Along along_a, Along along_b, class C, class S, class LinesOfB>
void multiply(Grid& be, Lines<C> c, Lines<const S> a, LinesOfB b, ProductSizes sizes, Write write,
              bool without_cublas = false) {
  constexpr bool both_along_sum = along_a == Along::sum && along_b == Along::sum, mixed = is_mixed<S, LinesOfB>;
  const bool ours = without_cublas || is_ours<S, LinesOfB>(be);
  if constexpr (std::is_same_v<S, float> || (std::is_same_v<S, BFloat16> && both_along_sum))
    if (ours)
      return multiply_on_grid<along_a, along_b>(be, SideBySide<C, 1>{{c.data}, {0}, {c.stride}}, a, b, sizes, write);
  if constexpr (!mixed) {
    // Its matrices are column-major: rows of ours are columns of its, and the product is written transposed.
    const auto transposed = [](Along along) { return along == Along::sum ? CUBLAS_OP_T : CUBLAS_OP_N; };
    be.products().gemm(transposed(along_b), along_a == Along::sum ? CUBLAS_OP_N : CUBLAS_OP_T, sizes.columns,
                       sizes.rows, sizes.depth, b.data, b.stride, a.data, a.stride, ComputeOf<S>(write == Write::add),
                       c.data, c.stride);
  }
}

template <class T, int C>
Lines<T> lines(Rows<T, C> x) {
  return {x.data, x.stride};
}
template <class T, int R, int C, int OfRows, int First>
Lines<const T> lines(Weight<T, R, C, OfRows, First> w) {
  return {w.value, w.stride};
}
template <int R, int C, int OfRows, int First>
ScaledLines lines(Weight<std::int8_t, R, C, OfRows, First> w) {
  return {{w.value, w.stride}, w.scale};
}

// Outputs of so few columns together that one product takes less time than one for each: their columns are taken apart
// after it.
template <class Y, class S, class LinesOfW, int... Out, int In>
void multiply_narrow(Grid& be, Beside<Y, Out...> y, Rows<const S, In> x, LinesOfW w, Write write) {
  constexpr int columns = Beside<Y, Out...>::all_columns;
  const ProductSizes sizes{x.rows, columns, In};
  if constexpr (std::is_same_v<S, float>)
    if (is_ours<S, LinesOfW>(be))
      return multiply_on_grid<Along::sum, Along::sum>(be, side_by_side(y), lines(x), w, sizes, write);
  auto* const parts = reinterpret_cast<float*>(be.scratch(narrow_bytes(x.rows, columns)));
  const Lines<float> product{parts, padded(columns)};
  multiply<Along::sum, Along::sum>(be, product, lines(x), w, sizes, Write::set);
  finish(be, PlainResult<Y, sizeof...(Out)>{side_by_side(y), write == Write::add},
         Lines<const float>{parts, product.stride}, sizes, 1);
}

// Where a product's operand lies that is written for it: in scratch memory, behind what the product itself takes there.
template <class S>
inline constexpr std::size_t operand_place = std::is_same_v<S, float> ? GridTuning::most_partial_bytes : 0;
template <class S>
S* operand_memory(Grid& be, std::size_t elements) {
  return reinterpret_cast<S*>(be.scratch(operand_place<S> + elements * sizeof(S)) + operand_place<S>);
}

// x as a product's operand beside one that is stored as S: as it is, or a copy in scratch memory.
template <class S, class T, int C>
Rows<const S, C> operand(Grid& be, Rows<const T, C> x) {
  if constexpr (std::is_same_v<S, T>) {
    return x;
  } else {
    const std::size_t elements = static_cast<std::size_t>(x.rows) * x.stride;
    S* const copy = operand_memory<S>(be, elements);
    be.launch_over("copy_elements", copy_elements<S, T>, elements / 4, copy, x.data, elements / 4);
    return {copy, x.rows};
  }
}

// Columns first .. first + width of joined <- x's, and zeros beyond these; `vector` numbers at once, which begin at a
// multiple of it in both.
template <int vector, int first, int width, class S, class T, int All, int C>
__global__ void __launch_bounds__(Block::threads) copy_columns(Rows<S, All> joined, Rows<const T, C> x) {
  begin_kernel();
  constexpr unsigned vectors = width / vector;
  const unsigned i = blockIdx.x * Block::threads + threadIdx.x;
  const auto row = static_cast<int>(i / vectors), column = static_cast<int>(i % vectors) * vector;
  if (row >= x.rows) return;
  S* const to = joined.address(row) + first + column;
  if constexpr (vector == 4) {
    Quad<T> quad{};
    if (column < C) quad = load4(x.address(row) + column);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j >= C) quad.at[j] = 0;
    store4(to, quad);
  } else {
    *to = column < C ? x.address(row)[column] : T(0);
  }
}

// Whether the gradients of a product of several outputs are products over all their columns together: where these are
// copied anyway, to be rounded, and where they are few.
template <class S, class Y, int all_columns>
inline constexpr bool joins_gradients =
    !std::is_same_v<S, Y> || (std::is_same_v<S, float> && all_columns <= GridTuning::narrow_columns);
template <class S, class Y, int... Out>
auto joined(Grid& be, Beside<const Y, Out...> dy) {
  using Pieces = Beside<const Y, Out...>;
  constexpr int all = Pieces::all_columns;
  constexpr bool in_fours = [] {
    for (int i = 0; i < Pieces::count; ++i)
      if (Pieces::first(i) % 4 != 0) return false;
    return true;
  }();
  constexpr int vector = in_fours ? 4 : 1;
  const std::size_t elements = static_cast<std::size_t>(dy.rows) * padded(all);
  const Rows<S, all> together{operand_memory<S>(be, elements), dy.rows};
  each_piece(dy, [&](auto piece, auto first) {
    constexpr int columns = decltype(piece)::columns, width = first + columns == all ? padded(all) - first : columns;
    be.launch_over("copy_columns", copy_columns<vector, first, width, S, Y, all, columns>,
                   static_cast<std::size_t>(dy.rows) * width / vector, together, piece);
  });
  return in(together);
}

}  // namespace detail

// y (T, Out) <- or += x (T, In) W^T, W (Out, In). S, OfW: what x and W are stored in, the same or of 8 bits beside
// float; sums are of what it is computed with.
template <Write write = Write::set, class Y, class S, class OfW, int Out, int In, int OfRows, int First>
void linear(Grid& be, Rows<Y, Out> y, Rows<const S, In> x, Weight<OfW, Out, In, OfRows, First> w) {
  using detail::Along, detail::lines;
  if (x.rows <= detail::most_few_rows<OfW>) detail::multiply_few<write>(be, beside(y), x, detail::stored_rows(w));
  else
    detail::multiply<Along::sum, Along::sum>(be, lines(y), lines(x), lines(w), {x.rows, Out, In}, write,
                                             x.rows <= most_step_rows<S>);
  if constexpr (write == Write::set) detail::clear_padding(be, y);
}
// The same where W's rows belong to several outputs.
template <Write write = Write::set, class Y, class S, class OfW, int... Out, int In, int All, int OfRows, int First>
void linear(Grid& be, Beside<Y, Out...> y, Rows<const S, In> x, Weight<OfW, All, In, OfRows, First> w) {
  using detail::Along, detail::lines;
  static_assert(All == y.all_columns);
  // All at once where W's way from memory is what takes time, and where they are narrow.
  const bool step = x.rows <= most_step_rows<S>,
             narrow = !std::is_same_v<S, double> && All <= GridTuning::narrow_columns &&
                      detail::narrow_bytes(x.rows, All) <= GridTuning::most_partial_bytes,
             at_once = step || narrow;
  if (x.rows <= detail::most_few_rows<OfW>) {
    detail::multiply_few<write>(be, y, x, detail::stored_rows(w));
  } else if constexpr (!std::is_same_v<S, double>) {
    if (step)
      detail::multiply_on_grid<Along::sum, Along::sum>(be, detail::side_by_side(y), lines(x), lines(w),
                                                       {x.rows, All, In}, write);
    else if (narrow) detail::multiply_narrow(be, y, x, lines(w), write);
  }
  detail::each_piece(y, [&](auto piece, auto first) {
    if (!at_once) linear<write>(be, piece, x, w.template row_block<first.value, decltype(piece)::columns>());
    else if constexpr (write == Write::set) detail::clear_padding(be, piece);
  });
}

// dx (T, In) <- or += dy (T, Out) W. W's padding, which is zero, becomes dx's. dy is rounded to what W is stored in.
template <Write write = Write::set, class T, class Y, class S, int Out, int In, int OfRows, int First>
void linear_backward(Grid& be, Rows<T, In> dx, Rows<const Y, Out> dy, Weight<S, Out, In, OfRows, First> w) {
  using detail::Along, detail::lines;
  detail::multiply<Along::sum, Along::result>(be, lines(dx), lines(detail::operand<S>(be, dy)), lines(w),
                                              {dy.rows, padded(In), Out}, write);
}

// dW (Out, In) += dy^T x. dy is rounded to what x is stored in.
template <class T, class Y, class S, int Out, int In>
void linear_weight_backward(Grid& be, WeightGradient<T, Out, In> dw, Rows<const Y, Out> dy, Rows<const S, In> x) {
  using detail::Along, detail::lines;
  detail::multiply<Along::result, Along::result>(be, detail::Lines<T>{dw.value, dw.stride},
                                                 lines(detail::operand<S>(be, dy)), lines(x), {Out, padded(In), x.rows},
                                                 Write::add);
}

// Both gradients of a product, dy being rounded once; the same of several outputs.
template <Write write, class T, class DW, class Y, class S, int Out, int In, int OfRows, int First>
void linear_gradients(Grid& be, Rows<T, In> dx, WeightGradient<DW, Out, In> dw, Rows<const Y, Out> dy,
                      Rows<const S, In> x, Weight<S, Out, In, OfRows, First> w) {
  const Rows<const S, Out> rounded = detail::operand<S>(be, dy);
  linear_backward<write>(be, dx, rounded, w);
  linear_weight_backward(be, dw, rounded, x);
}
template <Write write, class T, class DW, class Y, class S, int... Out, int In, int All, int OfRows, int First>
void linear_gradients(Grid& be, Rows<T, In> dx, WeightGradient<DW, All, In> dw, Beside<const Y, Out...> dy,
                      Rows<const S, In> x, Weight<S, All, In, OfRows, First> w) {
  static_assert(All == dy.all_columns);
  if constexpr (detail::joins_gradients<S, Y, All>) {
    linear_gradients<write>(be, dx, dw, detail::joined<S>(be, dy), x, w);
  } else {
    detail::each_piece(dy, [&](auto piece, auto first) {
      constexpr int columns = decltype(piece)::columns;
      linear_gradients<first.value == 0 ? write : Write::add>(be, dx, dw.template row_block<first.value, columns>(),
                                                              piece, x, w.template row_block<first.value, columns>());
    });
  }
}

}  // namespace mamba::cuda
