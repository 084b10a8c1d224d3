// What primitives are given: views of somebody else's memory whose columns are part of their types (Rows, Weight),
// whose columns are known at run time (MatrixView), and where a tile's sequences lie (Sequences).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <type_traits>

#include <mamba/core/macros.hpp>

namespace mamba {

// Rows of somebody else's memory, `stride` apart; Scalar may be const.
template <class Scalar>
class MatrixView {
 public:
  MAMBA_HOST_DEVICE MatrixView(Scalar* data, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  // Read-only.
  template <class Mutable>
  requires(std::is_same_v<Scalar, const Mutable>)
  MAMBA_HOST_DEVICE MatrixView(MatrixView<Mutable> other)
      : MatrixView(other.data(), other.rows(), other.cols(), other.stride()) {}

  MAMBA_HOST_DEVICE Scalar* data() const { return data_; }
  MAMBA_HOST_DEVICE std::ptrdiff_t rows() const { return rows_; }
  MAMBA_HOST_DEVICE std::ptrdiff_t cols() const { return cols_; }
  MAMBA_HOST_DEVICE std::ptrdiff_t stride() const { return stride_; }
  MAMBA_HOST_DEVICE Scalar& operator()(std::ptrdiff_t i, std::ptrdiff_t j) const { return data_[i * stride_ + j]; }
  std::span<Scalar> row(std::ptrdiff_t i) const { return {data_ + i * stride_, static_cast<std::size_t>(cols_)}; }

 private:
  Scalar* data_;
  std::ptrdiff_t rows_, cols_, stride_;
};

namespace detail {

// MAMBA_CHECKED (CMake: MAMBA_CHECK_KERNELS): ends the program, or the kernel, with a message where row i is not in
// 0 .. last, of a matrix of so many rows.
MAMBA_HOST_DEVICE constexpr void check_row([[maybe_unused]] std::ptrdiff_t i, [[maybe_unused]] std::ptrdiff_t last,
                                           [[maybe_unused]] int rows, [[maybe_unused]] int columns) {
#ifdef MAMBA_CHECKED
  if (i >= 0 && i <= last) return;
  std::printf("mamba: row %lld of a matrix of %d rows and %d columns\n", static_cast<long long>(i), rows, columns);
#ifdef __CUDA_ARCH__
  __trap();
#else
  std::fflush(stdout);
  std::abort();
#endif
#endif
}

}  // namespace detail

// Rows of every matrix in the library start at multiples of 16 elements: whole vectors of any machine, no tails. What
// lies between a matrix's columns and its stride is zero and stays zero.
inline constexpr int row_alignment = 16;
MAMBA_HOST_DEVICE constexpr int padded(int columns) {
  return (columns + row_alignment - 1) / row_alignment * row_alignment;
}

// A kernel's view of (rows, Columns): the columns are part of the type, so that wrong shapes do not compile.
template <class Scalar, int Columns>
struct Rows {
  static constexpr int columns = Columns;
  static constexpr int stride = padded(Columns);

  Scalar* data = nullptr;
  int rows = 0;

  // Row i, or where the row behind the last would begin, as an empty slice does. MAMBA_CHECKED looks at the index, on
  // the GPU, too.
  MAMBA_HOST_DEVICE Scalar* operator[](std::ptrdiff_t i) const {
    detail::check_row(i, rows, rows, Columns);
    return address(i);
  }
  // Where row i would begin, for callers that do not touch it where it does not exist.
  MAMBA_HOST_DEVICE Scalar* address(std::ptrdiff_t i) const { return data + i * stride; }
};

// Whether a primitive replaces what stands in its output or adds to it.
enum class Write { set, add };

// Read-only: template arguments are deduced before Rows<T> could turn into Rows<const T>.
template <class Scalar, int Columns>
MAMBA_HOST_DEVICE constexpr Rows<const Scalar, Columns> in(Rows<Scalar, Columns> x) {
  return {x.data, x.rows};
}

// Several matrices of as many rows, which some primitives take for one with all their columns side by side.
template <class Scalar, int... Columns>
struct Beside {
  static constexpr int count = sizeof...(Columns), all_columns = (Columns + ...);
  // A piece's columns, and the number of the first.
  MAMBA_HOST_DEVICE static constexpr int columns(int piece) {
    const int of[] = {Columns...};
    return of[piece];
  }
  MAMBA_HOST_DEVICE static constexpr int first(int piece) {
    int sum = 0;
    for (int i = 0; i < piece; ++i) sum += columns(i);
    return sum;
  }

  Scalar* data[count];
  int rows;

  template <int piece>
  MAMBA_HOST_DEVICE constexpr Rows<Scalar, columns(piece)> get() const {
    return {data[piece], rows};
  }
};
template <class Scalar, int First, int... Columns>
MAMBA_HOST_DEVICE constexpr Beside<Scalar, First, Columns...> beside(Rows<Scalar, First> first,
                                                                     Rows<Scalar, Columns>... others) {
  return {{first.data, others.data...}, first.rows};
}

// A weight matrix (Rows_, Columns) and, where its declaration asks for it, what is derived from it.
template <class Scalar, int Rows_, int Columns, int OfRows = Rows_, int FirstRow = 0>
struct Weight {
  static constexpr int rows = Rows_, columns = Columns;
  static constexpr int stride = padded(Columns), transposed_stride = padded(OfRows);

  const Scalar* value = nullptr;    // (Rows_, Columns)
  const Scalar* derived = nullptr;  // the transpose's columns FirstRow .., or the same shape as value

  // MAMBA_CHECKED looks at the index.
  MAMBA_HOST_DEVICE constexpr const Scalar* row(int i) const {
    detail::check_row(i, rows - 1, rows, Columns);
    return value + static_cast<std::ptrdiff_t>(i) * stride;
  }

  template <int First, int Count>
  MAMBA_HOST_DEVICE constexpr Weight<Scalar, Count, Columns, OfRows, FirstRow + First> row_block() const {
    static_assert(First >= 0 && First + Count <= Rows_);
    return {value + static_cast<std::ptrdiff_t>(First) * stride, derived + First};
  }
};

// One of 8 bits: row i is scale[i] times whole numbers.
template <int Rows_, int Columns, int OfRows, int FirstRow>
struct Weight<std::int8_t, Rows_, Columns, OfRows, FirstRow> {
  static constexpr int rows = Rows_, columns = Columns;
  static constexpr int stride = padded(Columns);

  const std::int8_t* value = nullptr;  // (Rows_, Columns)
  const float* scale = nullptr;        // (Rows_)

  MAMBA_HOST_DEVICE constexpr const std::int8_t* row(int i) const {
    detail::check_row(i, rows - 1, rows, Columns);
    return value + static_cast<std::ptrdiff_t>(i) * stride;
  }

  template <int First, int Count>
  MAMBA_HOST_DEVICE constexpr Weight<std::int8_t, Count, Columns, OfRows, FirstRow + First> row_block() const {
    static_assert(First >= 0 && First + Count <= Rows_);
    return {value + static_cast<std::ptrdiff_t>(First) * stride, scale + First};
  }
};

// Where its gradient adds up.
template <class Scalar, int Rows_, int Columns>
struct WeightGradient {
  static constexpr int rows = Rows_, columns = Columns, stride = padded(Columns);
  Scalar* value = nullptr;

  MAMBA_HOST_DEVICE constexpr Scalar* row(int i) const {
    detail::check_row(i, rows - 1, rows, Columns);
    return value + static_cast<std::ptrdiff_t>(i) * stride;
  }
  template <int First, int Count>
  MAMBA_HOST_DEVICE constexpr WeightGradient<Scalar, Count, Columns> row_block() const {
    static_assert(First >= 0 && First + Count <= Rows_);
    return {value + static_cast<std::ptrdiff_t>(First) * stride};
  }
};

// Any rows, and a stretch of their columns, as a view that no longer knows its width.
template <class Scalar, int Columns>
MAMBA_HOST_DEVICE MatrixView<Scalar> view(Rows<Scalar, Columns> x) {
  return {x.data, x.rows, Columns, x.stride};
}
template <int First, int Count, class Scalar, int Columns>
MAMBA_HOST_DEVICE MatrixView<Scalar> columns(Rows<Scalar, Columns> x) {
  static_assert(First >= 0 && First + Count <= Columns);
  return {x.data + First, x.rows, Count, x.stride};
}

// Which rows of a tile are cut off from later ones inside the mixer's state (an intervention; none by default).
struct NoRows {
  MAMBA_HOST_DEVICE static constexpr bool blocked(int) { return false; }
};
struct BlockedRows {
  const std::uint8_t* mask = nullptr;  // (T), or null for none
  MAMBA_HOST_DEVICE bool blocked(int row) const { return mask && mask[row] != 0; }
};

// The sequences of a tile lie one behind the other, each as long as it is: sequence s holds rows first[s] ..
// first[s+1].
struct Sequences {
  const int* first = nullptr;  // (count + 1)
  int count = 0;
  const int* times = nullptr;  // (rows) each row's time in its sequence; on the GPU only, which does not look for it
  int before = 0;              // the rows before those at hand, where these are a slice of a longer list

  MAMBA_HOST_DEVICE int begin(int s) const { return first[s] - before; }
  MAMBA_HOST_DEVICE int end(int s) const { return first[s + 1] - before; }
  MAMBA_HOST_DEVICE int rows() const { return end(count - 1); }
};

// How many states are kept when every sequence of a tile keeps one after each whole `chunk` of rows but its last.
inline int states_between_chunks(Sequences sequences, int chunk) {
  int count = 0;
  for (int s = 0; s < sequences.count; ++s) {
    const int rows = sequences.end(s) - sequences.begin(s);
    if (rows > 0) count += (rows - 1) / chunk;
  }
  return count;
}

}  // namespace mamba
