// Products of few rows with a weight matrix over the whole device, as decoding has them: the matrix is read once, and
// that is what takes time.
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/grid/grid.hpp>

namespace mamba::cuda::detail {

inline constexpr int most_few_rows = GridTuning::few_rows;

// Outputs side by side, of `rows` rows each.
template <class T, int Count>
struct FewRowsOutputs {
  T* data[Count];
  int first[Count + 1], stride[Count];

  __device__ T& at(int row, int column) const {
    int piece = 0;
#pragma unroll
    for (int i = 1; i < Count; ++i)
      if (column >= first[i]) piece = i;
    return data[piece][row * stride[piece] + column - first[piece]];
  }
};

// y <- or += x w^T: a warp takes `at_once` of w's rows, and all rows of x.
template <Write write, int MostRows, class T, int In, int Count>
__global__ void __launch_bounds__(Block::threads)
    multiply_few_rows(FewRowsOutputs<T, Count> y, Rows<const T, In> x, const T* w, int outputs) {
  constexpr int at_once = GridTuning::few_rows_outputs, stride = padded(In);
  const int first = (static_cast<int>(blockIdx.x) * Block::warps + warp()) * at_once;
  if (first >= outputs) return;
  T sums[at_once][MostRows] = {};
#pragma unroll 4
  for (int k = 4 * lane(); k < stride; k += 4 * 32) {  // what pads rows is zero
    Quad<T> of_w[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      of_w[i] = load4(w + static_cast<std::ptrdiff_t>(min(first + i, outputs - 1)) * stride + k);
#pragma unroll
    for (int r = 0; r < MostRows; ++r) {
      if (r >= x.rows) break;
      const auto of_x = load4(x.address(r) + k);
#pragma unroll
      for (int i = 0; i < at_once; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][r] += of_w[i].at[j] * of_x.at[j];
    }
  }
#pragma unroll
  for (int i = 0; i < at_once; ++i)
#pragma unroll
    for (int r = 0; r < MostRows; ++r) {
      if (r >= x.rows) break;
      const T sum = lane_sum(sums[i][r]);
      if (lane() != 0 || first + i >= outputs) continue;
      T& out = y.at(r, first + i);
      out = write == Write::add ? out + sum : sum;
    }
}

template <Write write, class T, int In, int... Out>
void multiply_few(Grid& be, Beside<T, Out...> y, Rows<const T, In> x, const T* w) {
  constexpr int count = sizeof...(Out), outputs = y.all_columns;
  FewRowsOutputs<T, count> to;
  for (int i = 0; i < count; ++i) to.data[i] = y.data[i], to.first[i] = y.first(i), to.stride[i] = padded(y.columns(i));
  to.first[count] = outputs;
  constexpr int of_block = Block::warps * GridTuning::few_rows_outputs;
  const auto launch = [&](auto kernel) {
    be.launch_shaped("multiply_few_rows", kernel, {(outputs + of_block - 1) / of_block, Block::threads, 0}, to, x, w,
                     outputs);
  };
  if (x.rows == 1) launch(multiply_few_rows<write, 1, T, In, count>);
  else launch(multiply_few_rows<write, most_few_rows, T, In, count>);
}

}  // namespace mamba::cuda::detail
