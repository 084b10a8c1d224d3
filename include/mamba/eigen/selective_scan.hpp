// The selective scan of Mamba-1 on one core (specification, sections 2.7, 2.8 and 5; Gu and Dao 2023, section 3.3).
//
// Vectors run across the states of a channel; a block of channels x vectors of states stays in registers while time
// passes. Backward recomputes the states of a chunk of time and keeps them, with their decays, in the first-level
// cache; of the forward pass only the states at the chunks' boundaries are kept. The memory for L steps is L / chunk
// states.
#pragma once

#include <algorithm>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

inline constexpr int scan_chunk = Tuning::scan_chunk;  // steps between kept states

// How many boundary states the sequences of a tile need.
template <class T, int E, int N>
int kept_states(network::SelectiveScanSizes<T, E, N>, Sequences sequences) {
  return states_between_chunks(sequences, scan_chunk);
}

// What the scan works in beside its arguments: nothing.
template <class Core, class T, int E, int N>
void reserve(Core&, network::SelectiveScanSizes<T, E, N>, bool /*with_backward*/) {}

namespace detail {

// How the states of E channels x N are cut into blocks that fit the registers.
template <class T, int N, int MostVectors>
struct ScanBlocking {
  using V = Vector<T, N>;
  static constexpr int vectors = vectors_for<V>(N);  // of one channel
  static constexpr int states = Tuning::scan_vectors(vector_registers);
  static constexpr int divisor(int most) {
    while (vectors % most != 0) --most;
    return most;
  }
  static constexpr int block_vectors = divisor((std::min)({vectors, states, MostVectors}));
  static constexpr int block_channels = states / block_vectors;
};

// f(first channel, channels, first vector) for all blocks of channels [begin, end), a multiple of a block's channels
// but for E; channels is a constant.
template <class Blocking, int E, class F>
MAMBA_INLINE void each_scan_block(int begin, int end, F&& f) {
  constexpr int channels = Blocking::block_channels, whole = E / channels * channels;
  for (int e = begin; e < (std::min)(end, whole); e += channels)
    for (int v = 0; v < Blocking::vectors; v += Blocking::block_vectors)
      f(e, std::integral_constant<int, channels>{}, v);
  if constexpr (whole < E)
    if (end == E)
      for (int e = whole; e < E; ++e)
        for (int v = 0; v < Blocking::vectors; v += Blocking::block_vectors) f(e, std::integral_constant<int, 1>{}, v);
}

}  // namespace detail

// y (T, E) <- scan + skip.
//   delta, u (T, E); b, c (T, N); a (E, N), whose derived weight is the rate A log2(e); d (E)
//   all_boundaries: (kept_states(), E, N) states kept for the backward pass, or null
//   all_states: (sequences, E, N) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: a blocked row is read out of the state and then forgotten
template <class Core, class T, class S, int E, int N, class Blocked = NoRows>
void selective_scan(Core& core, Rows<T, E> y, T* all_boundaries, T* all_states, Rows<const T, E> delta,
                    Rows<const S, E> u, Rows<const S, N> b, Rows<const S, N> c, Sequences sequences, Weight<T, E, N> a,
                    Weight<T, 1, E> d, Blocked rows = {}) {
  using Blocking = detail::ScanBlocking<T, N, Tuning::scan_channel_vectors>;
  using V = typename Blocking::V;
  constexpr int vectors = Blocking::block_vectors;
  constexpr std::ptrdiff_t state_size = static_cast<std::ptrdiff_t>(E) * a.stride;

  constexpr int piece = Tuning::scan_piece_channels;
  static_assert(piece % Blocking::block_channels == 0);
  share_out(core, (E + piece - 1) / piece, static_cast<long long>(y.rows) * E * N, [&](int number) {
    T *boundaries = all_boundaries, *states = all_states;
    for (int s = 0; s < sequences.count; ++s) {
      const int begin = sequences.begin(s), end = sequences.end(s);
      detail::each_scan_block<Blocking, E>(
          number * piece, (std::min)(E, (number + 1) * piece),
          [&](int e, auto block_channels, int first_vector) MAMBA_INLINE_LAMBDA {
            constexpr int channels =
                decltype(block_channels)::value;  // not an argument: nvcc with g++ 13 takes none for an array's size
            const int n = first_vector * V::width;
            V h[channels][vectors], rate[channels][vectors];
            // A single step is over before the processor has guessed where the next states lie.
            constexpr std::ptrdiff_t ahead = 2 * channels * vectors * V::width;
            unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
              unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
                const std::ptrdiff_t at = (e + i) * a.stride + n + v * V::width;
                if (states) packet::prefetch(states + at + ahead), packet::prefetch(a.derived + at + ahead);
                rate[i][v] = V::load(a.derived + at);
                h[i][v] = states ? V::load(states + at) : V::zero();
              });
            });
            // A first step without a past has no decay to compute.
            const auto step = [&](int t, auto has_past) MAMBA_INLINE_LAMBDA {
              unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
                const V step_size = V::broadcast(delta[t][e + i]), input = V::broadcast(delta[t][e + i] * u[t][e + i]);
                V sum = V::zero();
                unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
                  const V carried = has_past ? math::decay(step_size, rate[i][v]) * h[i][v] : V::zero();
                  h[i][v] = math::next_state(carried, input, V::load(b[t] + n + v * V::width));
                  sum = multiply_add(V::load(c[t] + n + v * V::width), h[i][v], sum);
                  if (rows.blocked(t)) h[i][v] = carried;
                });
                const T before = first_vector == 0 ? d.value[e + i] * u[t][e + i] : y[t][e + i];
                y[t][e + i] = before + sum.sum();
              });
            };
            if (!states) step(begin, std::false_type{});
            for (int t = states ? begin : begin + 1; t < end; ++t) {
              if (boundaries && t > begin && (t - begin) % scan_chunk == 0) {
                T* const kept = boundaries + ((t - begin) / scan_chunk - 1) * state_size;
                unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
                  unroll<vectors>(
                      [&](auto v) MAMBA_INLINE_LAMBDA { h[i][v].store(kept + (e + i) * a.stride + n + v * V::width); });
                });
              }
              step(t, std::true_type{});
            }
            if (states)
              unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
                unroll<vectors>(
                    [&](auto v) MAMBA_INLINE_LAMBDA { h[i][v].store(states + (e + i) * a.stride + n + v * V::width); });
              });
          });
      if (states) states += state_size;
      if (boundaries) boundaries += (std::max)(0, end - begin - 1) / scan_chunk * state_size;
    }
  });
  clear_padding(y);
}

// ddelta, du (T, E), db, dc (T, N) <- gradients; da (E, N) += the gradient with respect to a (not A_log), dd (E) += ...
//   boundaries as selective_scan kept them; carry: (E, N) scratch, needed when there are any
//   passed: where the sequences began and the gradient of where they ended, (sequences, E, N) each (network/mixer.hpp)
template <class Core, class T, class S, int E, int N, class Passed = network::NoPassedState>
void selective_scan_backward(Core&, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc,
                             WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, Rows<const T, E> dy,
                             const T* boundaries, T* carry, Rows<const T, E> delta, Rows<const S, E> u,
                             Rows<const S, N> b, Rows<const S, N> c, Sequences sequences, Weight<T, E, N> a,
                             Weight<T, 1, E> d, Passed passed = {}) {
  using Blocking = detail::ScanBlocking<T, N, Tuning::scan_backward_channel_vectors>;
  using V = typename Blocking::V;
  constexpr int vectors = Blocking::block_vectors;
  constexpr std::ptrdiff_t state_size = static_cast<std::ptrdiff_t>(E) * a.stride;

  std::fill_n(db.data, static_cast<std::ptrdiff_t>(db.rows) * db.stride, T(0));
  std::fill_n(dc.data, static_cast<std::ptrdiff_t>(dc.rows) * dc.stride, T(0));
  clear_padding(ddelta);
  clear_padding(du);
  for (int s = 0; s < sequences.count; ++s) {
    const int begin = sequences.begin(s), end = sequences.end(s);
    const int chunks = (end - begin + scan_chunk - 1) / scan_chunk;
    const T* began = nullptr;
    T* of_end = nullptr;
    if constexpr (Passed::passes) {
      began = passed.from + s * state_size;
      if (passed.gradient) of_end = passed.gradient + s * state_size;
    }
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
      const int first = begin + chunk * scan_chunk, last = (std::min)(end, first + scan_chunk);
      const T* const start = chunk > 0 ? boundaries + (chunk - 1) * state_size : began;
      const T* const future = chunk + 1 < chunks ? carry : of_end;  // the gradient of what this chunk leaves
      T* const handed_on = chunk > 0 ? carry : of_end;
      // For each step and channel the sums over states of lambda * b and of lambda * carried * rate, which one block of
      // states hands to the next.
      V lambda_b[scan_chunk][Blocking::block_channels], lambda_rate[scan_chunk][Blocking::block_channels];
      detail::each_scan_block<Blocking, E>(0, E, [&](int e, auto block_channels, int first_vector) MAMBA_INLINE_LAMBDA {
        constexpr int channels = decltype(block_channels)::value;
        const int n = first_vector * V::width;
        const auto offset = [&](int i, int v) MAMBA_INLINE_LAMBDA { return (e + i) * a.stride + n + v * V::width; };
        const bool first_block = first_vector == 0, last_block = first_vector + vectors == Blocking::vectors;
        // Decays, and states before each step and after the last.
        V kept_decay[scan_chunk][channels][vectors], kept_state[scan_chunk + 1][channels][vectors];
        V rate[channels][vectors];
        unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
          unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA { rate[i][v] = V::load(a.derived + offset(i, v)); });
        });

        {  // the states again
          V h[channels][vectors];
          unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
            unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
              h[i][v] = start ? V::load(start + offset(i, v)) : V::zero();
              kept_state[0][i][v] = h[i][v];
            });
          });
          for (int t = first; t < last; ++t)
            unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
              const V step_size = V::broadcast(delta[t][e + i]), input = V::broadcast(delta[t][e + i] * u[t][e + i]);
              unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
                // Where there is nothing before the first step, there is nobody to hand the adjoint to.
                const V factor = t > begin || start ? math::decay(step_size, rate[i][v]) : V::zero();
                kept_decay[t - first][i][v] = factor;
                h[i][v] = math::next_state(factor * h[i][v], input, V::load(b[t] + n + v * V::width));
                kept_state[t - first + 1][i][v] = h[i][v];
              });
            });
        }

        V from_future[channels][vectors], drate[channels][vectors];
        unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
          unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
            from_future[i][v] = future ? V::load(future + offset(i, v)) : V::zero();
            drate[i][v] = V::load(da.value + offset(i, v));
          });
        });
        for (int t = last - 1; t >= first; --t) {
          V db_t[vectors], dc_t[vectors], b_t[vectors], c_t[vectors];
          unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
            const int at = n + v * V::width;
            b_t[v] = V::load(b[t] + at);
            c_t[v] = V::load(c[t] + at);
            db_t[v] = V::load(db[t] + at);
            dc_t[v] = V::load(dc[t] + at);
          });
          unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
            const T u_t = u[t][e + i], delta_t = delta[t][e + i], dy_t = dy[t][e + i];
            const V input = V::broadcast(delta_t * u_t), dy_v = V::broadcast(dy_t), delta_v = V::broadcast(delta_t);
            V of_b = first_block ? V::zero() : lambda_b[t - first][i];
            V of_rate = first_block ? V::zero() : lambda_rate[t - first][i];
            unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
              const V lambda = math::adjoint(c_t[v], dy_v, from_future[i][v]);
              dc_t[v] = multiply_add(dy_v, kept_state[t - first + 1][i][v], dc_t[v]);
              db_t[v] = multiply_add(lambda, input, db_t[v]);
              of_b = multiply_add(lambda, b_t[v], of_b);
              from_future[i][v] = kept_decay[t - first][i][v] * lambda;
              const V lambda_carried = from_future[i][v] * kept_state[t - first][i][v];
              of_rate = multiply_add(lambda_carried, rate[i][v], of_rate);
              drate[i][v] = multiply_add(lambda_carried, delta_v, drate[i][v]);
            });
            if (last_block) {
              const T sum_b = of_b.sum();
              du[t][e + i] = d.value[e + i] * dy_t + delta_t * sum_b;
              ddelta[t][e + i] = T(math::ln2) * of_rate.sum() + u_t * sum_b;
              dd.value[e + i] += dy_t * u_t;
            } else {
              lambda_b[t - first][i] = of_b, lambda_rate[t - first][i] = of_rate;
            }
          });
          unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
            const int at = n + v * V::width;
            db_t[v].store(db[t] + at);
            dc_t[v].store(dc[t] + at);
          });
        }
        unroll<channels>([&](auto i) MAMBA_INLINE_LAMBDA {
          unroll<vectors>([&](auto v) MAMBA_INLINE_LAMBDA {
            drate[i][v].store(da.value + offset(i, v));
            if (handed_on) from_future[i][v].store(handed_on + offset(i, v));
          });
        });
      });
    }
    boundaries += (std::max)(0, chunks - 1) * state_size;
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
