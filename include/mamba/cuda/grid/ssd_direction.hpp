// The two directions of a walk along a sequence (ssd_walk.hpp): what it reads, and what it gives. The gradients with
// respect to x go against time in the way y goes with it, with b for c, c for b and dy for x: what is carried is then
// the state's gradient (the adjoint), and dx_j = delta_j v_j + d dy_j, where v is what y is forward.
#pragma once

#include <cstddef>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/ssd_chunk.hpp>

namespace mamba::cuda::detail {

// What both have in common, and by which names a walk asks for it: `row` is of all rows, r, from and to are of a chunk,
// as the direction counts them.
template <class Shape_>
struct SsdWalks {
  using Shape = Shape_;
  using S = typename Shape::Stored;
  using Decays = SsdDecays<S, Shape::rows>;
  using AnySequences = Sequences;
  static constexpr int ranks = 1;  // rows of a token
  static constexpr int line_stride = Rows<const S, Shape::C>::stride;
  SsdInputs<Shape> in;

  __device__ const S* b_line(int row, int head) const {
    return in.xbc.address(row) + Shape::b_column(head / Shape::heads_of_group);
  }
  __device__ const S* c_line(int row, int head) const {
    return in.xbc.address(row) + Shape::c_column(head / Shape::heads_of_group);
  }
  // Whether a row is of those that come to another.
  static __device__ bool comes(int from, int to) { return from <= to; }
  // What remains of the state that is carried into the chunk.
  static __device__ float of_carried(const Decays& decays, int r) { return decays.from_begin[r]; }
};

// y from x.
template <class Shape_, class Blocked>
struct SsdForward : SsdWalks<Shape_> {
  using Shape = Shape_;
  using typename SsdWalks<Shape>::S;
  using typename SsdWalks<Shape>::Decays;
  using Source = S;
  using Result = S;
  static constexpr bool backward = false;
  Rows<Result, Shape::E> y;
  Blocked blocked;

  __device__ const S* left(int row, int head) const { return this->c_line(row, head); }
  __device__ const S* right(int row, int head) const { return this->b_line(row, head); }
  // tile <- the rows of the source from one on, channels from p on.
  template <int threads, class Tile>
  __device__ void stage_source(Tile tile, int row, int count, int head, int p) const {
    stage_lines<Shape::vector, threads>(tile, this->in.xbc.address(row) + Shape::x_column(head) + p, this->line_stride,
                                        count, Shape::P - p);
  }
  __device__ Result* result(int row, int head) const { return y.address(row) + Shape::x_column(head); }
  __device__ bool is_blocked(int row) const { return blocked.blocked(row); }
  // The weight of a row of the source in the result of another, given left times right; in what is carried on; and what
  // a result is multiplied with.
  static __device__ float weight(float pair, const Decays& decays, int from, int to) {
    return pair * decays.between(from, to) * decays.delta[from];
  }
  static __device__ float of_source(const Decays& decays, int r) { return decays.to_end[r] * decays.delta[r]; }
  static __device__ float of_result(const Decays&, int) { return 1; }
};

// dx, of xbc's gradients, from dy.
template <class Shape_>
struct SsdBackward : SsdWalks<Shape_> {
  using Shape = Shape_;
  using typename SsdWalks<Shape>::S;
  using typename SsdWalks<Shape>::Decays;
  using Source = float;
  using Result = float;
  static constexpr bool backward = true;
  Rows<const float, Shape::E> dy;
  Rows<float, Shape::C> dxbc;

  __device__ const S* left(int row, int head) const { return this->b_line(row, head); }
  __device__ const S* right(int row, int head) const { return this->c_line(row, head); }
  template <int threads, class Tile>
  __device__ void stage_source(Tile tile, int row, int count, int head, int p) const {
    stage_lines<Shape::gradient_vector, threads>(tile, dy.address(row) + Shape::x_column(head) + p,
                                                 -std::ptrdiff_t{Rows<const float, Shape::E>::stride}, count,
                                                 Shape::P - p);
  }
  __device__ Result* result(int row, int head) const { return dxbc.address(row) + Shape::x_column(head); }
  __device__ bool is_blocked(int) const { return false; }
  static __device__ float weight(float pair, const Decays& decays, int from, int to) {
    return pair * decays.between(from, to);
  }
  static __device__ float of_source(const Decays& decays, int r) { return decays.to_end[r]; }
  static __device__ float of_result(const Decays& decays, int r) { return decays.delta[r]; }
};

}  // namespace mamba::cuda::detail
