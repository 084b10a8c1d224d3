// Products over the whole device on the tensor cores: of float as exact as chains of FMA (block/tensor_core.hpp), which
// cuBLAS's exact ones are, and faster; of float by whole numbers of 8 bits, as exact; and of numbers of 16 bits, which
// are summed in float.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/tensor_core.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda::detail {

// What a block has of a result: Side x Side, in warps' shares of Side / 2 x 64, from panels of so many elements of the
// sum as are 128 bytes of the left operand.
template <class S, class OfRight, int Side_>
struct GridProduct {
  using Stored = S;
  using StoredRight = OfRight;
  static constexpr int Side = Side_, threads = Side, blocks_at_once = 256 / Side;
  static constexpr int stages = sizeof(S) == 2 && Side == 64 ? 3 : 2;
  static constexpr int column_warps = Side / 64, row_units = Side / 32, column_units = 4;
  static constexpr int depth = 128 / sizeof(S);
  template <Along along>
  using Left = Panel<S, along, Side, depth>;
  template <Along along>
  using Right = Panel<OfRight, along, Side, depth>;
  template <Along along_a, Along along_b>
  struct Stage {
    S a[Left<along_a>::elements];
    OfRight b[Right<along_b>::elements];
  };
};

// Where an operand or a result lies: lines `stride` apart.
template <class T>
struct Lines {
  using Stored = std::remove_const_t<T>;
  T* data;
  int stride;

  __device__ T* operator[](int line) const { return data + static_cast<std::ptrdiff_t>(line) * stride; }
};
// Of which each is times a number of its own.
struct ScaledLines : Lines<const std::int8_t> {
  const float* scale;
};
struct ProductSizes {
  int rows, columns, depth;
};

// Copies an operand panel by panel, from the sum's element first_k on: zeros for results that do not exist, and beyond
// the end of the sum. Where lines lie along the sum they end with zeros (core/views.hpp): some of these are read, too.
template <int threads, class Panel, Along along>
class OperandReader {
  using S = typename Panel::Stored;
  static constexpr bool along_sum = along == Along::sum;
  static constexpr int vector = 16 / sizeof(S), vectors = Panel::length / vector, lines_at_once = threads / vectors,
                       copies = Panel::lines / lines_at_once;
  static_assert(threads % vectors == 0 && Panel::lines % lines_at_once == 0);

 public:
  __device__ OperandReader(Lines<const S> from, int first_index, int indices, int first_k)
      : next_(from[line() + (along_sum ? first_index : first_k)] + at() + (along_sum ? first_k : first_index)),
        apart_(static_cast<std::ptrdiff_t>(lines_at_once) * from.stride),
        step_(along_sum ? Panel::depth : static_cast<std::ptrdiff_t>(Panel::depth) * from.stride),
        rest_(indices - first_index - (along_sum ? line() : at())) {}

  // The next panel, of which so many elements of the sum exist. Asynchronous.
  __device__ void copy(Panel panel, int depth) {
    S* const to = panel.data + line() * Panel::stride + at();
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
  static __device__ int at() { return thread() % vectors * vector; }

  const S* next_;
  std::ptrdiff_t apart_, step_;
  int rest_;  // of the results, from this thread's first on
};

// Where what a warp has of it begins.
template <class Product>
struct WarpShare {
  static constexpr int row_units = Product::row_units, column_units = Product::column_units;

  static __device__ int row() { return warp() / Product::column_warps * (16 * row_units); }
  static __device__ int column() { return warp() % Product::column_warps * (16 * column_units); }
};

// What a warp has of it.
template <class Product, class S = typename Product::Stored>
struct ProductSums : WarpShare<Product> {
  using Share = WarpShare<Product>;
  using Share::row_units, Share::column_units, Share::row, Share::column;
  Quad<float> at[row_units][column_units][2] = {};

  // += a b over a panel of a sum of so many elements.
  template <class A, class B>
  __device__ void add_panel(A a, B b, int of_depth) {
    if (of_depth >= tensor_core_depth) {
#pragma unroll 1
      for (int k = 0; k < Product::depth; k += 8) add(a, b, k);
    } else {
#pragma unroll 1
      for (int k = 0; k < of_depth; ++k) add_one(a, b, k);
    }
  }

  // += a b over elements k .. k + 8 of the sum, as multiply_add of tensor_core.hpp does.
  template <class A, class B>
  __device__ void add(A a, B b, int k) {
    using Right = decltype(fragment(b, 0, 0));
    Right right[column_units];
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
      each_part([&](auto& part, const Right& f, int half) { multiply(part, left.low, f.high[half]); });
      if constexpr (std::is_same_v<Right, Fragment>)
        each_part([&](auto& part, const Right& f, int half) { multiply_add(part, left.high, f.low[half]); });
      each_part([&](auto& part, const Right& f, int half) { multiply_add(part, left.high, f.high[half]); });
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
      for (int c = 0; c < 4; ++c)
        right[n][c] = static_cast<float>(*b.at(column() + 16 * n + Sums<float>::column() + c, k));
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
};

// Of numbers of 16 bits.
template <class Product>
struct ProductSums<Product, BFloat16> : WarpShare<Product> {
  using Share = WarpShare<Product>;
  using Share::row_units, Share::column_units, Share::row, Share::column;
  Quad<float> at[row_units][column_units][2] = {};

  template <class A, class B>
  __device__ void add_panel(A a, B b, int) {
#pragma unroll
    for (int k = 0; k < Product::depth; k += 16) {
      BFloat16Fragment right[column_units];
#pragma unroll
      for (int n = 0; n < column_units; ++n) right[n] = bfloat16_fragment(b, column() + 16 * n, k);
#pragma unroll
      for (int m = 0; m < row_units; ++m) {
        const BFloat16Fragment left = bfloat16_fragment(a, row() + 16 * m, k);
#pragma unroll
        for (int n = 0; n < column_units; ++n) multiply_add(at[m][n], left, right[n]);
      }
    }
  }
};

// f(row, the first of four columns, quad) for all that a lane has of a warp's results.
template <class Product, class S, class F>
__device__ void each_of(ProductSums<Product, S>& sums, F&& f) {
#pragma unroll
  for (int m = 0; m < Product::row_units; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < Product::column_units; ++n)
        f(sums.row() + 16 * m + Sums<float>::row() + i, sums.column() + 16 * n + Sums<float>::column(),
          sums.at[m][n][i]);
}

// c (rows, columns) <- or += a b; where a sum is shared out, c is the first of the shares' parts, one behind the other.
template <class Product, Along along_a, Along along_b, class C, class LinesOfB>
__global__ void __launch_bounds__(Product::threads, Product::blocks_at_once)
    multiply_on_tensor_cores(Lines<C> c, Lines<const typename Product::Stored> a, LinesOfB b, ProductSizes sizes,
                             int depth_of_share, bool adds) {
  using A = typename Product::template Left<along_a>;
  using B = typename Product::template Right<along_b>;
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

  OperandReader<Product::threads, A, along_a> reader_a(a, row, sizes.rows, begin);
  OperandReader<Product::threads, B, along_b> reader_b(b, column, sizes.columns, begin);
  const auto fetch_a = [&](int step) {
    if (const int rest = end - begin - step * depth; rest > 0) reader_a.copy(A{panels[step % stages].a}, rest);
  };
  const auto fetch_b = [&](int step) {
    if (const int rest = end - begin - step * depth; rest > 0) reader_b.copy(B{panels[step % stages].b}, rest);
  };
  // Where a's lines lie along the sum, b is a weight, which the kernel before this one in a graph does not write: it is
  // on its way when the turn comes. A weight's gradient multiplies two that are not.
  constexpr bool early = along_a == Along::sum;
#pragma unroll
  for (int step = 0; early && step < stages - 1; ++step) fetch_b(step);
  begin_kernel();
#pragma unroll
  for (int step = 0; !early && step < stages - 1; ++step) fetch_b(step);
#pragma unroll
  for (int step = 0; step < stages - 1; ++step) fetch_a(step), commit_copies();
  ProductSums<Product> sums;
#pragma unroll 1
  for (int step = 0; begin + step * depth < end; ++step) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // this panel has come for everyone, and nobody reads the one before
    fetch_a(step + stages - 1), fetch_b(step + stages - 1);
    commit_copies();
    Stage& from = panels[step % stages];
    sums.add_panel(A{from.a}, B{from.b}, sizes.depth);
  }

  c.data += static_cast<std::ptrdiff_t>(share) * sizes.rows * c.stride;
  each_of(sums, [&](int r, int first, Quad<float>& quad) {
    const int count = sizes.columns - column - first;  // four, or what there is
    if (row + r >= sizes.rows || count <= 0) return;
    if constexpr (requires { b.scale; })
#pragma unroll
      for (int j = 0; j < 4; ++j) quad.at[j] *= b.scale[column + first + min(j, count - 1)];
    C* const to = c[row + r] + column + first;
    if (count >= 4) {
      Quad<float> sum = adds ? load4(static_cast<const C*>(to)) : Quad<float>{};
      add_to(sum, quad);
      store4(to, sum);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < count) to[j] = (adds ? static_cast<float>(to[j]) : 0.0F) + quad.at[j];
    }
  });
}

// The sums of the shares' parts, in their order, go where the result says (few_rows.hpp): a thread for each. What it
// needs beside them, no kernel before it in a graph writes.
template <class Result>
__global__ void __launch_bounds__(Block::threads)
    finish_product(Result result, Lines<const float> parts, ProductSizes sizes, int shares) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const auto row = static_cast<int>(i / sizes.columns), column = static_cast<int>(i % sizes.columns);
  typename Result::Early early{};
  if (row < sizes.rows) early = result.early(row, column);
  begin_kernel();
  if (row >= sizes.rows) return;
  float sum = 0;
  const std::ptrdiff_t apart = static_cast<std::ptrdiff_t>(sizes.rows) * parts.stride;
#pragma unroll 4
  for (int share = 0; share < shares; ++share) sum += parts[row][share * apart + column];
  result.take(row, column, sum, early);
}
template <class Result>
void finish(Grid& be, const Result& result, Lines<const float> parts, ProductSizes sizes, int shares) {
  be.launch_over("finish_product", finish_product<Result>,
                 static_cast<std::size_t>(sizes.rows) * static_cast<std::size_t>(sizes.columns), result, parts, sizes,
                 shares);
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
  const double bytes = sizeof(float) * 1.0 * sizes.rows * padded(sizes.columns),  // of a share
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
template <class S, class OfRight>
ProductCut cut_of_product_of(ProductSizes sizes) {
  const auto large = cut_of_product<GridProduct<S, OfRight, 128>>(sizes),
             small = cut_of_product<GridProduct<S, OfRight, 64>>(sizes);
  return small.cost < large.cost ? small : large;
}

// c <- or += a b, or the shares' parts of it.
template <class Product, Along along_a, Along along_b, class C, class S, class LinesOfB>
void multiply_cut(Grid& be, Lines<C> c, Lines<const S> a, LinesOfB b, ProductSizes sizes, int shares, bool adds) {
  const auto pieces = [](int count, int size) { return (count + size - 1) / size; };
  const int depth_of_share = pieces(pieces(sizes.depth, Product::depth), shares) * Product::depth;
  be.launch_shaped("multiply_on_tensor_cores", multiply_on_tensor_cores<Product, along_a, along_b, C, LinesOfB>,
                   {pieces(sizes.rows, Product::Side) * pieces(sizes.columns, Product::Side) * shares, Product::threads,
                    shared_memory<typename Product::template Stage<along_a, along_b>, Product::stages>},
                   c, a, b, sizes, depth_of_share, adds);
}
template <Along along_a, Along along_b, class C, class S, class LinesOfB>
void multiply_cut(Grid& be, Lines<C> c, Lines<const S> a, LinesOfB b, ProductSizes sizes, ProductCut cut, bool adds) {
  using OfRight = typename LinesOfB::Stored;
  if (cut.side == 128)
    multiply_cut<GridProduct<S, OfRight, 128>, along_a, along_b>(be, c, a, b, sizes, cut.shares, adds);
  else multiply_cut<GridProduct<S, OfRight, 64>, along_a, along_b>(be, c, a, b, sizes, cut.shares, adds);
}

inline std::size_t bytes_of_parts(ProductSizes sizes, int shares) {
  return sizeof(float) * static_cast<std::size_t>(shares) * static_cast<std::size_t>(sizes.rows) *
         static_cast<std::size_t>(padded(sizes.columns));
}

// The product a b goes where the result says, by way of scratch memory, of which the first so many bytes are in use.
template <Along along_a, Along along_b, class Result, class S, class LinesOfB>
void multiply_and_finish(Grid& be, const Result& result, Lines<const S> a, LinesOfB b, ProductSizes sizes,
                         ProductCut cut, std::size_t bytes_in_use = 0) {
  const int stride = padded(sizes.columns);
  auto* const parts =
      reinterpret_cast<float*>(be.scratch(bytes_in_use + bytes_of_parts(sizes, cut.shares)) + bytes_in_use);
  multiply_cut<along_a, along_b>(be, Lines<float>{parts, stride}, a, b, sizes, cut, false);
  finish(be, result, Lines<const float>{parts, stride}, sizes, cut.shares);
}

// c <- or += a b. a's lines lie along the result's rows or along the sum, b's along its columns or along the sum.
template <Along along_a, Along along_b, class C, class S, class LinesOfB, int Count>
void multiply_on_grid(Grid& be, SideBySide<C, Count> c, Lines<const S> a, LinesOfB b, ProductSizes sizes, Write write) {
  const ProductCut cut = cut_of_product_of<S, typename LinesOfB::Stored>(sizes);
  const bool adds = write == Write::add;
  if (cut.shares == 1 && Count == 1)
    multiply_cut<along_a, along_b>(be, Lines<C>{c.data[0], c.stride[0]}, a, b, sizes, cut, adds);
  else multiply_and_finish<along_a, along_b>(be, PlainResult<C, Count>{c, adds}, a, b, sizes, cut);
}

}  // namespace mamba::cuda::detail
