// Mamba-3's single tokens whose sequences' states are given, in one kernel: from what in_proj makes of a token to what
// out_proj takes of it (specification, sections 14.3, 14.5 and 14.7).
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/rotary_rows.hpp>
#include <mamba/cuda/grid/step_product.hpp>
#include <mamba/cuda/grid/trapezoid.hpp>
#include <mamba/math/activation.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/math/trapezoid.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

namespace detail {

template <class T>
inline constexpr T none_of = std::numeric_limits<T>::quiet_NaN();

// What a token's kernel reads.
template <class Sizes, class S, class T = typename Sizes::Scalar>
struct RotaryToken {
  static constexpr int H = Sizes::H, E = Sizes::E, W = 2 * H + Sizes::Na;
  Rows<const T, H> pi;
  Rows<const T, W> raw;
  Rows<const S, Sizes::C> xbc;
  Rows<const S, E> z;
  Weight<T, 1, H> step_bias;
  network::RotaryWeights<Sizes> w;
  network::RotaryGate<Sizes> gate;
};

// A block's threads take a head of a sequence: its channels side by side, as many as `width` at a time, and its states
// shared out among groups of threads.
template <class Sizes>
struct RotaryTokenShape {
  static constexpr int width = padded(Sizes::P) < 64 ? padded(Sizes::P) : 64, groups = Block::threads / width,
                       states_at_once = Sizes::R == 1 ? 32 * 4 / static_cast<int>(sizeof(typename Sizes::Scalar)) : 8;
};

// What they exchange.
template <class Sizes, class T = typename Sizes::Scalar>
struct RotaryTokenStage {
  using Shape = RotaryTokenShape<Sizes>;
  static constexpr int R = Sizes::R, Ns = Sizes::Ns;
  alignas(16) math::Turns<T> angles[Sizes::Na];
  alignas(16) T keys[R][Ns], queries[R][Ns], last_keys[R][Ns];  // of the token, and of the one before it
  T shares[Shape::groups][Shape::width];
  T y[R][Sizes::P];
  T rho[R];
};

// o (T, E) <- the tokens' outputs behind their gates, one of each sequence; states and histories <- those behind them.
template <bool softplus_rate, bool normed, class Sizes, class S, class T = typename Sizes::Scalar>
__global__ void __launch_bounds__(Block::threads)
    rotary_token(Rows<S, Sizes::E> o, network::MixerState<T> state, RotaryToken<Sizes, S> in, Sequences sequences) {
  begin_kernel();
  using Shape = RotaryTokenShape<Sizes>;
  using Pairs = RotaryPairs<Sizes>;
  constexpr int H = Sizes::H, P = Sizes::P, N = Sizes::N, Ns = Sizes::Ns, R = Sizes::R, Na = Sizes::Na, G = Sizes::G,
                width = Shape::width, groups = Shape::groups, states_at_once = Shape::states_at_once;
  extern __shared__ __align__(128) std::byte shared[];
  auto& stage = *reinterpret_cast<RotaryTokenStage<Sizes>*>(shared);
  const int head = static_cast<int>(blockIdx.x) % H, s = static_cast<int>(blockIdx.x) / H, group = head / (H / G),
            row = sequences.begin(s);
  const int column = thread() % width, own = thread() / width;
  T* const angles = state.history + s * Sizes::history_size + 2 * head * Na;
  T* const kept_keys = state.history + s * Sizes::history_size + Sizes::angles_size + head * R * Ns;
  T* const kept_x = state.history + s * Sizes::history_size + Sizes::angles_size + Sizes::keys_size;
  T* const states = state.states + s * Sizes::state_size + static_cast<std::ptrdiff_t>(head) * Ns * padded(P);
  const auto channel_exists = [&](int p) { return own < groups && p < padded(P); };

  // States are asked for first: everything else is done while they are on their way.
  T h[states_at_once];
  const auto load = [&](int p, int first) {
#pragma unroll
    for (int i = 0; i < states_at_once; ++i)
      if (const int n = first + i * groups; channel_exists(p) && n < Ns)
        h[i] = states[static_cast<std::ptrdiff_t>(n) * padded(P) + p];
  };
  load(column, own);

  const T* const raw = in.raw[row];
  const T step = math::softplus(in.pi[row][head] + in.step_bias.value[head]);
  const T rate = math::rate_of_input<softplus_rate>(raw[head]), least = static_cast<T>(math::least_rate);
  const T log_decay = -((rate < least ? least : rate) * step);
  const T decay = math::exp2_nonpositive(log_decay * static_cast<T>(math::log2_e));
  bool has_none = false;  // whole numbers cannot tell that an angle is none
  for (int i = thread(); i < Na; i += Block::threads) {
    const T of_angle = raw[2 * H + i], begin = angles[2 * i], rest = angles[2 * i + 1];
    has_none = has_none || of_angle != of_angle || not_finite(begin + rest) != 0;
    const auto angle = static_cast<math::Turns<T>>(math::joined_turns(begin, rest) + turns_of_token(of_angle, step));
    stage.angles[i] = angle;
    math::split_turns(angle, angles[2 * i], angles[2 * i + 1]);
  }
  for (int i = thread(); i < R * Ns; i += Block::threads) stage.last_keys[i / Ns][i % Ns] = kept_keys[i];
  has_none = __syncthreads_or(has_none);
  const T mu = has_none ? none_of<T> : math::sigmoid(raw[H + head]);

  // Keys, then queries, a warp for a rank's.
  for (int item = warp(); item < 2 * R; item += Block::warps) {
    const bool is_query = item >= R;
    const int r = item % R;
    typename Pairs::Values x, bias, turned;
    Pairs::load_normed(x, in.xbc[row] + Sizes::E + item * G * N + group * N,
                       is_query ? in.w.c_norm.value : in.w.b_norm.value);
    Pairs::load(bias, (is_query ? in.w.c_bias : in.w.b_bias).row(head) + r * N);
    const typename Pairs::Circles circles(stage.angles);
    circles.turn(turned, x, bias);
    Pairs::store_key(is_query ? stage.queries[r] : stage.keys[r], turned);
    if (!is_query) Pairs::store_key(kept_keys + r * Ns, turned);
  }
  __syncthreads();

  const T now = mu * step, previous = (1 - mu) * step;
  for (int p = column; p - column < P; p += width) {
    const T of_state = p < P ? decay : T(0);  // what pads channels stays zero, whatever it is multiplied with
    T value[R], entering[R], before[R], sums[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      value[r] = p < P ? rotary_value<Sizes>(in.xbc[row], in.w.mimo_x, head, r, p) : T(0);
      entering[r] = p < P ? now * value[r] : T(0);
      before[r] = p < P ? previous * rotary_value<Sizes>(kept_x, in.w.mimo_x, head, r, p) : T(0);
      sums[r] = 0;
    }
    for (int first = own; first < Ns; first += states_at_once * groups) {
      if (p >= width || first > own) load(p, first);
#pragma unroll
      for (int i = 0; i < states_at_once; ++i) {
        const int n = first + i * groups;
        if (n >= Ns || !channel_exists(p)) continue;
#pragma unroll
        for (int r = 0; r < R; ++r) h[i] += stage.last_keys[r][n] * before[r];
        h[i] *= of_state;
#pragma unroll
        for (int r = 0; r < R; ++r) h[i] += stage.keys[r][n] * entering[r];
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] += stage.queries[r][n] * h[i];
        states[static_cast<std::ptrdiff_t>(n) * padded(P) + p] = h[i];
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (own < groups) stage.shares[own][column] = sums[r];
      __syncthreads();
      if (own == 0 && p < P) {
        T sum = sums[r];
        for (int i = 1; i < groups; ++i) sum += stage.shares[i][column];
        stage.y[r][p] = sum + in.w.d.value[head] * value[r];
        if (r == 0) kept_x[head * P + p] = static_cast<T>(in.xbc[row][head * P + p]);
      }
      __syncthreads();
    }
  }

  // The norm over a head's channels, before its gate, and the gate of each rank.
  if constexpr (normed) {
    for (int r = warp(); r < R; r += Block::warps) {
      T squares = 0;
      for (int p = lane(); p < P; p += 32) squares += stage.y[r][p] * stage.y[r][p];
      squares = lane_sum(squares);
      if (lane() == 0) stage.rho[r] = 1 / std::sqrt(squares / T(P) + static_cast<T>(math::norm_epsilon));
    }
    __syncthreads();
  }
  for (int p = thread(); p < P; p += Block::threads) {
    const int e = head * P + p;
    const T z = static_cast<T>(in.z[row][e]), weight = normed ? in.gate.norm.value[e] : T(1);
    T sum = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const T value = normed ? stage.y[r][p] * stage.rho[r] * weight : stage.y[r][p];
      if constexpr (Sizes::multiple)
        sum += value * math::silu(z * in.gate.z.row(head)[r * P + p]) * in.gate.o.row(head)[r * P + p];
      else sum = value * math::silu(z);
    }
    o[row][e] = S(sum);
  }
}

// Outputs of two types, each to rows side by side: the first `columns` to one, the rest to the other.
template <class Y, int CountY, class Z, int CountZ>
struct SplitResult {
  struct Early {};
  SideBySide<Y, CountY> first;
  SideBySide<Z, CountZ> rest;
  int columns;

  __device__ Early early(int, int) const { return {}; }
  template <class T>
  __device__ void take(int row, int output, T sum, Early) const {
    if (output < columns) first.at(row, output) = Y(sum);
    else rest.at(row, output - columns) = Z(sum);
  }
};

}  // namespace detail

// [y, also] <- rms_norm(x) W^T, a part of the columns in each; what pads their rows stays as it is, since
// rotary_of_tokens, which they are for, does not read it.
template <class Y, int... OfY, class Z, int... OfZ, class T, class S, int Out, int In>
void normed_products(Grid& be, Beside<Y, OfY...> y, Beside<Z, OfZ...> also, Rows<const T, In> x, Weight<T, 1, In> norm,
                     Weight<S, Out, In> w) {
  static_assert(Out == Beside<Y, OfY...>::all_columns + Beside<Z, OfZ...>::all_columns);
  detail::step_product<Y>(be,
                          detail::SplitResult<Y, sizeof...(OfY), Z, sizeof...(OfZ)>{
                              detail::side_by_side(y), detail::side_by_side(also), Beside<Y, OfY...>::all_columns},
                          detail::NormedOperand<T, In>{x, norm.value}, w);
}

// o (T, E) <- the gated outputs of sequences' next tokens, of in_proj's outputs: pi (T, H), which step_bias (H) is
// added to, raw (T, 2 H + Na), xbc (T, E + 2 R G N), z (T, E). state: of T sequences, where they are and, afterwards,
// where the tokens have brought them (specification, section 14.5). A token of each sequence, none of which is empty;
// the rows of pi, raw, xbc and z need no padding of zeros.
template <bool softplus_rate, bool normed, class Sizes, class S, class T = typename Sizes::Scalar>
void rotary_of_tokens(Grid& be, Sizes, Rows<S, Sizes::E> o, network::MixerState<std::type_identity_t<T>> state,
                      Rows<const T, Sizes::H> pi, Weight<T, 1, Sizes::H> step_bias,
                      Rows<const T, 2 * Sizes::H + Sizes::Na> raw, Rows<const S, Sizes::C> xbc,
                      Rows<const S, Sizes::E> z, Sequences sequences, network::RotaryWeights<Sizes> w,
                      network::RotaryGate<Sizes> gate) {
  using Stage = detail::RotaryTokenStage<Sizes>;
  detail::clear_padding(be, o);
  be.launch_shaped("rotary_token", detail::rotary_token<softplus_rate, normed, Sizes, S>,
                   {sequences.count * Sizes::H, Block::threads, shared_memory<Stage>}, o, state,
                   detail::RotaryToken<Sizes, S>{pi, raw, xbc, z, step_bias, w, gate}, sequences);
}

}  // namespace mamba::cuda
