// Mamba-3's recurrence over the grid, backward: from the gradients of keys, queries and values to those of the rows
// that they were made of (rotary_rows.hpp), and of their weights.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/rotary_rows.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda::detail {

// Where slices of rows leave their shares of the weights' gradients.
template <class Sizes>
struct RotaryPartials {
  using T = typename Sizes::Scalar;
  PartialGradients<T, 1, Sizes::N> b_norm, c_norm;
  PartialGradients<T, Sizes::H, Sizes::R * Sizes::N> b_bias, c_bias;
  PartialGradients<T, Sizes::H, Sizes::R * Sizes::P> mimo_x;
};

// How warps share out the rows and heads that rotary_back goes through: a team of them takes a group's heads through a
// slice of the tokens, some rows at a time, whose sums over the heads its members exchange.
template <class Sizes>
struct RotaryBackShape {
  using T = typename Sizes::Scalar;
  using Pairs = RotaryPairs<Sizes>;
  static constexpr int R = Sizes::R, heads = Sizes::H / Sizes::G, rows = R == 1 ? 4 : R == 2 ? 2 : 1;
  static constexpr int lines = 2 * rows * R;  // of b and of c
  struct Stage {
    T sums[Block::warps][lines][2 * Pairs::pairs];
  };
  static constexpr int members = sizeof(Stage) > (std::size_t{96} << 10) ? 1
                                 : heads >= 8                            ? 8
                                 : heads >= 4                            ? 4
                                 : heads >= 2                            ? 2
                                                                         : 1;
  static_assert(Block::warps == 8);
  static constexpr int teams = Block::warps / members;
  static constexpr std::size_t shared_bytes = members > 1 ? sizeof(Stage) : 0;
};

// From the gradients of keys and queries (T R, H Ns) to those of what they were made of: dxbc's b and c <- theirs,
// dangles (T, H Na) <- the angles', in radians; shares of the biases' and of the norms' weights'.
template <class Sizes, class Key, class X, class I, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads, 2)
    rotary_back(Rows<T, Sizes::C> dxbc, Rows<T, Sizes::H * Sizes::Na> dangles, RotaryPartials<Sizes> partials,
                Rows<const T, Sizes::H * Sizes::Ns> dkeys, Rows<const T, Sizes::H * Sizes::Ns> dqueries,
                Rows<const Key, Sizes::H * Sizes::Ns> keys, Rows<const Key, Sizes::H * Sizes::Ns> queries,
                Rows<const I, Sizes::H * Sizes::Na> turns, Rows<const X, Sizes::C> xbc,
                network::RotaryWeights<Sizes> w) {
  begin_kernel();
  using Shape = RotaryBackShape<Sizes>;
  using Pairs = RotaryPairs<Sizes>;
  constexpr int G = Sizes::G, N = Sizes::N, R = Sizes::R, Ns = Sizes::Ns, half = Sizes::half, rows = Shape::rows,
                lines = Shape::lines, heads = Shape::heads, members = Shape::members;
  extern __shared__ __align__(128) std::byte shared[];
  auto& stage = *reinterpret_cast<typename Shape::Stage*>(shared);
  const int member = warp() % members, team = static_cast<int>(blockIdx.x) * Shape::teams + warp() / members;
  const int slices = partials.b_bias.count, slice = team / G, group = team % G;
  const bool works = slice < slices;
  const int begin = works ? first_of(slice, slices, xbc.rows) : 0,
            end = works ? first_of(slice + 1, slices, xbc.rows) : 0,
            most_rows = (xbc.rows + slices - 1) / slices;  // of all slices, whose teams meet at barriers
  T of_weight[members == 1 ? 2 : 1][Pairs::of_lane][2] = {};

  for (int first = begin; first < begin + most_rows; first += rows) {
    T sums[lines][Pairs::of_lane][2] = {};  // line: row, rank, b or c
    for (int head = group * heads + member; works && head < (group + 1) * heads; head += members) {
      T of_bias[2 * R][Pairs::of_lane][2] = {};
#pragma unroll
      for (int i_row = 0; i_row < rows; ++i_row) {
        const int row = first + i_row;
        if (row >= end) continue;
        Pairs::each([&](int k, int i) {
          T sine, cosine, angle = 0;
          Pairs::circle(turns[row] + head * Sizes::Na, i, sine, cosine);
          const auto back = [&](const T* gradient, const Key* turned, int line) {
            const T one = gradient[i], other = gradient[half + i];
            angle += other * static_cast<T>(turned[i]) - one * static_cast<T>(turned[half + i]);
            const T of_one = cosine * one + sine * other, of_other = cosine * other - sine * one;
            sums[2 * R * i_row + line][k][0] += of_one, sums[2 * R * i_row + line][k][1] += of_other;
            of_bias[line][k][0] += of_one, of_bias[line][k][1] += of_other;
          };
#pragma unroll
          for (int r = 0; r < R; ++r) {
            back(dkeys[row * R + r] + head * Ns, keys[row * R + r] + head * Ns, 2 * r);
            back(dqueries[row * R + r] + head * Ns, queries[row * R + r] + head * Ns, 2 * r + 1);
          }
          if (i < Sizes::Na) dangles[row][head * Sizes::Na + i] = angle;
        });
      }
      const std::ptrdiff_t own = slice * partials.b_bias.size + static_cast<std::ptrdiff_t>(head) * padded(R * N);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        Pairs::add(partials.b_bias.values + own + r * N, of_bias[2 * r]);
        Pairs::add(partials.c_bias.values + own + r * N, of_bias[2 * r + 1]);
      }
    }
    if constexpr (members > 1) {
#pragma unroll
      for (int line = 0; line < lines; ++line) Pairs::give(stage.sums[warp()][line], sums[line]);
      __syncthreads();
    }
    // Through the norms; a member takes lines of b or of c alone, since there is an even number of them.
#pragma unroll
    for (int line = members > 1 ? member : 0; line < lines; line += members) {
      const int row = first + line / (2 * R), r = line / 2 % R;
      const bool of_c = line % 2 != 0;
      if (!works || row >= end) continue;
      T normed[Pairs::of_lane][2] = {};
      if constexpr (members > 1) {
        for (int i = 0; i < members; ++i)
          Pairs::each([&](int k, int n) {
            const T* const from = stage.sums[warp() - member + i][line];
            normed[k][0] += from[Pairs::first(n)], normed[k][1] += from[Pairs::second(n)];
          });
      } else {
        Pairs::each([&](int k, int) { normed[k][0] = sums[line][k][0], normed[k][1] = sums[line][k][1]; });
      }
      const T* const weight = of_c ? w.c_norm.value : w.b_norm.value;
      const int column = Sizes::E + ((of_c ? R : 0) + r) * G * N + group * N;
      T raw[Pairs::of_lane][2], sum = 0;
      const T rho = Pairs::take(raw, xbc[row] + column);
      auto& of_own_weight = of_weight[members == 1 && of_c ? 1 : 0];
      Pairs::each([&](int k, int i) {
        const T products[2] = {normed[k][0] * raw[k][0], normed[k][1] * raw[k][1]};
        of_own_weight[k][0] += products[0] * rho, of_own_weight[k][1] += products[1] * rho;
        sum += products[0] * weight[Pairs::first(i)] + products[1] * weight[Pairs::second(i)];
      });
      const T pull = rho * rho * rho * (lane_sum(sum) / T(N));
      T* const out = dxbc[row] + column;
      Pairs::each([&](int k, int i) {
        const int one = Pairs::first(i), other = Pairs::second(i);
        out[one] = rho * normed[k][0] * weight[one] - pull * raw[k][0];
        out[other] = rho * normed[k][1] * weight[other] - pull * raw[k][1];
      });
    }
    if constexpr (members > 1) __syncthreads();
  }
  // A team's share of the norms': the first member adds up those of b, the second of c.
  const auto give = [&](const auto& to, const T(&from)[Pairs::of_lane][2]) {
    if (works) Pairs::give(to.values + static_cast<std::ptrdiff_t>(team) * static_cast<std::ptrdiff_t>(to.size), from);
  };
  if constexpr (members > 1) {
    Pairs::give(stage.sums[warp()][0], of_weight[0]);
    __syncthreads();
    if (member > 1) return;
    for (int i = member + 2; i < members; i += 2)
      Pairs::each([&](int k, int n) {
        const T* const from = stage.sums[warp() - member + i][0];
        of_weight[0][k][0] += from[Pairs::first(n)], of_weight[0][k][1] += from[Pairs::second(n)];
      });
    give(member == 0 ? partials.b_norm : partials.c_norm, of_weight[0]);
  } else {
    give(partials.b_norm, of_weight[0]), give(partials.c_norm, of_weight[1]);
  }
}

// dxbc's x <- the gradients of inputs (T R, E), which ranks have factors for, and shares of the factors'. A thread
// takes a channel through a slice of the tokens.
template <class Sizes, class X, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_values_back(Rows<T, Sizes::C> dxbc, RotaryPartials<Sizes> partials, Rows<const T, Sizes::E> dvalues,
                       Rows<const X, Sizes::C> xbc, Weight<T, Sizes::H, Sizes::R * Sizes::P> mimo_x) {
  begin_kernel();
  constexpr int E = Sizes::E, R = Sizes::R, P = Sizes::P;
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), slice = i / E, e = i % E,
            slices = partials.mimo_x.count;
  if (slice >= slices) return;
  const int first = first_of(slice, slices, xbc.rows), end = first_of(slice + 1, slices, xbc.rows);
  T sums[R] = {};
  for (int row = first; row < end; ++row) {
    T dx = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const T gradient = dvalues[row * R + r][e];
      if constexpr (Sizes::multiple) {
        dx += gradient * mimo_x.row(e / P)[r * P + e % P], sums[r] += gradient * static_cast<T>(xbc[row][e]);
      } else {
        dx += gradient;
      }
    }
    dxbc[row][e] = dx;
  }
  if constexpr (Sizes::multiple) {
    T* const own = partials.mimo_x.values + slice * partials.mimo_x.size;
#pragma unroll
    for (int r = 0; r < R; ++r) own[static_cast<std::ptrdiff_t>(e / P) * padded(R * P) + r * P + e % P] = sums[r];
  }
}

// ddelta, dmu (T, H) <- the gradients of what makes the parts. of_previous (sequences, H): of what the tokens before
// the first ones pass on, or null.
template <class T, int H>
__global__ void __launch_bounds__(Block::threads)
    rotary_parts_back(Rows<T, H> ddelta, Rows<T, H> dmu, Rows<const T, H> dat_once, Rows<const T, H> dlater,
                      const T* of_previous, Rows<const T, H> delta, Rows<const T, H> mu, Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), row = i / H, head = i % H;
  if (row >= delta.rows) return;
  T before = 0;
  if (sequences.times[row] > 0) before = dlater[row - 1][head];
  else if (of_previous) before = of_previous[sequence_of(sequences, row) * H + head];
  ddelta[row][head] = mu[row][head] * dat_once[row][head] + (1 - mu[row][head]) * before;
  dmu[row][head] = delta[row][head] * (dat_once[row][head] - before);
}

// Where sequences end: what is asked of their histories goes to the last tokens' keys, and to their x (dxbc).
template <class Sizes, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_end_back(Rows<T, Sizes::H * Sizes::Ns> dkeys, const T* of_history, Sequences sequences) {
  begin_kernel();
  constexpr int Ns = Sizes::Ns, R = Sizes::R;
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Sizes::keys_size), at = static_cast<int>(i % Sizes::keys_size);
  if (s >= sequences.count || sequences.begin(s) == sequences.end(s)) return;
  const int n = at % Ns, r = at / Ns % R, head = at / Ns / R;
  dkeys[(sequences.end(s) - 1) * R + r][head * Ns + n] += of_history[s * Sizes::history_size + Sizes::angles_size + at];
}
template <class Sizes, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_end_back_x(Rows<T, Sizes::C> dxbc, const T* of_history, Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / Sizes::E, e = i % Sizes::E;
  if (s >= sequences.count || sequences.begin(s) == sequences.end(s)) return;
  dxbc[sequences.end(s) - 1][e] += of_history[s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size + e];
}

// Where they begin: of_history <- the gradients of the keys and the x that the tokens before left, of_previous
// (sequences, H) of how much of these entered, shares of the factors' (one a sequence). adjoint: of the states with
// them. A block takes a head of a sequence: its threads the states, then the channels.
template <class Sizes, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_begin_back(T* of_history, T* of_previous, T* of_factors, const T* adjoint, const T* history,
                      Rows<const T, Sizes::H> delta, Rows<const T, Sizes::H> mu,
                      Weight<T, Sizes::H, Sizes::R * Sizes::P> mimo_x, Sequences sequences) {
  begin_kernel();
  constexpr int P = Sizes::P, Ns = Sizes::Ns, R = Sizes::R, H = Sizes::H;
  __shared__ double shares[Block::warps];
  const int s = static_cast<int>(blockIdx.x) / H, head = static_cast<int>(blockIdx.x) % H, row = sequences.begin(s);
  if (row == sequences.end(s)) return;
  const T* const keys = history + s * Sizes::history_size + Sizes::angles_size + head * R * Ns;
  const T* const x = history + s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size;
  const T* const state = adjoint + s * Sizes::state_size + static_cast<std::ptrdiff_t>(head) * Ns * padded(P);
  T* const to_keys = of_history ? of_history + s * Sizes::history_size + Sizes::angles_size + head * R * Ns : nullptr;
  T* const to_x = of_history ? of_history + s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size : nullptr;
  const T previous = rotary_previous(delta, mu, row, head);
  double entered = 0;
  for (int i = thread(); i < R * Ns; i += Block::threads) {
    const int r = i / Ns, n = i % Ns;
    T sum = 0;
    for (int p = 0; p < P; ++p)
      sum += state[static_cast<std::ptrdiff_t>(n) * padded(P) + p] * rotary_value<Sizes>(x, mimo_x, head, r, p);
    entered += static_cast<double>(sum) * static_cast<double>(keys[i]);
    if (to_keys) to_keys[i] = previous * sum;
  }
  for (int p = thread(); p < P; p += Block::threads) {
    T dx = 0;
    for (int r = 0; r < R; ++r) {
      T sum = 0;
      for (int n = 0; n < Ns; ++n) sum += state[static_cast<std::ptrdiff_t>(n) * padded(P) + p] * keys[r * Ns + n];
      sum *= previous;
      if constexpr (Sizes::multiple) {
        of_factors[(static_cast<std::ptrdiff_t>(s) * H + head) * padded(R * P) + r * P + p] = sum * x[head * P + p];
        dx += sum * mimo_x.row(head)[r * P + p];
      } else {
        dx += sum;
      }
    }
    if (to_x) to_x[head * P + p] = dx;
  }
  entered = lane_sum(entered);
  if (lane() == 0) shares[warp()] = entered;
  __syncthreads();
  if (thread() != 0) return;
  for (int i = 1; i < Block::warps; ++i) entered += shares[i];
  of_previous[s * H + head] = static_cast<T>(entered);
}

}  // namespace mamba::cuda::detail
