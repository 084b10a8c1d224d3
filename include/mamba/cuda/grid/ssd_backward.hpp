// Mamba-2's recurrence over the grid (ssd.hpp), backward: what remains of a chunk's gradients once the states before
// chunks and their gradients behind them (the adjoints) are known and dx is (ssd_walk.hpp). With W_ij = (c_i . b_j)
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
#include <mamba/cuda/grid/ssd_walk.hpp>
#include <mamba/math/rate.hpp>

namespace mamba::cuda::detail {

// Whether sequences began with a state, and whether something follows them.
struct SsdPassed {
  bool before = false, behind = false;
};

template <class Shape>
struct SsdGradientStage {
  using S = typename Shape::Stored;
  using Sum = SsdSum<S>;
  static constexpr int rows = Shape::rows, tiles = Shape::row_units;
  using Lines = SwizzledTile<S, rows, padded(Shape::N)>;
  using X = SwizzledTile<S, rows, Shape::width>;
  using Dy = SwizzledTile<float, rows, Shape::width>;
  using Pairs = SwizzledTile<S, rows, rows>;
  // A warp has 16 of the states, where there are so many, and a share of the pairs of rows.
  static constexpr int warps = (std::max)(4, Shape::state_units), threads = 32 * warps;

  alignas(128) S b[Lines::elements];
  S c[Lines::elements];
  S x[2][X::elements], dy[X::elements];
  float next_dy[Dy::elements];                                           // on its way, before it is stored as x is
  static_assert(sizeof(x) + sizeof(dy) >= Pairs::elements * sizeof(S));  // whose place the pairs of all heads take
  // What a head's sums are made of, in the shares of those who had them.
  struct Head {
    Sum taken[Shape::state_units][rows];  // from the state before
    Sum given[Shape::state_units][rows];  // to the state behind, but for a step size
    Sum pairs_taken[tiles][rows];         // from rows of a unit's columns
    Sum pairs_given[tiles][rows];         // to rows of a unit's rows, but for a step size
    Sum through[Shape::state_units];
    float diagonal[rows], skip[rows];  // W_ii D_ii, D_ii
  } heads[2];
  SsdDecays<S, rows> decays[3];  // of this head, the next, and the one before, whose sums are still read
};

// ddelta, and of_rates, of_skips (slots, padded(H)), from a head's sums: by one warp, of which a lane has a row or two,
// and adds up what the lanes behind and before it have.
template <class Shape>
__device__ void ssd_head_sums(const typename SsdGradientStage<Shape>::Head& head_sums,
                              const SsdDecays<typename Shape::Stored, Shape::rows>& decays,
                              Rows<float, Shape::H> ddelta, float* of_rates, float* of_skips, float rate,
                              const SsdStretch& chunk, int slot, int head) {
  constexpr int of_lane = SsdDecays<typename Shape::Stored, Shape::rows>::of_lane;
  double from_here[of_lane + 1] = {}, up_to_here[of_lane + 1] = {}, of_steps[of_lane] = {}, skip = 0;
  double own[of_lane] = {}, given_behind[of_lane] = {};
#pragma unroll
  for (int i = 0; i < of_lane; ++i) {
    const int t = of_lane * lane() + i;
    if (t >= Shape::rows) break;
    double taken = 0, given = 0, behind = 0;
    for (int n = 0; n <= t / unit_side; ++n) taken += static_cast<double>(head_sums.pairs_taken[n][t]);
    for (int m = t / unit_side; m < Shape::row_units; ++m) given += static_cast<double>(head_sums.pairs_given[m][t]);
    for (int w = 0; w < Shape::state_units; ++w)
      taken += static_cast<double>(head_sums.taken[w][t]), behind += static_cast<double>(head_sums.given[w][t]);
    const auto delta = static_cast<double>(decays.delta[t]);
    own[i] = taken - delta * given, given_behind[i] = delta * behind;
    of_steps[i] = given + static_cast<double>(head_sums.diagonal[t]) + behind;
    skip += static_cast<double>(head_sums.skip[t]);
  }
  double all_own = 0, all_given = 0, through = 0;
#pragma unroll
  for (int i = 0; i < of_lane; ++i) all_own += own[i], all_given += given_behind[i];
  double behind_it = all_own, before_it = all_given;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double more = __shfl_down_sync(~0U, behind_it, offset), less = __shfl_up_sync(~0U, before_it, offset);
    if (lane() + offset < 32) behind_it += more;
    if (lane() >= offset) before_it += less;
  }
  behind_it -= all_own, before_it -= all_given;
  for (int w = 0; w < Shape::state_units; ++w) through += static_cast<double>(head_sums.through[w]);
  through *= static_cast<double>(decays.of_chunk);
#pragma unroll
  for (int i = of_lane - 1; i >= 0; --i) from_here[i] = from_here[i + 1] + own[i];
#pragma unroll
  for (int i = 0; i < of_lane; ++i) up_to_here[i + 1] = up_to_here[i] + given_behind[i];
  const double a = math::ln2 * static_cast<double>(rate);
  double of_rate = 0;
#pragma unroll
  for (int i = 0; i < of_lane; ++i) {
    const int t = of_lane * lane() + i;
    if (t >= chunk.count) break;
    const double passes = behind_it + from_here[i] + before_it + up_to_here[i] + through;
    ddelta.address(chunk.first + t)[head] = static_cast<float>(of_steps[i] + a * passes);
    of_rate += static_cast<double>(decays.delta[t]) * passes;
  }
  of_rate = lane_sum(of_rate), skip = lane_sum(skip);
  if (lane() == 0) {
    of_rates[slot * padded(Shape::H) + head] = static_cast<float>(of_rate);
    of_skips[slot * padded(Shape::H) + head] = static_cast<float>(skip);
  }
}

// A lane's share of a state's 16 lines by `width` channels, as they are stored: an operand with lines as indices.
template <class Shape>
class SsdStateLines {
 public:
  using S = typename Shape::Stored;

  // Of a state's lines (N, padded(P)) from `from` on, of which so many lines and channels exist.
  __device__ void load(const S* from, int lines, int channels) {
#pragma unroll
    for (int u = 0; u < units; ++u)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int line = Unit::first_row() + 8 * i;
          const S* const pair = from + line * padded(Shape::P) + u * unit_side + 8 * k + Unit::first_column();
          pairs_[u][i][k] = line < lines && u * unit_side < channels ? *reinterpret_cast<const Pair*>(pair) : Pair{};
        }
  }
  __device__ Operand<S, Side::right> operand(int u) const {
    Operand<S, Side::right> operand;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k)
        if constexpr (std::is_same_v<S, BFloat16>) operand.words[operand.place(i, k)] = pairs_[u][i][k];
        else operand.set(i, k, pairs_[u][i][k].x, pairs_[u][i][k].y);
    return operand;
  }
  // The sum of the products with another's, number by number.
  __device__ SsdSum<S> times(const SsdStateLines& other) const {
    using Sum = SsdSum<S>;
    Sum sum = 0;
#pragma unroll
    for (int u = 0; u < units; ++u)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const float2 a = numbers(pairs_[u][i][k]), b = numbers(other.pairs_[u][i][k]);
          sum += static_cast<Sum>(a.x) * static_cast<Sum>(b.x) + static_cast<Sum>(a.y) * static_cast<Sum>(b.y);
        }
    return sum;
  }

 private:
  static constexpr int units = Shape::width / unit_side;
  using Pair = std::conditional_t<std::is_same_v<S, BFloat16>, unsigned, float2>;

  static __device__ float2 numbers(unsigned word) { return {lower_half(word), upper_half(word)}; }
  static __device__ float2 numbers(float2 pair) { return pair; }

  Pair pairs_[units][2][2];
};

// dxbc's b and c, ddelta <- gradients; of_rates, of_skips (slots, padded(H)), which are zero, <- a chunk's shares. A
// block takes a chunk and a group, head by head; a warp has 16 of the states.
template <class Shape>
__global__ void __launch_bounds__(SsdGradientStage<Shape>::threads, 1)
    ssd_chunk_gradients(Rows<float, Shape::H> ddelta, Rows<float, Shape::C> dxbc, float* of_rates, float* of_skips,
                        SsdInputs<Shape> in, Rows<const float, Shape::E> dy, const typename Shape::Stored* before,
                        const typename Shape::Stored* behind, SsdPassed passed, Sequences sequences) {
  begin_kernel();
  using S = typename Shape::Stored;
  using Stage = SsdGradientStage<Shape>;
  using Sum = typename Stage::Sum;
  using Decays = SsdDecays<S, Shape::rows>;
  using In = Rows<const S, Shape::C>;
  using InDy = Rows<const float, Shape::E>;
  constexpr int P = Shape::P, N = Shape::N, rows = Shape::rows, tiles = Stage::tiles, warps = Stage::warps,
                depth = Shape::width / unit_side;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  const int group = static_cast<int>(blockIdx.x) % Shape::G, slot = static_cast<int>(blockIdx.x) / Shape::G;
  const SsdStretch chunk = ssd_stretch_of(sequences, slot, rows);
  if (chunk.count == 0) return;
  const bool has_before = chunk.number > 0 || passed.before, has_behind = !chunk.is_last || passed.behind;
  const int first_head = group * Shape::heads_of_group, n0 = warp() * unit_side, first_term = in.first_term;
  const bool has_states = n0 < N;
  const typename Stage::Lines b{stage.b}, c{stage.c};

  // A turn is a head's channels, 64 of them at most.
  constexpr int turns = Shape::heads_of_group * Shape::widths;
  const auto x_of = [&](int turn) { return typename Stage::X{stage.x[turn % 2]}; };
  const typename Stage::X gradient{stage.dy};
  const typename Stage::Dy next_gradient{stage.next_dy};
  const auto fetch = [&](int turn) {
    const int head = first_head + turn / Shape::widths, p0 = turn % Shape::widths * Shape::width,
              column = Shape::x_column(head) + p0;
    stage_lines<Shape::vector, Stage::threads>(x_of(turn), in.xbc.address(chunk.first) + column, In::stride,
                                               chunk.count, P - p0);
    stage_lines<Shape::gradient_vector, Stage::threads>(next_gradient, dy.address(chunk.first) + column, InDy::stride,
                                                        chunk.count, P - p0);
  };
  const auto multiply_lines = [&](auto& result, const auto& reader, int k, const Operand<S, Side::right>& other) {
    Operand<S, Side::left> lines[tiles];
#pragma unroll
    for (int m = 0; m < tiles; ++m) lines[m] = reader.read(m * unit_side, k * unit_side);
    const Operand<S, Side::right> right[1] = {other};
    multiply_add(result, lines, right, first_term);
  };
  const auto steps_of = [&](int head) { return Decays::template load<false>(in, chunk.first, chunk.count, head); };

  stage_lines<Shape::vector, Stage::threads>(b, in.xbc.address(chunk.first) + Shape::b_column(group), In::stride,
                                             chunk.count, N);
  stage_lines<Shape::vector, Stage::threads>(c, in.xbc.address(chunk.first) + Shape::c_column(group), In::stride,
                                             chunk.count, N);
  fetch(0);
  commit_copies();
  if (warp() == 0) stage.decays[0].template set<false>(steps_of(first_head), in.a.derived[first_head]);
  wait_for_copies<0>();
  __syncthreads();

  // Units of pairs of rows, on and below the diagonal, that are this warp's: c_i . b_j, and what heads add up.
  constexpr int units = tiles * (tiles + 1) / 2, own = (units + warps - 1) / warps;
  Unit of_bc[own], all_pairs[own];
  int at_row[own], at_column[own];
  bool has_unit[own];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    has_unit[u] = u * warps + warp() < units;
    lower_unit(min(u * warps + warp(), units - 1), at_row[u], at_column[u]);
    at_row[u] *= unit_side, at_column[u] *= unit_side;
  }
  {
    const TileReader<S, Side::left, Way::along_lines, typename Stage::Lines> c_lines(c);
    const TileReader<S, Side::right, Way::along_lines, typename Stage::Lines> b_lines(b);
#pragma unroll
    for (int n = 0; n < padded(N); n += unit_side)
#pragma unroll
      for (int u = 0; u < own; ++u)
        multiply_add(of_bc[u], c_lines.read(at_row[u], n), b_lines.read(at_column[u], n), first_term);
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
    typename Stage::Head& sums = stage.heads[h % 2];
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
          multiply_add(pairs[u], gradient_lines.read(at_row[u], k * unit_side),
                       x_as_right.read(at_column[u], k * unit_side), first_term);
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
            const float2 beside = load2(static_cast<const S*>(other.at(row, n0 + 8 * h + Unit::first_column())));
            const auto& own = from[m][0].at[h][i];
            sum += static_cast<Sum>(beside.x) * static_cast<Sum>(own[0]) +
                   static_cast<Sum>(beside.y) * static_cast<Sum>(own[1]);
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
          db, given, b, sums.given[warp()], [&](int j) { return decays.to_end[j] * decays.delta[j]; },
          [&](int j) { return decays.to_end[j]; });
      if (lane() == 0) sums.through[warp()] = through;
    }

    // Pairs of rows.
#pragma unroll
    for (int u = 0; u < own; ++u) {
      if (!has_unit[u]) break;
      Sum of_rows[2] = {}, of_columns[2][2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int row = at_row[u] + Unit::first_row() + 8 * i,
                      column = at_column[u] + Unit::first_column() + 8 * k + j;
            const float pair = pairs[u].at[k][i][j], of_both = of_bc[u].at[k][i][j];
            const float decayed = column <= row ? pair * decays.between(column, row) : 0.0F,
                        delta = decays.delta[column];
            all_pairs[u].at[k][i][j] += decayed * delta;
            const Sum q = column < row ? static_cast<Sum>(decayed) * static_cast<Sum>(of_both) : Sum(0);
            of_rows[i] += q * static_cast<Sum>(delta), of_columns[k][j] += q;
            if (column == row) sums.diagonal[row] = decayed * of_both, sums.skip[row] = pair;
          }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        of_rows[i] = lane_sum<4>(of_rows[i]);
        if (lane() % 4 == 0)
          sums.pairs_taken[at_column[u] / unit_side][at_row[u] + Unit::first_row() + 8 * i] = of_rows[i];
      }
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          Sum& own_sum = of_columns[k][j];
#pragma unroll
          for (int offset = 4; offset < 32; offset *= 2) own_sum += __shfl_xor_sync(~0U, own_sum, offset);
          if (lane() < 4)
            sums.pairs_given[at_row[u] / unit_side][at_column[u] + Unit::first_column() + 8 * k + j] = own_sum;
        }
    }
    if (sets_next) stage.decays[(h + 1) % 3].template set<false>(next_steps, in.a.derived[head + 1]);
    wait_for_copies<0>();
    __syncthreads();
    // While others go on: these sums' place is taken after the next barrier.
    if (warp() == h % warps)
      ssd_head_sums<Shape>(sums, decays, ddelta, of_rates, of_skips, in.a.derived[head], chunk, slot, head);
  }

  // Pairs of rows, of all heads together.
  const typename Stage::Pairs pairs{stage.x[0]};
#pragma unroll
  for (int u = 0; u < own; ++u)
    if (has_unit[u])
      all_pairs[u].each([&](int r, int k, const float(&pair)[2]) {
        store2(pairs.at(at_row[u] + r, at_column[u] + k), pair[0], pair[1]);
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
  const auto write = [&](auto& result, int column) {
#pragma unroll
    for (int m = 0; m < tiles; ++m)
      result[m][0].each([&](int r, int k, const float(&pair)[2]) {
        const int row = m * unit_side + r, n = n0 + k;
        if (row >= chunk.count) return;
        float* const to = dxbc.address(chunk.first + row) + column + n;
        if constexpr (N % 2 == 0 && Shape::E % 2 == 0) {
          if (n < N) store2(to, pair[0], pair[1]);
        } else {
          if (n < N) to[0] = pair[0];
          if (n + 1 < N) to[1] = pair[1];
        }
      });
  };
  write(db, Shape::b_column(group));
  write(dc, Shape::c_column(group));
}

}  // namespace mamba::cuda::detail
