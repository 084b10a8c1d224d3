// Look-ups of tokens and positions, and their gradients, by one thread block.
#pragma once

#include <cmath>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>

namespace mamba::cuda {

// x (T, D) <- the table's row of every token; table (Vp, D).
template <class T, class S, int D, int Vp>
__device__ void embedding(Block&, Rows<T, D> x, const int* tokens, Weight<S, Vp, D> table) {
  detail::each(x.rows * x.stride / 4, [&](int i) {
    const int t = 4 * i / x.stride, d = 4 * i % x.stride;
    auto row = detail::load4(table.row(tokens[t]) + d);
    if constexpr (requires { table.scale; }) detail::scale_by(row, table.scale[tokens[t]]);
    detail::store4(x[t] + d, row);
  });
  __syncthreads();
}

namespace detail {
// add(dtable's row, dx's row) for every token, by a warp; tokens may repeat, so each row of the table has one of
// `warps` that adds to it.
template <class T, int D, int Vp, class Add>
__device__ void add_token_rows(WeightGradient<T, Vp, D> dtable, Rows<const T, D> dx, const int* tokens, int warp,
                               int warps, Add&& add) {
  for (int first = 0; first < dx.rows; first += 32) {
    const int own = first + lane() < dx.rows ? tokens[first + lane()] : -1;
    for (unsigned mine = __ballot_sync(~0U, own >= 0 && own % warps == warp); mine != 0; mine &= mine - 1) {
      const int i = __ffs(static_cast<int>(mine)) - 1, token = __shfl_sync(~0U, own, i);
      add(dtable.row(token), dx[first + i]);
    }
  }
}
}  // namespace detail

// dtable's row of every token += dx.
template <class T, int D, int Vp>
__device__ void embedding_backward(Block&, WeightGradient<T, Vp, D> dtable, Rows<const T, D> dx, const int* tokens) {
  detail::add_token_rows(dtable, dx, tokens, detail::warp(), Block::warps, [](T* to, const T* from) {
    for (int d = detail::lane(); d < D; d += 32) to[d] += from[d];
  });
  __syncthreads();
}

// x (T, D) += the table's row of every position; table (Lmax, D). positions: each sequence's first, or null for 0.
template <class T, class S, int D, int Lmax>
__device__ void add_positions(Block&, Rows<T, D> x, Sequences sequences, const int* positions,
                              Weight<S, Lmax, D> table) {
  detail::each(x.rows * x.stride, [&](int i) {
    const int t = i / x.stride, d = i % x.stride, s = detail::sequence_of(sequences, t);
    x[t][d] += table.row((positions ? positions[s] : 0) + t - sequences.begin(s))[d];
  });
  __syncthreads();
}

template <class T, int D, int Lmax>
__device__ void add_positions_backward(Block&, WeightGradient<T, Lmax, D> dtable, Rows<const T, D> dx,
                                       Sequences sequences, const int* positions) {
  static_assert(static_cast<long long>(Lmax) * Rows<T, D>::stride < 0x7FFFFFFF - 4096,
                "mamba: so many positions of such width are beyond what a block counts");
  detail::each(Lmax * D, [&](int i) {
    const int position = i / D, d = i % D;
    T sum = 0;
    for (int s = 0; s < sequences.count; ++s) {
      const int time = position - (positions ? positions[s] : 0);
      if (time >= 0 && sequences.begin(s) + time < sequences.end(s)) sum += dx[sequences.begin(s) + time][d];
    }
    dtable.row(position)[d] += sum;
  });
  __syncthreads();
}

// x (T, D) += sin(t 10000^(-2i/D)) in column 2i, the cosine in column 2i + 1 (Vaswani et al. 2017, section 3.5).
template <class T, int D>
__device__ void add_sinusoids(Block&, Rows<T, D> x, Sequences sequences, const int* positions) {
  detail::each(x.rows * D, [&](int i) {
    const int t = i / D, d = i % D, s = detail::sequence_of(sequences, t);
    const double angle = ((positions ? positions[s] : 0) + t - sequences.begin(s)) *
                         std::pow(10000.0, -static_cast<double>(d / 2 * 2) / D);
    x[t][d] += static_cast<T>(d % 2 == 0 ? std::sin(angle) : std::cos(angle));
  });
  __syncthreads();
}

}  // namespace mamba::cuda
