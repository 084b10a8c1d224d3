// Keys and queries of Mamba-3's recurrence (specification, section 14.3): b and c normed over a group's states, with a
// head's biases, turned by a head's angles.
//
// States turn in pairs. Here a pair's two states lie half a row apart, so that one vector holds the first states of
// many pairs and another the second ones; SISO's pairs, which are neighbours in b, c and weights, are taken apart when
// they are read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

template <class Sizes>
struct RotaryRows {
  using T = typename Sizes::Scalar;
  using V = Vector<T>;
  static constexpr int H = Sizes::H, G = Sizes::G, N = Sizes::N, R = Sizes::R, Na = Sizes::Na;
  static constexpr int half = Sizes::half, Ns = Sizes::Ns, Ap = padded(Na);
  // A pair's first state and its second, in b, c and weights: neighbours, or half of all states apart.
  static constexpr std::ptrdiff_t pair_stride = Sizes::multiple ? 1 : 2, partner = Sizes::multiple ? N / 2 : 1;

  // The weights, or their gradients, as rows are.
  struct Weights {
    T *b_norm, *c_norm;  // (Ns)
    T *b_bias, *c_bias;  // (H, R, Ns)
  };
  // Of a head's angles, (q, Ap).
  struct Circle {
    T *cosines, *sines;
  };

  // to (Ns) <- N numbers, each pair's first in the first half and its second in the other; the rest is zero.
  template <class From>
  static void split(T* to, const From* from) {
    for (int i = 0; i < N / 2; ++i) {
      to[i] = from[pair_stride * i];
      to[half + i] = from[pair_stride * i + partner];
    }
    std::fill(to + N / 2, to + half, T(0));
    std::fill(to + half + N / 2, to + Ns, T(0));
  }
  // The way back: to (N) <- or += from (Ns).
  template <Write write, class To>
  static void join(To* to, const T* from) {
    for (int i = 0; i < N / 2; ++i) {
      if constexpr (write == Write::add) {
        to[pair_stride * i] += from[i];
        to[pair_stride * i + partner] += from[half + i];
      } else {
        to[pair_stride * i] = from[i];
        to[pair_stride * i + partner] = from[half + i];
      }
    }
  }

  template <class Biases>
  static void take_weights(const Weights& to, Weight<T, 1, N> b_norm, Weight<T, 1, N> c_norm, Biases b_bias,
                           Biases c_bias) {
    split(to.b_norm, b_norm.value);
    split(to.c_norm, c_norm.value);
    for (int head = 0; head < H; ++head)
      for (int r = 0; r < R; ++r) {
        split(to.b_bias + (head * R + r) * Ns, b_bias.row(head) + r * N);
        split(to.c_bias + (head * R + r) * Ns, c_bias.row(head) + r * N);
      }
  }

  // The way back of their gradients, which add up.
  template <class Norm, class Biases>
  static void give_weights(Norm b_norm, Norm c_norm, Biases b_bias, Biases c_bias, const Weights& from) {
    join<Write::add>(b_norm.value, from.b_norm);
    join<Write::add>(c_norm.value, from.c_norm);
    for (int head = 0; head < H; ++head)
      for (int r = 0; r < R; ++r) {
        join<Write::add>(b_bias.row(head) + r * N, from.b_bias + (head * R + r) * Ns);
        join<Write::add>(c_bias.row(head) + r * N, from.c_bias + (head * R + r) * Ns);
      }
  }
  static void clear(const Weights& sums) {
    std::fill_n(sums.b_norm, Ns, T(0)), std::fill_n(sums.c_norm, Ns, T(0));
    std::fill_n(sums.b_bias, H * R * Ns, T(0)), std::fill_n(sums.c_bias, H * R * Ns, T(0));
  }

  // normed (q R, Ns) <- the rows of b or c of one group, whose first one's columns begin at `from`, normed; raw and rho
  // as well where a backward pass wants them.
  template <class From>
  static void norm_group(T* normed, T* raw, T* rho, const From* from, std::ptrdiff_t from_row, const T* weight, int q) {
    for (int t = 0; t < q; ++t, from += from_row)
      for (int r = 0; r < R; ++r, normed += Ns) {
        split(normed, from + r * G * N);
        if (raw) raw = std::copy_n(normed, Ns, raw);
        V squares = V::zero();
        for (int n = 0; n < Ns; n += V::width)
          squares = multiply_add(V::load(normed + n), V::load(normed + n), squares);
        const T scale = 1 / std::sqrt(squares.sum() / T(N) + T(math::norm_epsilon));
        if (rho) *rho++ = scale;
        const V factor = V::broadcast(scale);
        for (int n = 0; n < Ns; n += V::width) (V::load(normed + n) * factor * V::load(weight + n)).store(normed + n);
      }
  }
  // draw (the rows' columns) <- the gradient through it, dweight (Ns) += the weight's; dnormed (q R, Ns).
  template <class To>
  static void norm_group_backward(To* draw, std::ptrdiff_t draw_row, T* dweight, T* dnormed, const T* raw, const T* rho,
                                  const T* weight, int q) {
    for (int t = 0; t < q; ++t, draw += draw_row)
      for (int r = 0; r < R; ++r, dnormed += Ns, raw += Ns, ++rho) {
        const V scale = V::broadcast(*rho);
        V sum = V::zero();
        for (int n = 0; n < Ns; n += V::width) {
          const V product = V::load(dnormed + n) * V::load(raw + n);
          multiply_add(product, scale, V::load(dweight + n)).store(dweight + n);
          sum = multiply_add(product, V::load(weight + n), sum);
        }
        const V pull = V::broadcast(*rho * *rho * *rho * (sum.sum() / T(N)));
        for (int n = 0; n < Ns; n += V::width)
          (scale * V::load(dnormed + n) * V::load(weight + n) - pull * V::load(raw + n)).store(dnormed + n);
        join<Write::set>(draw + r * G * N, dnormed);
      }
  }

  // cosines, sines (q, Ap) of a head's angles; what pads them turns by nothing.
  template <class I, int A>
  static void take_circle(Circle to, Rows<I, A> turns, int first, int q, int head) {
    for (int t = 0; t < q; ++t) {
      const auto* const angles = turns[first + t] + head * Na;
      T* const cosines = to.cosines + t * Ap;
      T* const sines = to.sines + t * Ap;
      for (int i = 0; i < Na; ++i) math::sine_cosine(angles[i], sines[i], cosines[i]);
      for (int i = Na; i < Ap; ++i) cosines[i] = 1, sines[i] = 0;
    }
  }
  // to (q R, Ns) <- from (q R, Ns) + bias (R, Ns), turned.
  static void turn(T* to, const T* from, const T* bias, Circle circle, int q) {
    for (int t = 0; t < q; ++t)
      for (int r = 0; r < R; ++r, to += Ns, from += Ns) {
        const T* const b = bias + r * Ns;
        for (int i = 0; i < half; i += V::width) {
          const V first = V::load(from + i) + V::load(b + i), second = V::load(from + half + i) + V::load(b + half + i);
          if (i < Ap) {
            const V cosine = V::load(circle.cosines + t * Ap + i), sine = V::load(circle.sines + t * Ap + i);
            (cosine * first - sine * second).store(to + i);
            multiply_add(sine, first, cosine * second).store(to + half + i);
          } else {
            first.store(to + i), second.store(to + half + i);
          }
        }
      }
  }
  // dnormed (q R, Ns) += and dbias (R, Ns) += dturned (q R, Ns) turned back; dangles (rows of it) += the angles'.
  template <int A>
  static void turn_backward(T* dnormed, T* dbias, Rows<T, A> dangles, int first_row, int head, const T* dturned,
                            const T* turned, Circle circle, int q) {
    alignas(64) T of_angles[Ap];
    for (int t = 0; t < q; ++t) {
      std::fill_n(of_angles, Ap, T(0));
      for (int r = 0; r < R; ++r, dnormed += Ns, dturned += Ns, turned += Ns) {
        T* const db = dbias + r * Ns;
        const auto give = [&](int n, V gradient) {
          (V::load(dnormed + n) + gradient).store(dnormed + n);
          (V::load(db + n) + gradient).store(db + n);
        };
        for (int i = 0; i < half; i += V::width) {
          const V first = V::load(dturned + i), second = V::load(dturned + half + i);
          if (i < Ap) {
            const V cosine = V::load(circle.cosines + t * Ap + i), sine = V::load(circle.sines + t * Ap + i);
            const V angle = second * V::load(turned + i) - first * V::load(turned + half + i);
            (V::load(of_angles + i) + angle).store(of_angles + i);
            give(i, multiply_add(sine, second, cosine * first));
            give(half + i, cosine * second - sine * first);
          } else {
            give(i, first), give(half + i, second);
          }
        }
      }
      T* const to = dangles[first_row + t] + head * Na;
      for (int i = 0; i < Na; ++i) to[i] += of_angles[i];
    }
  }
};

}  // namespace detail

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
