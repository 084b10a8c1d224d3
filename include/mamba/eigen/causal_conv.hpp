// The depthwise causal convolution on one core (specification, section 2.2): tap K-1 multiplies the current step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/math/history_gradients.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// v (T, E) <- bias + sum over k of w[:, k] x_{t-(K-1)+k}. w (E, K), bias (E). What lies before a sequence is zero, or
// where `history` (sequences, K-1, E) is given its rows, the newest last.
template <class Core, class Y, class X, class W, class T, int E, int K>
void causal_conv(Core& core, Rows<Y, E> v, Rows<const X, E> x, Sequences sequences, Weight<W, E, K> w,
                 Weight<T, 1, E> bias, const std::type_identity_t<T>* history) {
  using V = Vector<T>;
  const auto columns = [&](int s, int e) MAMBA_INLINE_LAMBDA {
    const int begin = sequences.begin(s), end = sequences.end(s);
    const T* const past = history ? history + static_cast<std::ptrdiff_t>(s) * (K - 1) * x.stride : nullptr;
    V taps[K];
    unroll<K>([&](auto k) { taps[k] = V::load(w.derived + k * w.transposed_stride + e); });
    const V b = V::load(bias.value + e);
    for (int t = begin; t < end; ++t) {
      V sum = b;
      unroll<K>([&](auto k) {
        const int from = t - (K - 1) + k;
        if (from >= begin) sum = multiply_add(taps[k], V::load(x[from] + e), sum);
        else if (past) sum = multiply_add(taps[k], V::load(past + (from - begin + K - 1) * x.stride + e), sum);
      });
      sum.store(v[t] + e);
    }
  };
  constexpr int piece = 128;  // columns: whole cache lines
  share_out(core, (E + piece - 1) / piece, static_cast<long long>(x.rows) * E * K, [&](int i) {
    for (int s = 0; s < sequences.count; ++s)
      for (int e = i * piece; e < (std::min)(E, (i + 1) * piece); e += V::width) columns(s, e);
  });
}
// The same; a history that is given becomes the sequences' own last K-1 inputs.
template <class Core, class Y, class X, class W, class T, int E, int K>
void causal_conv(Core& core, Rows<Y, E> v, Rows<const X, E> x, Sequences sequences, Weight<W, E, K> w,
                 Weight<T, 1, E> bias, std::type_identity_t<T>* history = nullptr) {
  causal_conv(core, v, x, sequences, w, bias, static_cast<const T*>(history));
  for (int s = 0; history && s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s);
    T* const past = history + static_cast<std::ptrdiff_t>(s) * (K - 1) * x.stride;
    const int kept = (std::max)(0, K - 1 - (end - begin));  // of the old rows, the newest
    std::copy_n(past + (K - 1 - kept) * x.stride, kept * x.stride, past);
    for (int row = kept; row < K - 1; ++row) std::copy_n(x[end - (K - 1) + row], x.stride, past + row * x.stride);
  }
}

// dx (T, E) <- or += the gradient with respect to the input.
template <Write write = Write::set, class Core, class X, class Y, class W, int E, int K>
void causal_conv_backward(Core&, Rows<X, E> dx, Rows<const Y, E> dv, Sequences sequences, Weight<W, E, K> w) {
  using V = Vector<ComputeOf<X>>;
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s);
    for (int e = 0; e < E; e += V::width) {
      V taps[K];
      unroll<K>([&](auto k) { taps[k] = V::load(w.derived + k * w.transposed_stride + e); });
      for (int t = begin; t < end; ++t) {
        V sum = write == Write::add ? V::load(dx[t] + e) : V::zero();
        unroll<K>([&](auto k) {
          if (const int to = t + (K - 1) - k; to < end) sum = multiply_add(taps[k], V::load(dv[to] + e), sum);
        });
        sum.store(dx[t] + e);
      }
    }
  }
}

// dw (E, K) += sum over t of dv_t x_{t-(K-1)+k}.
template <class Core, class T, class Y, class X, int E, int K>
void causal_conv_weight_backward(Core&, WeightGradient<T, E, K> dw, Rows<const Y, E> dv, Rows<const X, E> x,
                                 Sequences sequences) {
  using V = Vector<T>;
  for (int e = 0; e < E; e += V::width) {
    V sums[K];
    unroll<K>([&](auto k) { sums[k] = V::zero(); });
    for (int s = 0; s < sequences.count; ++s) {
      const int begin = sequences.begin(s), end = sequences.end(s);
      for (int t = begin; t < end; ++t) {
        const V g = V::load(dv[t] + e);
        unroll<K>([&](auto k) {
          if (const int from = t - (K - 1) + k; from >= begin) sums[k] = multiply_add(g, V::load(x[from] + e), sums[k]);
        });
      }
    }
    // The gradient has the parameter's layout: channels by taps.
    alignas(cache_line) T lanes[V::width];
    unroll<K>([&](auto k) {
      sums[k].store(lanes);
      for (int i = 0; i < V::width && e + i < E; ++i) dw.row(e + i)[k] += lanes[i];
    });
  }
}

// dx (T, E) += dhistory (sequences, K-1, E), the gradient of the inputs that sequences leave behind them, which becomes
// that of those before them.
template <class Core, class T, class Y, class W, int E, int K>
void causal_conv_history_backward(Core&, Rows<T, E> dx, std::type_identity_t<T>* dhistory, Rows<const Y, E> dv,
                                  Sequences sequences, Weight<W, E, K> w) {
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), length = sequences.end(s) - begin;
    T* const own = dhistory + static_cast<std::ptrdiff_t>(s) * (K - 1) * dx.stride;
    for (int e = 0; e < E; ++e)
      math::history_gradients<T, K>(
          length, [&](int row) -> T& { return own[row * dx.stride + e]; },
          [&](int t) -> T& { return dx[begin + t][e]; }, [&](int t) { return static_cast<T>(dv[begin + t][e]); },
          [&](int k) { return static_cast<T>(w.row(e)[k]); });
  }
}
// dw (E, K) += what the inputs before sequences, history (sequences, K-1, E), add.
template <class Core, class T, class Y, int E, int K>
void causal_conv_history_weight_backward(Core&, WeightGradient<T, E, K> dw, Rows<const Y, E> dv,
                                         const std::type_identity_t<T>* history, Sequences sequences) {
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), length = sequences.end(s) - begin;
    const T* const past = history + static_cast<std::ptrdiff_t>(s) * (K - 1) * dv.stride;
    for (int e = 0; e < E; ++e)
      math::history_of_taps<K>(
          length, [&](int t) { return static_cast<T>(dv[begin + t][e]); },
          [&](int row) { return past[row * dv.stride + e]; }, [&](int k, T gradient) { dw.row(e)[k] += gradient; });
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
