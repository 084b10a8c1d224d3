// The loss over the whole device.
#pragma once

#include <cmath>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda {

namespace detail {

// The largest of a row's numbers that threads have seen so far, and the sum of e^(number - largest).
template <class T>
struct SoftmaxSum {
  T largest, sum;

  __device__ void add(T x) {
    if (x > largest) sum = sum * std::exp(largest - x) + T(1), largest = x;
    else sum += std::exp(x - largest);
  }
  __device__ void add(const SoftmaxSum& other) {
    const T both = other.largest > largest ? other.largest : largest;
    sum = sum * std::exp(largest - both) + other.sum * std::exp(other.largest - both);
    largest = both;
  }
};

// Threads for a row: so many that few rows are at work at once, and what is read a second time is in the cache still.
template <int Vp>
inline constexpr int cross_entropy_threads = Vp >= 8192 ? 1024 : Block::threads;

// A row's loss and gradient by a block.
template <class DL, class T, int Vp>
__global__ void __launch_bounds__(cross_entropy_threads<Vp>)
    cross_entropy_of_rows(double* losses, Rows<DL, Vp> dlogits, Rows<const T, Vp> logits, const int* labels,
                          int classes, double weight) {
  begin_kernel();
  constexpr int threads = cross_entropy_threads<Vp>;
  __shared__ SoftmaxSum<T> shares[threads / 32];
  const int row = static_cast<int>(blockIdx.x), first = 4 * thread(), step = 4 * threads;
  const T* const x = logits[row];
  // A thread takes four numbers at a time, each into a sum of its own, for an exponential waits for the one before.
  // Sums begin with a number that there is, for e^(-infinity + infinity) is none.
  SoftmaxSum<T> sums[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) sums[j] = {x[min(first + j, classes - 1)], first + j < classes ? T(1) : T(0)};
#pragma unroll 2
  for (int v = first + step; v < classes; v += step) {
    const auto four = load4(x + v);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (v + j < classes) sums[j].add(four.at[j]);
  }
  SoftmaxSum<T>& own = sums[0];
#pragma unroll
  for (int j = 1; j < 4; ++j) own.add(sums[j]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    own.add({__shfl_xor_sync(~0U, own.largest, offset), __shfl_xor_sync(~0U, own.sum, offset)});
  if (lane() == 0) shares[warp()] = own;
  __syncthreads();
  SoftmaxSum<T> all = shares[0];
  for (int w = 1; w < threads / 32; ++w) all.add(shares[w]);
  const T scale = static_cast<T>(weight) / all.sum;
  const int label = labels[row];
#pragma unroll 2
  for (int v = first; v < dlogits.stride; v += step) {
    auto four = load4(x + v);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      four.at[j] = v + j >= classes
                       ? T(0)
                       : std::exp(four.at[j] - all.largest) * scale - (v + j == label ? static_cast<T>(weight) : T(0));
    store4(dlogits[row] + v, four);
  }
  if (thread() == 0)
    losses[row] = weight * (std::log(static_cast<double>(all.sum)) + static_cast<double>(all.largest) -
                            static_cast<double>(x[label]));
}

}  // namespace detail

// losses (rows), dlogits <- each row's share of the loss and its gradient; labels and losses on the device.
template <class DL, class T, int Vp>
void cross_entropy_of(Grid& be, double* losses, Rows<DL, Vp> dlogits, Rows<const T, Vp> logits, const int* labels,
                      int classes, double weight) {
  be.launch_shaped("cross_entropy_of_rows", detail::cross_entropy_of_rows<DL, T, Vp>,
                   {logits.rows, detail::cross_entropy_threads<Vp>, 0}, losses, dlogits, logits, labels, classes,
                   weight);
}
// As block/rowwise.hpp's. Waits for the device: the loss is the host's.
template <class DL, class T, int Vp>
double cross_entropy(Grid& be, Rows<DL, Vp> dlogits, Rows<const T, Vp> logits, const int* labels, int classes,
                     double weight) {
  const auto rows = static_cast<std::size_t>(logits.rows);
  double* const losses = reinterpret_cast<double*>(be.scratch(rows * sizeof(double)));
  cross_entropy_of(be, losses, dlogits, logits, labels, classes, weight);
  double sum = 0;
  for (const double loss : be.downloaded(losses, rows)) sum += loss;
  return sum;
}

}  // namespace mamba::cuda
