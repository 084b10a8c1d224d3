// What a token tells Mamba-3's recurrence beside keys, queries and inputs: how much the states decay, how its input
// enters by the trapezoidal rule, and by which angles keys and queries have turned (specification, section 14.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/trapezoid.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// to (Na) <- factor tanh(raw): a factor of 1/2 gives the turns of a step of size 1.
template <int Na, class T>
MAMBA_INLINE void scaled_tanh(T (&to)[padded(Na)], const T* raw, T factor) {
  using V = Vector<T>;
  std::copy_n(raw, Na, to);
  std::fill(to + Na, to + padded(Na), T(0));
  for (int i = 0; i < padded(Na); i += V::width) (V::broadcast(factor) * tanh(V::load(to + i))).store(to + i);
}

}  // namespace detail

// log_decay (T, H) <- the logarithm of the states' decay, mu (T, H) <- the weight of the token's own input,
// turns (T, H Na) <- the angles up to the token.
//   history: where a sequence's angles begin and, afterwards, end (RotarySsdSizes); null: they begin at zero
//   delta (T, H) step sizes; raw (T, 2 H + Na): what makes rates, weights and the increments that all heads share
template <bool softplus_rate, class Sizes, class Core, class T, class I, int H, int A, int C>
void trapezoid(Core&, Sizes, Rows<T, H> log_decay, Rows<T, H> mu, Rows<I, A> turns, T* history, Rows<const T, H> delta,
               Rows<const T, C> raw, Sequences sequences) {
  constexpr int Na = Sizes::Na;
  static_assert(A == H * Na && C == 2 * H + Na);
  alignas(64) T half_turns[padded(Na)];
  I zero[A] = {};
  for (int s = 0; s < sequences.count; ++s) {
    // Of angles that are not finite: whole numbers cannot tell, but the input's weight can.
    T of_history = 0;
    if (history)
      for (std::ptrdiff_t k = 0; k < A; ++k) {
        zero[k] = math::joined_turns(history[2 * k], history[2 * k + 1]);
        of_history += (history[2 * k] + history[2 * k + 1]) * 0;
      }
    const I* before = zero;
    for (int t = sequences.begin(s); t < sequences.end(s); ++t) {
      const T* const from = raw[t];
      detail::scaled_tanh<Na>(half_turns, from + 2 * H, T(0.5));
      T not_finite = before == zero ? of_history : T(0);
      for (int i = 0; i < Na; ++i) not_finite += half_turns[i] * 0;
      I* const angles = turns[t];
      for (int h = 0; h < H; ++h) {
        const T rate = (std::max)(math::rate_of_input<softplus_rate>(from[h]), T(math::least_rate)), step = delta[t][h];
        log_decay[t][h] = -(rate * step);
        mu[t][h] = math::sigmoid(from[H + h]) + not_finite;
        for (int i = 0; i < Na; ++i) angles[h * Na + i] = before[h * Na + i] + math::turns_of(half_turns[i] * step);
      }
      before = angles;
    }
    if (history) {
      for (std::ptrdiff_t k = 0; k < A; ++k) math::split_turns(before[k], history[2 * k], history[2 * k + 1]);
      history += Sizes::history_size;
    }
  }
  clear_padding(log_decay);
  clear_padding(mu);
}

// draw (T, 2 H + Na) <- the gradients of what made them, ddelta (T, H) += those of the step sizes, given dlog_decay,
// dmu (T, H) and dangles (T, H Na), with respect to angles in radians. passed: of a sequence's history what belongs to
// its angles; both of an angle's numbers have its gradient, per turn.
template <bool softplus_rate, class Sizes, class Core, class D, class T, int H, int A, int C,
          class Passed = network::NoPassedState>
void trapezoid_backward(Core&, Sizes, Rows<D, C> draw, Rows<T, H> ddelta, Rows<const T, H> dlog_decay,
                        Rows<const T, H> dmu, Rows<const T, A> dangles, Rows<const T, H> delta, Rows<const T, C> raw,
                        Sequences sequences, Passed passed = {}) {
  using V = Vector<T>;
  constexpr int Na = Sizes::Na;
  static_assert(A == H * Na && C == 2 * H + Na);
  alignas(64) T signs[padded(Na)], slopes[padded(Na)], of_raw[padded(Na)];
  double of_later[A];  // sums over a whole sequence whose terms nearly cancel
  for (int s = 0; s < sequences.count; ++s) {
    T* of_end = nullptr;
    if constexpr (Passed::passes)
      if (passed.gradient) of_end = passed.gradient + static_cast<std::size_t>(s) * Sizes::history_size;
    for (std::ptrdiff_t k = 0; k < A; ++k)
      of_later[k] = of_end ? static_cast<double>(of_end[2 * k]) / (2 * math::pi) : 0.0;
    for (int t = sequences.end(s) - 1; t >= sequences.begin(s); --t) {
      const T* const from = raw[t];
      detail::scaled_tanh<Na>(signs, from + 2 * H, T(math::pi));
      // tanh' = 4 e / (1 + e)^2 with e = exp(-2 |x|): 1 - tanh^2 cancels.
      std::copy_n(from + 2 * H, Na, slopes);
      std::fill(slopes + Na, slopes + padded(Na), T(0));
      for (int i = 0; i < padded(Na); i += V::width) {
        const V x = V::load(slopes + i), e = exp(V(-2) * maximum(x, -x)), one = V(1) + e;
        (V(4 * math::pi) * e / (one * one)).store(slopes + i);
      }
      std::fill_n(of_raw, padded(Na), T(0));
      for (int h = 0; h < H; ++h) {
        const T step = delta[t][h], u = from[h], w = from[H + h], rate = math::rate_of_input<softplus_rate>(u);
        const bool decays_least = rate < T(math::least_rate);
        const T* const dangle = dangles[t] + h * Na;
        double* const later = of_later + h * Na;
        T of_step = 0;
        for (int i = 0; i < Na; ++i) {
          later[i] += static_cast<double>(dangle[i]);
          const T of_increment = static_cast<T>(later[i]);
          of_step += signs[i] * of_increment;
          of_raw[i] += step * of_increment;
        }
        ddelta[t][h] += of_step - (decays_least ? T(math::least_rate) : rate) * dlog_decay[t][h];
        draw[t][h] = decays_least ? T(0) : -math::rate_of_input_derivative<softplus_rate>(u) * step * dlog_decay[t][h];
        draw[t][H + h] = dmu[t][h] * math::sigmoid(w) * math::sigmoid(-w);
      }
      for (int i = 0; i < Na; ++i) draw[t][2 * H + i] = slopes[i] * of_raw[i];
    }
    if (of_end)
      for (std::ptrdiff_t k = 0; k < A; ++k)
        of_end[2 * k] = of_end[2 * k + 1] = static_cast<T>(2 * math::pi * of_later[k]);
  }
  clear_padding(draw);
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
