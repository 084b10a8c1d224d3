// What a token tells Mamba-3's recurrence beside keys, queries and inputs, over the whole device (specification,
// section 14.3): rates, weights of inputs, and angles, which are sums over a sequence. Sums of whole numbers are exact
// in any order: stretches of a sequence are added up by themselves, a pass over a sequence's stretches says where each
// begins. The gradients' sums go the other way, in double.
#pragma once

#include <cmath>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/trapezoid.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

namespace detail {

inline constexpr int trapezoid_stretch = 64;  // tokens

// The turns that an angle grows by, the same in all kernels.
template <class T>
__device__ math::Turns<T> turns_of_token(T raw, T step) {
  return math::turns_of<T>(rounded_product(static_cast<T>(0.5) * std::tanh(raw), step));
}
// Whole numbers cannot tell that an angle is none, but the input's weight can.
template <class T>
__device__ T not_finite(T x) {
  return x * 0;
}

// log_decay, mu (T, H). history: null, or where sequences begin. A warp takes a token.
template <bool softplus_rate, class Sizes, class T, int H, int C>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_rates(Rows<T, H> log_decay, Rows<T, H> mu, const T* history, Rows<const T, H> delta, Rows<const T, C> raw,
                    Sequences sequences) {
  begin_kernel();
  const int row = static_cast<int>(blockIdx.x) * Block::warps + warp();
  if (row >= delta.rows) return;
  const T* const from = raw[row];
  T none = 0;
  for (int i = lane(); i < Sizes::Na; i += 32) {
    const T x = from[2 * H + i];
    none += x != x ? x : T(0);  // infinite ones have a tanh
  }
  if (history && sequences.times[row] == 0) {
    const T* const angles = history + sequence_of(sequences, row) * Sizes::history_size;
#pragma unroll 8
    for (int i = lane(); i < 2 * H * Sizes::Na; i += 32) none += not_finite(angles[i]);
  }
  none = lane_sum(none);
  for (int head = lane(); head < H; head += 32) {
    const T rate = math::rate_of_input<softplus_rate>(from[head]), least = static_cast<T>(math::least_rate);
    log_decay[row][head] = -((rate < least ? least : rate) * delta[row][head]);
    mu[row][head] = math::sigmoid(from[H + head]) + none;
  }
}

// f(row, x) for a stretch's rows in order, x being what load(row) gives. Several are asked for at once: a thread waits
// for memory, not for arithmetic.
template <class Load, class F>
__device__ void each_token(const SsdStretch& stretch, Load&& load, F&& f) {
  constexpr int at_once = 16;
  for (int first = 0; first < stretch.count; first += at_once) {
    decltype(load(0)) x[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) x[i] = load(stretch.first + min(first + i, stretch.count - 1));
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      if (first + i < stretch.count) f(stretch.first + first + i, x[i]);
  }
}

// turns (T, H Na) <- the angles' sums within stretches; totals (slots, H Na) <- those of whole stretches.
template <class Sizes, class T, class I, int H, int A, int C>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_stretches(Rows<I, A> turns, I* totals, int slots, Rows<const T, H> delta, Rows<const T, C> raw,
                        Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int slot = static_cast<int>(i / A), k = static_cast<int>(i % A), head = k / Sizes::Na;
  if (slot >= slots) return;
  const SsdStretch stretch = ssd_stretch_of(sequences, slot, trapezoid_stretch);
  struct Read {
    T raw, step;
  };
  I sum = 0;
  each_token(
      stretch, [&](int row) { return Read{raw[row][2 * H + k % Sizes::Na], delta[row][head]}; },
      [&](int row, const Read& x) { turns[row][k] = sum += turns_of_token(x.raw, x.step); });
  totals[i] = sum;
}
// Each of *place(0), *place(1), ... <- `sum` and all before it, which sum is afterwards, too.
template <class T, class Place>
__device__ void replace_in_order(int count, Place&& place, T& sum) {
  constexpr int at_once = 8;
  for (int first = 0; first < count; first += at_once) {
    T more[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) more[i] = first + i < count ? *place(first + i) : T(0);
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (first + i >= count) break;
      *place(first + i) = sum;
      sum += more[i];
    }
  }
}

// totals <- the angles where stretches begin; history: null, or where sequences begin and, afterwards, end.
template <class Sizes, class T, class I, int A>
__global__ void __launch_bounds__(Block::threads) trapezoid_pass(I* totals, T* history, Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / A, k = i % A;
  if (s >= sequences.count) return;
  T* const own = history ? history + s * Sizes::history_size + 2 * k : nullptr;
  I angle = own ? math::joined_turns(own[0], own[1]) : I(0);
  const int begin = sequences.begin(s),
            stretches = (sequences.end(s) - begin + trapezoid_stretch - 1) / trapezoid_stretch,
            first = ssd_slot(begin, s, 0, trapezoid_stretch);
  replace_in_order(stretches, [&](int n) { return totals + static_cast<std::ptrdiff_t>(first + n) * A + k; }, angle);
  if (own && stretches > 0) math::split_turns(angle, own[0], own[1]);
}
template <class I, int A>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_add(Rows<I, A> turns, const I* begins, int slots, Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int slot = static_cast<int>(i / A), k = static_cast<int>(i % A);
  if (slot >= slots) return;
  const SsdStretch stretch = ssd_stretch_of(sequences, slot, trapezoid_stretch);
  const I begin = begins[i];
  each_token(stretch, [&](int row) { return turns[row][k]; }, [&](int row, I x) { turns[row][k] = begin + x; });
}

// sums (slots, A) <- those of stretches' gradients.
template <class T, int A>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_back_stretches(double* sums, int slots, Rows<const T, A> dangles, Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int slot = static_cast<int>(i / A), k = static_cast<int>(i % A);
  if (slot >= slots) return;
  const SsdStretch stretch = ssd_stretch_of(sequences, slot, trapezoid_stretch);
  double sum = 0;
#pragma unroll 8
  for (int row = stretch.first; row < stretch.first + stretch.count; ++row) sum += static_cast<double>(dangles[row][k]);
  sums[i] = sum;
}
// sums <- what comes behind stretches. of_history: null, or the gradients where sequences end and, afterwards, begin.
template <class Sizes, class T, int A>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_back_pass(double* sums, T* of_history, Sequences sequences) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x) * Block::threads + thread(), s = i / A, k = i % A;
  if (s >= sequences.count) return;
  T* const own = of_history ? of_history + s * Sizes::history_size + 2 * k : nullptr;
  double later = own ? static_cast<double>(own[0]) / (2 * math::pi) : 0.0;
  const int begin = sequences.begin(s),
            stretches = (sequences.end(s) - begin + trapezoid_stretch - 1) / trapezoid_stretch,
            first = ssd_slot(begin, s, 0, trapezoid_stretch);
  replace_in_order(
      stretches, [&](int n) { return sums + static_cast<std::ptrdiff_t>(first + stretches - 1 - n) * A + k; }, later);
  if (own) own[0] = own[1] = static_cast<T>(2 * math::pi * later);
}
// later (T, A) <- the gradients of tokens' own parts of the angles: all later angles' have them.
template <class T, int A>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_back_later(Rows<T, A> later, const double* behind, int slots, Rows<const T, A> dangles,
                         Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int slot = static_cast<int>(i / A), k = static_cast<int>(i % A);
  if (slot >= slots) return;
  const SsdStretch stretch = ssd_stretch_of(sequences, slot, trapezoid_stretch);
  double sum = behind[i];
#pragma unroll 8
  for (int row = stretch.first + stretch.count - 1; row >= stretch.first; --row) {
    sum += static_cast<double>(dangles[row][k]);
    later[row][k] = static_cast<T>(sum);
  }
}
// draw (T, 2 H + Na) <-, ddelta (T, H) += gradients. A warp takes a token.
template <bool softplus_rate, class Sizes, class D, class T, int H, int A, int C>
__global__ void __launch_bounds__(Block::threads)
    trapezoid_back_rows(Rows<D, C> draw, Rows<T, H> ddelta, Rows<const T, H> dlog_decay, Rows<const T, H> dmu,
                        Rows<const T, A> later, Rows<const T, H> delta, Rows<const T, C> raw) {
  begin_kernel();
  constexpr int Na = Sizes::Na, of_lane = (Na + 31) / 32;
  const int row = static_cast<int>(blockIdx.x) * Block::warps + warp();
  if (row >= raw.rows) return;
  const T* const from = raw[row];
  T signs[of_lane], slopes[of_lane], of_raw[of_lane];
#pragma unroll
  for (int j = 0; j < of_lane; ++j) {
    const int i = lane() + 32 * j;
    const T x = i < Na ? from[2 * H + i] : T(0);
    signs[j] = static_cast<T>(math::pi) * std::tanh(x);
    // tanh' = 4 e / (1 + e)^2 with e = exp(-2 |x|): 1 - tanh^2 cancels.
    const T e = std::exp(-2 * std::fabs(x));
    slopes[j] = static_cast<T>(4 * math::pi) * e / ((1 + e) * (1 + e));
    of_raw[j] = 0;
  }
  for (int first = 0; first < H; first += 32) {
    T of_step = 0;  // of the head of the lane's number
#pragma unroll 8
    for (int head = first; head < min(H, first + 32); ++head) {
      const T step = delta[row][head];
      T sum = 0;
#pragma unroll
      for (int j = 0; j < of_lane; ++j)
        if (const int i = lane() + 32 * j; i < Na) {
          const T of_part = later[row][head * Na + i];
          sum += signs[j] * of_part;
          of_raw[j] += step * of_part;
        }
      sum = lane_sum(sum);
      if (lane() == head - first) of_step = sum;
    }
    const int head = first + lane();
    if (head >= H) continue;
    const T step = delta[row][head];
    const T u = from[head], w = from[H + head], rate = math::rate_of_input<softplus_rate>(u),
            least = static_cast<T>(math::least_rate), of_decay = dlog_decay[row][head];
    const bool decays_least = rate < least;
    ddelta[row][head] += of_step - (decays_least ? least : rate) * of_decay;
    draw[row][head] = D(decays_least ? T(0) : -math::rate_of_input_derivative<softplus_rate>(u) * step * of_decay);
    draw[row][H + head] = D(dmu[row][head] * math::sigmoid(w) * math::sigmoid(-w));
  }
#pragma unroll
  for (int j = 0; j < of_lane; ++j)
    if (const int i = lane() + 32 * j; i < Na) draw[row][2 * H + i] = D(slopes[j] * of_raw[j]);
}

inline std::size_t trapezoid_slots(int rows, int sequences) {
  return static_cast<std::size_t>(ssd_slots(rows, sequences, trapezoid_stretch));
}
// A call's memory: sums of stretches; backward, sums of all that is later.
template <class T, int A>
struct TrapezoidMemory {
  math::Turns<T>* totals = nullptr;
  double* sums = nullptr;
  Rows<T, A> later;

  void carve(Carver& memory, int rows, int sequences, bool with_backward) {
    const std::size_t size = trapezoid_slots(rows, sequences) * A;
    if (!with_backward) totals = memory.take<math::Turns<T>>(size);
    else sums = memory.take<double>(size), memory.take(later, rows);
  }
};
template <class Sizes>
std::size_t trapezoid_bytes(Sizes, int rows, int sequences, bool with_backward) {
  Carver counter;
  TrapezoidMemory<typename Sizes::Scalar, Sizes::H * Sizes::Na>().carve(counter, rows, sequences, with_backward);
  return counter.used();
}

}  // namespace detail

// Shapes and meanings are those of trapezoid.hpp in block/ and eigen/.
template <bool softplus_rate, class Sizes, class T, class I, int H, int A, int C>
void trapezoid(Grid& be, Sizes, Rows<T, H> log_decay, Rows<T, H> mu, Rows<I, A> turns, T* history,
               Rows<const T, H> delta, Rows<const T, C> raw, Sequences sequences) {
  static_assert(A == H * Sizes::Na && C == 2 * H + Sizes::Na);
  detail::clear_padding(be, log_decay), detail::clear_padding(be, mu);
  const auto of_sequences = static_cast<std::size_t>(sequences.count) * A;
  be.launch("trapezoid_rates", detail::trapezoid_rates<softplus_rate, Sizes, T, H, C>,
            (delta.rows + Block::warps - 1) / Block::warps, 0, log_decay, mu, static_cast<const T*>(history), delta,
            raw, sequences);
  const std::size_t slots = detail::trapezoid_slots(delta.rows, sequences.count);
  const auto count = static_cast<int>(slots);
  detail::TrapezoidMemory<T, A> memory;
  be.carve([&](Carver& carver) { memory.carve(carver, delta.rows, sequences.count, false); });
  I* const totals = memory.totals;
  be.launch_over("trapezoid_stretches", detail::trapezoid_stretches<Sizes, T, I, H, A, C>, slots * A, turns, totals,
                 count, delta, raw, sequences);
  be.launch_over("trapezoid_pass", detail::trapezoid_pass<Sizes, T, I, A>, of_sequences, totals, history, sequences);
  be.launch_over("trapezoid_add", detail::trapezoid_add<I, A>, slots * A, turns, static_cast<const I*>(totals), count,
                 sequences);
}

template <bool softplus_rate, class Sizes, class D, class T, int H, int A, int C, class Passed = network::NoPassedState>
void trapezoid_backward(Grid& be, Sizes, Rows<D, C> draw, Rows<T, H> ddelta, Rows<const T, H> dlog_decay,
                        Rows<const T, H> dmu, Rows<const T, A> dangles, Rows<const T, H> delta, Rows<const T, C> raw,
                        Sequences sequences, Passed passed = {}) {
  static_assert(A == H * Sizes::Na && C == 2 * H + Sizes::Na);
  const std::size_t slots = detail::trapezoid_slots(delta.rows, sequences.count);
  const auto count = static_cast<int>(slots);
  detail::TrapezoidMemory<T, A> memory;
  be.carve([&](Carver& carver) { memory.carve(carver, delta.rows, sequences.count, true); });
  double* const sums = memory.sums;
  const Rows<T, A> later = memory.later;
  T* of_history = nullptr;
  if constexpr (Passed::passes) of_history = passed.gradient;
  detail::clear_padding(be, draw);
  be.launch_over("trapezoid_back_stretches", detail::trapezoid_back_stretches<T, A>, slots * A, sums, count, dangles,
                 sequences);
  be.launch_over("trapezoid_back_pass", detail::trapezoid_back_pass<Sizes, T, A>,
                 static_cast<std::size_t>(sequences.count) * A, sums, of_history, sequences);
  be.launch_over("trapezoid_back_later", detail::trapezoid_back_later<T, A>, slots * A, later,
                 static_cast<const double*>(sums), count, dangles, sequences);
  be.launch("trapezoid_back_rows", detail::trapezoid_back_rows<softplus_rate, Sizes, D, T, H, A, C>,
            (delta.rows + Block::warps - 1) / Block::warps, 0, draw, ddelta, dlog_decay, dmu, in(later), delta, raw);
}

}  // namespace mamba::cuda
