// Products with a weight matrix whose rows belong to several outputs: one primitive where a backend has it; these are for
// the others, which run on the host.
#pragma once

#include <utility>

#include <mamba/core/views.hpp>

namespace mamba::network {

// y (T, Out...) <- or += x (T, In) W^T, W (Out + ..., In).
template <Write write = Write::set, class Backend, class T, int... Out, int In, int All>
void linear(Backend& be, Beside<T, Out...> y, Rows<const T, In> x, Weight<T, All, In> w) {
  static_assert(All == y.all_columns);
  [&]<int... piece>(std::integer_sequence<int, piece...>) {
    (linear<write>(be, y.template get<piece>(), x, w.template row_block<y.first(piece), y.columns(piece)>()), ...);
  }
  (std::make_integer_sequence<int, sizeof...(Out)>());
}

// dx (T, In) <- or += dy (T, Out...) W.
template <Write write, class Backend, class T, int... Out, int In, int All>
void linear_backward(Backend& be, Rows<T, In> dx, Beside<const T, Out...> dy, Weight<T, All, In> w) {
  static_assert(All == dy.all_columns);
  [&]<int... piece>(std::integer_sequence<int, piece...>) {
    (linear_backward < piece == 0 ? write : Write::add > (be, dx, dy.template get<piece>(), w.template row_block<dy.first(piece), dy.columns(piece)>()), ...);
  }
  (std::make_integer_sequence<int, sizeof...(Out)>());
}

// dW (Out + ..., In) += dy^T x.
template <class Backend, class T, int... Out, int In, int All>
void linear_weight_backward(Backend& be, WeightGradient<T, All, In> dw, Beside<const T, Out...> dy, Rows<const T, In> x) {
  static_assert(All == dy.all_columns);
  [&]<int... piece>(std::integer_sequence<int, piece...>) {
    (linear_weight_backward(be, dw.template row_block<dy.first(piece), dy.columns(piece)>(), dy.template get<piece>(), x), ...);
  }
  (std::make_integer_sequence<int, sizeof...(Out)>());
}

}  // namespace mamba::network
