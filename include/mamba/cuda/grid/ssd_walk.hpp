// Mamba-2's recurrence over the grid (ssd.hpp), chunk by chunk along a sequence: a block carries the state of a head's
// channels in its warps' registers. A chunk's rows, with W_ij = (c_i . b_j) between_ji, are
//   y_i = from_begin_i c_i . (state before) + sum over j <= i of W_ij delta_j x_j + d x_i
//   (state behind) = of_chunk (state before) + sum over j of to_end_j delta_j b_j x_j^T
// The gradients with respect to x go against time in the same way, with b for c, c for b and dy for x: what is carried
// is then the state's gradient (the adjoint), and dx_j = delta_j v_j + d dy_j, where v is what y is above. A walk takes
// a chunk's rows in its own order, so that both are one kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// y from x.
template <class Shape_, class Blocked>
struct SsdForward {
  using Shape = Shape_;
  using Source = typename Shape::Stored;
  using Result = typename Shape::Stored;
  static constexpr bool backward = false;
  static constexpr int source_vector = Shape::vector;
  SsdInputs<Shape> in;
  Rows<Result, Shape::E> y;
  Blocked blocked;

  static __device__ int left_column(int group) { return Shape::c_column(group); }
  static __device__ int right_column(int group) { return Shape::b_column(group); }
  __device__ Rows<const Source, Shape::C> source() const { return in.xbc; }
  __device__ Result* result(int row) const { return y.address(row); }
  __device__ bool is_blocked(int row) const { return blocked.blocked(row); }
  // What a row of the source, and of the result, is multiplied with.
  static __device__ float of_source(float delta) { return delta; }
  static __device__ float of_result(float) { return 1; }
};

// dx, of xbc's gradients, from dy.
template <class Shape_>
struct SsdBackward {
  using Shape = Shape_;
  using Source = float;
  using Result = float;
  static constexpr bool backward = true;
  static constexpr int source_vector = Shape::gradient_vector;
  SsdInputs<Shape> in;
  Rows<const float, Shape::E> dy;
  Rows<float, Shape::C> dxbc;

  static __device__ int left_column(int group) { return Shape::b_column(group); }
  static __device__ int right_column(int group) { return Shape::c_column(group); }
  __device__ Rows<const Source, Shape::E> source() const { return dy; }
  __device__ Result* result(int row) const { return dxbc.address(row); }
  __device__ bool is_blocked(int) const { return false; }
  static __device__ float of_source(float) { return 1; }
  static __device__ float of_result(float delta) { return delta; }
};

// What a call of the kernel walks along: pieces of so many rows, or whole sequences. By slots of these: from, what is
// carried into them (null: nothing), to, what leaves them, and the decay of each, where somebody asks; by slots of
// chunks: kept, what is carried into each.
template <class Shape>
struct SsdPath {
  int rows_of_piece = whole_sequences;
  const float* from = nullptr;
  float* to = nullptr;
  float* falls = nullptr;
  typename Shape::Stored* kept = nullptr;
};

template <class Walk>
struct SsdWalkStage {
  using Shape = typename Walk::Shape;
  using S = typename Shape::Stored;
  using Lines = SwizzledTile<S, Shape::rows, padded(Shape::N)>;
  using Source = SwizzledTile<typename Walk::Source, Shape::rows, Shape::width>;
  using Weights = SwizzledTile<S, Shape::rows, Shape::rows>;
  static constexpr int warps = Shape::width / unit_side, threads = 32 * warps;

  alignas(128) S left[Lines::elements];
  S weights[Weights::elements];
  struct Turn {
    alignas(128) S right[Lines::elements];
    typename Walk::Source source[Source::elements];
  } turns[2];
  SsdDecays<S, Shape::rows> decays[2];
};

// Blocks that a multiprocessor has at once: as many as have shared memory, and registers for their states.
template <class Walk>
inline constexpr int ssd_walks_at_once =
    std::is_same_v<typename Walk::Shape::Stored, BFloat16> && Walk::Shape::state_units <= 8 &&
            3 * sizeof(SsdWalkStage<Walk>) <= (std::size_t{224} << 10)
        ? 3
        : 2;

// Eight lines of four pairs of 16 bits, a pair a lane, as eight columns.
__device__ inline unsigned transposed(unsigned pair) {
  unsigned turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
}

// The u-th unit on or below the diagonal.
__device__ inline void lower_unit(int u, int& row, int& column) {
  row = 0;
  while (u > row) u -= ++row;
  column = u;
}

template <bool gives, class Walk>
__global__ void __launch_bounds__(SsdWalkStage<Walk>::threads, ssd_walks_at_once<Walk>)
    ssd_walk(Walk walk, SsdPath<typename Walk::Shape> path, Sequences sequences) {
  begin_kernel();
  using Shape = typename Walk::Shape;
  using S = typename Shape::Stored;
  using Stage = SsdWalkStage<Walk>;
  using Lines = typename Stage::Lines;
  using Source = typename Stage::Source;
  using Weights = typename Stage::Weights;
  using Decays = SsdDecays<S, Shape::rows>;
  constexpr int P = Shape::P, N = Shape::N, rows = Shape::rows, tiles = Shape::row_units, threads = Stage::threads;
  constexpr bool backward = Walk::backward;
  constexpr std::ptrdiff_t direction = backward ? -1 : 1;
  extern __shared__ __align__(128) std::byte shared[];
  Stage& stage = *reinterpret_cast<Stage*>(shared);

  int index = static_cast<int>(blockIdx.x);
  const int p0 = index % Shape::widths * Shape::width;
  index /= Shape::widths;
  const int head = index % Shape::H, slot = index / Shape::H, group = head / Shape::heads_of_group;
  const SsdStretch piece = ssd_stretch_of(sequences, slot, path.rows_of_piece);
  if (piece.count == 0) return;
  const int chunks = (piece.count + rows - 1) / rows, begin = sequences.begin(piece.sequence);
  const int first_term = walk.in.first_term;
  const float rate = walk.in.a.derived[head];

  struct Chunk {
    int first, count;
    __device__ int row(int r) const { return backward ? first + count - 1 - r : first + r; }
  };
  const auto chunk_of = [&](int turn) {
    const int number = backward ? chunks - 1 - turn : turn;
    return Chunk{piece.first + number * rows, min(rows, piece.count - number * rows)};
  };
  const auto fetch_left = [&](const Chunk& chunk) {
    using In = Rows<const S, Shape::C>;
    stage_lines<Shape::vector, threads>(Lines{stage.left}, walk.in.xbc.address(chunk.row(0)) + Walk::left_column(group),
                                        direction * In::stride, chunk.count, N);
  };
  const auto fetch_others = [&](const Chunk& chunk, int turn) {
    using In = Rows<const S, Shape::C>;
    const auto source = walk.source();
    stage_lines<Shape::vector, threads>(Lines{stage.turns[turn % 2].right},
                                        walk.in.xbc.address(chunk.row(0)) + Walk::right_column(group),
                                        direction * In::stride, chunk.count, N);
    stage_lines<Walk::source_vector, threads>(Source{stage.turns[turn % 2].source},
                                              source.address(chunk.row(0)) + Shape::x_column(head) + p0,
                                              direction * decltype(source)::stride, chunk.count, P - p0);
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
  float fall = 1;

  {
    const Chunk first = chunk_of(0);
    if constexpr (gives) fetch_left(first);
    fetch_others(first, 0);
    commit_copies();
    if (warp() == 0)
      stage.decays[0].template set<backward>(Decays::template load<backward>(walk.in, first.first, first.count, head),
                                             rate);
    wait_for_copies<0>();
    __syncthreads();
  }
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
      S* const to =
          path.kept + ssd_slot(begin, piece.sequence, (chunk.first - begin) / rows, rows) * Shape::state_size + of_head;
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
      {  // how much of each row comes to each: units on and below the diagonal, shared out
        constexpr int units = tiles * (tiles + 1) / 2, own = (units + Stage::warps - 1) / Stage::warps;
        const TileReader<S, Side::right, Way::along_lines, Lines> right_lines(right);
        Unit of_pairs[own];
        int at_row[own], at_column[own];
#pragma unroll
        for (int u = 0; u < own; ++u) lower_unit(min(u * Stage::warps + warp(), units - 1), at_row[u], at_column[u]);
#pragma unroll
        for (int n = 0; n < padded(N); n += unit_side)
#pragma unroll
          for (int u = 0; u < own; ++u)
            multiply_add(of_pairs[u], left.read(at_row[u] * unit_side, n),
                         right_lines.read(at_column[u] * unit_side, n), first_term);
#pragma unroll
        for (int u = 0; u < own; ++u) {
          if (u * Stage::warps + warp() >= units) break;
          of_pairs[u].each([&](int r, int c, const float(&pair)[2]) {
            const int row = at_row[u] * unit_side + r, column = at_column[u] * unit_side + c;
            float weight[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int from = column + j;
              const bool counts =
                  from <= row && !(from < row && from < chunk.count && walk.is_blocked(chunk.row(from)));
              weight[j] = counts ? pair[j] * decays.between(from, row) * Walk::of_source(decays.delta[from]) : 0.0F;
            }
            store2(weights.at(row, column), weight[0], weight[1]);
          });
        }
      }
      Unit result[tiles][1];
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
            result[m][0].scale_row(i, decays.from_begin[m * unit_side + Unit::first_row() + 8 * i]);
      }
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
      const float skip = walk.in.d.value[head];
#pragma unroll
      for (int m = 0; m < tiles; ++m)
        result[m][0].each([&](int r, int c, const float(&pair)[2]) {
          const int row = m * unit_side + r, p = p0 + own_p + c;
          if (row >= chunk.count) return;
          const float2 own = load2(static_cast<const typename Walk::Source*>(source.at(row, own_p + c)));
          const float factor = Walk::of_result(decays.delta[row]), first = factor * pair[0] + skip * own.x,
                      second = factor * pair[1] + skip * own.y;
          auto* const to = walk.result(chunk.row(row)) + Shape::x_column(head) + p;
          if constexpr (P % 2 == 0) {
            if (p < P) store2(to, first, second);
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
      fall *= of_chunk;
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
            factors[k][j] = counts ? decays.to_end[r] * Walk::of_source(decays.delta[r]) : 0.0F;
          }
        const auto of_source = source_as_left.read(t, 0, factors);
#pragma unroll
        for (int k = 0; k < Shape::state_units; ++k)
          multiply_add(state[k], of_source, right_across.read(t, k * unit_side), first_term);
      }
      is_zero = false;
    }
    if (more && warp() == 0) stage.decays[(turn + 1) % 2].template set<backward>(steps, rate);
    wait_for_copies<0>();
    __syncthreads();
  }
  if (path.to) {
    float* const to = path.to + slot * Shape::state_size + of_head;
    each_state([&](std::ptrdiff_t at, float x) { to[at] = x; });
    if (path.falls && p0 == 0 && thread() == 0) path.falls[slot * Shape::H + head] = fall;
  }
}

// Where sequences begin (null: at zero) and, where somebody asks for it, end; they may be the same. Against time: where
// they end, and where they begin.
struct SsdEnds {
  const float* from = nullptr;
  float* to = nullptr;
};

// of_pieces <- what is carried into each piece, given what each adds by itself. A thread takes one number of a
// sequence's state, and asks for several pieces' at once: it waits for memory, not for arithmetic.
template <class Shape, bool backward>
__global__ void __launch_bounds__(Block::threads)
    ssd_pass(float* of_pieces, const float* falls, SsdEnds ends, int rows_of_piece, Sequences sequences) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  const int s = static_cast<int>(i / Shape::state_size), at = static_cast<int>(i % Shape::state_size);
  if (s >= sequences.count) return;
  const int head = at / static_cast<int>(Shape::head_state), begin = sequences.begin(s),
            pieces = (sequences.end(s) - begin + rows_of_piece - 1) / rows_of_piece,
            first = ssd_slot(begin, s, 0, rows_of_piece);
  const auto slot = [&](int k) { return first + (backward ? pieces - 1 - k : k); };
  float carried = ends.from ? ends.from[i] : 0.0F;
  constexpr int at_once = 8;
  for (int k0 = 0; k0 < pieces; k0 += at_once) {
    float added[at_once], fall[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const bool exists = k0 + k < pieces;
      added[k] = exists ? of_pieces[slot(k0 + k) * Shape::state_size + at] : 0.0F,
      fall[k] = exists ? falls[slot(k0 + k) * Shape::H + head] : 0.0F;
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      if (k0 + k >= pieces) break;
      of_pieces[slot(k0 + k) * Shape::state_size + at] = carried;
      carried = fall[k] * carried + added[k];
    }
  }
  if (ends.to) ends.to[i] = carried;
}

// The rows of a piece, a multiple of a chunk's, such that there are blocks enough: a function of sizes alone.
template <class Shape>
int ssd_rows_of_piece(int rows, int sequences) {
  static_assert(GridTuning::ssd_least_piece % Shape::rows == 0, "slots of chunks rely on it");
  const int pieces = GridTuning::ssd_blocks / (Shape::H * Shape::widths * sequences), length = rows / sequences;
  if (pieces < 2) return whole_sequences;
  const int wanted = (length + pieces - 1) / pieces,
            in_chunks = (std::max)((wanted + Shape::rows - 1) / Shape::rows * Shape::rows, GridTuning::ssd_least_piece);
  return in_chunks < length ? in_chunks : whole_sequences;
}

// The memory of walks in pieces, which there may be none of.
template <class Shape>
struct SsdPieces {
  int rows, slots;
  float *states = nullptr, *falls = nullptr;

  SsdPieces(int all_rows, int sequences)
      : rows(ssd_rows_of_piece<Shape>(all_rows, sequences)), slots(ssd_slots(all_rows, sequences, rows)) {}
  bool exist() const { return rows != whole_sequences; }
  void carve(Carver& memory) {
    if (!exist()) return;
    states = memory.take<float>(static_cast<std::size_t>(slots) * Shape::state_size);
    falls = memory.take<float>(static_cast<std::size_t>(slots) * Shape::H);
  }
};

// Walks along all sequences from their ends' `from`, and leaves what is carried out of them in `to`. gives: the walk's
// results; kept: null, or what is carried into each chunk but zeros.
template <bool gives, class Walk>
void ssd_walk_all(Grid& be, const Walk& walk, const SsdPieces<typename Walk::Shape>& pieces, SsdEnds ends,
                  typename Walk::Shape::Stored* kept, Sequences sequences) {
  using Shape = typename Walk::Shape;
  const auto run = [&](auto kernel, const SsdPath<Shape>& path) {
    be.launch_shaped(
        "ssd_walk", kernel,
        {pieces.slots * Shape::H * Shape::widths, SsdWalkStage<Walk>::threads, shared_memory<SsdWalkStage<Walk>>}, walk,
        path, sequences);
  };
  if (!pieces.exist())
    return run(ssd_walk<gives, Walk>, SsdPath<Shape>{pieces.rows, ends.from, ends.to, nullptr, kept});
  run(ssd_walk<false, Walk>, SsdPath<Shape>{pieces.rows, nullptr, pieces.states, pieces.falls, nullptr});
  be.launch_over("ssd_pass", ssd_pass<Shape, Walk::backward>,
                 static_cast<std::size_t>(sequences.count) * Shape::state_size, pieces.states,
                 static_cast<const float*>(pieces.falls), ends, pieces.rows, sequences);
  run(ssd_walk<gives, Walk>, SsdPath<Shape>{pieces.rows, pieces.states, nullptr, nullptr, kept});
}

}  // namespace mamba::cuda::detail
