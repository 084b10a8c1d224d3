// The depthwise causal convolution by one thread block (specification, section 2.2): tap K-1 multiplies the current step.
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/block.hpp>

namespace mamba::cuda {

namespace detail {

inline constexpr int conv_rows = 8;  // that a thread works on at once, for four columns

// The taps of four channels; those that do not exist are zero, and so is what they give.
template <class T, int E, int K>
__device__ void load_taps(T (&taps)[K][4], Weight<T, E, K> w, int channel) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int first = 0; first < K; first += 4) {
      const auto q = load4(w.value + min(channel + j, E - 1) * w.stride + first);
#pragma unroll
      for (int k = first; k < K && k < first + 4; ++k) taps[k][j] = channel + j < E ? q.at[k - first] : T(0);
    }
}

// f(first row, column) for every stretch of conv_rows rows and four columns of rows shaped like x.
template <class T, int E, class F>
__device__ void each_stretch(Rows<T, E> x, F&& f) {
  constexpr int quads = Rows<T, E>::stride / 4;
  each((x.rows + conv_rows - 1) / conv_rows * quads, [&](int i) { f(i / quads * conv_rows, i % quads * 4); });
  __syncthreads();
}

// Count rows of four columns from row `first` on; where there is none, another one, for a load under a condition waits for
// the one before.
template <int Count, class T, int E>
__device__ void load_rows(Quad<T> (&to)[Count], Rows<const T, E> x, int first, int column) {
#pragma unroll
  for (int i = 0; i < Count; ++i) to[i] = load4(x[max(0, min(first + i, x.rows - 1))] + column);
}
// How far each of them is into its sequence; -1 where there is none.
template <int Count>
__device__ void load_times(int (&to)[Count], Sequences sequences, int rows, int first) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    const int time = sequences.times[min(first + i, rows - 1)];
    to[i] = first + i < rows ? time : -1;
  }
}

}  // namespace detail

// v (T, E) <- bias + sum over k of w[:, k] x_{t-(K-1)+k}. w (E, K), bias (E). What lies before a sequence is zero, or
// where `history` (sequences, K-1, E) is given its rows, the newest last; they become the sequences' own last K-1 inputs.
template <class T, int E, int K>
__device__ void causal_conv(Block&, Rows<T, E> v, Rows<const T, E> x, Sequences sequences, Weight<T, E, K> w, Weight<T, 1, E> bias, T* history = nullptr) {
  using detail::conv_rows;
  detail::each_stretch(x, [&](int first, int e) {
    detail::Quad<T> window[conv_rows + K - 1];
    int times[conv_rows];
    T taps[K][4];
    detail::load_rows(window, x, first - (K - 1), e);
    detail::load_times(times, sequences, x.rows, first);
    detail::load_taps(taps, w, e);
    detail::Quad<T> start;
#pragma unroll
    for (int j = 0; j < 4; ++j) start.at[j] = e + j < E ? bias.value[e + j] : T(0);
#pragma unroll
    for (int i = 0; i < conv_rows; ++i) {
      if (times[i] < 0) continue;
      detail::Quad<T> sum = start;
      const T* past = nullptr;
      if (history && times[i] < K - 1)
        past = history + (static_cast<std::ptrdiff_t>(detail::sequence_of(sequences, first + i)) * (K - 1) + times[i]) * x.stride + e;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        detail::Quad<T> value = window[i + k];
        if (times[i] < K - 1 - k) value = past ? detail::load4(static_cast<const T*>(past) + k * x.stride) : detail::Quad<T>{};
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] += taps[k][j] * value.at[j];
      }
      detail::store4(v[first + i] + e, sum);
    }
  });
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
  using detail::conv_rows;
  detail::each_stretch(dv, [&](int first, int e) {
    detail::Quad<T> window[conv_rows + K - 1], sums[conv_rows] = {};
    int times[conv_rows + K - 1];
    T taps[K][4];
    detail::load_rows(window, dv, first, e);
    detail::load_times(times, sequences, dv.rows, first);
    detail::load_taps(taps, w, e);
    if constexpr (write == Write::add) detail::load_rows(sums, in(dx), first, e);
#pragma unroll
    for (int i = 0; i < conv_rows; ++i) {
      if (times[i] < 0) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int later = K - 1 - k;  // the row that is as much later belongs to the same sequence if it is as far into it
        if (times[i + later] < later) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i].at[j] += taps[k][j] * window[i + later].at[j];
      }
      detail::store4(dx[first + i] + e, sums[i]);
    }
  });
}

// dw (E, K) += sum over t of dv_t x_{t-(K-1)+k}.
template <class T, int E, int K>
__device__ void causal_conv_weight_backward(Block& be, WeightGradient<T, E, K> dw, Rows<const T, E> dv, Rows<const T, E> x, Sequences sequences) {
  detail::column_sums<K>(
      be, x,
      [&](int t, int e, detail::Quad<T>(&sums)[K]) {
        const int time = sequences.times[t];
        const auto g = detail::load4(dv[t] + e);
        detail::Quad<T> window[K];
        detail::load_rows(window, x, t - (K - 1), e);
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[k].at[j] += time < K - 1 - k ? T(0) : g.at[j] * window[k].at[j];
      },
      [&](int e, int k, T sum) { dw.value[e * dw.stride + k] += sum; });
}

}  // namespace mamba::cuda
