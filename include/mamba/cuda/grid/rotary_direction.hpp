// The two directions of a walk along a sequence of Mamba-3's (ssd_walk.hpp), as ssd_direction.hpp has Mamba-2's:
// outputs from inputs, and the inputs' gradients from the outputs'.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/rotary_shape.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// What walks and chunks' gradients have in common; by which names they ask is said in ssd_direction.hpp.
template <class Shape_>
struct RotaryWalks {
  using Shape = Shape_;
  using S = typename Shape::Stored;
  static constexpr int P = Shape::P, R = Shape::R, ranks = R;
  using Decays = RotaryDecays<S, Shape::rows, R>;
  using AnySequences = std::conditional_t<R == 1, Sequences, RankedSequences<R>>;
  static constexpr int line_stride = Rows<const S, Shape::keys>::stride;
  RotaryWalkInputs<Shape> in;

  __device__ const S* key_line(int row, int head) const { return in.keys.address(row) + head * Shape::N; }
  __device__ const S* query_line(int row, int head) const { return in.queries.address(row) + head * Shape::N; }
  static __device__ bool same_token(int i, int j) { return i / R == j / R; }
  static __device__ bool comes(int from, int to) { return from / R <= to / R; }

  template <int threads, class Tile>
  __device__ void stage_values(Tile tile, int row, int count, int head, int p) const {
    stage_lines<Shape::vector, threads>(tile, in.values.address(row) + head * P + p, in.values.stride, count, P - p);
  }
  // Where a row's outputs of a head lie in rows that have a token's ranks beside each other.
  template <class T>
  static __device__ T* output(Rows<T, R * Shape::E> y, int row, int head) {
    return y.address(row / R) + (head * R + row % R) * P;
  }
  // tile <- so many rows' output gradients from one on, onwards or backwards.
  template <int threads, int direction, class Tile>
  static __device__ void stage_outputs(Tile tile, Rows<const float, R * Shape::E> dy, int row, int count, int head,
                                       int p) {
    stage_lines<Shape::gradient_vector, threads>(
        tile, [=](int line) { return output(dy, row + direction * line, head) + p; }, count, P - p);
  }
};

// y from values.
template <class Shape_>
struct RotaryForward : RotaryWalks<Shape_> {
  using Shape = Shape_;
  using typename RotaryWalks<Shape>::S;
  using typename RotaryWalks<Shape>::Decays;
  using Source = S;
  using Result = S;
  static constexpr bool backward = false;
  Rows<Result, Shape::R * Shape::E> y;

  __device__ const S* left(int row, int head) const { return this->query_line(row, head); }
  __device__ const S* right(int row, int head) const { return this->key_line(row, head); }
  template <int threads, class Tile>
  __device__ void stage_source(Tile tile, int row, int count, int head, int p) const {
    this->template stage_values<threads>(tile, row, count, head, p);
  }
  __device__ Result* result(int row, int head) const { return this->output(y, row, head); }
  static __device__ bool is_blocked(int) { return false; }  // a blocked row's input enters for none but its own token
  static __device__ float weight(float pair, const Decays& decays, int from, int to) {
    return RotaryForward::same_token(from, to) ? pair * decays.at_once[from]
                                               : pair * decays.between(from, to) * decays.later[from];
  }
  static __device__ float of_source(const Decays& decays, int r) { return decays.to_end[r] * decays.later[r]; }
  static __device__ float of_carried(const Decays& decays, int r) { return decays.from_begin[r]; }
  static __device__ float of_result(const Decays&, int) { return 1; }
};

// The values' gradients, where they lie: beside those of b and c, or in rows of their own.
template <class Shape_>
struct RotaryBackward : RotaryWalks<Shape_> {
  using Shape = Shape_;
  using typename RotaryWalks<Shape>::S;
  using typename RotaryWalks<Shape>::Decays;
  using Source = float;
  using Result = float;
  static constexpr bool backward = true;
  Rows<const float, Shape::R * Shape::E> dy;
  Rows<float, Shape::value_columns> dvalues;

  __device__ const S* left(int row, int head) const { return this->key_line(row, head); }
  __device__ const S* right(int row, int head) const { return this->query_line(row, head); }
  template <int threads, class Tile>
  __device__ void stage_source(Tile tile, int row, int count, int head, int p) const {
    this->template stage_outputs<threads, -1>(tile, dy, row, count, head, p);
  }
  __device__ Result* result(int row, int head) const { return dvalues.address(row) + head * Shape::P; }
  static __device__ bool is_blocked(int) { return false; }
  static __device__ float weight(float pair, const Decays& decays, int from, int to) {
    return RotaryBackward::same_token(from, to) ? pair * decays.at_once[to]
                                                : pair * decays.between(from, to) * decays.later[to];
  }
  static __device__ float of_source(const Decays& decays, int r) { return decays.to_end[r]; }
  static __device__ float of_carried(const Decays& decays, int r) { return decays.from_begin[r] * decays.later[r]; }
  static __device__ float of_result(const Decays&, int) { return 1; }
};

}  // namespace mamba::cuda::detail
