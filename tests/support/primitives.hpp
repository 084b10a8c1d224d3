// Tensors and parameters for tests of single primitives: filled, with poison where nobody may read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/weights.hpp>
#include <mamba/network/parameters.hpp>

#include "support/reference.hpp"

namespace support {

// Rows with values in -1 .. 1 and a zero padding.
template <class T, int Columns>
class Tensor {
 public:
  static constexpr int stride = mamba::padded(Columns);

  Tensor(int rows, std::uint64_t seed) : rows_(rows), memory_(static_cast<std::size_t>(rows * stride) * sizeof(T)) {
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < Columns; ++c)
        at(t, c) = static_cast<T>(random_number(seed, static_cast<std::uint64_t>(t * Columns + c)));
  }
  // From a file's values, row after row.
  Tensor(int rows, const std::vector<T>& values) : Tensor(rows, 0) {
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < Columns; ++c) at(t, c) = values.at(static_cast<std::size_t>(t * Columns + c));
  }

  mamba::Rows<T, Columns> rows() { return {memory_.as<T>(), rows_}; }
  mamba::Rows<const T, Columns> in() const { return {memory_.as<T>(), rows_}; }
  T& at(int t, int c) { return memory_.as<T>()[t * stride + c]; }
  double operator()(int t, int c) const { return static_cast<double>(memory_.as<T>()[t * stride + c]); }
  std::vector<double> dense() const {
    std::vector<double> all;
    for (int t = 0; t < rows_; ++t)
      for (int c = 0; c < Columns; ++c) all.push_back((*this)(t, c));
    return all;
  }
  bool padding_is_zero() const {
    for (int t = 0; t < rows_; ++t)
      for (int c = Columns; c < stride; ++c)
        if ((*this)(t, c) != 0) return false;
    return true;
  }

 private:
  int rows_;
  mamba::Buffer memory_;
};

// A parameter of (Rows, Columns) with what is derived from it.
template <class T, int Rows, int Columns>
class Parameter2 : public Tensor<T, Columns> {
  using Base = Tensor<T, Columns>;

 public:
  explicit Parameter2(std::uint64_t seed, mamba::Derived derived = mamba::Derived::transpose)
      : Base(Rows, seed), kind_(derived) {
    derive();
  }
  Parameter2(const std::vector<T>& values, mamba::Derived derived) : Base(Rows, values), kind_(derived) { derive(); }

  mamba::Weight<T, Rows, Columns> weight() const { return {this->in().data, derived_.as<T>()}; }
  mamba::WeightGradient<T, Rows, Columns> gradient() { return {this->rows().data}; }
  void clear() { std::fill_n(this->rows().data, Rows * Base::stride, T(0)); }
  void derive() { mamba::eigen::derive(derived_.as<T>(), this->in().data, description()); }

 private:
  mamba::Parameter description() const {
    return {.name = "p", .rank = 2, .shape = {Rows, Columns, 1}, .derived = kind_};
  }

  mamba::Derived kind_;
  mamba::Buffer derived_{(static_cast<std::size_t>(Rows + 16) * static_cast<std::size_t>(Columns + 16) + 16) *
                         sizeof(T)};
};

// The weight of 8 bits that a matrix of floats becomes.
template <int Rows, int Columns>
class RowsOfInt8 {
 public:
  explicit RowsOfInt8(mamba::Rows<const float, Columns> values) {
    mamba::eigen::store(memory_.as<std::int8_t>(), scales_.as<float>(), values.data,
                        {.name = "p", .rank = 2, .shape = {Rows, Columns, 1}});
  }
  mamba::Weight<std::int8_t, Rows, Columns> weight() const { return {memory_.as<std::int8_t>(), scales_.as<float>()}; }
  double operator()(int row, int column) const {
    return static_cast<double>(weight().row(row)[column]) * static_cast<double>(weight().scale[row]);
  }

 private:
  static constexpr auto stride = static_cast<std::size_t>(mamba::padded(Columns));
  mamba::Buffer memory_{Rows * stride}, scales_{Rows * sizeof(float)};
};

// x w^T in double, row after row.
template <int Rows, int Columns>
std::vector<double> product_in_double(const Tensor<float, Columns>& x, const RowsOfInt8<Rows, Columns>& w) {
  std::vector<double> all;
  for (int t = 0; t < x.in().rows; ++t)
    for (int o = 0; o < Rows; ++o) {
      double sum = 0;
      for (int i = 0; i < Columns; ++i) sum += x(t, i) * w(o, i);
      all.push_back(sum);
    }
  return all;
}

}  // namespace support
