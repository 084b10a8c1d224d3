// Mamba-2's state-space model by one thread block (specification, section 7; Dao and Gu 2024), as the recurrence that it is.
#pragma once

#include <mamba/cuda/rowwise.hpp>
#include <mamba/cuda/scan.hpp>

namespace mamba::cuda {

namespace detail {

// H heads of P channels, G groups of heads that share b and c, N states; xbc's columns are x (H P), b (G N), c (G N).
template <class T, int H, int P, int G, int N_>
struct SsdSource {
  static constexpr int E = H * P, N = N_, groups = G, C = E + 2 * G * N;
  using L = ScanLayout<N>;
  static constexpr int shared_elements = (L::chunk + 1) * E;
  static constexpr int all_rows = L::chunk * (padded(H) + padded(C) + padded(E));
  static constexpr bool stages_channels = all_rows + shared_elements <= L::left_elements;  // else rows are read where they are
  static constexpr int staged_elements = stages_channels ? all_rows : 0;
  static constexpr std::ptrdiff_t head_state = static_cast<std::ptrdiff_t>(N) * padded(P), state_size = H * head_state;

  Rows<const T, H> delta;
  Rows<const T, C> xbc;
  Weight<T, 1, H> a, d;
  // forward
  Rows<T, E> y;
  // backward
  Rows<const T, E> gradient;
  Rows<T, H> ddelta;
  Rows<T, C> dxbc;
  T* of_steps = nullptr;  // shared: (chunk, E), every channel's part of ddelta
  T* of_rates = nullptr;  // shared: (E), every channel's part of da

  // The same of the rows [first, first + rows), as SelectiveSource's.
  __device__ SsdSource staged(T* to, int first, int rows) const {
    SsdSource copy = *this;
    if constexpr (stages_channels) {
      copy.delta = staged_rows<L::chunk>(to, delta, first, rows);
      copy.xbc = staged_rows<L::chunk>(to, xbc, first, rows);
      if (gradient.data) copy.gradient = staged_rows<L::chunk>(to, gradient, first, rows);
    } else {
      copy.delta = {delta[first], rows}, copy.xbc = {xbc[first], rows};
      if (gradient.data) copy.gradient = {gradient[first], rows};
    }
    return copy;
  }
  __device__ T step(int t, int e) const { return at(delta, t, e / P); }
  __device__ T u(int t, int e) const { return at(xbc, t, e); }
  __device__ T dy(int t, int e) const { return at(gradient, t, e); }
  template <int Columns>
  __device__ static T at(Rows<const T, Columns> x, int t, int column) {
    return stages_channels || t < x.rows ? x[t][column] : T(0);
  }
  __device__ void load_rate(T (&to)[L::states], int e) const {
    for (int i = 0; i < L::states; ++i) to[i] = a.derived[e / P];
  }
  __device__ static int group(int e) { return e / (E / G); }
  __device__ void load_columns(T (&to)[L::states], int t, int column) const {
    if (!stages_channels && t >= xbc.rows) t = 0;  // of a step of size zero
    if constexpr (E % 4 == 0 && N % 4 == 0) {
      if constexpr (N % row_alignment != 0) L::load_apart(to, xbc[t] + column, 1);
      else L::load(to, xbc[t] + column);
    } else {
      L::load_apart(to, xbc[t] + column, 1);
    }
  }
  __device__ void load_b(T (&to)[L::states], int t, int e) const { load_columns(to, t, E + group(e) * N); }
  __device__ void load_c(T (&to)[L::states], int t, int e) const { load_columns(to, t, E + (G + group(e)) * N); }
  __device__ static std::ptrdiff_t place(int e) { return e / P * head_state + e % P; }
  __device__ void load_state(T (&to)[L::states], const T* state, int e) const { L::load_apart(to, state + place(e), padded(P)); }
  __device__ void store_state(T* state, const T (&from)[L::states], int e) const { L::store_apart(state + place(e), from, padded(P)); }
  __device__ void write_y(int t, int e, T sum) const { y[t][e] = d.value[e / P] * u(t, e) + sum; }
  __device__ void write_db(int t, int group, int n, T sum) const {
    if (n < N) dxbc[t][E + group * N + n] = sum;
  }
  __device__ void write_dc(int t, int group, int n, T sum) const {
    if (n < N) dxbc[t][E + (G + group) * N + n] = sum;
  }
  __device__ void write_channel(int t, int k, int e, T sum_b, T sum_rate) const {
    dxbc[t][e] = d.value[e / P] * dy(t, e) + step(t, e) * sum_b;
    of_steps[k * E + e] = sum_rate + u(t, e) * sum_b;
  }
  __device__ void add_rate_gradient(const T (&sums)[L::states], int e) const {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < L::states; ++i) sum += sums[i];
#pragma unroll
    for (int offset = L::width / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(__activemask(), sum, offset);
    if (lane() % L::width == 0) of_rates[e] += sum;
  }
  __device__ void end_chunk(int first, int end) const {
    each((end - first < L::chunk ? end - first : L::chunk) * H, [&](int i) {
      const int k = i / H, head = i % H;
      T sum = 0;
      for (int p = 0; p < P; ++p) sum += of_steps[k * E + head * P + p];
      ddelta[first + k][head] = sum;
    });
    __syncthreads();
  }
};

}  // namespace detail

// y (T, H P) <- the state-space model + skip.
//   delta (T, H); xbc (T, H P + 2 G N); a (H), whose derived weight is the rate A log2(e); d (H)
//   boundaries: (ssd_boundaries(), H, N, P) states kept for the backward pass, or null
//   states: (sequences, H, N, P) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: S's column of a blocked row is cut below the diagonal
template <int G, int N, class T, int E, int H, int C, class Blocked = NoRows>
__device__ void ssd(Block& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, H> delta, Rows<const T, C> xbc, Sequences sequences, Weight<T, 1, H> a,
                    Weight<T, 1, H> d, Blocked rows = {}) {
  detail::SsdSource<T, H, E / H, G, N> source{delta, xbc, a, d, y};
  detail::clear_padding(y);
  detail::scan(be, source, boundaries, states, sequences, rows);
}

// ddelta (T, H), dxbc (T, H P + 2 G N) <- gradients; da (H) += the gradient with respect to a (not A_log), dd (H) += ...
// boundaries as ssd kept them.
template <int G, int N, class T, int E, int H, int C>
__device__ void ssd_backward(Block& be, Rows<T, H> ddelta, Rows<T, C> dxbc, WeightGradient<T, 1, H> da, WeightGradient<T, 1, H> dd, Rows<const T, E> dy,
                             const T* boundaries, Rows<const T, H> delta, Rows<const T, C> xbc, Sequences sequences, Weight<T, 1, H> a, Weight<T, 1, H> d) {
  using Source = detail::SsdSource<T, H, E / H, G, N>;
  constexpr int P = E / H;
  T* const of_steps = be.scratch<T>() + Block::shared_bytes<T> / sizeof(T) - Source::shared_elements;
  T* const of_rates = of_steps + Source::L::chunk * E;
  detail::each(E, [&](int e) { of_rates[e] = 0; });
  detail::clear_padding(ddelta);
  detail::clear_padding(dxbc);
  __syncthreads();
  Source source{delta, xbc, a, d, {}, dy, ddelta, dxbc, of_steps, of_rates};
  detail::scan_backward(be, source, boundaries, reinterpret_cast<T*>(be.global), sequences);
  detail::each(H, [&](int head) {
    T sum = 0;
    for (int p = 0; p < P; ++p) sum += of_rates[head * P + p];
    da.value[head] += sum;
  });
  __syncthreads();
  T* const skips = be.scratch<T>() + Block::shared_bytes<T> / sizeof(T) - E;
  detail::column_sums<1>(
      be, dy,
      [&](int t, int e, detail::Quad<T>(&sum)[1]) {
        const auto g = detail::load4(dy[t] + e);
        for (int j = 0; j < 4; ++j) sum[0].at[j] += e + j < E ? g.at[j] * xbc[t][e + j] : T(0);
      },
      [&](int e, int, T sum) { skips[e] = sum; });
  detail::each(H, [&](int head) {
    T sum = 0;
    for (int p = 0; p < P; ++p) sum += skips[head * P + p];
    dd.value[head] += sum;
  });
  __syncthreads();
}

}  // namespace mamba::cuda
