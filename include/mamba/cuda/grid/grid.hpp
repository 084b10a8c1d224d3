// The GPU's backend at the scope of the whole device. Its primitives are the functions of this namespace that take a
// Grid first: they run on the host and launch kernels over all rows of a tile, which may be a whole batch.
//
// Most of them compute nothing in a new way: a kernel cuts rows, or sequences, into slices and has every block run the
// primitive at its own scope on one of them. What adds to a weight's gradient adds to a partial sum of the slice's own;
// the partial sums are added in their order, and how many there are follows from the sizes alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/cuda/block/instructions.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/cuda/runtime/cublas.hpp>
#include <mamba/cuda/runtime/graph.hpp>
#include <mamba/cuda/runtime/launch.hpp>

namespace mamba::cuda {

// What a block works on.
struct Slice {
  int number;
  int first, rows;
  int first_sequence, sequences;  // where sequences are cut
};

// Gradients of one weight, `count` of them one behind the other.
template <class T, int R, int C>
struct PartialGradients {
  static constexpr std::size_t size = static_cast<std::size_t>(R) * padded(C);
  T* values;
  int count;
};

// How an argument of a primitive is cut: Rows and Sequences as they are; `width` elements for each row or sequence; or
// not at all.
template <class T>
struct PerRow {
  T* data;
  int width = 1;
};
template <class T>
struct PerSequence {
  T* data;  // or null
  std::ptrdiff_t width = 1;
};
template <class X>
struct Whole {
  X value;
};

namespace detail {

template <class X>
__device__ X part(X x, Slice) {
  return x;
}
template <class T, int C>
__device__ Rows<T, C> part(Rows<T, C> x, Slice s) {
  return {x[s.first], s.rows};
}
__device__ inline Sequences part(Sequences x, Slice s) {
  return {x.first + s.first_sequence, s.sequences, x.times + s.first, s.first};
}
template <class T, int R, int C>
__device__ WeightGradient<T, R, C> part(PartialGradients<T, R, C> x, Slice s) {
  return {x.values + s.number * x.size};
}
template <class T>
__device__ T* part(PerRow<T> x, Slice s) {
  return x.data + static_cast<std::ptrdiff_t>(s.first) * x.width;
}
template <class T>
__device__ T* part(PerSequence<T> x, Slice s) {
  return x.data ? x.data + s.first_sequence * x.width : nullptr;
}
template <class X>
__device__ X part(Whole<X> x, Slice) {
  return x.value;
}

// The first of `count` things that belongs to a slice.
__host__ __device__ inline int first_of(int slice, int slices, int count) {
  return static_cast<int>(static_cast<long long>(count) * slice / slices);
}

// A block for each slice. Primitive::run(block, arguments...) is the primitive.
template <class Primitive, class... Arguments>
__global__ void __launch_bounds__(Block::threads) run_on_rows(int rows, Arguments... arguments) {
  begin_kernel();
  const int number = static_cast<int>(blockIdx.x), slices = static_cast<int>(gridDim.x);
  const int first = first_of(number, slices, rows), end = first_of(number + 1, slices, rows);
  const Slice slice{number, first, end - first, 0, 0};
  Block be;
  Primitive::run(be, part(arguments, slice)...);
}
template <class Primitive, class... Arguments>
__global__ void __launch_bounds__(Block::threads) run_on_sequences(Sequences sequences, Arguments... arguments) {
  begin_kernel();
  const int number = static_cast<int>(blockIdx.x), slices = static_cast<int>(gridDim.x);
  const int first = first_of(number, slices, sequences.count), end = first_of(number + 1, slices, sequences.count);
  const Slice slice{number, sequences.begin(first), sequences.end(end - 1) - sequences.begin(first), first,
                    end - first};
  Block be;
  Primitive::run(be, part(arguments, slice)...);
}

// How many partial sums of so many bytes there may be.
constexpr int affordable_partials(std::size_t bytes) {
  return static_cast<int>(
      std::clamp<std::size_t>(GridTuning::most_partial_bytes / bytes, 1, GridTuning::most_partials));
}

// A primitive's name for messages: this function's own name holds it.
template <class Primitive>
const char* name_of() {
  return __PRETTY_FUNCTION__;
}

// to <- from, number by number.
template <class S, class T>
__global__ void __launch_bounds__(Block::threads) copy_elements(S* to, const T* from, std::size_t quads) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  if (i < quads) store4(to + 4 * i, load4(from + 4 * i));
}

// sum (size) += the partial sums (count, size), in their order.
template <class T>
__global__ void __launch_bounds__(Block::threads) add_partials(T* sum, const T* partials, int count, std::size_t size) {
  begin_kernel();
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * Block::threads + threadIdx.x;
  if (i >= size) return;
  T total = sum[i];
  for (int p = 0; p < count; ++p) total += partials[p * size + i];
  sum[i] = total;
}

}  // namespace detail

// The bytes of a block's shared memory that a Stage fills: no more than the least of the devices has that the library
// runs on (compute capability 8.6).
template <class Stage, int Count = 1>
constexpr std::size_t shared_memory = [] {
  static_assert(Count * sizeof(Stage) <= std::size_t{99} << 10);
  return Count * sizeof(Stage);
}();

// Thrown where a graph is recorded of which something cannot become a part.
class NotRecordable : public Error {
 public:
  using Error::Error;
};

class Grid {
 public:
  static constexpr bool fuses_convolution = true, fuses_steps = true, fuses_gated_norm = true, splits_products = true,
                        fuses_recurrence = true, adds_to_residual = true, rounds_gradients = true, passes_states = true,
                        fuses_token_steps = true;

  // On the queue's device, which is current. Throws Error(device_failed) where cuBLAS cannot be had.
  explicit Grid(QueuePointer queue, Products products = Products::exact)
      : queue_(std::move(queue)), products_(queue_->stream(), products), precision_(products), scratch_(queue_) {}

  const Queue& queue() const { return *queue_; }
  cudaStream_t stream() const { return queue_->stream(); }
  const Cublas& products() const {
    must_run("a product of cuBLAS");
    return products_;
  }
  Products precision() const { return precision_; }  // of products of float
  std::size_t memory_bytes() const { return scratch_.bytes(); }

  // Throws NotRecordable while a graph is recorded, of which `what` cannot become a part.
  void must_run(const char* what) const {
    if (recording_)
      throw NotRecordable(ErrorKind::invalid_argument, std::string(what) + " cannot become part of a graph");
  }

  // Memory for as long as a primitive runs.
  std::byte* scratch(std::size_t bytes) {
    if (bytes > scratch_.bytes()) must_run("more memory");
    scratch_.reserve(bytes);
    return scratch_.as<std::byte>();
  }

  // The same, cut up: carve(Carver&) is called over no memory first. Returns how many bytes it is.
  template <class Carve>
  std::size_t carve(Carve&& carve) {
    Carver counter;
    carve(counter);
    Carver memory(scratch(counter.used()));
    carve(memory);
    return counter.used();
  }
  template <class Carve>
  void carve_zeroed(Carve&& carve) {
    const std::size_t bytes = this->carve(carve);  // before its memory is asked for, which it may move
    zero(scratch_.as<std::byte>(), bytes);
  }

  template <class T>
  void zero(T* data, std::size_t count) const {
    if (recording_) return recording_->append_zeros(data, count * sizeof(T));
    check(cudaMemsetAsync(data, 0, count * sizeof(T), stream()), "cudaMemsetAsync");
  }

  // Numbers of the device's, on the host until the next call.
  std::span<const double> downloaded(const double* from, std::size_t count) {
    must_run("a copy");
    if (on_host_.size() < count) on_host_.resize(count);
    check(cudaMemcpyAsync(on_host_.data(), from, count * sizeof(double), cudaMemcpyDeviceToHost, stream()),
          "cudaMemcpyAsync from the device");
    queue_->wait();
    return {on_host_.data(), count};
  }

  // The kernels that body() launches, and the zeros that it asks for, become a graph, one behind the other, and do not
  // run now. Throws NotRecordable where it does anything else: copies, products of cuBLAS.
  template <class Body>
  void record(Graph& graph, Body&& body) {
    recording_ = &graph;
    struct Ended {
      Grid& grid;
      ~Ended() { grid.recording_ = nullptr; }
    } const ended{*this};
    body();
  }

  // A kernel of any shape.
  template <class... Parameters, class... Arguments>
  void launch_shaped(const char* name, void (*kernel)(Parameters...), LaunchShape shape,
                     const Arguments&... arguments) const {
    if (shape.shared_bytes > (std::size_t{48} << 10)) allow_shared_memory(kernel, shape.shared_bytes);
    if (recording_) recording_->append(kernel, shape, static_cast<Parameters>(arguments)...);
    else launch_kernel(name, kernel, shape, stream(), static_cast<Parameters>(arguments)...);
  }
  // One that does not begin with begin_kernel().
  template <class... Parameters, class... Arguments>
  void launch_behind(const char* name, void (*kernel)(Parameters...), LaunchShape shape,
                     const Arguments&... arguments) const {
    if (recording_) recording_->append_behind(kernel, shape, static_cast<Parameters>(arguments)...);
    else launch_kernel(name, kernel, shape, stream(), static_cast<Parameters>(arguments)...);
  }
  // One with a thread for each of so many elements.
  template <class... Parameters, class... Arguments>
  void launch_over(const char* name, void (*kernel)(Parameters...), std::size_t elements,
                   const Arguments&... arguments) const {
    launch_shaped(name, kernel, {static_cast<int>((elements + Block::threads - 1) / Block::threads), Block::threads, 0},
                  arguments...);
  }

  // Blocks of Block::threads, with so much shared memory.
  template <class... Parameters, class... Arguments>
  void launch(const char* name, void (*kernel)(Parameters...), int blocks, std::size_t shared_bytes,
              const Arguments&... arguments) const {
    launch_shaped(name, kernel, {blocks, Block::threads, shared_bytes}, arguments...);
  }

  // Primitive over slices of rows like x, of sequences; with a weight's gradient, a slice for each partial sum. Of a
  // block's primitives those that exchange more than a sum for each of four columns of a thread do not run here: the
  // less shared memory a block has, the more of them are at work.
  template <class Primitive, class T, int C, class... Arguments>
  void over_rows(Rows<T, C> x, const Arguments&... arguments) const {
    // Norms have a row a warp, or several: of rows that are not too wide, a multiple of a block's warps.
    constexpr int fit = GridTuning::slice_elements / Rows<T, C>::stride, half = Block::warps / 2,
                  most = fit < half ? (std::max)(1, fit) : (fit + half) / Block::warps * Block::warps;
    const int rows_of_slice = std::clamp((x.rows + GridTuning::slices - 1) / GridTuning::slices, 1, most);
    launch(detail::name_of<Primitive>(), detail::run_on_rows<Primitive, Arguments...>,
           (x.rows + rows_of_slice - 1) / rows_of_slice, 0, x.rows, arguments...);
  }
  template <class Primitive, class... Arguments>
  void over_sequences(Sequences sequences, const Arguments&... arguments) const {
    launch(detail::name_of<Primitive>(), detail::run_on_sequences<Primitive, Arguments...>,
           (std::min)(sequences.count, GridTuning::most_sequence_blocks), 0, sequences, arguments...);
  }
  template <class Primitive, class T, int R, int C, class... Arguments>
  void over_rows_with_gradient(WeightGradient<T, R, C> dw, int rows, const Arguments&... arguments) {
    const auto partials =
        zeroed_partials(dw, (rows + GridTuning::gradient_slice_rows - 1) / GridTuning::gradient_slice_rows);
    launch(detail::name_of<Primitive>(), detail::run_on_rows<Primitive, PartialGradients<T, R, C>, Arguments...>,
           partials.count, exchanged_bytes<T>, rows, partials, arguments...);
    add(dw, partials);
  }
  template <class Primitive, class T, int R, int C, class... Arguments>
  void over_sequences_with_gradient(WeightGradient<T, R, C> dw, Sequences sequences, const Arguments&... arguments) {
    const auto partials = zeroed_partials(dw, sequences.count);
    launch(detail::name_of<Primitive>(), detail::run_on_sequences<Primitive, PartialGradients<T, R, C>, Arguments...>,
           partials.count, exchanged_bytes<T>, sequences, partials, arguments...);
    add(dw, partials);
  }
  template <class T, int R, int C>
  void add(WeightGradient<T, R, C> dw, PartialGradients<T, R, C> partials) const {
    constexpr std::size_t size = PartialGradients<T, R, C>::size;
    launch_over("add_partials", detail::add_partials<T>, size, dw.value, static_cast<const T*>(partials.values),
                partials.count, size);
  }

 private:
  template <class T>
  static constexpr std::size_t exchanged_bytes = Block::exchanged_elements * sizeof(T);

  template <class T, int R, int C>
  PartialGradients<T, R, C> zeroed_partials(WeightGradient<T, R, C>, int most) {
    const int count = std::clamp(most, 1, detail::affordable_partials(PartialGradients<T, R, C>::size * sizeof(T)));
    T* values = nullptr;
    carve_zeroed([&](Carver& memory) {
      values = memory.take<T>(PartialGradients<T, R, C>::size * static_cast<std::size_t>(count));
    });
    return {values, count};
  }

  QueuePointer queue_;
  Graph* recording_ = nullptr;
  Cublas products_;
  Products precision_;
  DeviceBuffer scratch_;
  std::vector<double> on_host_;
};

// to <- from, on the host, which leads the grid.
template <class T>
void assign(Grid&, T& to, const T& from) {
  to = from;
}

}  // namespace mamba::cuda
