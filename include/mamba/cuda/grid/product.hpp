// Products of float over the whole device on the tensor cores, as exact as chains of FMA (block/tensor_core.hpp), which
// cuBLAS's exact ones are, and faster.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/async_copy.hpp>
#include <mamba/cuda/block/tensor_core.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda::detail {

// What a block has of a result: Side x Side, in warps' shares of Side / 2 x 64, from panels of 32 elements of the sum.
template <int Side_>
struct GridProduct {
  static constexpr int Side = Side_, threads = Side, blocks_at_once = 256 / Side;
  static constexpr int stages = 2;
  static constexpr int column_warps = Side / 64, row_units = Side / 32, column_units = 4;
  template <Along along>
  using Operand = Panel<float, along, Side>;
  static constexpr int depth = Operand<Along::sum>::depth;
  template <Along along_a, Along along_b>
  struct Stage {
    float a[Operand<along_a>::elements], b[Operand<along_b>::elements];
  };
};

// Where an operand or a result lies: lines `stride` apart.
template <class T>
struct Lines {
  T* data;
  int stride;

  __device__ T* operator[](int line) const { return data + static_cast<std::ptrdiff_t>(line) * stride; }
};
struct ProductSizes {
  int rows, columns, depth;
};

// Copies an operand panel by panel, from the sum's element first_k on: zeros for results that do not exist, and beyond
// the end of the sum. Where lines lie along the sum they end with zeros (core/views.hpp): some of these are read, too.
template <class Product, Along along>
class OperandReader {
  using Panel = typename Product::template Operand<along>;
  static constexpr bool along_sum = along == Along::sum;
  static constexpr int vectors = Panel::length / 4, lines_at_once = Product::threads / vectors,
                       copies = Panel::lines / lines_at_once;
  static_assert(Product::threads % vectors == 0 && Panel::lines % lines_at_once == 0);

 public:
  __device__ OperandReader(Lines<const float> from, int first_index, int indices, int first_k)
      : next_(from[line() + (along_sum ? first_index : first_k)] + at() + (along_sum ? first_k : first_index)),
        apart_(static_cast<std::ptrdiff_t>(lines_at_once) * from.stride),
        step_(along_sum ? Panel::depth : static_cast<std::ptrdiff_t>(Panel::depth) * from.stride),
        rest_(indices - first_index - (along_sum ? line() : at())) {}

  // The next panel, of which so many elements of the sum exist. Asynchronous.
  __device__ void copy(Panel panel, int depth) {
    float* const to = panel.data + line() * Panel::stride + at();
#pragma unroll
    for (int i = 0; i < copies; ++i) {
      const bool exists =
          along_sum ? i * lines_at_once < rest_ && at() < depth : 0 < rest_ && line() + i * lines_at_once < depth;
      copy_async<16>(to + i * lines_at_once * Panel::stride, next_ + i * apart_, exists);
    }
    next_ += step_;
  }

 private:
  static __device__ int line() { return thread() / vectors; }
  static __device__ int at() { return thread() % vectors * 4; }

  const float* next_;
  std::ptrdiff_t apart_, step_;
  int rest_;  // of the results, from this thread's first on
};

// What a warp has of it.
template <class Product>
struct ProductSums {
  static constexpr int row_units = Product::row_units, column_units = Product::column_units;
  Quad<float> at[row_units][column_units][2] = {};

  static __device__ int row() { return warp() / Product::column_warps * (16 * row_units); }
  static __device__ int column() { return warp() % Product::column_warps * (16 * column_units); }

  // += a b over elements k .. k + 8 of the sum, as multiply_add of tensor_core.hpp does.
  template <class A, class B>
  __device__ void add(A a, B b, int k) {
    Fragment right[column_units];
#pragma unroll
    for (int n = 0; n < column_units; ++n) right[n] = fragment(b, column() + 16 * n, k);
#pragma unroll
    for (int m = 0; m < row_units; ++m) {
      const Fragment left = fragment(a, row() + 16 * m, k);
      float parts[column_units][2][4];
      const auto each_part = [&](auto&& f) {
#pragma unroll
        for (int n = 0; n < column_units; ++n)
#pragma unroll
          for (int half = 0; half < 2; ++half) f(parts[n][half], right[n], half);
      };
      // Small ones first; all results' turn before one's next, which waits for it.
      each_part([&](auto& part, const Fragment& f, int half) { multiply(part, left.low, f.high[half]); });
      each_part([&](auto& part, const Fragment& f, int half) { multiply_add(part, left.high, f.low[half]); });
      each_part([&](auto& part, const Fragment& f, int half) { multiply_add(part, left.high, f.high[half]); });
#pragma unroll
      for (int n = 0; n < column_units; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) at[m][n][i].at[c] += parts[n][c % 2][2 * i + c / 2];
    }
  }

  // += a b over element k, by FMA: short sums are more exact so.
  template <class A, class B>
  __device__ void add_one(A a, B b, int k) {
    float right[column_units][4];
#pragma unroll
    for (int n = 0; n < column_units; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) right[n][c] = *b.at(column() + 16 * n + Sums<float>::column() + c, k);
#pragma unroll
    for (int m = 0; m < row_units; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float left = *a.at(row() + 16 * m + Sums<float>::row() + i, k);
#pragma unroll
        for (int n = 0; n < column_units; ++n)
#pragma unroll
          for (int c = 0; c < 4; ++c) at[m][n][i].at[c] += left * right[n][c];
      }
  }

  // f(row, the first of four columns, quad)
  template <class F>
  __device__ void each(F&& f) const {
#pragma unroll
    for (int m = 0; m < row_units; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int n = 0; n < column_units; ++n)
          f(row() + 16 * m + Sums<float>::row() + i, column() + 16 * n + Sums<float>::column(), at[m][n][i]);
  }
};

// c (rows, columns) <- or += a b; where a sum is shared out, c is the first of the shares' parts, one behind the other.
template <class Product, Along along_a, Along along_b>
__global__ void __launch_bounds__(Product::threads, Product::blocks_at_once)
    multiply_on_tensor_cores(Lines<float> c, Lines<const float> a, Lines<const float> b, ProductSizes sizes,
                             int depth_of_share, bool adds) {
  using A = typename Product::template Operand<along_a>;
  using B = typename Product::template Operand<along_b>;
  constexpr int side = Product::Side, depth = Product::depth, stages = Product::stages;
  using Stage = typename Product::template Stage<along_a, along_b>;
  extern __shared__ __align__(128) std::byte shared[];
  Stage* const panels = reinterpret_cast<Stage*>(shared);
  // Blocks that run at the same time share rows and columns: eight tiles below each other, then those beside them.
  constexpr int band = 8;
  const int row_tiles = (sizes.rows + side - 1) / side, column_tiles = (sizes.columns + side - 1) / side,
            tiles = row_tiles * column_tiles;
  const int share = static_cast<int>(blockIdx.x) / tiles, tile = static_cast<int>(blockIdx.x) % tiles;
  const int first_of_band = tile / (band * column_tiles) * band, of_band = min(band, row_tiles - first_of_band),
            in_band = tile - first_of_band * column_tiles;
  const int row = (first_of_band + in_band % of_band) * side, column = in_band / of_band * side;
  const int begin = share * depth_of_share, end = min(begin + depth_of_share, sizes.depth);

  OperandReader<Product, along_a> reader_a(a, row, sizes.rows, begin);
  OperandReader<Product, along_b> reader_b(b, column, sizes.columns, begin);
  const auto fetch = [&](int step) {
    const int rest = end - begin - step * depth;
    Stage& to = panels[step % stages];
    if (rest > 0) reader_a.copy(A{to.a}, rest), reader_b.copy(B{to.b}, rest);
    commit_copies();
  };
#pragma unroll
  for (int step = 0; step < stages - 1; ++step) fetch(step);
  ProductSums<Product> sums;
#pragma unroll 1
  for (int step = 0; begin + step * depth < end; ++step) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // this panel has come for everyone, and nobody reads the one before
    fetch(step + stages - 1);
    Stage& from = panels[step % stages];
    if (sizes.depth >= tensor_core_depth) {
#pragma unroll 1
      for (int k = 0; k < depth; k += 8) sums.add(A{from.a}, B{from.b}, k);
    } else {
#pragma unroll 1
      for (int k = 0; k < sizes.depth; ++k) sums.add_one(A{from.a}, B{from.b}, k);
    }
  }

  c.data += static_cast<std::ptrdiff_t>(share) * sizes.rows * c.stride;
  sums.each([&](int r, int first, const Quad<float>& quad) {
    const int count = sizes.columns - column - first;  // four, or what there is
    if (row + r >= sizes.rows || count <= 0) return;
    float* const to = c[row + r] + column + first;
    if (count >= 4) {
      auto& all = *reinterpret_cast<float4*>(to);
      const float4 before = adds ? all : float4{};
      all = {before.x + quad.at[0], before.y + quad.at[1], before.z + quad.at[2], before.w + quad.at[3]};
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < count) to[j] = (adds ? to[j] : 0.0F) + quad.at[j];
    }
  });
}

// c <- or += the shares' parts, in their order.
template <int Count>
__global__ void __launch_bounds__(Block::threads)
    add_shares(SideBySide<float, Count> c, Lines<const float> parts, ProductSizes sizes, int shares, bool adds) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const auto row = static_cast<int>(i / sizes.columns), column = static_cast<int>(i % sizes.columns);
  if (row >= sizes.rows) return;
  float& to = c.at(row, column);
  float sum = adds ? to : 0.0F;
  const std::ptrdiff_t apart = static_cast<std::ptrdiff_t>(sizes.rows) * parts.stride;
#pragma unroll 4
  for (int share = 0; share < shares; ++share) sum += parts[row][share * apart + column];
  to = sum;
}

// How a product is cut, so that all multiprocessors have work: a rule of sizes alone.
struct ProductCut {
  int side, shares;
  double cost;  // in the time that a block of side 128 takes for a panel
};
template <class Product>
ProductCut cut_of_product(ProductSizes sizes) {
  using Tuning = GridTuning;
  const auto pieces = [](int count, int size) { return (count + size - 1) / size; };
  const long long tiles =
                      static_cast<long long>(pieces(sizes.rows, Product::Side)) * pieces(sizes.columns, Product::Side),
                  at_once = Tuning::product_multiprocessors * Product::blocks_at_once;
  const int panels = pieces(sizes.depth, Product::depth);
  const double bytes = sizeof(float) * 1.0 * sizes.rows * padded(sizes.columns),
               panel = Product::Side == 128 ? 1 : Tuning::product_small_panel;
  ProductCut best{Product::Side, 1, 0};
  for (int shares = 1; shares <= Tuning::most_product_shares; ++shares) {
    if (shares > 1 && (shares > panels || shares * bytes > static_cast<double>(Tuning::most_partial_bytes))) break;
    const auto waves = static_cast<double>((tiles * shares - 1) / at_once + 1);
    const double meeting = shares > 1 ? Tuning::product_meeting + shares * bytes * Tuning::product_meeting_byte : 0,
                 cost = waves * (pieces(panels, shares) * panel + Tuning::product_begin) + meeting;
    if (shares == 1 || cost < best.cost) best.shares = shares, best.cost = cost;
  }
  return best;
}
inline ProductCut cut_of_product(ProductSizes sizes) {
  const auto large = cut_of_product<GridProduct<128>>(sizes), small = cut_of_product<GridProduct<64>>(sizes);
  return small.cost < large.cost ? small : large;
}

// Where c has several pieces, a second kernel takes them apart.
template <class Product, Along along_a, Along along_b, int Count>
void multiply_cut(Grid& be, SideBySide<float, Count> c, Lines<const float> a, Lines<const float> b, ProductSizes sizes,
                  int shares, bool adds) {
  const auto pieces = [](int count, int size) { return (count + size - 1) / size; };
  const int depth_of_share = pieces(pieces(sizes.depth, Product::depth), shares) * Product::depth;
  const bool meet = shares > 1 || Count > 1;
  Lines<float> to{c.data[0], c.stride[0]};
  if (meet) {
    to.stride = padded(sizes.columns);
    const std::size_t elements = static_cast<std::size_t>(sizes.rows) * static_cast<std::size_t>(to.stride);
    to.data = reinterpret_cast<float*>(be.scratch(sizeof(float) * static_cast<std::size_t>(shares) * elements));
  }
  be.launch_shaped("multiply_on_tensor_cores", multiply_on_tensor_cores<Product, along_a, along_b>,
                   {pieces(sizes.rows, Product::Side) * pieces(sizes.columns, Product::Side) * shares, Product::threads,
                    shared_memory<typename Product::template Stage<along_a, along_b>, Product::stages>},
                   to, a, b, sizes, depth_of_share, adds && !meet);
  if (meet)
    be.launch_over("add_shares", add_shares<Count>,
                   static_cast<std::size_t>(sizes.rows) * static_cast<std::size_t>(sizes.columns), c,
                   Lines<const float>{to.data, to.stride}, sizes, shares, adds);
}

// c <- or += a b. a's lines lie along the result's rows or along the sum, b's along its columns or along the sum.
template <Along along_a, Along along_b, int Count>
void multiply_exactly(Grid& be, SideBySide<float, Count> c, Lines<const float> a, Lines<const float> b,
                      ProductSizes sizes, Write write) {
  const auto [side, shares, cost] = cut_of_product(sizes);
  if (side == 128) multiply_cut<GridProduct<128>, along_a, along_b>(be, c, a, b, sizes, shares, write == Write::add);
  else multiply_cut<GridProduct<64>, along_a, along_b>(be, c, a, b, sizes, shares, write == Write::add);
}

}  // namespace mamba::cuda::detail
