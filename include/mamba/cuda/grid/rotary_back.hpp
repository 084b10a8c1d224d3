// Mamba-3's recurrence over the grid, backward: from the gradients of keys, queries and values to those of the rows
// that they were made of (rotary_rows.hpp), and of their weights.
#pragma once

#include <algorithm>
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
// slice of the tokens, a stretch of rows at a time. Each member has heads of its own, and at any time adds to rows that
// no other member adds to, so that sums over heads lie in shared memory once, and have an order. Where a line is too
// long for that, a warp by itself takes all heads through a row.
template <class Sizes>
struct RotaryBackShape {
  using T = typename Sizes::Scalar;
  using Pairs = RotaryPairs<Sizes>;
  static constexpr int R = Sizes::R, heads = Sizes::H / Sizes::G;
  static constexpr int rows = (std::max)(1, 4 / (R * ((Pairs::of_lane + 1) / 2)));  // that are a member's at a time
  static constexpr int lines = rows * R <= 4 ? 2 * R : 2;  // of b and of c, of which a row's are read together
  static constexpr int of_line = 64 * Pairs::of_lane;      // numbers, lane by lane
  static constexpr bool staged = Block::warps * rows * 2 * R * of_line * sizeof(T) <= std::size_t{96} << 10;
  static constexpr int members = !staged ? 1 : heads >= 8 ? 8 : heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
  static_assert(Block::warps == 8);
  static constexpr int teams = Block::warps / members, stretch = members * rows;
  static constexpr int turns = (heads + members - 1) / members;  // of a member, with a head in each

  // The gradients of b and c behind their norms.
  struct Stage {
    T sums[staged ? teams : 1][staged ? stretch : 1][2 * R][staged ? of_line : 1];
  };

  // A lane's share of a line.
  using Values = typename Pairs::Values;
  static __device__ void store(T* line, const Values& x) {
    Pairs::template each<step>([&](int k, int) {
      if constexpr (step == 2) {
        store4(line + 4 * (lane() + 32 * (k / 2)), Quad<T>{{x[k][0], x[k][1], x[k + 1][0], x[k + 1][1]}});
      } else {
        line[lane() + 64 * k] = x[k][0], line[lane() + 64 * k + 32] = x[k][1];
      }
    });
  }
  static __device__ void add(Values& x, const T* line) {
    Pairs::template each<step>([&](int k, int) {
      if constexpr (step == 2) {
        const auto more = load4(line + 4 * (lane() + 32 * (k / 2)));
        x[k][0] += more.at[0], x[k][1] += more.at[1], x[k + 1][0] += more.at[2], x[k + 1][1] += more.at[3];
      } else {
        x[k][0] += line[lane() + 64 * k], x[k][1] += line[lane() + 64 * k + 32];
      }
    });
  }

 private:
  static constexpr int step = Pairs::in_twos ? 2 : 1;
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
  using Values = typename Pairs::Values;
  constexpr int G = Sizes::G, N = Sizes::N, R = Sizes::R, Ns = Sizes::Ns, rows = Shape::rows, heads = Shape::heads,
                members = Shape::members, stretch = Shape::stretch;
  extern __shared__ __align__(128) std::byte shared[];
  auto& stage = *reinterpret_cast<typename Shape::Stage*>(shared);
  const int own_team = warp() / members, member = warp() % members;
  const int slices = partials.b_bias.count, team = static_cast<int>(blockIdx.x) * Shape::teams + own_team;
  const int slice = team / G, group = team % G;
  const bool works = slice < slices;
  const int begin = works ? first_of(slice, slices, xbc.rows) : 0,
            end = works ? first_of(slice + 1, slices, xbc.rows) : 0,
            most_rows = (xbc.rows + slices - 1) / slices;  // of all slices, whose teams meet at barriers
  const auto meet = [] {
    if constexpr (members > 1) __syncthreads();
  };
  // A row's sums over heads: in shared memory, or a warp's own.
  Values alone[Shape::staged ? 1 : rows][2 * R];
  const auto line_of = [&](int row, int line) -> T* { return stage.sums[Shape::staged ? own_team : 0][row][line]; };
  const auto add_up = [&](int row, int line, const Values& more, bool is_first) {
    if constexpr (Shape::staged) {
      Values sum;
      Pairs::each([&](int k, int) { sum[k][0] = more[k][0], sum[k][1] = more[k][1]; });
      if (!is_first) Shape::add(sum, line_of(row, line));
      Shape::store(line_of(row, line), sum);
    } else {
      Pairs::each([&](int k, int) {
        for (int j = 0; j < 2; ++j)
          alone[row][line][k][j] = is_first ? more[k][j] : alone[row][line][k][j] + more[k][j];
      });
    }
  };
  Values of_norms[2] = {};  // of b and of c

  for (int first = begin; first < begin + most_rows; first += stretch) {
#pragma unroll 1
    for (int turn = 0; turn < Shape::turns; ++turn) {
      const int head = group * heads + turn * members + member;
      const bool has_head = works && turn * members + member < heads;
      Values of_bias[2 * R] = {};
#pragma unroll 1
      for (int phase = 0; phase < members; ++phase) {
        const int own = (member + phase) % members * rows, row = first + own;
        if (has_head && row < end) {
          T angles[rows][Pairs::of_lane] = {};
#pragma unroll
          for (int first_line = 0; first_line < 2 * R; first_line += Shape::lines) {
            // All that memory has of these, before anything is computed.
            Values gradients[rows][Shape::lines], turned[rows][Shape::lines];
#pragma unroll
            for (int i = 0; i < rows; ++i) {
              if (row + i >= end) break;
#pragma unroll
              for (int k = 0; k < Shape::lines; ++k) {
                const int of_rank = (row + i) * R + (first_line + k) / 2;
                const bool of_query = k % 2 != 0;
                Pairs::load_key(gradients[i][k], (of_query ? dqueries : dkeys)[of_rank] + head * Ns);
                Pairs::load_key(turned[i][k], (of_query ? queries : keys)[of_rank] + head * Ns);
              }
            }
#pragma unroll
            for (int i = 0; i < rows; ++i) {
              if (row + i >= end) break;
              const typename Pairs::Circles circles(turns[row + i] + head * Sizes::Na);
#pragma unroll
              for (int at = 0; at < Shape::lines; ++at) {
                const Values &gradient = gradients[i][at], &key = turned[i][at];
                Pairs::each(
                    [&](int k, int) { angles[i][k] += gradient[k][1] * key[k][0] - gradient[k][0] * key[k][1]; });
                Values back;
                circles.turn_back(back, gradient);
                Values& sum = of_bias[first_line + at];
                Pairs::each([&](int k, int) { sum[k][0] += back[k][0], sum[k][1] += back[k][1]; });
                add_up(own + i, first_line + at, back, turn + phase == 0);
              }
            }
          }
#pragma unroll
          for (int i = 0; i < rows; ++i)
            if (row + i < end) Pairs::store_angles(dangles[row + i] + head * Sizes::Na, angles[i]);
        }
        meet();
      }
      if (has_head && first < end) {
        const std::ptrdiff_t share = slice * partials.b_bias.size + static_cast<std::ptrdiff_t>(head) * padded(R * N);
#pragma unroll
        for (int line = 0; line < 2 * R; ++line) {
          T* const to = (line % 2 == 0 ? partials.b_bias : partials.c_bias).values + share + line / 2 * N;
          if (first > begin) {
            Values before;
            Pairs::load(before, to);
            Pairs::each([&](int k, int) { of_bias[line][k][0] += before[k][0], of_bias[line][k][1] += before[k][1]; });
          }
          Pairs::store(to, of_bias[line]);
        }
      }
    }
    // Through the norms: of each member's own rows, which the first turn behind this begins with, too.
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int own = member * rows + i, row = first + own;
      if (row >= end) break;
#pragma unroll
      for (int line = 0; line < 2 * R; ++line) {
        const int of_c = line % 2, column = Sizes::E + (of_c * R + line / 2) * G * N + group * N;
        Values raw, factor, normed = {}, out;
        Pairs::load(raw, xbc[row] + column);
        Pairs::load(factor, of_c ? w.c_norm.value : w.b_norm.value);
        if constexpr (Shape::staged) Shape::add(normed, line_of(own, line));
        else Pairs::each([&](int k, int) { normed[k][0] = alone[i][line][k][0], normed[k][1] = alone[i][line][k][1]; });
        const T rho = Pairs::norm_of(raw);
        T sum = 0;
        Pairs::each([&](int k, int) {
          const T products[2] = {normed[k][0] * raw[k][0], normed[k][1] * raw[k][1]};
          of_norms[of_c][k][0] += products[0] * rho, of_norms[of_c][k][1] += products[1] * rho;
          sum += products[0] * factor[k][0] + products[1] * factor[k][1];
        });
        const T pull = rho * rho * rho * (lane_sum(sum) / T(N));
        Pairs::each([&](int k, int) {
          out[k][0] = rho * normed[k][0] * factor[k][0] - pull * raw[k][0];
          out[k][1] = rho * normed[k][1] * factor[k][1] - pull * raw[k][1];
        });
        Pairs::store(dxbc[row] + column, out);
      }
    }
  }
  // A team's share of the norms': its first member adds up those of b, its last those of c.
  const auto give = [&](const auto& to, const Values& sum) {
    Pairs::store(to.values + static_cast<std::ptrdiff_t>(team) * static_cast<std::ptrdiff_t>(to.size), sum);
  };
  if constexpr (members > 1) {
    for (int of_c = 0; of_c < 2; ++of_c) Shape::store(line_of(member * rows, of_c), of_norms[of_c]);
    __syncthreads();
    if (!works || (member > 0 && member < members - 1)) return;
    const int of_c = member > 0;
    Values sum = {};
    for (int i = 0; i < members; ++i) Shape::add(sum, line_of(i * rows, of_c));
    give(of_c ? partials.c_norm : partials.b_norm, sum);
  } else if (works) {
    give(partials.b_norm, of_norms[0]), give(partials.c_norm, of_norms[1]);
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
