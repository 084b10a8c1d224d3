// The kernels over a model's whole arenas: sums of gradient buffers, norms, the optimiser's update, derived rates.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <mamba/core/macros.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/kernels/training_state.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/math/rate.hpp>

namespace mamba::cuda {

// What is done with four elements of an arena.
struct Kind {
  bool trained, rate;  // rate: of A_log, whose derived weight is the rate
};

// An arena as a kernel shares it out: four elements a thread.
struct ArenaElements {
  std::size_t quads;
  const Kind* kinds;  // (quads)

  int blocks() const { return static_cast<int>((quads + Block::threads - 1) / Block::threads); }
  // f(offset, kind) for the thread's elements.
  template <class F>
  __device__ void visit(F&& f) const {
    const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
    if (i < quads) f(4 * i, kinds[i]);
  }
};

namespace detail {

template <class T>
__device__ double square_sum(const Quad<T>& q) {
  double sum = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) sum += static_cast<double>(q.at[j]) * static_cast<double>(q.at[j]);
  return sum;
}

// sums[block] <- the sum of its threads' values.
__device__ inline void leave_block_sum(double* sums, double value) {
  __shared__ double partial[Block::warps];
  value = lane_sum(value);
  if (lane() == 0) partial[warp()] = value;
  __syncthreads();
  if (thread() != 0) return;
  value = 0;
  for (const double p : partial) value += p;
  sums[blockIdx.x] = value;
}

}  // namespace detail

// derived <- the rates of A_log; the other derived weights are the CPU's.
template <class T>
__global__ void derive_rates(T* derived, const T* values, ArenaElements elements) {
  elements.visit([&](std::size_t at, Kind kind) {
    if (!kind.rate) return;
    for (std::size_t j = at; j < at + 4; ++j) derived[j] = math::rate_of(values[j]);
  });
}

// stored <- the values as kernels read them.
template <class S, class T>
__global__ void store_values(S* stored, const T* values, ArenaElements elements) {
  elements.visit([&](std::size_t at, Kind) { detail::store4(stored + at, detail::load4(values + at)); });
}

// A warp for each of so many rows: stored (rows, stride), scales (rows) <- the row in 8 bits (RowOfInt8).
struct RowsOfInt8 {
  static int blocks(int rows) { return (rows + Block::warps - 1) / Block::warps; }
};
template <class T>
__global__ void store_in_8_bits(std::int8_t* stored, float* scales, const T* values, int rows, int stride) {
  const int row = static_cast<int>(blockIdx.x) * Block::warps + detail::warp();
  if (row >= rows) return;
  const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(row) * stride;
  // The larger one, or what is no number.
  const auto larger = [](T a, T b) { return a != a || a > b ? a : b; };
  T largest = 0;
  for (int j = detail::lane(); j < stride; j += 32) largest = larger(largest, std::fabs(values[at + j]));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) largest = larger(largest, __shfl_xor_sync(~0U, largest, offset));
  const RowOfInt8 as(largest);
  if (detail::lane() == 0) scales[row] = as.scale;
  for (int j = detail::lane(); j < stride; j += 32)
    stored[at + j] = as.inverse > 0 ? static_cast<std::int8_t>(std::rint(values[at + j] * as.inverse)) : std::int8_t{0};
}

// How the sum of buffers is shared out: where there are many, a warp of a block takes some of them, so that more loads
// are under way.
struct BufferSum {
  static constexpr int lanes = 32;

  static MAMBA_HOST_DEVICE int warps(int buffers) {
    return buffers >= 4 * Block::warps ? Block::warps : 1;
  }  // that share a sum
  static int blocks(ArenaElements elements, int buffers) {
    const auto at_once = static_cast<std::size_t>(Block::threads / warps(buffers));
    return static_cast<int>((elements.quads + at_once - 1) / at_once);
  }
};

// gradients <- the sum of `count` buffers, in an order that depends on their number alone, with respect to A_log where
// the buffers' is to A; squares (blocks) <- the sums of the trained ones' squares.
template <class T>
__global__ void sum_buffers(T* gradients, const T* buffers, int count, const T* derived, double* squares,
                            ArenaElements elements, const TrainingState* training) {
  __shared__ detail::Quad<T> partial[Block::warps][BufferSum::lanes];
  if (has_stopped(training)) return;
  const int warps = BufferSum::warps(count);
  const bool shared = warps > 1;
  const std::size_t i = shared ? static_cast<std::size_t>(blockIdx.x) * BufferSum::lanes + detail::lane()
                               : static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const std::size_t at = 4 * i, size = 4 * elements.quads;
  detail::Quad<T> total{};
  if (i < elements.quads) {
    const int first = shared ? count * detail::warp() / warps : 0,
              last = shared ? count * (detail::warp() + 1) / warps : count;
    total = detail::load4(buffers + static_cast<std::size_t>(first) * size + at);
#pragma unroll 8
    for (int b = first + 1; b < last; ++b)
      detail::add_to(total, detail::load4(buffers + static_cast<std::size_t>(b) * size + at));
  }
  if (shared) {
    partial[detail::warp()][detail::lane()] = total;
    __syncthreads();
  }
  double square = 0;
  if (i < elements.quads && (!shared || detail::warp() == 0)) {
    if (shared)
#pragma unroll
      for (int w = 1; w < Block::warps; ++w) detail::add_to(total, partial[w][detail::lane()]);
    const Kind kind = elements.kinds[i];
    if (kind.rate)
#pragma unroll
      for (int j = 0; j < 4; ++j) total.at[j] = math::rate_backward(total.at[j], derived[at + j]);
    detail::store4(gradients + at, total);
    if (kind.trained) square = detail::square_sum(total);
  }
  detail::leave_block_sum(squares, square);
}

// squares (blocks) <- the sums of the trained elements' squares.
template <class T>
__global__ void sum_squares(double* squares, const T* values, ArenaElements elements) {
  double square = 0;
  elements.visit([&](std::size_t at, Kind kind) {
    if (kind.trained) square = detail::square_sum(detail::load4(values + at));
  });
  detail::leave_block_sum(squares, square);
}

// to += from, everywhere.
template <class T>
__global__ void add_gradients(T* to, const T* from, ArenaElements elements) {
  elements.visit([&](std::size_t at, Kind) {
    auto sum = detail::load4(static_cast<const T*>(to) + at);
    detail::add_to(sum, detail::load4(from + at));
    detail::store4(to + at, sum);
  });
}

template <class T>
__global__ void scale(T* values, T factor, ArenaElements elements) {
  elements.visit([&](std::size_t at, Kind kind) {
    if (kind.trained)
      for (std::size_t j = at; j < at + 4; ++j) values[j] *= factor;
  });
}

template <class T>
__global__ void adamw(T* parameters, T* mean, T* square, const T* gradients, math::AdamWStep step,
                      ArenaElements elements) {
  elements.visit([&](std::size_t at, Kind kind) {
    if (kind.trained)
      for (std::size_t j = at; j < at + 4; ++j) math::adamw(parameters[j], mean[j], square[j], gradients[j], step);
  });
}

}  // namespace mamba::cuda
