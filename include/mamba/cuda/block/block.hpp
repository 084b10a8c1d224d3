// The GPU's backend at the scope of one thread block. Its primitives are the device functions of this namespace that
// take a Block first; all threads of the block call them together, and each ends with a barrier, so that the next may
// read what it wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/config.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/tuning.hpp>

namespace mamba::cuda {

struct Block {
  static constexpr int threads = BlockTuning::threads, warps = threads / 32;
  static constexpr bool fuses_convolution = true, fuses_steps = true, fuses_gated_norm = true, splits_products = true,
                        fuses_recurrence = false, adds_to_residual = false, rounds_gradients = false,
                        passes_states = false, fuses_token_steps = false;
  // What primitives exchange between threads; a primitive may use all of it and leaves nothing there.
  static constexpr int shared_elements = BlockTuning::shared_elements;
  template <class T>
  static constexpr std::size_t shared_bytes = shared_elements * sizeof(T);
  static constexpr int exchanged_elements = 4 * threads;  // of those that add up over rows and that the grid runs
  std::byte* global = nullptr;                            // the same in global memory, as much as BlockMemory says
  Products products = Products::exact;

  template <class T>
  __device__ T* scratch() const {
    extern __shared__ __align__(128) std::byte shared[];  // named here, so that the compiler knows what memory it is
    return reinterpret_cast<T*>(shared);
  }
  // Behind it lies an object that all threads share; in registers it would take from the primitives what they need.
  template <class T, class Object>
  __device__ Object& object() const {
    return *reinterpret_cast<Object*>(scratch<std::byte>() + shared_bytes<T>);
  }
};

// to <- from, where all threads of the block see `to` and none reads it any more.
template <class T>
__device__ void assign(Block&, T& to, const T& from) {
  __syncthreads();
  if (threadIdx.x == 0) to = from;
  __syncthreads();
}

namespace detail {

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / 32; }

// f(i) for i in [0, count), shared out; no barrier.
template <class F>
__device__ void each(int count, F&& f) {
  for (int i = thread(); i < count; i += Block::threads) f(i);
}

// The same where the count is known when it is compiled.
template <int count, class F>
__device__ void each(F&& f) {
#pragma unroll
  for (int first = 0; first < count; first += Block::threads)
    if (first + Block::threads <= count || first + thread() < count) f(first + thread());
}

// Four numbers, loaded and stored at once: rows start at multiples of 16 elements. They are as they are computed with,
// whatever they are stored in (core/storage.hpp).
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Quad {
  T at[4];
};
// Two numbers of 16 bits in a word, the first of them in its lower half.
__device__ inline float lower_half(unsigned word) { return __uint_as_float(word << 16); }
__device__ inline float upper_half(unsigned word) { return __uint_as_float(word & 0xFFFF0000U); }
// A word's four whole numbers of 8 bits. Where a float is 2^23 and something, that is its lowest bits.
__device__ inline Quad<float> quad_of_bytes(unsigned word) {
  const unsigned from_zero = word ^ 0x80808080U;  // 128 more, none below 0
  Quad<float> quad;
#pragma unroll
  for (unsigned j = 0; j < 4; ++j)
    quad.at[j] = __uint_as_float(__byte_perm(from_zero, 0x4B000000U, 0x7440U | j)) - (0x1p23F + 128);
  return quad;
}
template <class S>
__device__ Quad<ComputeOf<S>> load4(const S* p) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const uint2 words = *reinterpret_cast<const uint2*>(p);
    return {{lower_half(words.x), upper_half(words.x), lower_half(words.y), upper_half(words.y)}};
  } else if constexpr (std::is_same_v<S, std::int8_t>) {
    return quad_of_bytes(*reinterpret_cast<const unsigned*>(p));
  } else {
    return *reinterpret_cast<const Quad<S>*>(p);
  }
}
template <class S>
__device__ void store4(S* p, const Quad<ComputeOf<S>>& q) {
  if constexpr (std::is_same_v<S, BFloat16>)
    *reinterpret_cast<uint2*>(p) = uint2{bfloat16_pair(q.at[0], q.at[1]), bfloat16_pair(q.at[2], q.at[3])};
  else *reinterpret_cast<Quad<S>*>(p) = q;
}

// Two, likewise.
template <class T>
struct alignas(2 * sizeof(T)) Two {
  T at[2];
};
template <class S>
__device__ Two<ComputeOf<S>> load_pair(const S* p) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const auto word = *reinterpret_cast<const unsigned*>(p);
    return {{lower_half(word), upper_half(word)}};
  } else {
    return *reinterpret_cast<const Two<S>*>(p);
  }
}
template <class S>
__device__ void store_pair(S* p, ComputeOf<S> first, ComputeOf<S> second) {
  if constexpr (std::is_same_v<S, BFloat16>) *reinterpret_cast<unsigned*>(p) = bfloat16_pair(first, second);
  else *reinterpret_cast<Two<S>*>(p) = Two<S>{{first, second}};
}

template <class T>
__device__ void scale_by(Quad<T>& quad, T factor) {
#pragma unroll
  for (int j = 0; j < 4; ++j) quad.at[j] *= factor;
}
template <class T>
__device__ void add_to(Quad<T>& sum, const Quad<T>& more) {
#pragma unroll
  for (int j = 0; j < 4; ++j) sum.at[j] += more.at[j];
}

// The sum over `lanes` neighbouring lanes (a power of 2), which all of them get.
template <int lanes = 32, class T>
__device__ T lane_sum(T x) {
#pragma unroll
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0U, x, offset);
  return x;
}

// The sums of Count values each over Width lanes (powers of 2), neighbours or Apart lanes from each other, by halving
// what every lane holds: on return values[0 .. max(1, Count / Width)) are the sums number first .. of the lane's share,
// first being the result.
template <int Count, int Width, int Apart = 1, class T>
__device__ int sum_over_lanes(T (&values)[Count]) {
  static_assert((Count & (Count - 1)) == 0 && (Width & (Width - 1)) == 0);
  int first = 0;
  int held = Count;
#pragma unroll
  for (int offset = Width / 2 * Apart; offset >= Apart; offset /= 2) {
    if (held > 1) {
      held /= 2;
      const bool upper = (lane() & offset) != 0;
#pragma unroll
      for (int i = 0; i < Count / 2; ++i)
        if (i < held) {
          const T kept = upper ? values[i + held] : values[i], given = upper ? values[i] : values[i + held];
          values[i] = kept + __shfl_xor_sync(~0U, given, offset);
        }
      if (upper) first += held;
    } else {
      values[0] += __shfl_xor_sync(~0U, values[0], offset);
    }
  }
  return first;
}

// What lies between the columns and the stride <- 0; no barrier.
template <class T, int C>
__device__ void clear_padding(Rows<T, C> x) {
  if constexpr (C % row_alignment != 0)
    each(x.rows * (x.stride - C), [&](int i) { x[i / (x.stride - C)][C + i % (x.stride - C)] = 0; });
}

// How sums over the rows of `Columns` columns are shared out: a thread adds up four columns over a part of the rows,
// `width` quads of columns at a time.
template <int Columns>
struct ColumnShare {
  static constexpr int quads = (Columns + 3) / 4, passes = (quads + 127) / 128, width = (quads + passes - 1) / passes,
                       groups = Block::threads / width;

  static __device__ int group() { return thread() / width; }
  static __device__ int quad(int first) { return first + thread() % width; }
  // Whether the thread has something to add up among the quads from `first` on.
  static __device__ bool takes_part(int first) { return group() < groups && quad(first) < quads; }

  // The first of the thread's rows of so many, and the end of them.
  static __device__ int2 rows(int count) {
    const int per_group = (count + groups - 1) / groups;
    return {min(group() * per_group, count), min((group() + 1) * per_group, count)};
  }

  // use(column, value, sum) once for each of Values sums of each of those columns, given every thread's; their order
  // depends on the sizes alone.
  template <int Values, class T, class Use>
  static __device__ void add_up(Block& be, const Quad<T> (&sums)[Values], int first, Use&& use) {
    static_assert(Block::threads * 4 * Values <= Block::shared_elements,
                  "mamba: a block's shared memory is too small for so many taps");
    Quad<T>* const partial = reinterpret_cast<Quad<T>*>(be.scratch<T>());  // (groups, Values, width)
    if (group() < groups) {
#pragma unroll
      for (int v = 0; v < Values; ++v) partial[(group() * Values + v) * width + thread() % width] = sums[v];
    }
    __syncthreads();
    each(Values * width * 4, [&](int i) {
      const int v = i / (width * 4), column = 4 * first + i % (width * 4);
      if (column >= Columns) return;
      T sum = 0;
      for (int g = 0; g < groups; ++g)
        sum += reinterpret_cast<const T*>(partial + (g * Values + v) * width)[i % (width * 4)];
      use(column, v, sum);
    });
    __syncthreads();
  }
};

// Values sums over all rows for every column of rows shaped like x: f(row, column, sums) adds a row's share for four
// columns, use(column, value, sum) is called once for each.
template <int Values, class T, int C, class F, class Use>
__device__ void column_sums(Block& be, Rows<const T, C> x, F&& f, Use&& use) {
  using Share = ColumnShare<C>;
  const auto [begin, end] = Share::rows(x.rows);
  for (int first = 0; first < Share::quads; first += Share::width) {
    Quad<T> sums[Values] = {};
    if (Share::takes_part(first)) {
#pragma unroll 4
      for (int t = begin; t < end; ++t) f(t, 4 * Share::quad(first), sums);
    }
    Share::template add_up<Values>(be, sums, first, use);
  }
}

// dd (C) += the sum over the rows of x y, which is the skip's gradient.
template <class T, int C>
__device__ void add_products(Block& be, WeightGradient<T, 1, C> dd, Rows<const T, C> x, Rows<const T, C> y) {
  column_sums<1>(
      be, x,
      [&](int t, int c, Quad<T>(&sum)[1]) {
        const auto of_x = load4(x[t] + c), of_y = load4(y[t] + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[0].at[j] += of_x.at[j] * of_y.at[j];
      },
      [&](int c, int, T sum) { dd.value[c] += sum; });
}

// Which sequence a row belongs to.
__device__ inline int sequence_of(Sequences sequences, int row) {
  const int length = sequences.end(0) - sequences.begin(0);
  int guess = length > 0 ? row / length : 0;  // right where all are of one length
  if (guess < sequences.count && sequences.begin(guess) <= row && row < sequences.end(guess)) return guess;
  int low = 0, high = sequences.count - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (row < sequences.end(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

}  // namespace detail
}  // namespace mamba::cuda
