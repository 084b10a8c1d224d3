// The selective scan of Mamba-1 by one thread block (specification, sections 2.7, 2.8 and 5; Gu and Dao 2023, section 3.3).
#pragma once

#include <mamba/cuda/rowwise.hpp>
#include <mamba/cuda/scan.hpp>

namespace mamba::cuda {

namespace detail {

template <class T, int E_, int N_>
struct SelectiveSource {
  static constexpr int E = E_, N = N_, groups = 1, shared_elements = 0;
  static constexpr int staged_states = ScanLayout<N>::chunk * 2 * padded(N), staged_channels = ScanLayout<N>::chunk * 3 * padded(E);
  static constexpr bool stages_channels = staged_states + staged_channels <= ScanLayout<N>::left_elements;  // else their rows are read where they are
  static constexpr int staged_elements = staged_states + (stages_channels ? staged_channels : 0);
  static constexpr std::ptrdiff_t state_size = static_cast<std::ptrdiff_t>(E) * padded(N);
  using L = ScanLayout<N>;

  Rows<const T, E> delta, inputs;
  Rows<const T, N> b, c;
  Weight<T, E, N> a;
  Weight<T, 1, E> d;
  // forward
  Rows<T, E> y;
  // backward
  Rows<const T, E> gradient;
  Rows<T, E> ddelta, du;
  Rows<T, N> db, dc;
  WeightGradient<T, E, N> da;

  // The same of the rows [first, first + rows), numbered from 0 and as many as a chunk: those that do not exist are of step
  // size zero. b and c, and the others where they are few, lie in shared memory.
  __device__ SelectiveSource staged(T* to, int first, int rows) const {
    SelectiveSource copy = *this;
    copy.b = staged_rows<L::chunk>(to, b, first, rows);
    copy.c = staged_rows<L::chunk>(to, c, first, rows);
    if constexpr (stages_channels) {
      copy.delta = staged_rows<L::chunk>(to, delta, first, rows);
      copy.inputs = staged_rows<L::chunk>(to, inputs, first, rows);
      if (gradient.data) copy.gradient = staged_rows<L::chunk>(to, gradient, first, rows);
    } else {
      copy.delta = {delta[first], rows}, copy.inputs = {inputs[first], rows};
      if (gradient.data) copy.gradient = {gradient[first], rows};
    }
    return copy;
  }
  __device__ T step(int t, int e) const { return at(delta, t, e); }
  __device__ T u(int t, int e) const { return at(inputs, t, e); }
  __device__ T dy(int t, int e) const { return at(gradient, t, e); }
  __device__ static T at(Rows<const T, E> x, int t, int e) { return stages_channels || t < x.rows ? x[t][e] : T(0); }
  __device__ void load_rate(T (&to)[L::states], int e) const { L::load(to, a.derived + e * a.stride); }
  __device__ void load_b(T (&to)[L::states], int t, int) const { L::load(to, b[t]); }
  __device__ void load_c(T (&to)[L::states], int t, int) const { L::load(to, c[t]); }
  __device__ void load_state(T (&to)[L::states], const T* state, int e) const { L::load(to, state + e * padded(N)); }
  __device__ void store_state(T* state, const T (&from)[L::states], int e) const { L::store(state + e * padded(N), from); }
  __device__ void write_y(int t, int e, T sum) const { y[t][e] = d.value[e] * u(t, e) + sum; }
  __device__ void write_db(int t, int, int n, T sum) const { db[t][n] = sum; }
  __device__ void write_dc(int t, int, int n, T sum) const { dc[t][n] = sum; }
  __device__ void write_channel(int t, int, int e, T sum_b, T sum_rate) const {
    du[t][e] = d.value[e] * dy(t, e) + step(t, e) * sum_b;
    ddelta[t][e] = sum_rate + u(t, e) * sum_b;
  }
  __device__ void add_rate_gradient(const T (&sum)[L::states], int e) const {
    T row[L::states];
    L::load(row, static_cast<const T*>(da.value + e * da.stride));
#pragma unroll
    for (int i = 0; i < L::states; ++i) row[i] += sum[i];
    L::store(da.value + e * da.stride, row);
  }
  __device__ void end_chunk(int, int) const {}
};

template <class T, int E>
__device__ void clear_padding(Rows<T, E> y) {
  if constexpr (E % row_alignment != 0) each(y.rows * (y.stride - E), [&](int i) { y[i / (y.stride - E)][E + i % (y.stride - E)] = 0; });
}

}  // namespace detail

// y (T, E) <- scan + skip.
//   delta, u (T, E); b, c (T, N); a (E, N), whose derived weight is the rate A log2(e); d (E)
//   boundaries: (scan_boundaries(), E, N) states kept for the backward pass, or null
//   states: (sequences, E, N) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: a blocked row is read out of the state and then forgotten
template <class T, int E, int N, class Blocked = NoRows>
__device__ void selective_scan(Block& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, E> delta, Rows<const T, E> u, Rows<const T, N> b,
                               Rows<const T, N> c, Sequences sequences, Weight<T, E, N> a, Weight<T, 1, E> d, Blocked rows = {}) {
  detail::SelectiveSource<T, E, N> source{delta, u, b, c, a, d, y};
  detail::clear_padding(y);
  detail::scan(be, source, boundaries, states, sequences, rows);
}

// ddelta, du (T, E), db, dc (T, N) <- gradients; da (E, N) += the gradient with respect to a (not A_log), dd (E) += ...
//   boundaries as selective_scan kept them; carry: (E, N) scratch, needed when there are any
template <class T, int E, int N>
__device__ void selective_scan_backward(Block& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc, WeightGradient<T, E, N> da,
                                        WeightGradient<T, 1, E> dd, Rows<const T, E> dy, const T* boundaries, T* carry, Rows<const T, E> delta,
                                        Rows<const T, E> u, Rows<const T, N> b, Rows<const T, N> c, Sequences sequences, Weight<T, E, N> a, Weight<T, 1, E> d) {
  detail::SelectiveSource<T, E, N> source{delta, u, b, c, a, d, {}, dy, ddelta, du, db, dc, da};
  detail::clear_padding(ddelta);
  detail::clear_padding(du);
  detail::scan_backward(be, source, boundaries, carry, sequences);
  detail::column_sums<1, E, T>(
      be, dy.rows, [&](int t, int e, T(&sum)[1]) { sum[0] += dy[t][e] * u[t][e]; }, [&](int e, const T(&sum)[1]) { dd.value[e] += sum[0]; });
}

}  // namespace mamba::cuda
