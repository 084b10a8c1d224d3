// What a token tells Mamba-3's recurrence beside keys, queries and inputs (specification, section 14.3), by one thread
// block: how much the states decay, how its input enters by the trapezoidal rule, and by which angles keys and queries
// have turned. Angles add up along a sequence; where sequences are few, pieces of each are added up at once.
#pragma once

#include <cmath>
#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/trapezoid.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

namespace detail {

// The pieces that every sequence is cut into, so that there is work for `workers`, of whom `columns` share a piece.
__device__ inline int sequence_pieces(Sequences sequences, int columns, int workers) {
  const int items = sequences.count * columns;
  return items >= workers ? 1 : workers / items;
}
struct SequencePiece {
  int begin, end;

  __device__ SequencePiece(Sequences sequences, int s, int number, int pieces) {
    const int first = sequences.begin(s), rows = sequences.end(s) - first, of_piece = (rows + pieces - 1) / pieces;
    begin = first + min(number * of_piece, rows), end = first + min((number + 1) * of_piece, rows);
  }
};

}  // namespace detail

// log_decay (T, H) <- the logarithm of the states' decay, mu (T, H) <- the weight of the token's own input,
// turns (T, H Na) <- the angles up to the token.
//   history: where a sequence's angles begin and, afterwards, end (RotarySsdSizes); null: they begin at zero
//   delta (T, H) step sizes; raw (T, 2 H + Na): what makes rates, weights and the increments that all heads share
template <bool softplus_rate, class Sizes, class T, class I, int H, int A, int C>
__device__ void trapezoid(Block& be, Sizes, Rows<T, H> log_decay, Rows<T, H> mu, Rows<I, A> turns, T* history,
                          Rows<const T, H> delta, Rows<const T, C> raw, Sequences sequences) {
  constexpr int Na = Sizes::Na;
  static_assert(A == H * Na && C == 2 * H + Na);
  detail::clear_padding(log_decay);
  detail::clear_padding(mu);
  detail::each(delta.rows * H, [&](int i) {
    const int t = i / H, h = i % H;
    const T* const from = raw[t];
    const T rate = math::rate_of_input<softplus_rate>(from[h]), least = T(math::least_rate);
    log_decay[t][h] = -((rate < least ? least : rate) * delta[t][h]);
    mu[t][h] = math::sigmoid(from[H + h]);
  });

  // A thread adds up one angle's turns along a piece of a sequence. Whole numbers cannot tell what is not finite: the
  // weight of the token's input can, once all have been set.
  const int pieces = detail::sequence_pieces(sequences, A, Block::threads);
  I* const totals = be.scratch<I>();  // (sequences, pieces, A) where there are several
  const auto look_at = [&](T x, int t, int h) {
    if (!(x * 0 == 0)) mu[t][h] = x * 0;
  };
  const auto each_piece = [&](auto&& f) {
    detail::each(sequences.count * pieces * A, [&](int i) {
      const int s = i / (pieces * A), number = i / A % pieces;
      f(i, s, number, i % A, detail::SequencePiece(sequences, s, number, pieces));
    });
  };
  __syncthreads();
  each_piece([&](int i, int s, int number, int k, detail::SequencePiece piece) {
    const int h = k / Na;
    I angle = 0;
    if (history && number == 0 && piece.begin < piece.end) {
      const T* const began = history + s * static_cast<std::ptrdiff_t>(Sizes::history_size) + 2 * k;
      angle = math::joined_turns(began[0], began[1]);
      look_at(began[0] + began[1], piece.begin, h);
    }
    constexpr int batch = 8;  // rows whose numbers are on their way at once
    for (int first = piece.begin; first < piece.end; first += batch) {
      T of_raw[batch], step[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const int t = min(first + b, piece.end - 1);
        of_raw[b] = raw[t][2 * H + k % Na], step[b] = delta[t][h];
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (first + b >= piece.end) continue;
        const T half_turns = T(0.5) * std::tanh(of_raw[b]);
        look_at(half_turns, first + b, h);
        angle += math::turns_of(detail::rounded_product(half_turns, step[b]));  // the same at either scope
        turns[first + b][k] = angle;
      }
    }
    if (pieces > 1) totals[i] = angle;
  });
  __syncthreads();
  if (pieces > 1) {
    each_piece([&](int i, int, int number, int k, detail::SequencePiece piece) {
      I before = 0;
      for (int p = number; p > 0; --p) before += totals[i - p * A];
#pragma unroll 4
      for (int t = piece.begin; t < piece.end && number > 0; ++t) turns[t][k] += before;
    });
    __syncthreads();
  }
  if (history)
    detail::each(sequences.count * A, [&](int i) {
      const int s = i / A, k = i % A;
      T* const own = history + s * static_cast<std::ptrdiff_t>(Sizes::history_size) + 2 * k;
      if (sequences.begin(s) < sequences.end(s)) math::split_turns(turns[sequences.end(s) - 1][k], own[0], own[1]);
    });
  __syncthreads();
}

namespace detail {

// The largest of what a warp's lanes bring.
__device__ inline int most_of_warp(int x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(~0U, x, offset));
  return x;
}

// How the backward pass is shared out: so many neighbouring lanes take angles, one each, of a piece of a sequence,
// through the heads, from its last token to its first, so many rows at a time.
template <int Na>
struct AngleShare {
  static constexpr int width = Na > 16 ? 32 : Na > 8 ? 16 : 8, groups = Block::threads / width, batch = 8;

  static __device__ int group() { return thread() / width; }
  static __device__ int lane() { return thread() % width; }
};

}  // namespace detail

// draw (T, 2 H + Na) <- the gradients of what made them, ddelta (T, H) += those of the step sizes, given dlog_decay,
// dmu (T, H) and dangles (T, H Na), with respect to angles in radians.
template <bool softplus_rate, class Sizes, class D, class T, int H, int A, int C>
__device__ void trapezoid_backward(Block& be, Sizes, Rows<D, C> draw, Rows<T, H> ddelta, Rows<const T, H> dlog_decay,
                                   Rows<const T, H> dmu, Rows<const T, A> dangles, Rows<const T, H> delta,
                                   Rows<const T, C> raw, Sequences sequences, network::NoPassedState = {}) {
  constexpr int Na = Sizes::Na;
  static_assert(A == H * Na && C == 2 * H + Na);
  using Share = detail::AngleShare<Na>;
  constexpr int width = Share::width, batch = Share::batch;
  constexpr bool in_pieces = Share::groups * A * sizeof(double) <= Block::shared_bytes<T>;
  detail::clear_padding(draw);
  const int pieces = in_pieces ? detail::sequence_pieces(sequences, 1, Share::groups) : 1;
  double* const totals = be.scratch<double>();  // (sequences, pieces, A) where there are several
  if (pieces > 1) {
    detail::each(sequences.count * pieces * A, [&](int i) {
      const detail::SequencePiece piece(sequences, i / (pieces * A), i / A % pieces, pieces);
      double sum = 0;
#pragma unroll 4
      for (int t = piece.end - 1; t >= piece.begin; --t) sum += static_cast<double>(dangles[t][i % A]);
      totals[i] = sum;
    });
    __syncthreads();
  }
  const int items = sequences.count * pieces;
#pragma unroll 1
  for (int first_item = 0; first_item < items; first_item += Share::groups) {
    const int item = first_item + Share::group(), number = item % pieces, l = Share::lane();
    const detail::SequencePiece piece(sequences, item < items ? item / pieces : 0, item < items ? number : pieces,
                                      pieces);
    // The lanes of a warp go through as many batches as its longest piece has.
    const int rounds = (piece.end - piece.begin + batch - 1) / batch, most = detail::most_of_warp(rounds);
#pragma unroll 1
    for (int first_angle = 0; first_angle < Na; first_angle += width) {
      const int a = first_angle + l;
      const bool turns = a < Na;
#pragma unroll 1
      for (int h = 0; h < H; ++h) {
        double later = 0;  // over a whole sequence, whose terms nearly cancel
        for (int p = number + 1; p < pieces && turns && item < items; ++p)
          later += totals[(item - number + p) * A + h * Na + a];
#pragma unroll 1
        for (int round = 0; round < most; ++round) {
          const int last = piece.end - 1 - round * batch;  // the batch's rows: this one and those before it
          const auto exists = [&](int b) { return turns && last - b >= piece.begin; };
          T of_raw[batch], of_angle[batch], step[batch], already[batch], sums[batch];
#pragma unroll
          for (int b = 0; b < batch; ++b) {
            const int t = last - b;
            of_raw[b] = exists(b) ? raw[t][2 * H + a] : T(0);
            of_angle[b] = exists(b) ? dangles[t][h * Na + a] : T(0);
            step[b] = exists(b) ? delta[t][h] : T(0);
            already[b] = h > 0 && exists(b) ? draw[t][2 * H + a] : T(0);
          }
#pragma unroll
          for (int b = 0; b < batch; ++b) {
            later += static_cast<double>(of_angle[b]);
            const T of_increment = exists(b) ? static_cast<T>(later) : T(0);
            // tanh' = 4 e / (1 + e)^2 with e = exp(-2 |x|): 1 - tanh^2 cancels.
            const T e = std::exp(-2 * std::abs(of_raw[b])), inverse = 1 / (1 + e);
            const T slope = T(4 * math::pi) * e * (inverse * inverse);
            sums[b] = T(math::pi) * std::tanh(of_raw[b]) * of_increment;
            if (exists(b)) draw[last - b][2 * H + a] = already[b] + slope * (step[b] * of_increment);
          }
          const int row = last - detail::sum_over_lanes<batch, width>(sums);
          if (l % (width / batch) != 0 || row < piece.begin || row > last) continue;
          T of_step = sums[0];
          if (first_angle == 0) {  // what a head has of its own
            const T u = raw[row][h], w = raw[row][H + h], rate = math::rate_of_input<softplus_rate>(u);
            const T own = dlog_decay[row][h], least = T(math::least_rate);
            of_step -= (rate < least ? least : rate) * own;
            draw[row][h] =
                rate < least ? T(0) : -math::rate_of_input_derivative<softplus_rate>(u) * delta[row][h] * own;
            draw[row][H + h] = dmu[row][h] * math::sigmoid(w) * math::sigmoid(-w);
          }
          ddelta[row][h] += of_step;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace mamba::cuda
