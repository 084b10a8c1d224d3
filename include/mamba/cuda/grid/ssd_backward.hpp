// Mamba-2's recurrence over the grid (ssd.hpp), backward. With W_ij = (c_i . b_j) between_ji for j <= i, D_ij = dy_i .
// x_j, and behind the chunk the state's gradient (the adjoint):
//   v_j = sum over i of W_ij dy_i + to_end_j adjoint b_j      dx_j = delta_j v_j + d dy_j
//   dc_i = sum over j of D_ij between_ji delta_j b_j + from_begin_i (state before) dy_i
//   db_j = sum over i of D_ij between_ji delta_j c_i + to_end_j delta_j adjoint x_j
// Of row t's decay, exp(A delta_t), the gradient with respect to the exponent is the sum of all that passes it: of
// pairs of rows q_ij = D_ij W_ij delta_j over j < t <= i, of what rows i >= t take from the state before, of what rows
// j < t give to the state behind, and of what goes through the chunk. The first is summed from rows' and columns' sums
// of the same q_ij, so that what does not pass cancels to the last bit of what they are summed in.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_states.hpp>
#include <mamba/math/rate.hpp>

namespace mamba::cuda::detail {

// Whether sequences began with a state, and whether something follows them.
struct SsdPassed {
  bool before = false, behind = false;
};

// --- of x, of the steps, of rates and skips --------------------------------------------------------------------------

template <class S>
struct SsdInputStage {
  // Products of c and b, of dy and x, and of c or b and a state.
  using Inside = SsdPipeline<SsdPanel<Along::sum, S>, SsdPanel<Along::sum, S>>;
  using Pairs = SsdPipeline<SsdPanel<Along::sum>, SsdPanel<Along::sum, S>>;
  using WithState = SsdPipeline<SsdPanel<Along::sum, S>, SsdPanel<Along::result, S>>;
  alignas(16) std::byte pipeline[(std::max)({Inside::bytes, Pairs::bytes, WithState::bytes})];
  S weights[ssd_pieces][SsdPanel<Along::result, S>::elements];  // W, rows i
  float dy[ssd_pieces][SsdPanel<Along::result>::elements];
  SsdDecays<S> decays;
  // Sums over a row's channels or other rows, a half by each of the two warps beside each other.
  SsdSum<S> taken[2][ssd_rows], given[2][ssd_rows];             // from earlier rows and the state before; to later rows
  SsdSum<S> left[2][ssd_rows], of_steps[2][ssd_rows];           // to the state behind; x . v
  SsdSum<S> through[ssd_threads / 32], skip[ssd_threads / 32];  // by each warp: what comes in and leaves; d's
};

// sums (2, rows) += each row's sum of the lanes' numbers f(row, column, value) of a result, in a fixed order.
template <class S, class F>
__device__ void add_row_sums(SsdSum<S> (&sums)[2][ssd_rows], SsdResult<S>& result, F&& f) {
#pragma unroll
  for (int m = 0; m < part_units; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = result.row() + Sums<float>::row() + 16 * m + i;
      SsdSum<S> own = 0;
#pragma unroll
      for (int n = 0; n < part_units; ++n)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          own += static_cast<SsdSum<S>>(
              f(row, result.column() + Sums<float>::column() + 16 * n + k, result.sums.at[m][n][i].at[k]));
      own = lane_sum<4>(own);
      if (lane() % 4 == 0) sums[warp() % 2][row] += own;
    }
}

// The same of columns, of which the warps below each other have a half.
template <class S, class F>
__device__ void add_column_sums(SsdSum<S> (&sums)[2][ssd_rows], SsdResult<S>& result, F&& f) {
#pragma unroll
  for (int n = 0; n < part_units; ++n)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int column = result.column() + Sums<float>::column() + 16 * n + k;
      SsdSum<S> own = 0;
#pragma unroll
      for (int m = 0; m < part_units; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          own += static_cast<SsdSum<S>>(
              f(result.row() + Sums<float>::row() + 16 * m + i, column, result.sums.at[m][n][i].at[k]));
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) own += __shfl_xor_sync(~0U, own, offset);
      if (lane() < 4) sums[warp() / 2][column] += own;
    }
}

// dxbc's x, ddelta <- gradients; of_rates, of_skips (slots, padded(H)), which are zero, <- a chunk's shares. A block
// takes a chunk and a head.
template <class Shape>
__global__ void __launch_bounds__(ssd_threads)
    ssd_input_gradients(Rows<float, Shape::H> ddelta, Rows<float, Shape::C> dxbc, float* of_rates, float* of_skips,
                        SsdInputs<Shape> in, Rows<const float, Shape::E> dy, const typename Shape::Stored* before,
                        const typename Shape::Stored* behind, SsdPassed passed, Sequences sequences) {
  begin_kernel();
  using S = typename Shape::Stored;
  using Stage = SsdInputStage<S>;
  constexpr int P = Shape::P, N = Shape::N;
  constexpr std::ptrdiff_t stride = Rows<const S, Shape::C>::stride, dy_stride = Rows<const float, Shape::E>::stride;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  const int head = static_cast<int>(blockIdx.x) % Shape::H, slot = static_cast<int>(blockIdx.x) / Shape::H,
            group = head / Shape::heads_of_group;
  const SsdChunk chunk = ssd_chunk_of(sequences, slot);
  if (chunk.count == 0) return;
  const bool has_before = chunk.number > 0 || passed.before, has_behind = !chunk.is_last || passed.behind;
  const S *const x = in.xbc.address(chunk.first) + Shape::x_column(head),
                 *const b = in.xbc.address(chunk.first) + Shape::b_column(group),
                 *const c = in.xbc.address(chunk.first) + Shape::c_column(group);
  const float* const g = dy.address(chunk.first) + Shape::x_column(head);
  const std::ptrdiff_t state = slot * Shape::state_size + head * Shape::head_state;
  for (int i = thread(); i < 2 * ssd_rows; i += ssd_threads)
    stage.taken[i / ssd_rows][i % ssd_rows] = stage.given[i / ssd_rows][i % ssd_rows] =
        stage.left[i / ssd_rows][i % ssd_rows] = stage.of_steps[i / ssd_rows][i % ssd_rows] = 0;
  SsdSum<S> through = 0, of_skip = 0;
  stage.decays.load(in, chunk, head);

  SsdResult<S> weights;
  typename Stage::Inside{stage.pipeline}.multiply(
      weights, N, in.first_term, [&](auto left, auto right, int n, int count) {
        stage_panel<Shape::aligned>(left, c + n, stride, chunk.count, count);
        stage_panel<Shape::aligned>(right, b + n, stride, chunk.count, count);
      });
  weights.each([&](int i, int j, float& value) {
    value = j <= i ? value * stage.decays.between(j, i) : 0.0F;
    stage.weights[i / ssd_depth][i % ssd_depth * SsdPanel<Along::result, S>::stride + j] = value;
  });

  {  // what rows take from earlier ones
    SsdResult<S> pairs;
    typename Stage::Pairs{stage.pipeline}.multiply(
        pairs, P, in.first_term, [&](auto left, auto right, int p, int count) {
          stage_panel<Shape::aligned>(left, g + p, dy_stride, chunk.count, count);
          stage_panel<Shape::aligned>(right, x + p, stride, chunk.count, count);
        });
    pairs.each([&](int, int j, float& value) { value *= stage.decays.delta[j]; });
#pragma unroll
    for (int m = 0; m < part_units; ++m)
#pragma unroll
      for (int n = 0; n < part_units; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int k = 0; k < 4; ++k) pairs.sums.at[m][n][i].at[k] *= weights.sums.at[m][n][i].at[k];
    const auto of_another = [](int i, int j, float value) { return i == j ? 0.0F : value; };
    add_row_sums(stage.taken, pairs, of_another);
    add_column_sums(stage.given, pairs, of_another);
  }

  const float skip = in.d.value[head];
  for (int p0 = 0; p0 < P; p0 += ssd_rows) {
    const auto inside = [&](int i, int p) { return i < chunk.count && p0 + p < P; };
    if (has_before) {  // what rows take from the state before
      SsdResult<S> taken;
      typename Stage::WithState{stage.pipeline}.multiply(
          taken, N, in.first_term, [&](auto left, auto right, int n, int count) {
            stage_panel<Shape::aligned>(left, c + n, stride, chunk.count, count);
            stage_panel<true>(right, before + state + static_cast<std::ptrdiff_t>(n) * padded(P) + p0, padded(P), count,
                              padded(P) - p0);
          });
      add_row_sums(stage.taken, taken, [&](int i, int p, float value) {
        return inside(i, p) ? value * stage.decays.from_begin[i] * g[i * dy_stride + p0 + p] : 0.0F;
      });
    }
    for (int piece = 0; piece < ssd_pieces; ++piece)
      stage_panel<Shape::aligned>(SsdPanel<Along::result>{stage.dy[piece]}, g + piece * ssd_depth * dy_stride + p0,
                                  dy_stride, chunk.count - piece * ssd_depth, P - p0);
    SsdResult<S> v;
    if (has_behind) {
      typename Stage::WithState{stage.pipeline}.multiply(
          v, N, in.first_term, [&](auto left, auto right, int n, int count) {
            stage_panel<Shape::aligned>(left, b + n, stride, chunk.count, count);
            stage_panel<true>(right, behind + state + static_cast<std::ptrdiff_t>(n) * padded(P) + p0, padded(P), count,
                              padded(P) - p0);
          });
      v.each([&](int j, int, float& value) { value *= stage.decays.to_end[j]; });
      add_row_sums(stage.left, v, [&](int j, int p, float value) {
        return inside(j, p) ? value * x[j * stride + p0 + p] * stage.decays.delta[j] : 0.0F;
      });
      if (has_before)
        for (int i = thread(); i < N * ssd_rows; i += ssd_threads)
          if (const int p = p0 + i % ssd_rows; p < P) {
            const std::ptrdiff_t at = state + static_cast<std::ptrdiff_t>(i / ssd_rows) * padded(P) + p;
            through += static_cast<SsdSum<S>>(static_cast<float>(before[at])) *
                       static_cast<SsdSum<S>>(static_cast<float>(behind[at]));
          }
    } else {
      commit_copies();
      wait_for_copies<0>();
    }
    __syncthreads();
    for (int piece = 0; piece < ssd_pieces; ++piece)
      v.add(SsdPanel<Along::result, S>{stage.weights[piece]}, SsdPanel<Along::result>{stage.dy[piece]}, ssd_depth,
            ssd_rows, in.first_term);
    add_row_sums(stage.of_steps, v,
                 [&](int j, int p, float value) { return inside(j, p) ? value * x[j * stride + p0 + p] : 0.0F; });
    v.each([&](int j, int p, float value) {
      if (!inside(j, p)) return;
      const float own = stage.dy[j / ssd_depth][j % ssd_depth * SsdPanel<Along::result>::stride + p];
      of_skip += static_cast<SsdSum<S>>(own) * static_cast<SsdSum<S>>(static_cast<float>(x[j * stride + p0 + p]));
      dxbc.address(chunk.first + j)[Shape::x_column(head) + p0 + p] = stage.decays.delta[j] * value + skip * own;
    });
    __syncthreads();  // before dy's place is taken
  }

  through = lane_sum(through), of_skip = lane_sum(of_skip);
  if (lane() == 0) stage.through[warp()] = through, stage.skip[warp()] = of_skip;
  __syncthreads();
  if (warp() != 0) return;
  // A lane has two rows, and adds up what the lanes behind and before it have.
  double own[2], given[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane() + i;
    own[i] = stage.taken[0][t] + stage.taken[1][t] - (stage.given[0][t] + stage.given[1][t]);
    given[i] = stage.left[0][t] + stage.left[1][t];
  }
  double from_here = own[0] + own[1], up_to_here = given[0] + given[1];
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double behind_it = __shfl_down_sync(~0U, from_here, offset),
                 before_it = __shfl_up_sync(~0U, up_to_here, offset);
    if (lane() + offset < 32) from_here += behind_it;
    if (lane() >= offset) up_to_here += before_it;
  }
  up_to_here -= given[0] + given[1];
  double all_through = 0, all_skip = 0;
  for (int w = 0; w < ssd_threads / 32; ++w)
    all_through += static_cast<double>(stage.through[w]), all_skip += static_cast<double>(stage.skip[w]);
  all_through *= static_cast<double>(stage.decays.of_chunk());
  const double sums[2] = {from_here + up_to_here + all_through,
                          from_here - own[0] + up_to_here + given[0] + all_through};
  const double a = math::ln2 * static_cast<double>(in.a.derived[head]);
  double of_rate = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane() + i;
    if (t >= chunk.count) continue;
    ddelta.address(chunk.first + t)[head] =
        static_cast<float>(stage.of_steps[0][t] + stage.of_steps[1][t] + a * sums[i]);
    of_rate += static_cast<double>(stage.decays.delta[t]) * sums[i];
  }
  of_rate = lane_sum(of_rate);
  if (lane() == 0) {
    of_rates[slot * padded(Shape::H) + head] = static_cast<float>(of_rate);
    of_skips[slot * padded(Shape::H) + head] = static_cast<float>(all_skip);
  }
}

// --- of b and c ------------------------------------------------------------------------------------------------------

template <class S>
struct SsdStateStage {
  float dy[SsdPanel<Along::sum>::elements];
  S x[SsdPanel<Along::sum, S>::elements], before[SsdPanel<Along::sum, S>::elements],
      behind[SsdPanel<Along::sum, S>::elements];
  S b[ssd_pieces][SsdPanel<Along::result, S>::elements], c[ssd_pieces][SsdPanel<Along::result, S>::elements];
  S pairs[ssd_pieces * (std::max)(SsdPanel<Along::sum, S>::elements, SsdPanel<Along::result, S>::elements)];
  SsdDecays<S> decays;
};

// dxbc's b and c <- gradients. A block takes a chunk, a group and up to 64 of its states, and adds up over the heads.
template <class Shape>
__global__ void __launch_bounds__(ssd_threads)
    ssd_state_gradients(Rows<float, Shape::C> dxbc, SsdInputs<Shape> in, Rows<const float, Shape::E> dy,
                        const typename Shape::Stored* before, const typename Shape::Stored* behind, SsdPassed passed,
                        Sequences sequences) {
  begin_kernel();
  using S = typename Shape::Stored;
  using Stage = SsdStateStage<S>;
  constexpr int P = Shape::P, N = Shape::N;
  constexpr std::ptrdiff_t stride = Rows<const S, Shape::C>::stride, dy_stride = Rows<const float, Shape::E>::stride;
  using PanelOfGradient = SsdPanel<Along::sum>;
  using PanelAlongSum = SsdPanel<Along::sum, S>;
  using PanelAlongRows = SsdPanel<Along::result, S>;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);
  int index = static_cast<int>(blockIdx.x);
  const int n0 = index % Shape::tiles_of_n * ssd_rows;
  index /= Shape::tiles_of_n;
  const int group = index % Shape::G, slot = index / Shape::G;
  const SsdChunk chunk = ssd_chunk_of(sequences, slot);
  if (chunk.count == 0) return;
  const bool has_before = chunk.number > 0 || passed.before, has_behind = !chunk.is_last || passed.behind;
  const S* const b = in.xbc.address(chunk.first) + Shape::b_column(group) + n0;
  const S* const c = in.xbc.address(chunk.first) + Shape::c_column(group) + n0;
  for (int piece = 0; piece < ssd_pieces; ++piece) {
    const int lines = chunk.count - piece * ssd_depth;
    stage_panel<Shape::aligned>(PanelAlongRows{stage.b[piece]}, b + piece * ssd_depth * stride, stride, lines, N - n0);
    stage_panel<Shape::aligned>(PanelAlongRows{stage.c[piece]}, c + piece * ssd_depth * stride, stride, lines, N - n0);
  }
  SsdResult<S> db, dc;
#pragma unroll 1
  for (int head = group * Shape::heads_of_group; head < (group + 1) * Shape::heads_of_group; ++head) {
    const S* const x = in.xbc.address(chunk.first) + Shape::x_column(head);
    const float* const g = dy.address(chunk.first) + Shape::x_column(head);
    const std::ptrdiff_t state =
        slot * Shape::state_size + head * Shape::head_state + static_cast<std::ptrdiff_t>(n0) * padded(P);
    stage.decays.load(in, chunk, head);
    SsdResult<S> pairs, of_before, of_behind;
#pragma unroll 1
    for (int p = 0; p < P; p += ssd_depth) {
      const int count = min(ssd_depth, P - p);
      stage_panel<Shape::aligned>(PanelOfGradient{stage.dy}, g + p, dy_stride, chunk.count, count);
      stage_panel<Shape::aligned>(PanelAlongSum{stage.x}, x + p, stride, chunk.count, count);
      if (has_before)
        stage_panel<true>(PanelAlongSum{stage.before}, before + state + p, padded(P), N - n0, padded(P) - p);
      if (has_behind)
        stage_panel<true>(PanelAlongSum{stage.behind}, behind + state + p, padded(P), N - n0, padded(P) - p);
      commit_copies();
      wait_for_copies<0>();
      __syncthreads();
      pairs.add(PanelOfGradient{stage.dy}, PanelAlongSum{stage.x}, count, P, in.first_term);
      if (has_before) of_before.add(PanelOfGradient{stage.dy}, PanelAlongSum{stage.before}, count, P, in.first_term);
      if (has_behind) of_behind.add(PanelAlongSum{stage.x}, PanelAlongSum{stage.behind}, count, P, in.first_term);
      __syncthreads();
    }
    // The part of the states outside.
    const auto add_scaled = [](SsdResult<S>& to, SsdResult<S>& from, auto&& factor_of_row) {
#pragma unroll
      for (int m = 0; m < part_units; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float factor = factor_of_row(to.row() + Sums<float>::row() + 16 * m + i);
#pragma unroll
          for (int n = 0; n < part_units; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) to.sums.at[m][n][i].at[k] += factor * from.sums.at[m][n][i].at[k];
        }
    };
    if (has_before) add_scaled(dc, of_before, [&](int i) { return stage.decays.from_begin[i]; });
    if (has_behind) add_scaled(db, of_behind, [&](int j) { return stage.decays.to_end[j] * stage.decays.delta[j]; });
    // The part within the chunk: once with rows i, then with rows j.
    pairs.each([&](int i, int j, float& value) {
      value = j <= i ? value * stage.decays.between(j, i) * stage.decays.delta[j] : 0.0F;
      stage.pairs[j / ssd_depth * PanelAlongSum::elements + i * PanelAlongSum::stride + j % ssd_depth] = value;
    });
    __syncthreads();
    for (int piece = 0; piece < ssd_pieces; ++piece)
      dc.add(PanelAlongSum{stage.pairs + piece * PanelAlongSum::elements}, PanelAlongRows{stage.b[piece]}, ssd_depth,
             ssd_rows, in.first_term);
    __syncthreads();
    pairs.each([&](int i, int j, float value) {
      stage.pairs[i / ssd_depth * PanelAlongRows::elements + i % ssd_depth * PanelAlongRows::stride + j] = value;
    });
    __syncthreads();
    for (int piece = 0; piece < ssd_pieces; ++piece)
      db.add(PanelAlongRows{stage.pairs + piece * PanelAlongRows::elements}, PanelAlongRows{stage.c[piece]}, ssd_depth,
             ssd_rows, in.first_term);
    __syncthreads();
  }
  const auto write = [&](SsdResult<S>& result, int column) {
    result.each([&](int t, int n, float value) {
      if (t < chunk.count && n0 + n < N) dxbc.address(chunk.first + t)[column + n0 + n] = value;
    });
  };
  write(db, Shape::b_column(group));
  write(dc, Shape::c_column(group));
}

}  // namespace mamba::cuda::detail
