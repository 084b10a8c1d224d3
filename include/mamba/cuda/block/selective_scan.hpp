// The selective scan of Mamba-1 by one thread block (specification, sections 2.7, 2.8 and 5; Gu and Dao 2023,
// section 3.3).
//
//   h_t = 2^(step_t rate) h_{t-1} + (step_t u_t) b_t      y_t = c_t . h_t + d u_t
//
// A group of lanes holds the states of one channel, four neighbouring states and more a lane (ScanLayout); time passes
// in registers. The block goes from piece to piece, a chunk of time by a slab of channels: the next piece is on its way
// to shared memory while this one is computed. Backward recomputes the states of a chunk and keeps them, with their
// decays, in registers; of the forward pass only the states between chunks are kept.
#pragma once

#include <algorithm>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/block/scan_layout.hpp>
#include <mamba/cuda/block/scan_piece.hpp>
#include <mamba/math/scan_step.hpp>
#include <mamba/network/mixer.hpp>

namespace mamba::cuda {

namespace detail {

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
    each<Chunk * quads>([&](int i) {
      const int k = i / quads, n = i % quads * per_quad;
      copy_async<16>(&b[k][n], from_b[piece.first + (k < rows ? k : 0)] + n, k < rows);
      copy_async<16>(&c[k][n], from_c[piece.first + (k < rows ? k : 0)] + n, k < rows);
    });
    each<Chunk * Slab>([&](int i) {
      const int k = i / Slab, local = i % Slab, e = piece.channel + local;
      const bool exists = k < rows && e < E;
      int value = 0;
      (copy_async<sizeof(T)>(&channels[k][local].at[value++], arrays[piece.first + (exists ? k : 0)] + (exists ? e : 0),
                             exists),
       ...);
    });
    commit_copies();
  }
};

template <class T, int E, int N>
struct SelectiveScan {
  using L = ScanLayout<N>;
  static constexpr int chunk = L::chunk, states = L::states;
  static constexpr int ways =
      BlockTuning::scan_ways(E, L::groups);  // channels that a group of lanes works on at once, forward
  static constexpr int slab = (std::max)(BlockTuning::scan_slab, L::groups* ways),
                       backward_slab = (std::max)(BlockTuning::scan_slab, L::groups);
  static constexpr std::ptrdiff_t state_size = static_cast<std::ptrdiff_t>(E) * padded(N);
  using Stage = ScanStage<T, N, chunk, slab, 2>;                   // step, u
  using BackwardStage = ScanStage<T, N, chunk, backward_slab, 4>;  // step, u, dy
  // A warp's part of shared memory: first for sums over states, then for what its groups of lanes have of db and of dc,
  // both at once where there is room.
  using BackwardSums = ChannelSums<chunk, L::width, backward_slab / L::groups>;
  static constexpr int gradient_elements = L::channels * chunk * padded(N);
  static constexpr int warp_elements(int gradients) {
    return BackwardSums::elements > gradients * gradient_elements ? BackwardSums::elements
                                                                  : gradients * gradient_elements;
  }
  static constexpr bool exchanges_both =
      Block::warps * warp_elements(2) * sizeof(T) + 2 * sizeof(BackwardStage) <= Block::shared_bytes<T>;
  static constexpr int of_warp_elements = warp_elements(exchanges_both ? 2 : 1);
  static constexpr bool fits_block =
      3 * sizeof(Stage) + Block::warps * LaneSums<ways * chunk, L::width>::elements * sizeof(T) <=
          Block::shared_bytes<T> &&
      Block::warps * of_warp_elements * sizeof(T) + 2 * sizeof(BackwardStage) <= Block::shared_bytes<T>;

  static __device__ T* state(T* states, int e) { return states + static_cast<std::ptrdiff_t>(e) * padded(N); }
  static __device__ const T* state(const T* states, int e) {
    return states + static_cast<std::ptrdiff_t>(e) * padded(N);
  }
  static __device__ int existing(int e) { return e < E ? e : E - 1; }  // all lanes run along: shuffles need them

  Rows<const T, E> delta, u;
  Rows<const T, N> b, c;
  Weight<T, E, N> a;
  Weight<T, 1, E> d;

  // y of the channels local, local + groups, ... (`ways` of them) of a piece. from_zero: nothing lies before the piece.
  template <bool from_zero, class Piece, class Blocked>
  __device__ void forward_channels(Rows<T, E> y, const Stage& stage, const Piece& piece, int first_local,
                                   const T* before, T* after, Blocked rows, T* sums_of_lanes) const {
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
      if (channel(own) < E && k <= last && Sums::part() == 0)
        y[piece.first + k][channel(own)] = skip * stage.channels[k][local(own)].at[1] + sum;
    });
  }

  // own: a state in global memory, needed without `boundaries` or `sequence_states`.
  template <class Blocked>
  __device__ __noinline__ void forward(Block& be, Rows<T, E> y, T* boundaries, T* sequence_states, Sequences sequences,
                                       Blocked rows) const {
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
      T* const after = boundaries && !last        ? boundaries + piece.boundary() * state_size
                       : sequence_states || !last ? own
                                                  : nullptr;
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

  // What a lane needs of a channel from global memory, asked for while the channel before is worked on.
  struct ChannelRows {
    T rate[states], da[states];
  };
  __device__ ChannelRows load_channel(WeightGradient<T, E, N> da, int e) const {
    ChannelRows rows;
    L::load(rows.rate, a.derived + existing(e) * a.stride);
    L::load(rows.da, static_cast<const T*>(da.row(existing(e))));
    return rows;
  }

  // What a lane needs of a step from shared memory, asked for a step early: the way there takes longer than a step's
  // products.
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

  // Channels of a slab that a group of lanes, and a warp, works on: neighbouring ones.
  static constexpr int of_group = backward_slab / L::groups, of_warp = of_group * L::channels;

  // The gradients of one channel of a piece, but for the sums over its states. Those go by `sums`, shared memory of the
  // warp: the channel only leaves its own there, and adds up those of the channel before while its first products are
  // under way. number: of the channel in its group. Returns the rows of the group's next one. opens: nothing lies
  // before the piece.
  template <bool opens, class Piece>
  __device__ ChannelRows backward_channel(Shared& shared, WeightGradient<T, E, N> da, ChannelRows rows,
                                          const BackwardStage& stage, const Piece& piece, int number, const T* before,
                                          T* carry, T* sums) const {
    const int local = L::group() * of_group + number, e = piece.channel + local, safe = existing(e);
    T from_future[states], h[chunk][states], decays[chunk][states], start[states];
    if constexpr (!opens) L::load(start, state(before, safe));
#pragma unroll
    for (int i = 0; i < states; ++i) from_future[i] = 0;
    if (!piece.is_last()) L::load(from_future, state(static_cast<const T*>(carry), safe));
    BackwardSums::add_up(
        sums, number > 0 ? number - 1 : 0);  // the first channel has nothing to add: that costs less than a branch
#pragma unroll
    for (int k = 0; k < chunk; ++k) {
      const auto in = stage.channels[k][local];
      const T step = in.at[0], input = step * in.at[1];
      T b_k[states];
      L::load(b_k, stage.b[k]);
#pragma unroll
      for (int i = 0; i < states; ++i) {
        if (opens && k == 0) {
          h[k][i] = input * b_k[i];
        } else {
          decays[k][i] = math::decay(step, rows.rate[i]);
          h[k][i] = math::next_state(decays[k][i] * (k == 0 ? start[i] : h[k == 0 ? 0 : k - 1][i]), input, b_k[i]);
        }
      }
    }
    StepRows next_step = load_step(stage, chunk - 1, local);
    __syncwarp();  // the sums before have been read
    const ChannelRows next = load_channel(da, e + 1);
#pragma unroll
    for (int k = chunk - 1; k >= 0; --k) {
      const StepRows now = next_step;
      if (k > 0) next_step = load_step(stage, k - 1, local);
      const T step = now.of.at[0], input = step * now.of.at[1], dy = now.of.at[2];
      T of_input = 0, of_rate = 0;  // sums of lambda b, of lambda carried rate
#pragma unroll
      for (int i = 0; i < states; ++i) {
        const T lambda = math::adjoint(now.c[i], dy, from_future[i]);
        shared.dc[k][i] += dy * h[k][i];
        shared.db[k][i] += lambda * input;
        of_input += lambda * now.b[i];
        if (opens && k == 0) continue;
        from_future[i] = decays[k][i] * lambda;
        const T lambda_carried = from_future[i] * (k == 0 ? start[i] : h[k == 0 ? 0 : k - 1][i]);
        of_rate += lambda_carried * rows.rate[i];
        rows.da[i] += lambda_carried * step;
      }
      BackwardSums::put(sums, k, of_input, of_rate);
    }
    if (e < E) {
      if constexpr (!opens) L::store(state(carry, e), from_future);
      L::store(da.row(e), rows.da);
    }
    __syncwarp();
    return next;
  }

  // ddelta and du of the warp's channels of a piece, when the sums of all of them have been added up.
  template <class Piece>
  __device__ void finish_channels(Rows<T, E> ddelta, Rows<T, E> du, const BackwardStage& stage, const Piece& piece,
                                  const T* sums) const {
#pragma unroll
    for (int i = lane(); i < of_warp * chunk; i += 32) {
      const int k = i / of_warp, own = i % of_warp, local = warp() * of_warp + own, e = piece.channel + local;
      const auto sum = BackwardSums::sum(sums, own / of_group, own % of_group, k);
      const auto in = stage.channels[k][local];
      const T step = in.at[0], u_k = in.at[1], dy = in.at[2];
      if (e >= E || k >= piece.rows()) continue;
      ddelta[piece.first + k][e] = T(math::ln2) * sum.second + u_k * sum.first;
      du[piece.first + k][e] = d.value[e] * dy + step * sum.first;
    }
  }

  // Where a group of lanes leaves its share of db (which = 0) and of dc (1).
  static __device__ T* share_of(T* partial, int group, int which) {
    const int slot = (exchanges_both ? which * L::channels : 0) + group % L::channels;
    return partial + group / L::channels * of_warp_elements + slot * (chunk * padded(N));
  }
  static __device__ void leave(T* partial, int which, const T (&values)[chunk][states]) {
#pragma unroll
    for (int k = 0; k < chunk; ++k) L::store(share_of(partial, L::group(), which) + k * padded(N), values[k]);
  }
  // to <- the sum of what the groups have left, in their order.
  static __device__ void sum_groups(Rows<T, N> to, T* partial, int which, int first, int rows) {
    constexpr int quads = padded(N) / 4;
    each(rows * quads, [&](int i) {
      Quad<T> sum{};
#pragma unroll 8
      for (int group = 0; group < L::groups; ++group)
        add_to(sum, load4(static_cast<const T*>(share_of(partial, group, which)) + 4 * i));
      store4(to[first + i / quads] + i % quads * 4, sum);
    });
  }

  // carry: a state in global memory, needed when there are boundaries.
  __device__ __noinline__ void backward(Block& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc,
                                        WeightGradient<T, E, N> da, Rows<const T, E> dy, const T* boundaries, T* carry,
                                        Sequences sequences) const {
    T* const partial = be.scratch<T>();
    BackwardStage* const stages = reinterpret_cast<BackwardStage*>(partial + Block::warps * of_warp_elements);
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
      T* const sums = partial + warp() * of_warp_elements;  // of no other warp while channels are worked on
      const int first = piece.channel + warp() * of_warp;
      int number = 0;
      const auto each_channel = [&](auto&& f) {
        ChannelRows rows = load_channel(da, piece.channel + L::group() * of_group);
        for (; number < of_group && first + number < E; ++number) rows = f(rows);
      };
      if (piece.is_first()) {
        each_channel([&](const ChannelRows& rows) {
          return backward_channel<true>(shared, da, rows, stage, piece, number, nullptr, carry, sums);
        });
      } else {
        const T* const before = boundaries + (piece.boundary() - 1) * state_size;
        each_channel([&](const ChannelRows& rows) {
          return backward_channel<false>(shared, da, rows, stage, piece, number, before, carry, sums);
        });
      }
      if (number > 0) {
        BackwardSums::add_up(sums, number - 1);
        __syncwarp();
        finish_channels(ddelta, du, stage, piece, sums);
        __syncwarp();
      }
      if (piece.ends_slabs()) {
        const int rows = piece.rows();
        leave(partial, 0, shared.db);
        if constexpr (exchanges_both) {
          leave(partial, 1, shared.dc);
        } else {
          __syncthreads();
          sum_groups(db, partial, 0, piece.first, rows);
          __syncthreads();
          leave(partial, 1, shared.dc);
        }
        __syncthreads();
        if constexpr (exchanges_both) sum_groups(db, partial, 0, piece.first, rows);
        sum_groups(dc, partial, 1, piece.first, rows);
        shared = {};
      } else {
        __syncthreads();
      }
      piece = next;
    }
    __syncthreads();
  }
};

}  // namespace detail

// The steps between states that the scan keeps for the backward pass.
template <int N>
inline constexpr int scan_chunk = detail::ScanLayout<N>::chunk;

// y (T, E) <- scan + skip.
//   delta, u (T, E); b, c (T, N); a (E, N), whose derived weight is the rate A log2(e); d (E)
//   boundaries: (BlockMemory::kept_states(), E, N) states kept for the backward pass, or null
//   states: (sequences, E, N) where the sequences begin and, afterwards, end; null: they begin at zero
//   rows: a blocked row is read out of the state and then forgotten
template <class T, int E, int N, class Blocked = NoRows>
__device__ void selective_scan(Block& be, Rows<T, E> y, T* boundaries, T* states, Rows<const T, E> delta,
                               Rows<const T, E> u, Rows<const T, N> b, Rows<const T, N> c, Sequences sequences,
                               Weight<T, E, N> a, Weight<T, 1, E> d, Blocked rows = {}) {
  using Scan = detail::SelectiveScan<T, E, N>;
  static_assert(Scan::fits_block, "mamba: a block's shared memory is too small for these sizes");
  detail::clear_padding(y);
  Scan{delta, u, b, c, a, d}.forward(be, y, boundaries, states, sequences, rows);
}

// ddelta, du (T, E), db, dc (T, N) <- gradients; da (E, N) += the gradient with respect to a (not A_log), dd (E) += ...
//   boundaries as selective_scan kept them; carry: (E, N) scratch, needed when there are any
template <class T, int E, int N>
__device__ void selective_scan_backward(Block& be, Rows<T, E> ddelta, Rows<T, E> du, Rows<T, N> db, Rows<T, N> dc,
                                        WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, Rows<const T, E> dy,
                                        const T* boundaries, T* carry, Rows<const T, E> delta, Rows<const T, E> u,
                                        Rows<const T, N> b, Rows<const T, N> c, Sequences sequences, Weight<T, E, N> a,
                                        Weight<T, 1, E> d, network::NoPassedState = {}) {
  detail::clear_padding(ddelta);
  detail::clear_padding(du);
  detail::SelectiveScan<T, E, N>{delta, u, b, c, a, d}.backward(be, ddelta, du, db, dc, da, dy, boundaries, carry,
                                                                sequences);
  detail::add_products(be, dd, dy, u);
}

}  // namespace mamba::cuda
