// The depthwise causal convolution by one thread block (specification, section 2.2): tap K-1 multiplies the current
// step.
#pragma once

#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/activation.hpp>

namespace mamba::cuda {

namespace detail {

inline constexpr int conv_rows = 8;  // that a thread works on at once, for four columns

// The taps of four channels; those that do not exist are zero, and so is what they give.
template <class T, class S, int E, int K>
__device__ void load_taps(T (&taps)[K][4], Weight<S, E, K> w, int channel) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int first = 0; first < K; first += 4) {
      const auto q = load4(w.row(min(channel + j, E - 1)) + first);
#pragma unroll
      for (int k = first; k < K && k < first + 4; ++k) taps[k][j] = channel + j < E ? q.at[k - first] : T(0);
    }
}

// f(first row, column) for every stretch of conv_rows rows and four columns of rows shaped like x.
template <class T, int E, class F>
__device__ void each_stretch(Rows<T, E> x, F&& f) {
  constexpr int quads = Rows<T, E>::stride / 4;
  const int count = (x.rows + conv_rows - 1) / conv_rows * quads;
#pragma unroll 1
  for (int i = thread(); i < count; i += Block::threads) f(i / quads * conv_rows, i % quads * 4);
  __syncthreads();
}

// Count rows of four columns from row `first` on; where there is none, another one, for a load under a condition waits
// for the one before.
template <int Count, class T, class S, int E>
__device__ void load_rows(Quad<T> (&to)[Count], Rows<const S, E> x, int first, int column) {
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

namespace detail {

template <class T, int E>
__device__ Quad<T> load_bias(Weight<T, 1, E> bias, int channel) {
  Quad<T> q;
#pragma unroll
  for (int j = 0; j < 4; ++j) q.at[j] = channel + j < E ? bias.value[channel + j] : T(0);
  return q;
}

// sum += tap * value, if the row that many steps `back` belongs to the sequence.
template <class T>
__device__ void add_tap(Quad<T>& sum, const T (&tap)[4], const Quad<T>& value, int time, int back) {
  if (time >= back)  // no branch: an instruction under a condition each
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.at[j] += tap[j] * value.at[j];
}

// causal_conv, and after it SiLU where asked for.
template <bool with_silu, class S, int E, int K>
struct Convolution {
  using T = ComputeOf<S>;
  Rows<S, E> v;
  Rows<const S, E> x;
  Sequences sequences;
  Weight<S, E, K> w;
  Weight<T, 1, E> bias;
  T* history;

  // Of four columns of conv_rows rows. asks_first: what most rows need not ask, whose windows lie within a sequence, is
  // asked once for all (two versions are more code).
  template <bool asks_first = false>
  __device__ void stretch(int first, int e) const {
    Quad<T> window[conv_rows + K - 1];
    int times[conv_rows];
    T taps[K][4];
    load_rows(window, x, first - (K - 1), e);
    load_times(times, sequences, x.rows, first);
    load_taps(taps, w, e);
    const Quad<T> start = load_bias(bias, e);
    const auto finish = [&](int i, Quad<T> sum) {
      if constexpr (with_silu) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] = math::silu(sum.at[j]);
      }
      store4(v[first + i] + e, sum);
    };
    if constexpr (asks_first) {
      bool all_inside = true;
#pragma unroll
      for (const int time : times) all_inside &= time >= K - 1;
      if (all_inside) {
#pragma unroll
        for (int i = 0; i < conv_rows; ++i) {
          Quad<T> sum = start;
#pragma unroll
          for (int k = 0; k < K; ++k) add_tap(sum, taps[k], window[i + k], 0, 0);
          finish(i, sum);
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < conv_rows; ++i) {
      if (times[i] < 0) continue;
      Quad<T> sum = start;
#pragma unroll
      for (int k = 0; k < K; ++k) add_tap(sum, taps[k], window[i + k], times[i], K - 1 - k);
      if (history && times[i] < K - 1) {
        const T* const past =
            history + (static_cast<std::ptrdiff_t>(sequence_of(sequences, first + i)) * (K - 1) + times[i]) * x.stride +
            e;
#pragma unroll
        for (int k = 0; k < K - 1; ++k)
          if (times[i] < K - 1 - k) add_tap(sum, taps[k], load4(past + k * x.stride), 0, 0);
      }
      finish(i, sum);
    }
  }

  // After all stretches, for each of sequences.count * x.stride columns: the last K-1 inputs.
  __device__ void remember(int i) const {
    const int s = i / x.stride, e = i % x.stride, end = sequences.end(s), length = end - sequences.begin(s);
    T* const past = history + static_cast<std::ptrdiff_t>(s) * (K - 1) * x.stride + e;
    for (int row = 0; row < K - 1; ++row)
      past[row * x.stride] =
          row + length < K - 1 ? past[(row + length) * x.stride] : static_cast<T>(x[end - (K - 1) + row][e]);
  }
};

template <bool with_silu, class S, int E, int K>
__device__ void convolve(const Convolution<with_silu, S, E, K>& conv) {
  each_stretch(conv.x, [&](int first, int e) { conv.stretch(first, e); });
  if (!conv.history) return;
  each(conv.sequences.count * conv.x.stride, [&](int i) { conv.remember(i); });
  __syncthreads();
}

}  // namespace detail

// v (T, E) <- bias + sum over k of w[:, k] x_{t-(K-1)+k}. w (E, K), bias (E). What lies before a sequence is zero, or
// where `history` (sequences, K-1, E) is given its rows, the newest last; they become the sequences' own last K-1
// inputs.
template <class S, class T, int E, int K>
__device__ void causal_conv(Block&, Rows<S, E> v, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                            Weight<T, 1, E> bias, std::type_identity_t<T>* history = nullptr) {
  detail::convolve<false, S, E, K>({v, x, sequences, w, bias, history});
}

// u (T, E) <- silu(causal_conv(x))
template <class S, class T, int E, int K>
__device__ void causal_conv_silu(Block&, Rows<S, E> u, Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                                 Weight<T, 1, E> bias, std::type_identity_t<T>* history) {
  detail::convolve<true, S, E, K>({u, x, sequences, w, bias, history});
}

namespace detail {

// What a thread does of causal_conv_silu_backward: four columns, row after row, the next rows asked for while these are
// worked on. Of the rows before it keeps what the next ones need in rings, whose places the loop's step (a multiple of
// K) makes known at compile time.
template <Write write, bool learned_weight, class T, class S, int E, int K>
struct ConvSiluBackward {
  static constexpr int step = (4 + K - 1) / K * K;
  struct Row {
    Quad<T> x, g, dx;
    int time;  // how far into its sequence; -1: there is no such row
  };

  Rows<T, E> dx;
  Rows<const T, E> du;
  Rows<const S, E> x;
  Sequences sequences;
  int column;
  T taps[K][4];
  Quad<T> start;                         // the bias
  Quad<T> sums[K + 1], past[K], out[K];  // sums: dw's, then dbias's; past, out: x's and dx's rings

  __device__ void load(Row (&rows)[step], int first) const {
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const int t = first + i,
                safe = min(t, x.rows - 1);  // not under a condition, for that would wait for the load before
      rows[i].x = load4(x[safe] + column), rows[i].g = load4(du[safe] + column);
      if constexpr (write == Write::add) rows[i].dx = load4(in(dx)[safe] + column);
      const int time = sequences.times[safe];
      rows[i].time = t < x.rows ? time : -1;
    }
  }

  // Rows [begin, end) of dx, and their share of the sums.
  __device__ void run(int begin, int end) {
    Row rows[step], next[step];
    load(rows, begin);
#pragma unroll
    for (int k = 1; k < K; ++k) past[K - k] = load4(x[max(begin - k, 0)] + column);
    // The last K-1 rows only complete the gradients of those before.
#pragma unroll 1
    for (int first = begin; first < end + K - 1; first += step) {
      load(next, first + step);
#pragma unroll
      for (int i = 0; i < step; ++i) {
        const int t = first + i, time = rows[i].time;
        past[i % K] = rows[i].x;
        Quad<T> g = start;
#pragma unroll
        for (int k = 0; k < K; ++k) add_tap(g, taps[k], past[(i + 1 + k) % K], time, K - 1 - k);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          g.at[j] = time < 0 ? T(0) : rows[i].g.at[j] * math::silu_derivative(g.at[j], math::sigmoid(g.at[j]));
        out[i % K] = {};
        if constexpr (write == Write::add) out[i % K] = rows[i].dx;
#pragma unroll
        for (int k = 0; k < K; ++k) add_tap(out[(i + 1 + k) % K], taps[k], g, time, K - 1 - k);
        const int done = t - (K - 1);
        if (done >= begin && done < end) store4(dx[done] + column, out[(i + 1) % K]);
        if (t < end) {
          if constexpr (learned_weight)
#pragma unroll
            for (int k = 0; k < K; ++k) add_tap(sums[k], g.at, past[(i + 1 + k) % K], time, K - 1 - k);
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[K].at[j] += g.at[j];
        }
      }
#pragma unroll
      for (int i = 0; i < step; ++i) rows[i] = next[i];
    }
  }
};

}  // namespace detail

// dx (T, E) <- or += the gradient through silu(causal_conv(x)) given du (T, E), dw (E, K), dbias (E) += those of what
// is learned. In one pass: what the convolution gave is computed again.
template <Write write, bool learned_weight, bool learned_bias, class T, class S, int E, int K>
__device__ __noinline__ void causal_conv_silu_backward(Block& be, Rows<T, E> dx, WeightGradient<T, E, K> dw,
                                                       WeightGradient<T, 1, E> dbias, Rows<const T, E> du,
                                                       Rows<const S, E> x, Sequences sequences, Weight<S, E, K> w,
                                                       Weight<T, 1, E> bias) {
  using Share = detail::ColumnShare<Rows<T, E>::stride>;
  for (int first_quad = 0; first_quad < Share::quads; first_quad += Share::width) {
    const int column = 4 * min(Share::quad(first_quad), Share::quads - 1);
    detail::ConvSiluBackward<write, learned_weight, T, S, E, K> part{
        dx, du, x, sequences, column, {}, detail::load_bias(bias, column), {}, {}, {}};
    detail::load_taps(part.taps, w, column);
    if (Share::takes_part(first_quad)) {
      const auto [begin, end] = Share::rows(x.rows);
      if (begin < end) part.run(begin, end);
    }
    if constexpr (learned_weight || learned_bias)
      Share::template add_up<K + 1>(be, part.sums, first_quad, [&](int e, int value, T sum) {
        if (e >= E) return;
        if (value < K ? learned_weight : learned_bias) (value < K ? dw.row(e)[value] : dbias.value[e]) += sum;
      });
  }
  __syncthreads();
}

namespace detail {

// causal_conv_backward of four columns of conv_rows rows.
template <Write write, class T, class S, int E, int K>
__device__ void convolve_backward(Rows<T, E> dx, Rows<const T, E> dv, Sequences sequences, Weight<S, E, K> w, int first,
                                  int e) {
  Quad<T> window[conv_rows + K - 1], sums[conv_rows] = {};
  int times[conv_rows + K - 1];
  T taps[K][4];
  load_rows(window, dv, first, e);
  load_times(times, sequences, dv.rows, first);
  load_taps(taps, w, e);
  if constexpr (write == Write::add) load_rows(sums, in(dx), first, e);
#pragma unroll
  for (int i = 0; i < conv_rows; ++i) {
    if (times[i] < 0) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int later =
          K - 1 - k;  // the row that is as much later belongs to the same sequence if it is as far into it
      add_tap(sums[i], taps[k], window[i + later], times[i + later], later);
    }
    store4(dx[first + i] + e, sums[i]);
  }
}

}  // namespace detail

// dx (T, E) <- or += the gradient with respect to the input.
template <Write write = Write::set, class T, class S, int E, int K>
__device__ void causal_conv_backward(Block&, Rows<T, E> dx, Rows<const T, E> dv, Sequences sequences,
                                     Weight<S, E, K> w) {
  detail::each_stretch(dv, [&](int first, int e) { detail::convolve_backward<write>(dx, dv, sequences, w, first, e); });
}

namespace detail {

// The taps' gradients of four columns += a row's share.
template <int K, class T, class S, int E>
__device__ void add_to_taps(Quad<T> (&sums)[K], Rows<const T, E> dv, Rows<const S, E> x, Sequences sequences, int t,
                            int e) {
  const int time = sequences.times[t];
  const auto g = load4(dv[t] + e);
  Quad<T> window[K];
  load_rows(window, x, t - (K - 1), e);
#pragma unroll
  for (int k = 0; k < K; ++k) add_tap(sums[k], g.at, window[k], time, K - 1 - k);
}

}  // namespace detail

// dw (E, K) += sum over t of dv_t x_{t-(K-1)+k}.
template <class T, class S, int E, int K>
__device__ void causal_conv_weight_backward(Block& be, WeightGradient<T, E, K> dw, Rows<const T, E> dv,
                                            Rows<const S, E> x, Sequences sequences) {
  detail::column_sums<K>(
      be, x, [&](int t, int e, detail::Quad<T>(&sums)[K]) { detail::add_to_taps(sums, dv, x, sequences, t, e); },
      [&](int e, int k, T sum) { dw.row(e)[k] += sum; });
}

}  // namespace mamba::cuda
