// Tensors that users hold: a state dictionary's (HostTensor), a result's (Matrix).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace mamba {

// A named tensor of a state_dict: row-major values and their shape.
template <class Scalar>
struct HostTensor {
  std::vector<std::int64_t> shape;
  std::vector<Scalar> values;
};

// Tensors by their names.
template <class Scalar>
using StateDict = std::map<std::string, HostTensor<Scalar>>;

// A dense row-major matrix on the host.
template <class Scalar>
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::ptrdiff_t rows, std::ptrdiff_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<std::size_t>(rows * cols)) {}

  std::ptrdiff_t rows() const { return rows_; }
  std::ptrdiff_t cols() const { return cols_; }
  Scalar* data() { return values_.data(); }
  const Scalar* data() const { return values_.data(); }
  Scalar& operator()(std::ptrdiff_t i, std::ptrdiff_t j) { return values_[static_cast<std::size_t>(i * cols_ + j)]; }
  const Scalar& operator()(std::ptrdiff_t i, std::ptrdiff_t j) const {
    return values_[static_cast<std::size_t>(i * cols_ + j)];
  }
  std::span<const Scalar> row(std::ptrdiff_t i) const {
    return {values_.data() + i * cols_, static_cast<std::size_t>(cols_)};
  }
  std::span<const Scalar> values() const { return values_; }

 private:
  std::ptrdiff_t rows_ = 0, cols_ = 0;
  std::vector<Scalar> values_;
};

}  // namespace mamba
