// A product of two matrices in global memory by one thread block.
//
// Operands come to shared memory as they lie, in panels, with as many on their way as there is room: at the depths of small
// models a product is one wait for memory, a multiplication, one store. One piece of code serves all shapes: a network's
// products come by once a layer, and with code for each shape the multiprocessor waited for instructions (a layer's 21 products
// on an H200: 90 us when each was repeated alone, 161 us in their order; with this code 103 and 108 us).
#pragma once

#include <cstddef>

#include <mamba/core/tensor.hpp>
#include <mamba/cuda/async_copy.hpp>
#include <mamba/cuda/block.hpp>
#include <mamba/cuda/tensor_core.hpp>

namespace mamba::cuda::detail {

// The tiles of a result, which the block computes one by one, and what a warp does for each: a part of 32 x 32 results and,
// where there are fewer parts than warps, a share of the sum.
struct Tiles {
  static constexpr int rows = 128, columns = 64;
  static_assert(rows * columns == Block::warps * part_side * part_side);

  int down, across, depth_groups;  // parts below and beside each other, and how many warps share each

  __device__ Tiles(int of_rows, int of_columns)
      : down(of_rows > 64   ? 4
             : of_rows > 32 ? 2
                            : 1),
        across(of_columns > 32 ? 2 : 1),
        depth_groups(Block::warps / (down * across)) {}

  __device__ int parts() const { return down * across; }
  // Of this warp.
  __device__ int row() const { return warp() % parts() / across * part_side; }
  __device__ int column() const { return warp() % across * part_side; }
  __device__ int depth_group() const { return warp() / parts(); }
};

// panel <- `lines` lines of an operand, with zeros behind them and behind their `length` elements (a multiple of 4).
template <class T, Along along, int Indices>
__device__ void stage(Panel<T, along, Indices> panel, const T* from, int stride, int lines, int length) {
  using P = Panel<T, along, Indices>;
  constexpr int vector = 16 / sizeof(T), vectors = P::length / vector, lines_at_once = Block::threads / vectors;
  static_assert(Block::threads % vectors == 0 && P::lines % lines_at_once == 0);
  const int line = thread() / vectors, place = thread() % vectors * vector;
  if (place >= length) lines = 0;
  from += static_cast<std::ptrdiff_t>(line) * stride + place;
  T* const to = panel.data + line * P::stride + place;
#pragma unroll
  for (int i = 0; i < P::lines; i += lines_at_once) {
    copy_async<16>(to + i * P::stride, from, line + i < lines);
    from += lines_at_once * stride;
  }
}
// The same for the rows (or columns) from `index` on and the sum's elements from k on, of as many as there are.
template <class T, Along along, int Indices>
__device__ void stage(Panel<T, along, Indices> panel, const T* from, int stride, int index, int indices, int k, int depth) {
  if constexpr (along == Along::sum) stage(panel, from + static_cast<std::ptrdiff_t>(index) * stride + k, stride, indices - index, (depth + 3) / 4 * 4 - k);
  else stage(panel, from + static_cast<std::ptrdiff_t>(k) * stride + index, stride, depth - k, (indices + 3) / 4 * 4 - index);
}

// The sums of the first group of warps += those of the others, in their order.
template <class T>
__device__ void add_depth_groups(T* scratch, Sums<T>& sums, Tiles tiles) {
  // Of each warp eight times 32 lanes' fours.
  const auto place = [&](int warp, int row, int column) { return scratch + ((warp * 8 + row / 16 * 4 + row % 16 * 2 + column / 16) * 32 + lane()) * 4; };
  __syncthreads();
  if (tiles.depth_group() > 0) sums.each([&](int row, int column, Quad<T>& q) { store4(place(warp(), row, column), q); });
  __syncthreads();
  if (tiles.depth_group() > 0) return;
#pragma unroll 1
  for (int other = warp() + tiles.parts(); other < Block::warps; other += tiles.parts())
    sums.each([&](int row, int column, Quad<T>& q) { add(q, load4(place(other, row, column))); });
}

// c (rows, columns) <- or += sum over k < depth of a(row, k) b(k, column).
//   a: Along::sum: a[row * a_stride + k]; Along::result: a[k * a_stride + row]. b: Along::sum: b[column * b_stride + k],
//   Along::result: b[k * b_stride + column]. Lines start at multiples of 16 elements with zeros between their end and the next;
//   so will c's.
template <Along a_along, Along b_along, class T>
__device__ __noinline__ void product(Block& be, Write write, T* c, int c_stride, int rows, int columns, const T* a, int a_stride, const T* b, int b_stride,
                                     int depth) {
  using PanelA = Panel<T, a_along, Tiles::rows>;
  using PanelB = Panel<T, b_along, Tiles::columns>;
  constexpr int panel_depth = PanelA::depth, stage_elements = PanelA::elements + PanelB::elements, stages = Block::shared_elements / stage_elements;
  static_assert(stages >= 2);
  const int panels = (depth + panel_depth - 1) / panel_depth;
  const Tiles tiles(rows, columns);
  T* const shared = be.scratch<T>();

  for (int first_row = 0; first_row < rows; first_row += Tiles::rows)
    for (int first_column = 0; first_column < columns; first_column += Tiles::columns) {
      // What of this warp's part exists, counted from the lane's first place in it; only the first group has something to write.
      const int row = first_row + tiles.row() + Sums<T>::row(), column = first_column + tiles.column() + Sums<T>::column();
      const int rows_left = rows - row, columns_left = padded(columns) - column;
      const bool exists = first_row + tiles.row() < rows && first_column + tiles.column() < columns, writes = exists && tiles.depth_group() == 0;
      T* const to = c + static_cast<std::ptrdiff_t>(row) * c_stride + column;
      Sums<T> sums = {}, before = {};

      for (int p = -stages; p < panels; ++p) {
        if (p >= 0) {
          wait_for_copies<stages - 1>();
          __syncthreads();
          const PanelA panel_a{shared + p % stages * stage_elements};
          const PanelB panel_b{panel_a.data + PanelA::elements};
          const int depth_here = min(depth - p * panel_depth, panel_depth);
          if (exists) multiply_add(sums, panel_a, tiles.row(), panel_b, tiles.column(), depth_here, tiles.depth_group(), tiles.depth_groups, depth);
          if (p + stages < panels) __syncthreads();
        }
        const int next = p + stages;
        if (next < panels) {
          const PanelA panel_a{shared + next % stages * stage_elements};
          stage(panel_a, a, a_stride, first_row, rows, next * panel_depth, depth);
          stage(PanelB{panel_a.data + PanelA::elements}, b, b_stride, first_column, columns, next * panel_depth, depth);
        }
        commit_copies();
        // Early, so that it comes meanwhile; in double the registers do not suffice for that.
        if (p == (sizeof(T) == sizeof(float) ? -1 : panels - 1) && write == Write::add && writes)
          before.each([&](int r, int k, Quad<T>& q) {
            if (r < rows_left && k < columns_left) q = load4(to + r * c_stride + k);
          });
      }
      if (tiles.depth_groups > 1) add_depth_groups(shared, sums, tiles);
      if (writes)
        sums.each([&](int r, int k, Quad<T>& q) {
          add(q, before.at[r / 16][k / 16][r % 16]);
          if (columns % 16 != 0)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (column + k + i >= columns) q.at[i] = 0;
          if (r < rows_left && k < columns_left) store4(to + r * c_stride + k, q);
        });
      __syncthreads();
    }
}

}  // namespace mamba::cuda::detail
