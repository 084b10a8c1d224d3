// Mamba-2's recurrence over the grid (ssd.hpp), backward: what remains of a chunk's gradients once the states before
// chunks and their gradients behind them (the adjoints) are known and dx is (ssd_pieces.hpp). With W_ij = (c_i . b_j)
// between_ji for j <= i and D_ij = dy_i . x_j:
//   dc_i = sum over j of D_ij between_ji delta_j b_j + from_begin_i (state before) dy_i
//   db_j = sum over i of D_ij between_ji delta_j c_i + to_end_j delta_j adjoint x_j
// Heads that share b and c add up D_ij between_ji delta_j before it is multiplied with b and c. Of row t's decay, exp(A
// delta_t), the gradient with respect to the exponent is the sum of all that passes it: of pairs of rows q_ij = D_ij
// W_ij delta_j over j < t <= i, of what rows i >= t take from the state before, of what rows j < t give to the state
// behind, and of what goes through the chunk. The first is summed from rows' and columns' sums of the same q_ij, so
// that what does not pass cancels to the last digits of what they are summed in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/cuda/grid/ssd_direction.hpp>
#include <mamba/cuda/grid/ssd_head_sums.hpp>
#include <mamba/cuda/grid/ssd_state_lines.hpp>

namespace mamba::cuda::detail {

// Whether sequences began with a state, and whether something follows them.
struct SsdPassed {
  bool before = false, behind = false;
};

// What Mamba-2's chunks read, and what they give.
template <class Shape_>
struct SsdChunkGradients : SsdWalks<Shape_> {
  using Shape = Shape_;
  using typename SsdWalks<Shape>::Decays;
  using HeadSums = SsdHeadSums<Shape>;
  Rows<const float, Shape::E> dy;
  Rows<float, Shape::H> ddelta;
  Rows<float, Shape::C> dxbc;
  float *of_rates, *of_skips;  // (slots, padded(H)), which are zero

  template <int threads, class Tile>
  __device__ void stage_x(Tile tile, int row, int count, int head, int p) const {
    stage_lines<Shape::vector, threads>(tile, this->in.xbc.address(row) + Shape::x_column(head) + p, this->line_stride,
                                        count, Shape::P - p);
  }
  template <int threads, class Tile>
  __device__ void stage_dy(Tile tile, int row, int count, int head, int p) const {
    stage_lines<Shape::gradient_vector, threads>(tile, dy.address(row) + Shape::x_column(head) + p,
                                                 Rows<const float, Shape::E>::stride, count, Shape::P - p);
  }
  // How much of row j's x, decayed, comes to a later row, and into the state behind.
  static __device__ float of_row(const Decays& decays, int j) { return decays.delta[j]; }
  // The same of two rows, and the decay between them, which pairs that pass no decay (a token's own) have none of.
  static __device__ float weight(const Decays& decays, float decayed, int /*i*/, int j) {
    return decayed * decays.delta[j];
  }
  static __device__ bool passes_decay(int i, int j) { return j < i; }
  __device__ float* db(int row, int group) const { return dxbc.address(row) + Shape::b_column(group); }
  __device__ float* dc(int row, int group) const { return dxbc.address(row) + Shape::c_column(group); }
  // By one warp.
  __device__ void finish(const HeadSums& sums, const Decays& decays, const SsdStretch& chunk, int slot,
                         int head) const {
    ssd_head_sums<Shape>(sums, decays, ddelta, of_rates, of_skips, this->in.head(head).rate, chunk, slot, head);
  }
};

template <class Gradients>
struct SsdGradientStage {
  using Shape = typename Gradients::Shape;
  using S = typename Shape::Stored;
  static constexpr int rows = Shape::rows, tiles = Shape::row_units;
  using Lines = SwizzledTile<S, rows, padded(Shape::N)>;
  using X = SwizzledTile<S, rows, Shape::width>;
  using Dy = SwizzledTile<float, rows, Shape::width>;
  using Pairs = SwizzledTile<S, rows, rows>;
  // A warp has 16 of the states, where there are so many, and a share of the pairs of rows.
  static constexpr int warps = (std::max)(4, Shape::state_units), threads = 32 * warps;
  // Where a block has one turn only, another beside it computes while it waits for memory; in float it would have too
  // few registers.
  static constexpr int blocks = sizeof(S) == 2 && Shape::heads_of_group * Shape::widths == 1 && threads <= 256 ? 2 : 1;

  alignas(128) S b[Lines::elements];
  S c[Lines::elements];
  S x[2][X::elements], dy[X::elements];
  float next_dy[Dy::elements];                                           // on its way, before it is stored as x is
  static_assert(sizeof(x) + sizeof(dy) >= Pairs::elements * sizeof(S));  // whose place the pairs of all heads take
  typename Gradients::HeadSums heads[2];
  typename Gradients::Decays decays[3];  // of this head, the next, and the one before, whose sums are still read
};

// The gradients of b and c, of steps, rates and skips. A block takes a chunk and a group, head by head; a warp has 16
// of the states.
template <class Gradients>
__global__ void __launch_bounds__(SsdGradientStage<Gradients>::threads, SsdGradientStage<Gradients>::blocks)
    ssd_chunk_gradients(Gradients chunks, const typename Gradients::Shape::Stored* before,
                        const typename Gradients::Shape::Stored* behind, SsdPassed passed,
                        typename Gradients::AnySequences sequences) {
  begin_kernel();
  using Shape = typename Gradients::Shape;
  using S = typename Shape::Stored;
  using Stage = SsdGradientStage<Gradients>;
  using Sum = SsdSum<S>;
  using Decays = typename Gradients::Decays;
  constexpr int P = Shape::P, N = Shape::N, rows = Shape::rows, tiles = Stage::tiles, warps = Stage::warps,
                depth = Shape::width / unit_side;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  const int group = static_cast<int>(blockIdx.x) % Shape::G, slot = static_cast<int>(blockIdx.x) / Shape::G;
  const SsdStretch chunk = ssd_stretch_of(sequences, slot, rows);
  if (chunk.count == 0) return;
  const bool has_before = chunk.number > 0 || passed.before, has_behind = !chunk.is_last || passed.behind;
  const int first_head = group * Shape::heads_of_group, n0 = warp() * unit_side, first_term = chunks.in.first_term;
  const bool has_states = n0 < N;
  const typename Stage::Lines b{stage.b}, c{stage.c};

  // A turn is a head's channels, 64 of them at most.
  constexpr int turns = Shape::heads_of_group * Shape::widths;
  const auto x_of = [&](int turn) { return typename Stage::X{stage.x[turn % 2]}; };
  const typename Stage::X gradient{stage.dy};
  const typename Stage::Dy next_gradient{stage.next_dy};
  const auto fetch = [&](int turn) {
    const int head = first_head + turn / Shape::widths, p0 = turn % Shape::widths * Shape::width;
    chunks.template stage_x<Stage::threads>(x_of(turn), chunk.first, chunk.count, head, p0);
    chunks.template stage_dy<Stage::threads>(next_gradient, chunk.first, chunk.count, head, p0);
  };
  const auto multiply_lines = [&](auto& result, const auto& reader, int k, const Operand<S, Side::right>& other) {
    Operand<S, Side::left> lines[tiles];
#pragma unroll
    for (int m = 0; m < tiles; ++m) lines[m] = reader.read(m * unit_side, k * unit_side);
    const Operand<S, Side::right> right[1] = {other};
    multiply_add(result, lines, right, first_term);
  };
  const auto steps_of = [&](int head) {
    return Decays::template load<false>(chunks.in, chunk.first, chunk.count, head);
  };

  stage_lines<Shape::vector, Stage::threads>(b, chunks.b_line(chunk.first, first_head), Gradients::line_stride,
                                             chunk.count, N);
  stage_lines<Shape::vector, Stage::threads>(c, chunks.c_line(chunk.first, first_head), Gradients::line_stride,
                                             chunk.count, N);
  fetch(0);
  commit_copies();
  if (warp() == 0) stage.decays[0].template set<false>(steps_of(first_head), chunks.in.head(first_head));
  wait_for_copies<0>();
  __syncthreads();

  // Units of pairs of rows, on and below the diagonal, that are this warp's: c_i . b_j, and what heads add up.
  using Units = SsdPairUnits<tiles, warps>;
  constexpr int own = Units::own;
  const Units units;
  Unit of_bc[own], all_pairs[own];
  {
    const TileReader<S, Side::left, Way::along_lines, typename Stage::Lines> c_lines(c);
    const TileReader<S, Side::right, Way::along_lines, typename Stage::Lines> b_lines(b);
#pragma unroll
    for (int n = 0; n < padded(N); n += unit_side)
#pragma unroll
      for (int u = 0; u < own; ++u)
        multiply_add(of_bc[u], c_lines.read(units.row(u), n), b_lines.read(units.column(u), n), first_term);
  }

  // A warp's share of the states before and behind, which come while the turn before is not done yet.
  SsdStateLines<Shape> of_before, of_behind;
  const auto load_states = [&](int turn) {
    const int head = first_head + turn / Shape::widths, p0 = turn % Shape::widths * Shape::width;
    const std::ptrdiff_t at =
        slot * Shape::state_size + head * Shape::head_state + static_cast<std::ptrdiff_t>(n0) * padded(P) + p0;
    if (has_before) of_before.load(before + at, N - n0, padded(P) - p0);
    if (has_behind) of_behind.load(behind + at, N - n0, padded(P) - p0);
  };
  load_states(0);

  Unit dc[tiles][1], db[tiles][1];  // of the warp's states
#pragma unroll 1
  for (int h = 0; h < Shape::heads_of_group; ++h) {
    typename Gradients::HeadSums& sums = stage.heads[h % 2];
    const int head = first_head + h;
    const Decays& decays = stage.decays[h % 3];
    const bool sets_next = h + 1 < Shape::heads_of_group && warp() == (h + 1) % warps;
    typename Decays::Steps next_steps{};
    if (sets_next) next_steps = steps_of(head + 1);
    Unit pairs[own], taken[tiles][1], given[tiles][1];
    Sum through = 0;
#pragma unroll 1
    for (int width = 0; width < Shape::widths; ++width) {
      const int turn = h * Shape::widths + width;
      for (int i = thread(); i < rows * Shape::width / 4; i += Stage::threads) {
        const int row = i / (Shape::width / 4), column = i % (Shape::width / 4) * 4;
        store4(gradient.at(row, column), load4(static_cast<const float*>(next_gradient.at(row, column))));
      }
      __syncthreads();
      if (turn + 1 < turns) fetch(turn + 1);
      commit_copies();
      const TileReader<S, Side::left, Way::along_lines, typename Stage::X> x_lines(x_of(turn)),
          gradient_lines(gradient);
      const TileReader<S, Side::right, Way::along_lines, typename Stage::X> x_as_right(x_of(turn));
#pragma unroll
      for (int k = 0; k < depth; ++k)
#pragma unroll
        for (int u = 0; u < own; ++u)
          multiply_add(pairs[u], gradient_lines.read(units.row(u), k * unit_side),
                       x_as_right.read(units.column(u), k * unit_side), first_term);
      if (has_states) {
#pragma unroll
        for (int k = 0; k < depth; ++k)
          if (has_before) multiply_lines(taken, gradient_lines, k, of_before.operand(k));
#pragma unroll
        for (int k = 0; k < depth; ++k)
          if (has_behind) multiply_lines(given, x_lines, k, of_behind.operand(k));
        if (has_before && has_behind) through += of_before.times(of_behind);
        if (turn + 1 < turns) load_states(turn + 1);
      }
      if (width + 1 < Shape::widths) {
        wait_for_copies<0>();
        __syncthreads();
      }
    }

    // Rows' shares of the states outside.
    const auto of_states = [&](auto& to, auto& from, typename Stage::Lines other, auto& row_sums, auto&& factor_of,
                               auto&& factor_of_sum) {
#pragma unroll
      for (int m = 0; m < tiles; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = m * unit_side + Unit::first_row() + 8 * i;
          const float factor = factor_of(row);
          Sum sum = 0;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const auto beside = load_pair(static_cast<const S*>(other.at(row, n0 + 8 * h + Unit::first_column())));
            const auto& own = from[m][0].at[h][i];
            sum += static_cast<Sum>(beside.at[0]) * static_cast<Sum>(own[0]) +
                   static_cast<Sum>(beside.at[1]) * static_cast<Sum>(own[1]);
#pragma unroll
            for (int j = 0; j < 2; ++j) to[m][0].at[h][i][j] += factor * own[j];
          }
          sum = lane_sum<4>(sum) * static_cast<Sum>(factor_of_sum(row));
          if (lane() % 4 == 0) row_sums[row] = sum;
        }
    };
    through = lane_sum(through);
    if (has_states) {
      const auto from_begin = [&](int i) { return decays.from_begin[i]; };
      of_states(dc, taken, c, sums.taken[warp()], from_begin, from_begin);
      of_states(
          db, given, b, sums.given[warp()], [&](int j) { return decays.to_end[j] * Gradients::of_row(decays, j); },
          [&](int j) { return decays.to_end[j]; });
      if (lane() == 0) sums.through[warp()] = through;
    }

    // Pairs of rows.
#pragma unroll
    for (int u = 0; u < own; ++u) {
      if (!Units::exists(u)) break;
      Sum of_rows[2] = {}, of_columns[2][2] = {}, of_tokens[2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int row = units.row(u) + Unit::first_row() + 8 * i,
                      column = units.column(u) + Unit::first_column() + 8 * k + j;
            const float pair = pairs[u].at[k][i][j], of_both = of_bc[u].at[k][i][j];
            const bool passes = Gradients::passes_decay(row, column);
            const float decayed = !Gradients::comes(column, row)    ? 0.0F
                                  : passes || Gradients::ranks == 1 ? pair * decays.between(column, row)
                                                                    : pair;
            all_pairs[u].at[k][i][j] += Gradients::weight(decays, decayed, row, column);
            const Sum q = passes ? static_cast<Sum>(decayed) * static_cast<Sum>(of_both) : Sum(0);
            of_rows[i] += q * static_cast<Sum>(Gradients::of_row(decays, column)), of_columns[k][j] += q;
            if constexpr (Gradients::ranks > 1)
              if (!passes) of_tokens[i] += static_cast<Sum>(decayed) * static_cast<Sum>(of_both);
            if (column == row) {
              if constexpr (Gradients::ranks == 1) sums.diagonal[row] = decayed * of_both;
              sums.skip[row] = pair;
            }
          }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        of_rows[i] = lane_sum<4>(of_rows[i]);
        if (lane() % 4 == 0)
          sums.pairs_taken[units.column(u) / unit_side][units.row(u) + Unit::first_row() + 8 * i] = of_rows[i];
        if constexpr (Gradients::ranks > 1) {  // a token's own rows are in one unit
          of_tokens[i] = lane_sum<4>(of_tokens[i]);
          if (units.row(u) == units.column(u) && lane() % 4 == 0)
            sums.diagonal[units.row(u) + Unit::first_row() + 8 * i] = static_cast<float>(of_tokens[i]);
        }
      }
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          Sum& own_sum = of_columns[k][j];
#pragma unroll
          for (int offset = 4; offset < 32; offset *= 2) own_sum += __shfl_xor_sync(~0U, own_sum, offset);
          if (lane() < 4)
            sums.pairs_given[units.row(u) / unit_side][units.column(u) + Unit::first_column() + 8 * k + j] = own_sum;
        }
    }
    if (sets_next) stage.decays[(h + 1) % 3].template set<false>(next_steps, chunks.in.head(head + 1));
    wait_for_copies<0>();
    __syncthreads();
    // While others go on: these sums' place is taken after the next barrier.
    if (warp() == h % warps) chunks.finish(sums, decays, chunk, slot, head);
  }

  // Pairs of rows, of all heads together.
  const typename Stage::Pairs pairs{stage.x[0]};
#pragma unroll
  for (int u = 0; u < own; ++u)
    if (Units::exists(u))
      all_pairs[u].each([&](int r, int k, const float(&pair)[2]) {
        store_pair(pairs.at(units.row(u) + r, units.column(u) + k), pair[0], pair[1]);
      });
  __syncthreads();
  if (!has_states) return;
  const TileReader<S, Side::right, Way::across_lines, typename Stage::Lines> b_across(b, n0), c_across(c, n0);
  const TileReader<S, Side::left, Way::along_lines, typename Stage::Pairs> pairs_along(pairs);
  const TileReader<S, Side::left, Way::across_lines, typename Stage::Pairs> pairs_across(pairs);
#pragma unroll
  for (int k = 0; k < tiles; ++k) {
    const auto of_b = b_across.read(k * unit_side, 0), of_c = c_across.read(k * unit_side, 0);
#pragma unroll
    for (int m = k; m < tiles; ++m)
      multiply_add(dc[m][0], pairs_along.read(m * unit_side, k * unit_side), of_b, first_term);
#pragma unroll
    for (int m = 0; m <= k; ++m)
      multiply_add(db[m][0], pairs_across.read(k * unit_side, m * unit_side), of_c, first_term);
  }
  const auto write = [&](auto& result, auto&& line_of) {
#pragma unroll
    for (int m = 0; m < tiles; ++m)
      result[m][0].each([&](int r, int k, const float(&pair)[2]) {
        const int row = m * unit_side + r, n = n0 + k;
        if (row >= chunk.count) return;
        float* const to = line_of(chunk.first + row) + n;
        if constexpr (N % 2 == 0 && Shape::E % 2 == 0) {
          if (n < N) store_pair(to, pair[0], pair[1]);
        } else {
          if (n < N) to[0] = pair[0];
          if (n + 1 < N) to[1] = pair[1];
        }
      });
  };
  write(db, [&](int row) { return chunks.db(row, group); });
  write(dc, [&](int row) { return chunks.dc(row, group); });
}

}  // namespace mamba::cuda::detail
