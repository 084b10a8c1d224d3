// The selective scan of Mamba-1 by one thread block (specification, sections 2.7, 2.8 and 5; Gu and Dao 2023, section 3.3).
//
//   h_t = 2^(step_t rate) h_{t-1} + (step_t u_t) b_t      y_t = c_t . h_t + d u_t
//
// A group of lanes holds the states of one channel, four neighbouring states and more a lane (ScanLayout); time passes in
// registers. The block goes from piece to piece, a chunk of time by a slab of channels: the next piece is on its way to
// shared memory while this one is computed. Backward recomputes the states of a chunk and keeps them, with their decays,
// in registers; of the forward pass only the states between chunks are kept.
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/cuda/async_copy.hpp>
#include <mamba/cuda/block.hpp>
#include <mamba/cuda/scan_layout.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::cuda {

namespace detail {

// Where a block is: rows [first, first + rows) of sequence s, channels from `channel` on.
template <int E, int Chunk, int Slab, bool backward>
struct ScanPiece {
  Sequences sequences;
  int s, begin, end, first, channel, kept;  // kept: states between chunks of the sequences before

  __device__ explicit ScanPiece(Sequences sequences) : sequences(sequences), s(0), channel(0), kept(0) { enter(); }
  __device__ bool exists() const { return s < sequences.count; }
  __device__ int rows() const { return end - first < Chunk ? end - first : Chunk; }
  __device__ bool is_first() const { return first == begin; }
  __device__ bool is_last() const { return first + Chunk >= end; }
  __device__ bool ends_slabs() const { return channel + Slab >= E; }
  // The number of the state kept behind this chunk; before it lies the one with the number before.
  __device__ int boundary() const { return kept + (first - begin) / Chunk; }

  __device__ void next() {
    channel += Slab;
    if (channel < E) return;
    channel = 0;
    if (backward ? first > begin : first + Chunk < end) {
      first += backward ? -Chunk : Chunk;
      return;
    }
    kept += (end - begin - 1) / Chunk;
    ++s;
    if (exists()) enter();
  }

 private:
  __device__ void enter() {
    begin = sequences.begin(s), end = sequences.end(s);
    first = backward ? begin + (end - begin - 1) / Chunk * Chunk : begin;
  }
};

// The rows of a chunk in shared memory: b and c, and of every channel of the slab the numbers of `Values` arrays.
template <class T, int N, int Chunk, int Slab, int Values>
struct ScanStage {
  struct alignas(Values * sizeof(T) < 16 ? Values * sizeof(T) : 16) Channel {
    T at[Values];
  };
  alignas(16) T b[Chunk][padded(N)], c[Chunk][padded(N)];
  Channel channels[Chunk][Slab];

  // What does not exist becomes zero: a step of size zero changes no state. The copies run on.
  template <int E, class Piece, class... Arrays>
  __device__ void fetch(const Piece& piece, Rows<const T, N> from_b, Rows<const T, N> from_c, Arrays... arrays) {
    constexpr int quads = padded(N) * sizeof(T) / 16, per_quad = 16 / sizeof(T);
    const int rows = piece.rows();
    each(Chunk * quads, [&](int i) {
      const int k = i / quads, n = i % quads * per_quad;
      copy_async<16>(&b[k][n], from_b[piece.first + (k < rows ? k : 0)] + n, k < rows);
      copy_async<16>(&c[k][n], from_c[piece.first + (k < rows ? k : 0)] + n, k < rows);
    });
    each(Chunk * Slab, [&](int i) {
      const int k = i / Slab, local = i % Slab, e = piece.channel + local;
      const bool exists = k < rows && e < E;
      int value = 0;
      (copy_async<sizeof(T)>(&channels[k][local].at[value++], arrays[piece.first + (exists ? k : 0)] + (exists ? e : 0), exists), ...);
    });
    commit_copies();
  }
};

template <class T, int E, int N>
struct SelectiveScan {
  using L = ScanLayout<N>;
  static constexpr int chunk = L::chunk, states = L::states;
  static constexpr int ways = E >= 4 * L::groups ? 4 : E >= 2 * L::groups ? 2 : 1;  // channels that a group of lanes works on at once, forward
  static constexpr int slab = L::groups * ways < 64 ? 64 : L::groups * ways, backward_slab = L::groups < 64 ? 64 : L::groups;
  static constexpr std::ptrdiff_t state_size = static_cast<std::ptrdiff_t>(E) * padded(N);
  using Stage = ScanStage<T, N, chunk, slab, 2>;                   // step, u
  using BackwardStage = ScanStage<T, N, chunk, backward_slab, 4>;  // step, u, dy; then ddelta, du
  static constexpr int partial_elements = L::groups * chunk * padded(N);
  static_assert(LaneSums<2 * chunk, L::width>::elements <= L::channels * chunk * padded(N));
  static constexpr bool fits_block = 3 * sizeof(Stage) + Block::warps * LaneSums<ways * chunk, L::width>::elements * sizeof(T) <= Block::shared_bytes<T> &&
                                     partial_elements * sizeof(T) + 2 * sizeof(BackwardStage) <= Block::shared_bytes<T>;

  static __device__ T* state(T* states, int e) { return states + static_cast<std::ptrdiff_t>(e) * padded(N); }
  static __device__ const T* state(const T* states, int e) { return states + static_cast<std::ptrdiff_t>(e) * padded(N); }
  static __device__ int existing(int e) { return e < E ? e : E - 1; }  // all lanes run along: shuffles need them

  Rows<const T, E> delta, u;
  Rows<const T, N> b, c;
  Weight<T, E, N> a;
  Weight<T, 1, E> d;

  // y of the channels local, local + groups, ... (`ways` of them) of a piece. from_zero: nothing lies before the piece.
  template <bool from_zero, class Piece, class Blocked>
  __device__ void forward_channels(Rows<T, E> y, const Stage& stage, const Piece& piece, int first_local, const T* before, T* after, Blocked rows,
                                   T* sums_of_lanes) const {
    T rate[ways][states], h[ways][states], sums[ways * chunk];
    const auto local = [&](int w) { return first_local + w * L::groups; };
    const auto channel = [&](int w) { return piece.channel + local(w); };
    using Sums = LaneSums<ways * chunk, L::width>;
    static_assert(Sums::columns <= chunk);
    const int own = Sums::first() / chunk;  // the channel whose sums this lane will have
    const T skip = d.value[existing(channel(own))];
#pragma unroll
    for (int w = 0; w < ways; ++w) {
      L::load(rate[w], a.derived + existing(channel(w)) * a.stride);
      if constexpr (!from_zero) L::load(h[w], state(before, existing(channel(w))));
    }
    const int last = piece.rows() - 1;
#pragma unroll
    for (int k = 0; k < chunk; ++k) {
      const bool forgets = rows.blocked(piece.first + (k < last ? k : last));
      T b_k[states], c_k[states];
      L::load(b_k, stage.b[k]);
      L::load(c_k, stage.c[k]);
#pragma unroll
      for (int w = 0; w < ways; ++w) {
        const auto in = stage.channels[k][local(w)];
        const T step = in.at[0], input = step * in.at[1];
        T sum = 0;
#pragma unroll
        for (int i = 0; i < states; ++i) {
          const T carried = from_zero && k == 0 ? T(0) : math::decay(step, rate[w][i]) * h[w][i];
          const T next = math::next_state(carried, input, b_k[i]);
          sum += c_k[i] * next;
          h[w][i] = forgets ? carried : next;
        }
        sums[w * chunk + k] = sum;
      }
    }
    if (after)
#pragma unroll
      for (int w = 0; w < ways; ++w)
        if (channel(w) < E) L::store(state(after, channel(w)), h[w]);
    Sums::put(sums, sums_of_lanes);
    Sums::take(sums_of_lanes, [&](int number, T sum) {
      const int k = number % chunk;
      if (channel(own) < E && k <= last && Sums::part() == 0) y[piece.first + k][channel(own)] = skip * stage.channels[k][local(own)].at[1] + sum;
    });
  }

  // own: a state in global memory, needed without `boundaries` or `sequence_states`.
  template <class Blocked>
  __device__ __noinline__ void forward(Block& be, Rows<T, E> y, T* boundaries, T* sequence_states, Sequences sequences, Blocked rows) const {
    Stage* const stages = reinterpret_cast<Stage*>(be.scratch<T>());
    T* const sums = reinterpret_cast<T*>(stages + 3) + warp() * LaneSums<ways * chunk, L::width>::elements;
    ScanPiece<E, chunk, slab, false> piece(sequences);
    stages[0].template fetch<E>(piece, b, c, delta, u);
    for (int turn = 0; piece.exists(); turn = turn == 2 ? 0 : turn + 1) {
      auto next = piece;
      next.next();
      if (next.exists()) stages[turn == 2 ? 0 : turn + 1].template fetch<E>(next, b, c, delta, u), wait_for_copies<1>();
      else wait_for_copies<0>();
      __syncthreads();  // with three stages in turn the only one: what the next copies replace was read before it
      const bool from_zero = piece.is_first() && !sequence_states, last = piece.is_last();
      T* const own = sequence_states ? sequence_states + piece.s * state_size : reinterpret_cast<T*>(be.global);
      const T* const before = boundaries && !piece.is_first() ? boundaries + (piece.boundary() - 1) * state_size : own;
      T* const after = boundaries && !last ? boundaries + piece.boundary() * state_size : sequence_states || !last ? own : nullptr;
      for (int local = L::group(); local < slab && piece.channel + local - L::group() < E; local += L::groups * ways)
        if (from_zero) forward_channels<true>(y, stages[turn], piece, local, before, after, rows, sums);
        else forward_channels<false>(y, stages[turn], piece, local, before, after, rows, sums);
      piece = next;
    }
    __syncthreads();
  }

  // A lane's share of db and dc over the channels that its group has worked on.
  struct Shared {
    T db[chunk][states] = {}, dc[chunk][states] = {};
  };

  // Replaces the numbers of a channel by its gradients ddelta and du, given the sums over its states.
  using BackwardSums = LaneSums<2 * chunk, L::width>;
  struct Pending {
    int local = -1;  // the channel whose sums have been put; -1: none
    T skip = 0;
  };
  static __device__ void finish_channel(const Pending& pending, BackwardStage& stage, const T* sums_of_lanes) {
    // Lanes number k and, half a group apart, chunk + k have a step's two sums.
    BackwardSums::take(sums_of_lanes, [&](int k, T sum) {
      const T of_rate = __shfl_xor_sync(~0U, sum, L::width / 2);
      if (k >= chunk || BackwardSums::part() != 0 || pending.local < 0) return;
      auto& channel = stage.channels[k][pending.local];
      const T step = channel.at[0], u_k = channel.at[1], dy = channel.at[2];
      channel.at[0] = T(math::ln2) * of_rate + u_k * sum;
      channel.at[1] = pending.skip * dy + step * sum;
    });
  }

  // What a lane needs of a channel from global memory, asked for while the channel before is worked on.
  struct ChannelRows {
    T rate[states], da[states], skip;
  };
  __device__ ChannelRows load_channel(WeightGradient<T, E, N> da, int e) const {
    ChannelRows rows;
    L::load(rows.rate, a.derived + existing(e) * a.stride);
    L::load(rows.da, static_cast<const T*>(da.value) + existing(e) * da.stride);
    rows.skip = d.value[existing(e)];
    return rows;
  }

  // What a lane needs of a step from shared memory, asked for a step early: the way there takes longer than a step's products.
  struct StepRows {
    T b[states], c[states];
    typename BackwardStage::Channel of;
  };
  static __device__ StepRows load_step(const BackwardStage& stage, int k, int local) {
    StepRows rows;
    L::load(rows.b, stage.b[k]);
    L::load(rows.c, stage.c[k]);
    rows.of = stage.channels[k][local];
    return rows;
  }

  // The gradients of one channel of a piece, but for the sums over its states: those it only puts, and takes the pending
  // channel's instead, halfway, when they have long arrived. opens: nothing lies before the piece.
  template <bool opens, class Piece>
  __device__ void backward_channel(Shared& shared, WeightGradient<T, E, N> da, ChannelRows& rows, BackwardStage& stage, const Piece& piece, int local,
                                   const T* before, T* carry, Pending& pending, T* sums_of_lanes) const {
    const int e = piece.channel + local, safe = existing(e);
    T from_future[states], h[chunk][states], decays[chunk][states], start[states];
    if constexpr (!opens) L::load(start, state(before, safe));
#pragma unroll
    for (int i = 0; i < states; ++i) from_future[i] = 0;
    if (!piece.is_last()) L::load(from_future, state(static_cast<const T*>(carry), safe));
    StepRows next = load_step(stage, 0, local);
#pragma unroll
    for (int k = 0; k < chunk; ++k) {
      const StepRows now = next;
      next = load_step(stage, k + 1 < chunk ? k + 1 : k, local);
      const T step = now.of.at[0], input = step * now.of.at[1];
#pragma unroll
      for (int i = 0; i < states; ++i) {
        if (opens && k == 0) {
          h[k][i] = input * now.b[i];
        } else {
          decays[k][i] = math::decay(step, rows.rate[i]);
          h[k][i] = math::next_state(decays[k][i] * (k == 0 ? start[i] : h[k == 0 ? 0 : k - 1][i]), input, now.b[i]);
        }
      }
    }
    finish_channel(pending, stage, sums_of_lanes);
    T sums[2 * chunk];  // of lambda b, then of lambda carried rate
#pragma unroll
    for (int k = chunk - 1; k >= 0; --k) {
      const StepRows now = next;
      next = load_step(stage, k > 0 ? k - 1 : 0, local);
      const T step = now.of.at[0], input = step * now.of.at[1], dy = now.of.at[2];
      sums[k] = sums[chunk + k] = 0;
#pragma unroll
      for (int i = 0; i < states; ++i) {
        const T lambda = math::adjoint(now.c[i], dy, from_future[i]);
        shared.dc[k][i] += dy * h[k][i];
        shared.db[k][i] += lambda * input;
        sums[k] += lambda * now.b[i];
        if (opens && k == 0) continue;
        from_future[i] = decays[k][i] * lambda;
        const T lambda_carried = from_future[i] * (k == 0 ? start[i] : h[k == 0 ? 0 : k - 1][i]);
        sums[chunk + k] += lambda_carried * rows.rate[i];
        rows.da[i] += lambda_carried * step;
      }
    }
    if (e < E) {
      if constexpr (!opens) L::store(state(carry, e), from_future);
      L::store(da.value + e * da.stride, rows.da);
    }
    BackwardSums::put(sums, sums_of_lanes);
    pending = {local, rows.skip};
  }

  // to <- the sum of what the groups of lanes have left of db or dc, in their order.
  static __device__ void sum_groups(Rows<T, N> to, const T* partial, int first, int rows) {
    constexpr int quads = padded(N) / 4;
    each(rows * quads, [&](int i) {
      Quad<T> sum{};
#pragma unroll 8
      for (int g = 0; g < L::groups; ++g) {
        const auto q = load4(partial + g * chunk * padded(N) + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] += q.at[j];
      }
      store4(to[first + i / quads] + i % quads * 4, sum);
    });
  }
  static __device__ void leave(T* partial, const T (&values)[chunk][states]) {
#pragma unroll
    for (int k = 0; k < chunk; ++k) L::store(partial + (L::group() * chunk + k) * padded(N), values[k]);
  }

  // carry: a state in global memory, needed when there are boundaries.
  __device__ __noinline__ void backward(Block& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc, WeightGradient<T, E, N> da,
                                        Rows<const T, E> dy, const T* boundaries, T* carry, Sequences sequences) const {
    T* const partial = be.scratch<T>();
    BackwardStage* const stages = reinterpret_cast<BackwardStage*>(partial + partial_elements);
    ScanPiece<E, chunk, backward_slab, true> piece(sequences);
    stages[0].template fetch<E>(piece, b, c, delta, u, dy);
    Shared shared;
    for (int turn = 0; piece.exists(); turn ^= 1) {
      auto next = piece;
      next.next();
      if (next.exists()) stages[turn ^ 1].template fetch<E>(next, b, c, delta, u, dy), wait_for_copies<1>();
      else wait_for_copies<0>();
      __syncthreads();
      BackwardStage& stage = stages[turn];
      // Two loops: in one the compiler would move what both cases end with behind them, away from its products.
      const auto each_channel = [&](auto&& f) {
        ChannelRows now = load_channel(da, piece.channel + L::group());
        for (int local = L::group(); local < backward_slab && piece.channel + local - L::group() < E; local += L::groups) {
          const ChannelRows next = load_channel(da, piece.channel + local + L::groups);
          f(local, now);
          now = next;
        }
      };
      Pending pending;
      T* const sums = partial + warp() * (L::channels * chunk * padded(N));  // of no other warp while channels are worked on
      if (piece.is_first())
        each_channel([&](int local, ChannelRows& rows) { backward_channel<true>(shared, da, rows, stage, piece, local, nullptr, carry, pending, sums); });
      else
        each_channel([&](int local, ChannelRows& rows) {
          backward_channel<false>(shared, da, rows, stage, piece, local, boundaries + (piece.boundary() - 1) * state_size, carry, pending, sums);
        });
      finish_channel(pending, stage, sums);
      const bool complete = piece.ends_slabs();
      if (complete) leave(partial, shared.db);
      __syncthreads();
      const int rows = piece.rows();
      each(rows * backward_slab, [&](int i) {
        const int k = i / backward_slab, local = i % backward_slab, e = piece.channel + local;
        if (e >= E) return;
        ddelta[piece.first + k][e] = stage.channels[k][local].at[0];
        du[piece.first + k][e] = stage.channels[k][local].at[1];
      });
      if (complete) {
        sum_groups(db, partial, piece.first, rows);
        __syncthreads();
        leave(partial, shared.dc);
        __syncthreads();
        sum_groups(dc, partial, piece.first, rows);
        shared = {};
      }
      __syncthreads();
      piece = next;
    }
  }
};

}  // namespace detail

// The steps between states that the scan keeps for the backward pass.
template <int N>
inline constexpr int scan_chunk = detail::ScanLayout<N>::chunk;

// y (T, E) <- scan + skip.
//   delta, u (T, E); b, c (T, N); a (E, N), whose derived weight is the rate A log2(e); d (E)
//   boundaries: (scan_boundaries(), E, N) states kept for the backward pass, or null
//   states: (sequences, E, N) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: a blocked row is read out of the state and then forgotten
template <class T, int E, int N, class Blocked = NoRows>
__device__ void selective_scan(Block& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, E> delta, Rows<const T, E> u, Rows<const T, N> b,
                               Rows<const T, N> c, Sequences sequences, Weight<T, E, N> a, Weight<T, 1, E> d, Blocked rows = {}) {
  using Scan = detail::SelectiveScan<T, E, N>;
  static_assert(Scan::fits_block, "mamba: a block's shared memory is too small for these sizes");
  detail::clear_padding(y);
  Scan{delta, u, b, c, a, d}.forward(be, y, boundaries, states, sequences, rows);
}

// ddelta, du (T, E), db, dc (T, N) <- gradients; da (E, N) += the gradient with respect to a (not A_log), dd (E) += ...
//   boundaries as selective_scan kept them; carry: (E, N) scratch, needed when there are any
template <class T, int E, int N>
__device__ void selective_scan_backward(Block& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc, WeightGradient<T, E, N> da,
                                        WeightGradient<T, 1, E> dd, Rows<const T, E> dy, const T* boundaries, T* carry, Rows<const T, E> delta,
                                        Rows<const T, E> u, Rows<const T, N> b, Rows<const T, N> c, Sequences sequences, Weight<T, E, N> a, Weight<T, 1, E> d) {
  detail::clear_padding(ddelta);
  detail::clear_padding(du);
  detail::SelectiveScan<T, E, N>{delta, u, b, c, a, d}.backward(be, ddelta, du, db, dc, da, dy, boundaries, carry, sequences);
  detail::column_sums<1>(
      be, dy,
      [&](int t, int e, detail::Quad<T>(&sum)[1]) {
        const auto g = detail::load4(dy[t] + e), input = detail::load4(u[t] + e);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[0].at[j] += g.at[j] * input.at[j];
      },
      [&](int e, int, T sum) { dd.value[e] += sum; });
}

}  // namespace mamba::cuda
