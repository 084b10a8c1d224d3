// What the chunked forms of Mamba-2 and Mamba-3 are made of: rows of whole vectors, their products with each other, and
// a state that is read as its transpose.
#pragma once

#include <algorithm>
#include <cstddef>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/simd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/math/scan_step.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace detail {

// to (q, stride of whole vectors) <- Columns columns of from, zero-padded.
template <int Columns, class T, class From>
void gather_columns(T* to, const From* from, std::ptrdiff_t from_row, int q) {
  for (int i = 0; i < q; ++i, to += padded(Columns), from += from_row) {
    std::copy_n(from, Columns, to);
    std::fill(to + Columns, to + padded(Columns), T(0));
  }
}

// out(i, j) = a_i . b_j for j <= last(i), zero beyond, out's rows being `stride` long and those of a and b `width`,
// both multiples of whole vectors.
template <class T, class Last>
void dots(T* out, int stride, const T* a, const T* b, int width, int q, Last last) {
  using V = Vector<T>;
  for (int i = 0; i < q; ++i) {
    for (int j = 0; j <= last(i); ++j) {
      V sum = V::zero();
      for (int k = 0; k < width; k += V::width)
        sum = multiply_add(V::load(a + i * width + k), V::load(b + j * width + k), sum);
      out[i * stride + j] = sum.sum();
    }
    std::fill(out + i * stride + last(i) + 1, out + i * stride + stride, T(0));
  }
}

// Sums of a chunk's exponents, of which differences count: each as the nearest number and what it lacks, for one token
// that forgets all would else cost the others their digits.
template <class T>
struct Exponents {
  T *number = nullptr, *rest = nullptr;  // (rows)

  void set(int i, double sum) const {
    number[i] = static_cast<T>(sum);
    rest[i] = static_cast<T>(sum - static_cast<double>(number[i]));
  }
  // 2^(sum_i - sum_j), for j <= i.
  T decay(int i, int j) const { return math::exp2_nonpositive((number[i] - number[j]) + (rest[i] - rest[j])); }
  // to_j <- the same for j < columns and up to whole vectors, 1 where the exponent would be positive: cut before
  // exponentiating.
  void decays(T* to, int i, int columns) const {
    using V = Vector<T>;
    const V own = V::broadcast(number[i]), own_rest = V::broadcast(rest[i]);
    for (int j = 0; j < columns; j += V::width) {
      const V difference = (own - V::load(number + j)) + (own_rest - V::load(rest + j));
      exp2_nonpositive(select(difference > V::zero(), V::zero(), difference)).store(to + j);
    }
  }
};

// to_i = factor_i from_i, rows of `width`.
template <class T>
void scale_rows(T* to, const T* from, const T* factor, int width, int q) {
  using V = Vector<T>;
  for (int i = 0; i < q; ++i) {
    const V f = V::broadcast(factor[i]);
    for (int k = 0; k < width; k += V::width) (f * V::load(from + i * width + k)).store(to + i * width + k);
  }
}

// to (P, N) <- the transpose of state (N, P), both in rows of whole vectors, zero-padded.
template <int N, int P, class T>
void transpose_state(T* to, const T* state) {
  constexpr std::ptrdiff_t Np = padded(N), Pp = padded(P);
  std::fill_n(to, P * Np, T(0));
  for (int n = 0; n < N; ++n)
    for (int p = 0; p < P; ++p) to[p * Np + n] = state[n * Pp + p];
}

// A core's scratch memory as a recurrence works in it: what the heads at hand share, once, and what a head has beside
// it, for each worker of the core's team. Form::Scratch is pointers, which carve_shared and carve_own fill.
template <class Form>
class ScratchOfWorkers {
 public:
  using Scratch = typename Form::Scratch;

  template <class Core>
  ScratchOfWorkers(Core& core, bool backward) : backward_(backward) {
    core.scratch.reserve(shared_bytes() + static_cast<std::size_t>(workers_of(core)) * own_bytes(backward));
    begin_ = core.scratch.template as<std::byte>();
    first_ = carved(0);
  }

  const Scratch& first() const { return first_; }
  Scratch of(int worker) const { return worker == 0 ? first_ : carved(worker); }

 private:
  Scratch carved(int worker) const {
    Scratch k{};
    Carver shared(begin_), own(begin_ + shared_bytes() + static_cast<std::size_t>(worker) * own_bytes(backward_));
    Form::carve_shared(k, shared), Form::carve_own(k, own, backward_);
    return k;
  }
  // Counted once for all calls: a token of a small model takes no longer than some microseconds.
  static std::size_t shared_bytes() {
    static const std::size_t bytes = counted([](Scratch& k, Carver& memory) { Form::carve_shared(k, memory); });
    return bytes;
  }
  static std::size_t own_bytes(bool backward) {
    static const std::size_t forward_alone = counted([](Scratch& k, Carver& c) { Form::carve_own(k, c, false); }),
                             with_backward = counted([](Scratch& k, Carver& c) { Form::carve_own(k, c, true); });
    return backward ? with_backward : forward_alone;
  }
  template <class Carve>
  static std::size_t counted(Carve&& carve) {
    Scratch ignored{};
    Carver memory;
    carve(ignored, memory);
    return memory.used();
  }

  bool backward_;
  std::byte* begin_;
  Scratch first_;
};

}  // namespace detail

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
