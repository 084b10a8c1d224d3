// The gradients of a chunk's keys and queries on the GPU, back through rotation, biases and norms (specification,
// section 14.6).
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/rotary_chunk.hpp>
#include <mamba/cuda/block/rotary_keys.hpp>
#include <mamba/cuda/block/ssd_chunk.hpp>
#include <mamba/cuda/block/ssd_head.hpp>
#include <mamba/cuda/block/ssd_states.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda::detail {

// Every half-warp's share of the weights' gradients: of d (H), the norms (N), the biases (H, R, N) and, where there are
// several ranks, the inputs' factors (H, R, P), states in the order of pairs. They lie in shared memory, or, where
// there is too little, in global memory.
template <class S>
class RotaryShares {
 public:
  using T = typename S::T;
  static constexpr int heads = (S::H + 3) / 4 * 4, row = (S::N + 3) / 4 * 4, factor_row = (S::P + 3) / 4 * 4,
                       ranks = S::H * S::R;
  static constexpr int norms = heads, biases = norms + 2 * row, factors = biases + 2 * ranks * row,
                       size = factors + (S::multiple ? ranks * factor_row : 0);
  // Behind what is exchanged within chunks and between them.
  static constexpr int shared_begin = half_warps * exchange_size > 2 * between_chunks_elements<S>
                                          ? half_warps* exchange_size
                                          : (2 * between_chunks_elements<S> + 3) / 4 * 4;
  static constexpr bool in_shared = shared_begin + half_warps * size <= Block::shared_elements;
  static constexpr std::ptrdiff_t global_elements = in_shared ? 0 : half_warps * static_cast<std::ptrdiff_t>(size);

  // `global`: so many elements.
  __device__ RotaryShares(Block& be, T* global) : all_(in_shared ? be.scratch<T>() + shared_begin : global) {
    T* const own = all_ + half_warp() * size;
    for (int i = 4 * half_lane(); i < size; i += stretch) store4(own + i, Quad<T>{});
    __syncwarp();
  }

  __device__ void add_to_d(int head, T value) const { all_[half_warp() * size + head] += value; }
  template <bool of_c>
  __device__ void add_to_norm(int column, const Quad<T>& values) const {
    add(norms + (of_c ? row : 0), column, values);
  }
  template <bool of_c>
  __device__ void add_to_bias(int head, int rank, int column, const Quad<T>& values) const {
    add(biases + ((of_c ? S::H : 0) + head) * S::R * row + rank * row, column, values);
  }
  __device__ T* of_factors(int head, int rank) const {
    return all_ + half_warp() * size + factors + (head * S::R + rank) * factor_row;
  }

  // The gradients += all of it, with a barrier before and behind.
  __device__ void add_up(const network::RotaryGradients<typename S::Sizes>& dw) const {
    const auto sum = [&](int at) {
      T value = 0;
#pragma unroll
      for (int i = 0; i < half_warps; ++i) value += all_[i * size + at];
      return value;
    };
    __syncthreads();
    each(S::H, [&](int head) { dw.d.value[head] += sum(head); });
    each(2 * (ranks + 1) * S::N, [&](int i) {
      const int of = i / S::N, n = i % S::N, rank = (of - 2) % S::R;
      T* to;
      if (of < 2) to = (of == 0 ? dw.b_norm : dw.c_norm).value;
      else to = (of < 2 + ranks ? dw.b_bias : dw.c_bias).row((of - 2) / S::R % S::H) + rank * S::N;
      to[S::column(n)] += sum(norms + of * row + n);
    });
    if constexpr (S::multiple)
      each(ranks * S::P, [&](int i) {
        const int of = i / S::P, p = i % S::P;
        dw.mimo_x.row(of / S::R)[of % S::R * S::P + p] += sum(factors + of * factor_row + p);
      });
    __syncthreads();
  }

 private:
  __device__ void add(int at, int column, const Quad<T>& values) const {
    if (column >= S::N) return;
    T* const to = all_ + half_warp() * size + at + column;
    auto sum = load4(static_cast<const T*>(to));
    add_to(sum, values);
    store4(to, sum);
  }

  T* all_;
};

// Where the gradients go that a chunk's keys and queries have.
template <class S>
struct RotaryKeyGradients {
  using T = typename S::T;
  using Columns = ChunkColumns<T>;
  using Keys = RotaryKeys<S>;

  Rows<T, S::C> dxbc;
  Rows<T, S::A> dangles;
  RotaryShares<S> shares;

  // take(k, dk, dq) sets the k-th stretch of the gradients of a head's keys and queries and returns both, which stay
  // until the next call. adds, adds_angles: to what stands in dxbc's columns, in dangles.
  template <class Take>
  __device__ void give(const Keys& keys, int group, int head, bool adds, bool adds_angles, Take&& take) const {
    Columns db[S::kept], dc[S::kept];
    T pulls[2 * ssd_chunk] = {};
#pragma unroll(S::kept)
    for (int k = 0; k < stretches(S::N); ++k) {
      Columns &dk = db[k % S::kept], &dq = dc[k % S::kept];
      const auto& of = take(k, dk, dq);
      keys.each_angle(k, head, [&](int i, int j, T sine, T cosine) {
        T of_angle = 0;
#pragma unroll
        for (int m = i; m < i + S::R; ++m) {
          of_angle += (dq.at[m][j + 1] * of.queries.at[m][j] - dq.at[m][j] * of.queries.at[m][j + 1]) +
                      (dk.at[m][j + 1] * of.keys.at[m][j] - dk.at[m][j] * of.keys.at[m][j + 1]);
          Keys::rotate(dk.at[m], j, -sine, cosine), Keys::rotate(dq.at[m], j, -sine, cosine);
        }
        T* const to = dangles[keys.first() + i / S::R] + head * S::Na + (Keys::column(k) + j) / 2;
        *to = adds_angles ? *to + of_angle : of_angle;
      });
      to_weights<false>(keys, dk, pulls, k, head);
      to_weights<true>(keys, dq, pulls, k, head);
      if constexpr (!S::keeps_all) {
        store<false>(keys, dk, nullptr, k, group, adds);
        store<true>(keys, dq, nullptr, k, group, adds);
      }
    }
    sum_over_lanes<2 * ssd_chunk, half_lanes>(pulls);
    const T rho = keys.own_norm(), pull = rho * rho * rho * (pulls[0] / T(S::N));
#pragma unroll(S::kept)
    for (int k = 0; k < stretches(S::N); ++k) {
      if constexpr (!S::keeps_all) db[0] = Columns{}, dc[0] = Columns{};
      store<false>(keys, db[k % S::kept], &pull, k, group, adds || !S::keeps_all);
      store<true>(keys, dc[k % S::kept], &pull, k, group, adds || !S::keeps_all);
    }
  }

 private:
  // Gradients of normed columns with their bias: the bias's, the norm's weight's, and what the norm's factors have of
  // them; they become those of the columns but for what the factors pull.
  template <bool of_c>
  __device__ void to_weights(const Keys& keys, Columns& gradient, T (&pulls)[2 * ssd_chunk], int k, int head) const {
    const auto& of = keys.inputs();
    const auto weight = Keys::quad(of_c ? of.c_norm : of.b_norm, Keys::column(k));
    Quad<T> of_bias[S::R] = {}, of_weight{};
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i) {
      const auto raw = keys.template load_row<of_c>(i, k);
      const T rho = keys.template norm<of_c>(i);
      T& pull = pulls[(of_c ? ssd_chunk : 0) + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        T& g = gradient.at[i][j];
        const T product = g * raw.at[j];
        of_bias[i % S::R].at[j] += g;
        of_weight.at[j] += product * rho;
        pull += product * weight.at[j];
        g *= weight.at[j] * rho;
      }
    }
#pragma unroll
    for (int r = 0; r < S::R; ++r) shares.template add_to_bias<of_c>(head, r, Keys::column(k), of_bias[r]);
    shares.template add_to_norm<of_c>(Keys::column(k), of_weight);
  }

  // dxbc's columns <- or += columns, less what the factors pull.
  template <bool of_c>
  __device__ void store(const Keys& keys, const Columns& columns, const T* pull, int k, int group, bool adds) const {
    const int column = Keys::column(k);
#pragma unroll
    for (int i = 0; i < ssd_chunk; ++i) {
      const T factor = pull ? Keys::template of_row<of_c>(*pull, i) : T(0);
      T* const to = dxbc.address(keys.first() + i / S::R) + S::template key_column<of_c>(group, i % S::R);
      const auto raw = pull ? keys.template load_row<of_c>(i, k) : Quad<T>{};
      const bool exists = i < keys.rows();
      const auto present = adds && exists ? Keys::quad(to, column) : Quad<T>{};
      T values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = present.at[j] + columns.at[i][j] - factor * raw.at[j];
      if (exists) Keys::store_row(to, column, values);
    }
  }
};

// The gradients of a head's inputs within a chunk, which become x's and the factors'.
template <class S, class T = typename S::T>
__device__ void give_inputs(const T* matrix, const RotaryInputs<S>& of, Rows<T, S::C> dxbc,
                            const RotaryShares<S>& shares, Rows<const T, S::Y> dy, int first, int rows, int head) {
  if constexpr (!S::multiple) {
    input_gradients<S>(matrix, dy, first, rows, head, [&](int column, int j, const T(&dv)[4]) {
      if (j < rows) store_columns<S::P, S::x_quads>(dxbc[first + j] + head * S::P, column, dv);
    });
  } else {
    T dx[4] = {};
    Quad<T> of_factors[S::R] = {};
    input_gradients<S>(matrix, dy, first, rows, head, [&](int column, int j, const T(&dv)[4]) {
      const int token = j / S::R, rank = j % S::R;
      if (j < rows) {
        const auto factor = of.channels(of.factors(head, rank), column),
                   x = of.channels(of.xbc[first + token] + head * S::P, column);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          dx[i] = (rank == 0 ? T(0) : dx[i]) + dv[i] * factor.at[i];
          of_factors[rank].at[i] = (token == 0 ? T(0) : of_factors[rank].at[i]) + dv[i] * x.at[i];
        }
        if (rank == S::R - 1) store_columns<S::P, S::x_quads>(dxbc[first + token] + head * S::P, column, dx);
      }
      if (j == ssd_chunk - 1 && rows > 0 && column < S::P) {
#pragma unroll
        for (int r = 0; r < S::R; ++r) {
          T* const to = shares.of_factors(head, r) + column;
          auto sum = load4(static_cast<const T*>(to));
          add_to(sum, of_factors[r]);
          store4(to, sum);
        }
      }
    });
  }
}

}  // namespace mamba::cuda::detail
