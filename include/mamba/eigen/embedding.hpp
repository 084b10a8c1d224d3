// Look-ups of tokens and positions, and their gradients.
#pragma once

#include <algorithm>
#include <cmath>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// into (D) += from (D), whole vectors.
template <int D, class T, class From>
void add_row(T* into, const From* from) {
  using V = Vector<T>;
  for (int d = 0; d < D; d += V::width) (V::load(into + d) + V::load(from + d)).store(into + d);
}

}  // namespace detail

// x (T, D) <- the table's row of every token; table (Vp, D).
template <class Core, class T, class W, int D, int Vp>
void embedding(Core&, Rows<T, D> x, const int* tokens, Weight<W, Vp, D> table) {
  for (int t = 0; t < x.rows; ++t) {
    std::copy_n(table.row(tokens[t]), x.stride, x[t]);
    if constexpr (requires { table.scale; })
      for (int d = 0; d < D; ++d) x[t][d] *= table.scale[tokens[t]];
  }
}

// dtable's row of every token += dx; tokens may repeat.
template <class Core, class T, int D, int Vp>
void embedding_backward(Core&, WeightGradient<T, Vp, D> dtable, Rows<const T, D> dx, const int* tokens) {
  for (int t = 0; t < dx.rows; ++t) detail::add_row<D>(dtable.row(tokens[t]), dx[t]);
}

// x (T, D) += the table's row of every position; table (Lmax, D). positions: each sequence's first, or null for 0.
template <class Core, class T, class W, int D, int Lmax>
void add_positions(Core&, Rows<T, D> x, Sequences sequences, const int* positions, Weight<W, Lmax, D> table) {
  for (int s = 0; s < sequences.count; ++s)
    for (int t = sequences.begin(s); t < sequences.end(s); ++t)
      detail::add_row<D>(x[t], table.row((positions ? positions[s] : 0) + t - sequences.begin(s)));
}

template <class Core, class T, int D, int Lmax>
void add_positions_backward(Core&, WeightGradient<T, Lmax, D> dtable, Rows<const T, D> dx, Sequences sequences,
                            const int* positions) {
  for (int s = 0; s < sequences.count; ++s)
    for (int t = sequences.begin(s); t < sequences.end(s); ++t)
      detail::add_row<D>(dtable.row((positions ? positions[s] : 0) + t - sequences.begin(s)), dx[t]);
}

// x (T, D) += sin(t 10000^(-2i/D)) in column 2i, the cosine in column 2i + 1 (Vaswani et al. 2017, section 3.5).
template <class Core, class T, int D>
void add_sinusoids(Core&, Rows<T, D> x, Sequences sequences, const int* positions) {
  alignas(cache_line) T row[Rows<T, D>::stride] = {};
  double frequencies[D];
  for (int d = 0; d < D; ++d) frequencies[d] = std::pow(10000.0, -static_cast<double>(d / 2 * 2) / D);
  const auto fill = [&](int position) {
    for (int d = 0; d < D; ++d) {
      const double angle = position * frequencies[d];
      row[d] = static_cast<T>(d % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  };
  if (positions) {
    for (int s = 0; s < sequences.count; ++s)
      for (int t = sequences.begin(s); t < sequences.end(s); ++t)
        fill(positions[s] + t - sequences.begin(s)), detail::add_row<D>(x[t], row);
    return;
  }
  // All sequences begin at 0: a position is computed once for all of them.
  int longest = 0;
  for (int s = 0; s < sequences.count; ++s) longest = (std::max)(longest, sequences.end(s) - sequences.begin(s));
  for (int position = 0; position < longest; ++position) {
    fill(position);
    for (int s = 0; s < sequences.count; ++s)
      if (sequences.begin(s) + position < sequences.end(s)) detail::add_row<D>(x[sequences.begin(s) + position], row);
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
