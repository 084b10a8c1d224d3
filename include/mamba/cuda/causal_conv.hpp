// The depthwise causal convolution by one thread block (specification, section 2.2): tap K-1 multiplies the current step.
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>

namespace mamba::cuda {

// v (T, E) <- bias + sum over k of w[:, k] x_{t-(K-1)+k}. w (E, K), bias (E). What lies before a sequence is zero, or
// where `history` (sequences, K-1, E) is given its rows, the newest last; they become the sequences' own last K-1 inputs.
template <class T, int E, int K>
__device__ void causal_conv(Block&, Rows<T, E> v, Rows<const T, E> x, Sequences sequences, Weight<T, E, K> w, Weight<T, 1, E> bias, T* history = nullptr) {
  detail::each(x.rows * x.stride, [&](int i) {
    const int t = i / x.stride, e = i % x.stride;
    T sum = 0;
    if (e < E) {
      const int s = detail::sequence_of(sequences, t), begin = sequences.begin(s);
      const T* const past = history ? history + static_cast<std::ptrdiff_t>(s) * (K - 1) * x.stride : nullptr;
      sum = bias.value[e];
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int from = t - (K - 1) + k;
        if (from >= begin) sum += w.value[e * w.stride + k] * x[from][e];
        else if (past) sum += w.value[e * w.stride + k] * past[(from - begin + K - 1) * x.stride + e];
      }
    }
    v[t][e] = sum;
  });
  __syncthreads();
  if (!history) return;
  detail::each(sequences.count * x.stride, [&](int i) {
    const int s = i / x.stride, e = i % x.stride, end = sequences.end(s), length = end - sequences.begin(s);
    T* const past = history + static_cast<std::ptrdiff_t>(s) * (K - 1) * x.stride + e;
    for (int row = 0; row < K - 1; ++row) past[row * x.stride] = row + length < K - 1 ? past[(row + length) * x.stride] : x[end - (K - 1) + row][e];
  });
  __syncthreads();
}

// dx (T, E) <- or += the gradient with respect to the input.
template <Write write = Write::set, class T, int E, int K>
__device__ void causal_conv_backward(Block&, Rows<T, E> dx, Rows<const T, E> dv, Sequences sequences, Weight<T, E, K> w) {
  detail::each(dv.rows * dv.stride, [&](int i) {
    const int t = i / dv.stride, e = i % dv.stride;
    T sum = write == Write::add ? dx[t][e] : T(0);
    if (e < E) {
      const int end = sequences.end(detail::sequence_of(sequences, t));
#pragma unroll
      for (int k = 0; k < K; ++k)
        if (const int to = t + (K - 1) - k; to < end) sum += w.value[e * w.stride + k] * dv[to][e];
    }
    dx[t][e] = sum;
  });
  __syncthreads();
}

// dw (E, K) += sum over t of dv_t x_{t-(K-1)+k}.
template <class T, int E, int K>
__device__ void causal_conv_weight_backward(Block& be, WeightGradient<T, E, K> dw, Rows<const T, E> dv, Rows<const T, E> x, Sequences sequences) {
  detail::column_sums<K, E, T>(
      be, x.rows,
      [&](int t, int e, T(&sums)[K]) {
        const int begin = sequences.begin(detail::sequence_of(sequences, t));
        const T g = dv[t][e];
#pragma unroll
        for (int k = 0; k < K; ++k)
          if (const int from = t - (K - 1) + k; from >= begin) sums[k] += g * x[from][e];
      },
      [&](int e, const T(&sums)[K]) {
#pragma unroll
        for (int k = 0; k < K; ++k) dw.value[e * dw.stride + k] += sums[k];
      });
}

}  // namespace mamba::cuda
