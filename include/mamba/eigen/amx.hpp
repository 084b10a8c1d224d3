// Products with weight matrices by a processor's matrix unit (Intel's AMX): 16 x 16 results, over 32 elements of the
// sum at a time, of brain floats that are multiplied exactly and summed in float.
//
// A float is the sum of three brain floats, and the products of parts that together are smaller than 2^-24 are left
// out. So float by float is six products, float by a weight of 8 bits, which is a brain float itself, three, and a
// brain float by a brain float one. Parts and products below 2^-126 are zero, so that all of a number's digits count
// from 2^-110 to 2^127, and of a product from 2^-100 on; a number beyond 3.39e38 is taken for infinite.
#pragma once

#include <mamba/core/instruction_set.hpp>

#ifdef MAMBA_AMX

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/eigen/tuning.hpp>

// GCC notes that a template argument such as __m512 has an attribute; that is all a packet type is.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET::detail::amx {

inline constexpr int side = 16, depth = 32;  // of a tile of results; elements of the sum that a tile has
inline constexpr int tile_results = side * side;
inline constexpr std::size_t tile_elements = side * depth;  // of an operand: 16 lines of 64 bytes

// Whether the system lets this process use the unit; it is asked once, at the first product, unless the environment has
// a MAMBA_NO_AMX. Linux refuses where a thread has a signal stack of its own that is too small for the tiles, and
// refuses such stacks afterwards.
inline bool allowed() {
  static const bool answer = [] {
    if (std::getenv("MAMBA_NO_AMX")) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return answer;
}

// While one lives, this thread's tiles are of 16 lines of 64 bytes.
class Tiles {
 public:
  Tiles() {
    struct alignas(cache_line) {
      std::uint8_t palette = 1, start = 0, reserved[14] = {};
      std::uint16_t line_bytes[16] = {};
      std::uint8_t lines[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) shape.line_bytes[i] = 64, shape.lines[i] = side;
    asm volatile("ldtilecfg %0" : : "m"(shape));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// The compiler's own intrinsics do not say that they read and write memory.
template <int tile>
MAMBA_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
template <int tile>
MAMBA_INLINE void load_tile(const void* from) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(std::ptrdiff_t{64}), "i"(tile) : "memory");
}
template <int tile>
MAMBA_INLINE void store_tile(float* to) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(std::ptrdiff_t{64}), "i"(tile) : "memory");
}
template <int sum, int left, int right>
MAMBA_INLINE void multiply_add_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(left), "i"(right));
}

// Of how many brain floats a stored number is the sum.
template <class Stored>
inline constexpr int parts_of = std::is_same_v<Stored, float> ? 3 : 1;

// parts <- 32 numbers' parts; upper: whether numbers 16 to 31 exist.
MAMBA_INLINE void split(__m512i (&parts)[1], const BFloat16* from, bool upper) {
  parts[0] = _mm512_maskz_loadu_epi16(upper ? 0xFFFFFFFFU : 0xFFFFU, from);
}
MAMBA_INLINE __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
MAMBA_INLINE void split(__m512i (&parts)[1], const std::int8_t* from, bool upper) {
  using V = Vector<float>;
  parts[0] = rounded(V::load(from).value, upper ? V::load(from + side).value : _mm512_setzero_ps());
}
MAMBA_INLINE void split(__m512i (&parts)[3], const float* from, bool upper) {
  __m512 low = _mm512_loadu_ps(from), high = upper ? _mm512_loadu_ps(from + side) : _mm512_setzero_ps();
  for (int i = 0; i < 3; ++i) {
    parts[i] = rounded(low, high);
    const auto widened = [&](__m256i half) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    };
    low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(parts[i])));
    high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(parts[i], 1)));
  }
}

// Tiles of a weight's rows first .. first + 16, columns [column, column + 32 blocks), as left operands: by blocks, then
// parts, `apart` tiles from block to block. Rows that the weight has not are zero.
template <class W, class Stored = std::remove_cvref_t<decltype(*W::value)>>
void pack_left(BFloat16* to, int apart, const W& w, int first, int column, int blocks) {
  constexpr int parts = parts_of<Stored>;
  for (int block = 0; block < blocks; ++block, column += depth)
    for (int i = 0; i < side; ++i) {
      __m512i of_row[parts] = {};
      if (first + i < W::rows) split(of_row, w.row(first + i) + column, column + side < W::stride);
      for (int p = 0; p < parts; ++p)
        _mm512_store_si512(to + (static_cast<std::size_t>(block * apart) + p) * tile_elements + i * depth, of_row[p]);
    }
}

// Tiles of x's rows first .. first + 16 as right operands: by blocks of 32 columns, then parts. Pairs of the sum's
// elements lie beside each other, and pairs of one place beneath each other.
template <class X, int In>
void pack_right(BFloat16* to, Rows<const X, In> x, int first) {
  constexpr int parts = parts_of<X>;
  for (int column = 0; column < In; column += depth) {
    packet::PacketBlock<__m512, side> pairs[parts];
    for (int i = 0; i < side; ++i) {
      __m512i of_row[parts] = {};
      if (first + i < x.rows) split(of_row, x[first + i] + column, column + side < x.stride);
      for (int p = 0; p < parts; ++p) pairs[p].packet[i] = _mm512_castsi512_ps(of_row[p]);
    }
    for (int p = 0; p < parts; ++p, to += tile_elements) {
      packet::ptranspose(pairs[p]);
      for (int i = 0; i < side; ++i) _mm512_store_ps(reinterpret_cast<float*>(to + i * depth), pairs[p].packet[i]);
    }
  }
}

// sums (4 tiles) <- or += the products of two tiles of weights' rows with two of x's, over some blocks.
template <int left_parts, int right_parts>
void multiply_blocks(float* sums, bool adds, const BFloat16* left, const BFloat16* right, std::size_t right_apart,
                     int blocks) {
  constexpr int most = 2;  // l + r: what is smaller is below 2^-24
  unroll<4>([&](auto tile) MAMBA_INLINE_LAMBDA {
    if (adds) load_tile<tile>(sums + tile * tile_results);
    else zero_tile<tile>();
  });
  for (int block = 0; block < blocks; ++block) {
    unroll<left_parts>([&](auto from_last) MAMBA_INLINE_LAMBDA {
      constexpr int l = left_parts - 1 - from_last, rights = (std::min)(right_parts, most - l + 1);
      load_tile<4>(left + l * tile_elements), load_tile<5>(left + (left_parts + l) * tile_elements);
      unroll<rights>([&](auto from_last_right) MAMBA_INLINE_LAMBDA {
        constexpr int r = rights - 1 - from_last_right;
        load_tile<6>(right + r * tile_elements), load_tile<7>(right + right_apart + r * tile_elements);
        multiply_add_tiles<0, 4, 6>(), multiply_add_tiles<1, 4, 7>();
        multiply_add_tiles<2, 5, 6>(), multiply_add_tiles<3, 5, 7>();
      });
    });
    left += 2 * left_parts * tile_elements, right += right_parts * tile_elements;
  }
  unroll<4>([&](auto tile) MAMBA_INLINE_LAMBDA { store_tile<tile>(sums + tile * tile_results); });
}

// y's 16 x 16 at (row, column) <- or += the tile of its transpose, times the weight's scales.
template <Write write, class Y, int Out, class W>
void put_results(Rows<Y, Out> y, int row, int column, const float* tile, const W& w) {
  using V = Vector<float>;
  packet::PacketBlock<__m512, side> lines;
  for (int i = 0; i < side; ++i) {
    lines.packet[i] = _mm512_load_ps(tile + i * side);
    if constexpr (requires { w.scale; })
      if (column + i < Out) lines.packet[i] = (V::of(lines.packet[i]) * V::broadcast(w.scale[column + i])).value;
  }
  packet::ptranspose(lines);
  for (int i = 0; i < (std::min)(side, y.rows - row); ++i) {
    Y* const to = y[row + i] + column;
    const V sum = V::of(lines.packet[i]);
    (write == Write::add ? V::load(to) + sum : sum).store(to);
  }
}

// Whether the unit multiplies such types.
template <class X, class W>
inline constexpr bool can_multiply =
    (std::is_same_v<X, float> || std::is_same_v<X, BFloat16>) &&
    (std::is_same_v<W, float> || std::is_same_v<W, BFloat16> || std::is_same_v<W, std::int8_t>);

// y's columns [column, column + 32), of at most Tuning::product_rows_at_once rows. right: x's tiles; of_rows: elements
// from one 16 rows of x to the next. The weight's rows are split here, so many blocks at a time that they and the sums
// are 64 KB of the stack.
template <Write write, class X, int In, class Y, int Out, class W>
void columns(Rows<Y, Out> y, const BFloat16* right, std::size_t of_rows, const W& w, int column) {
  constexpr int left_parts = parts_of<std::remove_cvref_t<decltype(*w.value)>>, right_parts = parts_of<X>,
                blocks = (In + depth - 1) / depth, most_blocks = (std::min)(blocks, 16 / left_parts);
  alignas(cache_line) BFloat16 left[most_blocks * 2 * left_parts * tile_elements];
  alignas(cache_line) float sums[2 * Tuning::product_rows_at_once / side * tile_results];
  const Tiles tiles;
  for (int block = 0; block < blocks; block += most_blocks) {
    const int here = (std::min)(most_blocks, blocks - block);
    for (int half = 0; half < 2; ++half)
      pack_left(left + static_cast<std::size_t>(half * left_parts) * tile_elements, 2 * left_parts, w,
                column + half * side, block * depth, here);
    const BFloat16* from = right + static_cast<std::size_t>(block * right_parts) * tile_elements;
    for (int row = 0; row < y.rows; row += 2 * side, from += 2 * of_rows)
      multiply_blocks<left_parts, right_parts>(sums + 2 * row * side, block > 0, left, from, of_rows, here);
  }
  for (int t = 0; t / 4 * 2 * side < y.rows; ++t)
    if (const int first = column + t % 4 / 2 * side; first < Out)
      put_results<write>(y, (t / 4 * 2 + t % 2) * side, first, sums + t * tile_results, w);
}

// y (T, Out) <- or += x (T, In) W^T, of at most Tuning::product_rows_at_once rows: x is split first, then a task has 32
// of y's columns.
template <Write write, class Core, class Y, class X, int Out, int In, class W>
void linear(Core& core, Rows<Y, Out> y, Rows<const X, In> x, const W& w) {
  constexpr std::size_t of_rows = static_cast<std::size_t>((In + depth - 1) / depth) * parts_of<X> * tile_elements;
  const int row_tiles = (x.rows + 2 * side - 1) / (2 * side) * 2;
  core.scratch.reserve(static_cast<std::size_t>(row_tiles) * of_rows * sizeof(BFloat16));
  BFloat16* const right = core.scratch.template as<BFloat16>();
  share_out(core, row_tiles, static_cast<long long>(x.rows) * In * 64,
            [&](int i) { pack_right(right + static_cast<std::size_t>(i) * of_rows, x, i * side); });
  share_out(core, (Out + 2 * side - 1) / (2 * side), static_cast<long long>(x.rows) * Out * In,
            [&](int i) { columns<write, X, In>(y, right, of_rows, w, i * 2 * side); });
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET::detail::amx

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
