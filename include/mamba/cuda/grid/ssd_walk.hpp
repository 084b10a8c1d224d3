// Mamba-2's recurrence over the grid (ssd.hpp), chunk by chunk along a sequence: a block carries the state of a head's
// channels in its warps' registers. A chunk's rows, with W_ij = (c_i . b_j) between_ji, are
//   y_i = from_begin_i c_i . (state before) + sum over j <= i of W_ij delta_j x_j + d x_i
//   (state behind) = of_chunk (state before) + sum over j of to_end_j delta_j b_j x_j^T
// and against time in the same way (ssd_direction.hpp): a walk takes a chunk's rows in its own order, so that both
// directions are one kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>
#include <mamba/cuda/grid/ssd_direction.hpp>

namespace mamba::cuda::detail {

// What a call of the kernel walks along: pieces of so many rows, or whole sequences. By slots of these: from, what is
// carried into them (null: nothing), to, what leaves them, and the decay of each, where somebody asks; by slots of
// chunks: kept, what is carried into each; pairs, of which every head of a group takes the same (SsdPairs).
template <class Shape>
struct SsdPath {
  int rows_of_piece = whole_sequences;
  const float* from = nullptr;
  float* to = nullptr;
  float* decays = nullptr;
  typename Shape::Stored* kept = nullptr;
  const float* pairs = nullptr;
};

// How much of each row of a chunk comes to each, but for their decays: left times right. Heads of a group have these
// numbers in common, so that a kernel of its own makes them for all, as units where a walk's lanes want them.
template <class Shape>
struct SsdPairs {
  using S = typename Shape::Stored;
  using Lines = SwizzledTile<S, Shape::rows, padded(Shape::N)>;
  static constexpr int warps = Shape::width / unit_side, threads = 32 * warps;
  using Units = SsdPairUnits<Shape::row_units, warps>;
  static constexpr bool are_shared = Shape::heads_of_group > 1 && Units::own <= 4;  // else they fill the registers
  static constexpr std::size_t of_chunk = static_cast<std::size_t>(Units::own) * threads * 8;

  struct Stage {
    alignas(128) S left[Lines::elements];
    S right[Lines::elements];
  };

  static __device__ void multiply(Unit (&pairs)[Units::own], const Units& units, Lines left, Lines right,
                                  int first_term) {
    const TileReader<S, Side::left, Way::along_lines, Lines> of_left(left);
    const TileReader<S, Side::right, Way::along_lines, Lines> of_right(right);
#pragma unroll
    for (int n = 0; n < padded(Shape::N); n += unit_side)
#pragma unroll
      for (int u = 0; u < Units::own; ++u)
        multiply_add(pairs[u], of_left.read(units.row(u), n), of_right.read(units.column(u), n), first_term);
  }
  // Those of a group's chunk to memory and back; f(where a lane has four numbers of them, the unit, the half).
  static __device__ void store(float* to, int slot, int group, const Unit (&pairs)[Units::own]) {
    each_four(slot, group, [&](std::size_t at, int u, int h) {
      const auto& of = pairs[u].at[h];
      store4(to + at, Quad<float>{{of[0][0], of[0][1], of[1][0], of[1][1]}});
    });
  }
  static __device__ void load(Unit (&pairs)[Units::own], const float* from, int slot, int group) {
    each_four(slot, group, [&](std::size_t at, int u, int h) {
      const auto four = load4(from + at);
      auto& of = pairs[u].at[h];
      of[0][0] = four.at[0], of[0][1] = four.at[1], of[1][0] = four.at[2], of[1][1] = four.at[3];
    });
  }

 private:
  template <class F>
  static __device__ void each_four(int slot, int group, F&& f) {
#pragma unroll
    for (int u = 0; u < Units::own; ++u)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        f((static_cast<std::size_t>(slot) * Shape::G + group) * of_chunk + (u * threads + thread()) * 8 + 4 * h, u, h);
  }
};
template <class Walk>
__global__ void __launch_bounds__(SsdPairs<typename Walk::Shape>::threads)
    ssd_pairs(Walk walk, float* pairs, typename Walk::AnySequences sequences) {
  begin_kernel();
  using Shape = typename Walk::Shape;
  using Pairs = SsdPairs<Shape>;
  using Lines = typename Pairs::Lines;
  extern __shared__ __align__(128) std::byte shared[];
  auto& stage = *reinterpret_cast<typename Pairs::Stage*>(shared);
  const int group = static_cast<int>(blockIdx.x) % Shape::G, slot = static_cast<int>(blockIdx.x) / Shape::G;
  const SsdStretch chunk = ssd_stretch_of(sequences, slot, Shape::rows);
  if (chunk.count == 0) return;
  const int row = Walk::backward ? chunk.first + chunk.count - 1 : chunk.first, head = group * Shape::heads_of_group;
  constexpr std::ptrdiff_t stride = (Walk::backward ? -1 : 1) * std::ptrdiff_t{Walk::line_stride};
  stage_lines<Shape::vector, Pairs::threads>(Lines{stage.left}, walk.left(row, head), stride, chunk.count, Shape::N);
  stage_lines<Shape::vector, Pairs::threads>(Lines{stage.right}, walk.right(row, head), stride, chunk.count, Shape::N);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  Unit of_pairs[Pairs::Units::own];
  Pairs::multiply(of_pairs, {}, Lines{stage.left}, Lines{stage.right}, walk.in.first_term);
  Pairs::store(pairs, slot, group, of_pairs);
}

template <class Walk>
struct SsdWalkStage {
  using Shape = typename Walk::Shape;
  using S = typename Shape::Stored;
  using Pairs = SsdPairs<Shape>;
  using Lines = typename Pairs::Lines;
  using Source = SwizzledTile<typename Walk::Source, Shape::rows, Shape::width>;
  using Weights = SwizzledTile<S, Shape::rows, Shape::rows>;
  using Decays = typename Walk::Decays;
  static constexpr int warps = Pairs::warps, threads = Pairs::threads;

  alignas(128) S left[Lines::elements];
  S weights[Weights::elements];
  struct Turn {
    alignas(128) S right[Lines::elements];
    typename Walk::Source source[Source::elements];
  } turns[2];
  Decays decays[2];
};

// Blocks that a multiprocessor has at once: as many as have shared memory, and registers for their states.
template <class Walk>
inline constexpr int ssd_walks_at_once =
    std::is_same_v<typename Walk::Shape::Stored, BFloat16> && Walk::Shape::state_units <= 8 &&
            3 * sizeof(SsdWalkStage<Walk>) <= (std::size_t{224} << 10)
        ? 3
        : 2;

template <bool gives, class Walk>
__global__ void __launch_bounds__(SsdWalkStage<Walk>::threads, ssd_walks_at_once<Walk>)
    ssd_walk(Walk walk, SsdPath<typename Walk::Shape> path, typename Walk::AnySequences sequences) {
  begin_kernel();
  using Shape = typename Walk::Shape;
  using S = typename Shape::Stored;
  using Stage = SsdWalkStage<Walk>;
  using Lines = typename Stage::Lines;
  using Source = typename Stage::Source;
  using Weights = typename Stage::Weights;
  using Decays = typename Walk::Decays;
  using Pairs = SsdPairs<Shape>;
  constexpr int P = Shape::P, N = Shape::N, rows = Shape::rows, tiles = Shape::row_units, threads = Stage::threads;
  constexpr bool backward = Walk::backward;
  constexpr std::ptrdiff_t direction = backward ? -1 : 1;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);

  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::widths * Shape::width;
  index /= Shape::widths;
  const int head = index % Shape::H, slot = index / Shape::H;
  const SsdStretch piece = ssd_stretch_of(sequences, slot, path.rows_of_piece);
  if (piece.count == 0) return;
  const int chunks = (piece.count + rows - 1) / rows, begin = sequences.begin(piece.sequence);
  const int first_term = walk.in.first_term;
  const auto of_decays = walk.in.head(head);
  const float skip = gives ? walk.in.skip(head) : 0.0F;

  struct Chunk {
    int first, count;
    __device__ int row(int r) const { return backward ? first + count - 1 - r : first + r; }
  };
  const auto chunk_of = [&](int turn) {
    const int number = backward ? chunks - 1 - turn : turn;
    return Chunk{piece.first + number * rows, min(rows, piece.count - number * rows)};
  };
  const auto fetch_left = [&](const Chunk& chunk) {
    stage_lines<Shape::vector, threads>(Lines{stage.left}, walk.left(chunk.row(0), head), direction * Walk::line_stride,
                                        chunk.count, N);
  };
  const auto fetch_others = [&](const Chunk& chunk, int turn) {
    stage_lines<Shape::vector, threads>(Lines{stage.turns[turn % 2].right}, walk.right(chunk.row(0), head),
                                        direction * Walk::line_stride, chunk.count, N);
    walk.template stage_source<threads>(Source{stage.turns[turn % 2].source}, chunk.row(0), chunk.count, head, p0);
  };

  // A warp's channels (rows) by all states, which lie in memory with a state's channels beside each other.
  Unit state[Shape::state_units];
  const int own_p = warp() * unit_side;  // of the block's channels
  const std::ptrdiff_t of_head = head * Shape::head_state + p0 + own_p;
  const bool exists = p0 + own_p < padded(P);
  const auto each_state = [&](auto&& f) {
#pragma unroll
    for (int k = 0; k < Shape::state_units; ++k)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          if (const int n = k * unit_side + 8 * h + Unit::first_column() + j; exists && n < N)
#pragma unroll
            for (int i = 0; i < 2; ++i)
              f(static_cast<std::ptrdiff_t>(n) * padded(P) + Unit::first_row() + 8 * i, state[k].at[h][i][j]);
  };
  if (path.from) {
    const float* const from = path.from + slot * Shape::state_size + of_head;
    each_state([&](std::ptrdiff_t at, float& x) { x = from[at]; });
  }
  bool is_zero = path.from == nullptr;
  float of_piece = 1;  // the decay of all that it has passed

  {
    const Chunk first = chunk_of(0);
    if constexpr (gives) fetch_left(first);
    fetch_others(first, 0);
    commit_copies();
    if (warp() == 0)
      stage.decays[0].template set<backward>(Decays::template load<backward>(walk.in, first.first, first.count, head),
                                             of_decays);
    wait_for_copies<0>();
    __syncthreads();
  }
  Unit of_pairs[Pairs::Units::own];
  const auto slot_of = [&](const Chunk& chunk) {
    return ssd_slot(begin, piece.sequence, (chunk.first - begin) / rows, rows);
  };
  const auto load_pairs = [&](const Chunk& chunk) {
    if constexpr (gives && Pairs::are_shared)
      Pairs::load(of_pairs, path.pairs, slot_of(chunk), head / Shape::heads_of_group);
  };
  load_pairs(chunk_of(0));
#pragma unroll 1
  for (int turn = 0; turn < chunks; ++turn) {
    const Chunk chunk = chunk_of(turn), next = chunk_of(min(turn + 1, chunks - 1));
    const bool more = turn + 1 < chunks;
    const Decays& decays = stage.decays[turn % 2];
    const Source source{stage.turns[turn % 2].source};
    const Lines right{stage.turns[turn % 2].right};
    const TileReader<S, Side::right, Way::across_lines, Source> source_as_right(source, own_p);
    const TileReader<S, Side::left, Way::across_lines, Source> source_as_left(source, own_p);
    if (more) fetch_others(next, turn + 1);
    commit_copies();
    typename Decays::Steps steps{};
    if (more && warp() == 0) steps = Decays::template load<backward>(walk.in, next.first, next.count, head);
    if (path.kept && !is_zero) {
      S* const to = path.kept + slot_of(chunk) * Shape::state_size + of_head;
      if constexpr (std::is_same_v<S, BFloat16>) {
#pragma unroll
        for (int k = 0; k < Shape::state_units; ++k)
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const unsigned pair = transposed(bfloat16_pair(state[k].at[h][i][0], state[k].at[h][i][1]));
              const int n = k * unit_side + 8 * h + Unit::first_row();
              if (exists && n < N)
                *reinterpret_cast<unsigned*>(to + static_cast<std::ptrdiff_t>(n) * padded(P) + 8 * i +
                                             Unit::first_column()) = pair;
            }
      } else {
        each_state([&](std::ptrdiff_t at, float x) { to[at] = x; });
      }
    }

    if constexpr (gives) {
      const TileReader<S, Side::left, Way::along_lines, Lines> left(Lines{stage.left});
      const Weights weights{stage.weights};
      Unit result[tiles][1];
      const auto weigh = [&] {  // how much of each row comes to each: units on and below the diagonal, shared out
        const typename Pairs::Units units;
        if constexpr (!Pairs::are_shared) {
#pragma unroll
          for (Unit& unit : of_pairs) unit = {};
          Pairs::multiply(of_pairs, units, Lines{stage.left}, right, first_term);
        }
#pragma unroll
        for (int u = 0; u < Pairs::Units::own; ++u) {
          if (!Pairs::Units::exists(u)) break;
          of_pairs[u].each([&](int r, int c, const float(&pair)[2]) {
            const int row = units.row(u) + r, column = units.column(u) + c;
            float weight[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int from = column + j;
              const bool counts =
                  Walk::comes(from, row) && !(from < row && from < chunk.count && walk.is_blocked(chunk.row(from)));
              weight[j] = counts ? Walk::weight(pair[j], decays, from, row) : 0.0F;
            }
            store_pair(weights.at(row, column), weight[0], weight[1]);
          });
        }
      };
      const auto add_from_state = [&] {
        if (!is_zero) {  // what comes of the state
#pragma unroll
          for (int k = 0; k < Shape::state_units; ++k) {
            const Operand<S, Side::right> of_state[1] = {operand_of<S, Side::right>(state[k])};
            Operand<S, Side::left> lines[tiles];
#pragma unroll
            for (int m = 0; m < tiles; ++m) lines[m] = left.read(m * unit_side, k * unit_side);
            multiply_add(result, lines, of_state, first_term);
          }
#pragma unroll
          for (int m = 0; m < tiles; ++m)
#pragma unroll
            for (int i = 0; i < 2; ++i)
              result[m][0].scale_row(i, Walk::of_carried(decays, m * unit_side + Unit::first_row() + 8 * i));
        }
      };
      // Where pairs are on their way, there is something else to do.
      if constexpr (Pairs::are_shared) add_from_state(), weigh();
      else weigh(), add_from_state();
      __syncthreads();  // the weights are there, and nobody reads left any more
      if (more) fetch_left(next);
      commit_copies();
      const TileReader<S, Side::left, Way::along_lines, Weights> weights_as_left(weights);
#pragma unroll
      for (int k = 0; k < tiles; ++k) {
        const auto of_source = source_as_right.read(k * unit_side, 0);
#pragma unroll
        for (int m = k; m < tiles; ++m)
          multiply_add(result[m][0], weights_as_left.read(m * unit_side, k * unit_side), of_source, first_term);
      }
#pragma unroll
      for (int m = 0; m < tiles; ++m)
        result[m][0].each([&](int r, int c, const float(&pair)[2]) {
          const int row = m * unit_side + r, p = p0 + own_p + c;
          if (row >= chunk.count) return;
          const auto own = load_pair(static_cast<const typename Walk::Source*>(source.at(row, own_p + c)));
          const float factor = Walk::of_result(decays, row), first = factor * pair[0] + skip * own.at[0],
                      second = factor * pair[1] + skip * own.at[1];
          auto* const to = walk.result(chunk.row(row), head) + p;
          if constexpr (P % 2 == 0) {
            if (p < P) store_pair(to, first, second);
          } else {
            if (p < P) to[0] = first;
            if (p + 1 < P) to[1] = second;
          }
        });
    }

    // What is carried on.
    if (more || path.to) {
      const TileReader<S, Side::right, Way::across_lines, Lines> right_across(right);
      const float of_chunk = decays.of_chunk;
      of_piece *= of_chunk;
#pragma unroll
      for (int k = 0; k < Shape::state_units; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) state[k].scale_row(i, of_chunk);
#pragma unroll 1
      for (int t = 0; t < rows; t += unit_side) {
        float factors[2][2];
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int r = t + 8 * k + Unit::first_column() + j;
            const bool counts = !(r < chunk.count && walk.is_blocked(chunk.row(r)));
            factors[k][j] = counts ? Walk::of_source(decays, r) : 0.0F;
          }
        const auto of_source = source_as_left.read(t, 0, factors);
#pragma unroll
        for (int k = 0; k < Shape::state_units; ++k)
          multiply_add(state[k], of_source, right_across.read(t, k * unit_side), first_term);
      }
      is_zero = false;
    }
    if (more) load_pairs(next);
    if (more && warp() == 0) stage.decays[(turn + 1) % 2].template set<backward>(steps, of_decays);
    wait_for_copies<0>();
    __syncthreads();
  }
  if (path.to) {
    float* const to = path.to + slot * Shape::state_size + of_head;
    each_state([&](std::ptrdiff_t at, float x) { to[at] = x; });
    if (path.decays && p0 == 0 && thread() == 0) path.decays[slot * Shape::H + head] = of_piece;
  }
}

}  // namespace mamba::cuda::detail
