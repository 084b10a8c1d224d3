// The depthwise causal convolution over the whole device: block/causal_conv.hpp's stretches, a thread for each,
// whichever sequence they belong to. Shapes and meanings are those there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/causal_conv.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/math/history_gradients.hpp>

namespace mamba::cuda {

namespace detail {

// The stretch of this thread, if there is one: its first row, and the first of its four columns.
template <class T, int E>
__device__ bool own_stretch(Rows<T, E> x, int length, int& first, int& column) {
  constexpr int quads = Rows<T, E>::stride / 4;
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread();
  first = i / quads * length, column = i % quads * 4;
  return first < x.rows;
}
// How many there are.
template <class T, int E>
std::size_t stretches(Rows<T, E> x, int length) {
  return static_cast<std::size_t>((x.rows + length - 1) / length) * (x.stride / 4);
}

template <bool with_silu, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads) convolve_stretches(Convolution<with_silu, S, E, K> conv) {
  begin_kernel();
  int first, column;
  if (own_stretch(conv.x, conv_rows, first, column)) conv.template stretch<true>(first, column);
}
template <bool with_silu, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads) remember_inputs(Convolution<with_silu, S, E, K> conv) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread();
  if (i < conv.sequences.count * conv.x.stride) conv.remember(i);
}
// One row of every sequence, whose history is given: four columns, and their history with this row behind it.
template <bool with_silu, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads) convolve_step(Convolution<with_silu, S, E, K> conv) {
  begin_kernel();
  using T = ComputeOf<S>;
  constexpr int quads = Rows<S, E>::stride / 4;
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / quads, column = i % quads * 4;
  if (s >= conv.sequences.count) return;
  const int row = conv.sequences.begin(s);
  T* const past = conv.history + static_cast<std::ptrdiff_t>(s) * (K - 1) * conv.x.stride + column;
  Quad<T> window[K];
#pragma unroll
  for (int k = 0; k < K - 1; ++k) window[k] = load4(past + k * conv.x.stride);
  window[K - 1] = load4(conv.x[row] + column);
  T taps[K][4];
  load_taps(taps, conv.w, column);
  Quad<T> sum = load_bias(conv.bias, column);
  add_tap(sum, taps[K - 1], window[K - 1], 0, 0);  // in Convolution's order
#pragma unroll
  for (int k = 0; k < K - 1; ++k) add_tap(sum, taps[k], window[k], 0, 0);
  if constexpr (with_silu) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.at[j] = math::silu(sum.at[j]);
  }
  store4(conv.v[row] + column, sum);
#pragma unroll
  for (int k = 0; k < K - 1; ++k) store4(past + k * conv.x.stride, window[k + 1]);
}

template <bool with_silu, class S, int E, int K>
void convolve(Grid& be, const Convolution<with_silu, S, E, K>& conv) {
  if (conv.history && conv.x.rows == conv.sequences.count) {  // no sequence is empty
    be.launch_over("convolve_step", convolve_step<with_silu, S, E, K>,
                   static_cast<std::size_t>(conv.sequences.count) * conv.x.stride / 4, conv);
    return;
  }
  be.launch_over("convolve_stretches", convolve_stretches<with_silu, S, E, K>, stretches(conv.x, conv_rows), conv);
  if (conv.history)
    be.launch_over("remember_inputs", remember_inputs<with_silu, S, E, K>,
                   static_cast<std::size_t>(conv.sequences.count) * conv.x.stride, conv);
}

template <Write write, class T, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads)
    convolve_stretches_backward(Rows<T, E> dx, Rows<const T, E> dv, Sequences sequences, Weight<S, E, K> w) {
  begin_kernel();
  int first, column;
  if (own_stretch(dv, conv_rows, first, column)) convolve_backward<write>(dx, dv, sequences, w, first, column);
}

// The taps' and the bias's gradients of each stretch of rows, a partial sum for each.
template <class T, int E, int K>
struct ConvolutionPartials {
  PartialGradients<T, E, K> weight;
  PartialGradients<T, 1, E> bias;
  int rows;  // of a stretch

  explicit ConvolutionPartials(int all_rows) {
    constexpr int most = affordable_partials((weight.size + bias.size) * sizeof(T));
    rows = (std::max)(GridTuning::gradient_slice_rows, (all_rows + most - 1) / most);
    weight.count = bias.count = (all_rows + rows - 1) / rows;
  }
  void carve(Carver& memory) {
    weight.values = memory.take<T>(static_cast<std::size_t>(weight.count) * weight.size);
    bias.values = memory.take<T>(static_cast<std::size_t>(bias.count) * bias.size);
  }
  // What belongs to the stretch from row `first` on; values[K] is the bias's.
  __device__ void write(int first, int column, const Quad<T> (&values)[K + 1]) const {
    T* const of_weight = weight.values + first / rows * weight.size;
    T* const of_bias = bias.values + first / rows * bias.size;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (column + j >= E) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) of_weight[(column + j) * padded(K) + k] = values[k].at[j];
      of_bias[column + j] = values[K].at[j];
    }
  }
};

template <Write write, bool learned_weight, class T, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads)
    convolve_silu_backward(Rows<T, E> dx, ConvolutionPartials<T, E, K> partials, Rows<const T, E> du,
                           Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w, Weight<T, 1, E> bias) {
  begin_kernel();
  int first, column;
  if (!own_stretch(x, partials.rows, first, column)) return;
  ConvSiluBackward<write, learned_weight, T, S, E, K> part{dx, du, x, sequences, column, {}, load_bias(bias, column),
                                                           {}, {}, {}};
  load_taps(part.taps, w, column);
  part.run(first, min(first + partials.rows, x.rows));
  partials.write(first, column, part.sums);
}

template <class T, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads)
    convolve_weight_backward(ConvolutionPartials<T, E, K> partials, Rows<const T, E> dv, Rows<const S, E> x,
                             Sequences sequences) {
  begin_kernel();
  int first, column;
  if (!own_stretch(x, partials.rows, first, column)) return;
  Quad<T> sums[K] = {}, all[K + 1] = {};
  for (int t = first; t < min(first + partials.rows, x.rows); ++t) add_to_taps(sums, dv, x, sequences, t, column);
#pragma unroll
  for (int k = 0; k < K; ++k) all[k] = sums[k];
  partials.write(first, column, all);
}

// launch(partials), and the gradients += what it leaves there. Padding, too, is added up: it is zero.
template <class T, int E, int K, class Launch>
void with_convolution_partials(Grid& be, int rows, Launch&& launch) {
  ConvolutionPartials<T, E, K> partials(rows);
  be.carve_zeroed([&](Carver& memory) { partials.carve(memory); });
  launch(partials);
}

}  // namespace detail

template <class S, class T, int E, int K>
void causal_conv(Grid& be, Rows<S, E> v, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                 Weight<T, 1, E> bias, std::type_identity_t<T>* history = nullptr) {
  detail::convolve<false, S, E, K>(be, {v, x, sequences, w, bias, history});
}
// The same with a history that is read and stays.
template <class S, class T, int E, int K>
void causal_conv(Grid& be, Rows<S, E> v, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                 Weight<T, 1, E> bias, const std::type_identity_t<T>* history) {
  // Convolution's stretches only read it.
  const detail::Convolution<false, S, E, K> conv{v, x, sequences, w, bias, const_cast<T*>(history)};
  be.launch_over("convolve_stretches", detail::convolve_stretches<false, S, E, K>,
                 detail::stretches(x, detail::conv_rows), conv);
}
template <class S, class T, int E, int K>
void causal_conv_silu(Grid& be, Rows<S, E> u, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                      Weight<T, 1, E> bias, std::type_identity_t<T>* history) {
  detail::convolve<true, S, E, K>(be, {u, x, sequences, w, bias, history});
}

template <Write write, bool learned_weight, bool learned_bias, class T, class S, int E, int K>
void causal_conv_silu_backward(Grid& be, Rows<T, E> dx, WeightGradient<T, E, K> dw, WeightGradient<T, 1, E> dbias,
                               Rows<const T, E> du, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                               Weight<T, 1, E> bias) {
  detail::with_convolution_partials<T, E, K>(be, x.rows, [&](const auto& partials) {
    be.launch_over("convolve_silu_backward", detail::convolve_silu_backward<write, learned_weight, T, S, E, K>,
                   detail::stretches(x, partials.rows), dx, partials, du, x, sequences, w, bias);
    if constexpr (learned_weight) be.add(dw, partials.weight);
    if constexpr (learned_bias) be.add(dbias, partials.bias);
  });
}

template <Write write = Write::set, class T, class S, int E, int K>
void causal_conv_backward(Grid& be, Rows<T, E> dx, Rows<const T, E> dv, Sequences sequences, Weight<S, E, K> w) {
  be.launch_over("convolve_stretches_backward", detail::convolve_stretches_backward<write, T, S, E, K>,
                 detail::stretches(dv, detail::conv_rows), dx, dv, sequences, w);
}
template <class T, class S, int E, int K>
void causal_conv_weight_backward(Grid& be, WeightGradient<T, E, K> dw, Rows<const T, E> dv, Rows<const S, E> x,
                                 Sequences sequences) {
  detail::with_convolution_partials<T, E, K>(be, x.rows, [&](const auto& partials) {
    be.launch_over("convolve_weight_backward", detail::convolve_weight_backward<T, S, E, K>,
                   detail::stretches(x, partials.rows), partials, dv, x, sequences);
    be.add(dw, partials.weight);
  });
}

namespace detail {

// What the inputs before and behind sequences add to a channel's gradients; each call needs a part of it.
template <class T, class S, int E, int K>
struct HistoryGradients {
  static constexpr int stride = Rows<T, E>::stride;
  Rows<T, E> dx;
  T* dhistory;
  Rows<const T, E> dv;
  const T* history;
  Sequences sequences;
  Weight<S, E, K> w;

  // dx and dhistory of one sequence.
  __device__ void of_rows(int s, int e) const {
    const int begin = sequences.begin(s), length = sequences.end(s) - begin;
    T* const own = dhistory + static_cast<std::ptrdiff_t>(s) * (K - 1) * stride + e;
    math::history_gradients<T, K>(
        length, [&](int row) -> T& { return own[row * stride]; }, [&](int t) -> T& { return dx[begin + t][e]; },
        [&](int t) { return dv[begin + t][e]; }, [&](int k) { return static_cast<T>(w.row(e)[k]); });
  }
  // The taps' of all sequences.
  __device__ void of_taps(WeightGradient<T, E, K> dw, int e) const {
    T sums[K] = {};
    for (int s = 0; s < sequences.count; ++s) {
      const int begin = sequences.begin(s), length = sequences.end(s) - begin;
      const T* const past = history + static_cast<std::ptrdiff_t>(s) * (K - 1) * stride + e;
      math::history_of_taps<K>(
          length, [&](int t) { return dv[begin + t][e]; }, [&](int row) { return past[row * stride]; },
          [&](int k, T gradient) { sums[k] += gradient; });
    }
    for (int k = 0; k < K - 1; ++k) dw.row(e)[k] += sums[k];
  }
};

template <class T, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads) add_history_gradients(HistoryGradients<T, S, E, K> gradients) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / E;
  if (s < gradients.sequences.count) gradients.of_rows(s, i % E);
}
template <class T, class S, int E, int K>
__global__ void __launch_bounds__(Block::threads)
    add_history_to_taps(WeightGradient<T, E, K> dw, HistoryGradients<T, S, E, K> gradients) {
  begin_kernel();
  const int e = static_cast<int>(blockIdx.x) * Block::threads + thread();
  if (e < E) gradients.of_taps(dw, e);
}

}  // namespace detail

// dx (T, E) += dhistory (sequences, K-1, E), the gradient of the inputs that sequences leave behind them, which becomes
// that of those before them.
template <class T, class S, int E, int K>
void causal_conv_history_backward(Grid& be, Rows<T, E> dx, std::type_identity_t<T>* dhistory, Rows<const T, E> dv,
                                  Sequences sequences, Weight<S, E, K> w) {
  if constexpr (K > 1)
    be.launch_over("add_history_gradients", detail::add_history_gradients<T, S, E, K>,
                   static_cast<std::size_t>(sequences.count) * E,
                   detail::HistoryGradients<T, S, E, K>{dx, dhistory, dv, nullptr, sequences, w});
}
// dw (E, K) += what the inputs before sequences, history (sequences, K-1, E), add.
template <class T, int E, int K>
void causal_conv_history_weight_backward(Grid& be, WeightGradient<T, E, K> dw, Rows<const T, E> dv,
                                         const std::type_identity_t<T>* history, Sequences sequences) {
  if constexpr (K > 1)
    be.launch_over("add_history_to_taps", detail::add_history_to_taps<T, T, E, K>, E, dw,
                   detail::HistoryGradients<T, T, E, K>{{}, nullptr, dv, history, sequences, {}});
}

}  // namespace mamba::cuda
