// Products of matrices in global memory by one thread block.
//
// Operands come to shared memory as they lie, in panels, the next one while one is multiplied. One piece of code serves
// all shapes: a network's products come by once a layer, and with code for each shape the multiprocessor waited for
// instructions (a layer's 21 products on an H200: 90 us when each was repeated alone, 161 us in their order; with one
// code 103 and 108 us).
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/tensor_core.hpp>

namespace mamba::cuda::detail {

// The tiles of a result, which the block computes one by one, and what a warp does for each: a part of 32 x 32 results
// and, where there are fewer parts than warps, a share of the sum.
struct Tiles {
  static constexpr int rows = 128, columns = 64;
  static_assert(rows * columns == Block::warps * part_side * part_side);

  // Of the parts below and beside each other, and of the warps that share each: powers of 2, whose logarithms spare
  // divisions.
  int log_down, log_across;

  __device__ Tiles(int of_rows, int of_columns)
      : log_down(of_rows > 64   ? 2
                 : of_rows > 32 ? 1
                                : 0),
        log_across(of_columns > 32 ? 1 : 0) {}

  __device__ int log_parts() const { return log_down + log_across; }
  __device__ int parts() const { return 1 << log_parts(); }
  __device__ int depth_groups() const { return Block::warps >> log_parts(); }
  // Of this warp.
  __device__ int row() const { return ((warp() & (parts() - 1)) >> log_across) * part_side; }
  __device__ int column() const { return (warp() & ((1 << log_across) - 1)) * part_side; }
  __device__ int depth_group() const { return warp() >> log_parts(); }
};

// panel <- `lines` lines of an operand, with zeros behind them and behind their `length` elements (a multiple of 4).
template <class T, Along along, int Indices>
__device__ void stage(Panel<T, along, Indices> panel, const T* from, int stride, int lines, int length) {
  using P = Panel<T, along, Indices>;
  constexpr int vector = 16 / sizeof(T), vectors = P::length / vector, lines_at_once = Block::threads / vectors;
  static_assert(Block::threads % vectors == 0 && P::lines % lines_at_once == 0);
  const int line = thread() / vectors, column = thread() % vectors * vector;
  if (column >= length) lines = 0;
  from += static_cast<std::ptrdiff_t>(line) * stride + column;
  T* const to = panel.data + line * P::stride + column;
#pragma unroll
  for (int i = 0; i < P::lines; i += lines_at_once) {
    copy_async<16>(to + i * P::stride, from, line + i < lines);
    from += lines_at_once * stride;
  }
}
// The same for the rows (or columns) from `index` on and the sum's elements from k on, of as many as there are.
template <class T, Along along, int Indices>
__device__ void stage(Panel<T, along, Indices> panel, const T* from, int stride, int index, int indices, int k,
                      int depth) {
  if constexpr (along == Along::sum)
    stage(panel, from + static_cast<std::ptrdiff_t>(index) * stride + k, stride, indices - index,
          (depth + 3) / 4 * 4 - k);
  else
    stage(panel, from + static_cast<std::ptrdiff_t>(k) * stride + index, stride, depth - k,
          (indices + 3) / 4 * 4 - index);
}

// One of several products that a block computes in one go.
//   c (rows, columns) <- or += sum over k < depth of a(row, k) b(k, column)
//   a: Along::sum: a[row * a_stride + k]; Along::result: a[k * a_stride + row]. b: Along::sum: b[column * b_stride +
//   k], Along::result: b[k * b_stride + column]. Lines start at multiples of 16 elements with zeros between their end
//   and the next; so will c's.
template <class T>
struct Product {
  T* c;
  int c_stride, rows, columns;
  const T* a;
  int a_stride;
  const T* b;
  int b_stride, depth;
};

template <class T, Along a_along, Along b_along>
struct ProductStage {
  static constexpr int elements =
      Panel<T, a_along, Tiles::rows>::elements + Panel<T, b_along, Tiles::columns>::elements;
};

// A tile of a result: of every product's one behind the other or, where the products add up to one result, of that.
template <class T>
struct ProductTile {
  const Product<T>* products;
  int count;
  bool one_result;
  int number = 0, row = 0, column = 0;

  __device__ bool exists() const { return number < count; }
  // Which products add up in it.
  __device__ int first() const { return number; }
  __device__ int last() const { return one_result ? count : number + 1; }

  __device__ void next() {
    const Product<T>& p = products[number];
    column += Tiles::columns;
    if (column < p.columns) return;
    column = 0, row += Tiles::rows;
    if (row < p.rows) return;
    row = 0, number = last();
  }
};

// The panels of all tiles, one behind the other.
template <class T, int depth>
struct ProductPanel {
  ProductTile<T> tile;
  int number = 0, k = 0;

  __device__ bool exists() const { return tile.exists(); }
  __device__ void next() {
    k += depth;
    if (k < tile.products[number].depth) return;
    k = 0;
    if (++number < tile.last()) return;
    tile.next();
    number = tile.first();
  }
};

// The sums of the first group of warps += those of the others, in their order, half of them at a time.
inline constexpr int exchange_of_sums = Block::warps * 4 * 32 * 4;
template <class T>
__device__ void add_depth_groups(T* exchange, Sums<T>& sums, Tiles tiles) {
  // Of each warp four times 32 lanes' fours.
  const auto slot = [&](int warp, int i, int n) { return exchange + ((warp * 4 + i * 2 + n) * 32 + lane()) * 4; };
#pragma unroll
  for (int m = 0; m < part_units; ++m) {
    if (m > 0) __syncthreads();  // at first the barriers since the last time do
    if (tiles.depth_group() > 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int n = 0; n < part_units; ++n) store4(slot(warp(), i, n), sums.at[m][n][i]);
    }
    __syncthreads();
    if (tiles.depth_group() > 0) continue;
#pragma unroll 1
    for (int other = warp() + tiles.parts(); other < Block::warps; other += tiles.parts())
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int n = 0; n < part_units; ++n) add_to(sums.at[m][n][i], load4(slot(other, i, n)));
  }
}

// `count` products, in shared memory, one behind the other in one pipeline: while a panel is multiplied the next one
// comes, be it of the next tile or product. one_result: they add up to one and the same c.
template <Along a_along, Along b_along, class T>
__device__ __noinline__ void multiply(Block& be, Write write, const Product<T>* products, int count, bool one_result) {
  using PanelA = Panel<T, a_along, Tiles::rows>;
  using PanelB = Panel<T, b_along, Tiles::columns>;
  constexpr int depth = PanelA::depth;
  using Stage = ProductStage<T, a_along, b_along>;
  T* const shared = be.scratch<T>();
  const int first_term = first_term_of(be.products);

  ProductTile<T> tile{products, count, one_result};
  ProductPanel<T, depth> next{tile};
  const auto fetch = [&](int slot_number) {
    if (next.exists()) {
      const Product<T>& p = products[next.number];
      const PanelA panel_a{shared + slot_number * Stage::elements};
      stage(panel_a, p.a, p.a_stride, next.tile.row, p.rows, next.k, p.depth);
      stage(PanelB{panel_a.data + PanelA::elements}, p.b, p.b_stride, next.tile.column, p.columns, next.k, p.depth);
      next.next();
    }
    commit_copies();
  };
  fetch(0);
  fetch(1);
  int turn = 0;
  for (; tile.exists(); tile.next()) {
    const int rows = products[tile.number].rows, columns = products[tile.number].columns,
              stride = products[tile.number].c_stride;
    const Tiles tiles(rows, columns);
    // What of this warp's part exists, counted from the lane's first element in it; only the first group has something
    // to write.
    const int row = tile.row + tiles.row() + Sums<T>::row(), column = tile.column + tiles.column() + Sums<T>::column();
    const int rows_left = rows - row, columns_left = padded(columns) - column;
    const bool exists = tile.row + tiles.row() < rows && tile.column + tiles.column() < columns,
               writes = exists && tiles.depth_group() == 0;
    T* const to = products[tile.number].c + static_cast<std::ptrdiff_t>(row) * stride + column;
    Sums<T> sums = {}, before = {};
    const auto load_before = [&] {
      if (write == Write::add && writes)
        before.each([&](int r, int k, Quad<T>& q) {
          if (r < rows_left && k < columns_left) q = load4(to + r * stride + k);
        });
    };
    if constexpr (sizeof(T) == sizeof(float))
      load_before();  // so that it comes meanwhile; in double the registers do not suffice
    for (int number = tile.first(); number < tile.last(); ++number) {
      const int of_depth = products[number].depth;
#pragma unroll 1
      for (int k = 0; k < of_depth; k += depth, turn ^= 1) {
        wait_for_copies<1>();
        __syncthreads();
        const PanelA panel_a{shared + turn * Stage::elements};
        const PanelB panel_b{panel_a.data + PanelA::elements};
        if (exists)
          multiply_add(sums, panel_a, tiles.row(), panel_b, tiles.column(), min(of_depth - k, depth),
                       tiles.depth_group(), tiles.depth_groups(), of_depth, first_term);
        __syncthreads();
        fetch(turn);
      }
    }
    if (tiles.depth_groups() > 1) add_depth_groups(shared + 2 * Stage::elements, sums, tiles);
    if constexpr (sizeof(T) > sizeof(float)) load_before();
    if (writes)
      sums.each([&](int r, int k, Quad<T>& q) {
        add_to(q, before.at[r / 16][k / 16][r % 16]);
        if (columns % 16 != 0)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (column + k + i >= columns) q.at[i] = 0;
        if (r < rows_left && k < columns_left) store4(to + r * stride + k, q);
      });
  }
  __syncthreads();
}

// The products f(0), f(1), ... of `Count` in one go. Every thread says the same.
template <Along a_along, Along b_along, int Count, class T, class F>
__device__ void multiply(Block& be, Write write, bool one_result, F&& f) {
  constexpr int before = 2 * ProductStage<T, a_along, b_along>::elements + exchange_of_sums;
  static_assert(before * sizeof(T) + Count * sizeof(Product<T>) <= Block::shared_bytes<T>);
  auto* const products = reinterpret_cast<Product<T>*>(be.scratch<T>() + before);
  if (thread() == 0) {
#pragma unroll
    for (int i = 0; i < Count; ++i) products[i] = f(i);
  }
  __syncthreads();
  multiply<a_along, b_along>(be, write, products, Count, one_result);
}

}  // namespace mamba::cuda::detail
