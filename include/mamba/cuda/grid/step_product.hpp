// Products of a decoding step, a token each of up to most_step_rows sequences, and what stands before and behind them
// (network/fused.hpp): of few rows in one kernel, of more on the tensor cores, whose second kernel adds shares of sums
// up and does what stands behind.
#pragma once

#include <cstddef>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/few_rows.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/product.hpp>
#include <mamba/cuda/grid/rowwise.hpp>

namespace mamba::cuda::detail {

// What a step's operand takes of scratch memory where there are more than few rows. GridMemory::of_step_operand says
// how much that is.
template <class S, int In>
struct StepOperandMemory {
  Rows<S, In> rows;
  ComputeOf<S>* rho = nullptr;

  void carve(Carver& memory, int count) {
    memory.take(rows, count);
    rho = memory.template take<ComputeOf<S>>(static_cast<std::size_t>(count));
  }
};

template <class X, class T, int In>
void write_operand(Grid& be, Rows<X, In> to, T* rho, const NormedOperand<T, In>& of) {
  rms_norm(be, to, rho, of.x, Weight<T, 1, In>{of.weight});
}
template <class S, class T, int In>
void write_operand(Grid& be, Rows<S, In> to, T* rho, const GatedNormedOperand<S, In>& of) {
  gated_norm<1>(be, to, Rows<S, In>{nullptr, to.rows}, rho, of.y, of.z, Weight<T, 1, In>{of.weight});
}

// result <- operand w^T. S: what the operand is stored in where it is written down, as it is of more than few rows; in
// double a step has no more (most_step_rows).
template <class S, class Result, class Operand, class W, int Out, int In, int OfRows, int First>
void step_product(Grid& be, const Result& result, const Operand& x, Weight<W, Out, In, OfRows, First> w) {
  if (x.rows() <= most_few_rows<W>) return launch_few<Out>(be, result, x, stored_rows(w), x.rows());
  if constexpr (!std::is_same_v<S, double>) {
    const ProductSizes sizes{x.rows(), Out, In};
    const ProductCut cut = cut_of_product_of<S, W>(sizes);
    StepOperandMemory<S, In> memory;
    Carver counter;
    memory.carve(counter, sizes.rows);
    const std::size_t bytes = counter.used();
    Carver carver(be.scratch(bytes + bytes_of_parts(sizes, cut.shares)));  // all of it, before it could move
    memory.carve(carver, sizes.rows);
    write_operand(be, memory.rows, memory.rho, x);
    multiply_and_finish<Along::sum, Along::sum>(be, result, lines(in(memory.rows)), lines(w), sizes, cut, bytes);
  }
}

}  // namespace mamba::cuda::detail
