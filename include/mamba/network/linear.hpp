// Products with a weight matrix whose rows belong to several outputs side by side, and both gradients of a product. A
// backend that says `splits_products` has linear, and linear_backward and linear_weight_backward or what follows, for
// several outputs; for the others there is a product for each output. One that says `rounds_gradients` has both
// gradients of a product as linear_gradients, so that it rounds once what both multiply; for the others there are two
// products.
#pragma once

#include <utility>

#include <mamba/core/macros.hpp>
#include <mamba/core/views.hpp>

namespace mamba::network {

namespace detail {

// A product for each output. Functions, not lambdas: nvcc checks the calls of those.
template <int... piece>
using Pieces = std::integer_sequence<int, piece...>;

MAMBA_COMPOSITION
template <class Backend, class Y, class X, class W, int... Out, int In, int All, int OfRows, int First, int... piece>
MAMBA_HOST_DEVICE void each_product(Backend& be, Beside<Y, Out...> y, Rows<const X, In> x,
                                    Weight<W, All, In, OfRows, First> w, Pieces<piece...>) {
  (linear(be, y.template get<piece>(), x, w.template row_block<y.first(piece), y.columns(piece)>()), ...);
}
MAMBA_COMPOSITION
template <Write write, class Backend, class X, class Y, class W, int... Out, int In, int All, int OfRows, int First,
          int... piece>
MAMBA_HOST_DEVICE void each_product_backward(Backend& be, Rows<X, In> dx, Beside<const Y, Out...> dy,
                                             Weight<W, All, In, OfRows, First> w, Pieces<piece...>) {
  (linear_backward<(piece == 0 ? write : Write::add)>(be, dx, dy.template get<piece>(),
                                                      w.template row_block<dy.first(piece), dy.columns(piece)>()),
   ...);
}
MAMBA_COMPOSITION
template <class Backend, class T, class Y, class X, int... Out, int In, int All, int... piece>
MAMBA_HOST_DEVICE void each_product_weight_backward(Backend& be, WeightGradient<T, All, In> dw,
                                                    Beside<const Y, Out...> dy, Rows<const X, In> x, Pieces<piece...>) {
  (linear_weight_backward(be, dw.template row_block<dy.first(piece), dy.columns(piece)>(), dy.template get<piece>(), x),
   ...);
}

}  // namespace detail

// y (T, Out...) <- x (T, In) W^T, W (Out + ..., In).
MAMBA_COMPOSITION
template <class Backend, class Y, class X, class W, int... Out, int In, int All, int OfRows, int First>
MAMBA_HOST_DEVICE void products(Backend& be, Beside<Y, Out...> y, Rows<const X, In> x,
                                Weight<W, All, In, OfRows, First> w) {
  static_assert(All == y.all_columns);
  if constexpr (Backend::splits_products) linear(be, y, x, w);
  else detail::each_product(be, y, x, w, std::make_integer_sequence<int, sizeof...(Out)>());
}

// dx (T, In) <- or += dy (T, Out...) W.
MAMBA_COMPOSITION
template <Write write, class Backend, class X, class Y, class W, int... Out, int In, int All, int OfRows, int First>
MAMBA_HOST_DEVICE void products_backward(Backend& be, Rows<X, In> dx, Beside<const Y, Out...> dy,
                                         Weight<W, All, In, OfRows, First> w) {
  static_assert(All == dy.all_columns);
  if constexpr (Backend::splits_products) linear_backward<write>(be, dx, dy, w);
  else detail::each_product_backward<write>(be, dx, dy, w, std::make_integer_sequence<int, sizeof...(Out)>());
}

// dW (Out + ..., In) += dy^T x.
MAMBA_COMPOSITION
template <class Backend, class T, class Y, class X, int... Out, int In, int All>
MAMBA_HOST_DEVICE void products_weight_backward(Backend& be, WeightGradient<T, All, In> dw, Beside<const Y, Out...> dy,
                                                Rows<const X, In> x) {
  static_assert(All == dy.all_columns);
  if constexpr (Backend::splits_products) linear_weight_backward(be, dw, dy, x);
  else detail::each_product_weight_backward(be, dw, dy, x, std::make_integer_sequence<int, sizeof...(Out)>());
}

// dx (T, In) <- or += dy (T, Out) W and dW (Out, In) += dy^T x; the same of several outputs.
MAMBA_COMPOSITION
template <Write write, class Backend, class X, class T, class Y, class S, class W, int Out, int In, int OfRows,
          int First>
MAMBA_HOST_DEVICE void product_gradients(Backend& be, Rows<X, In> dx, WeightGradient<T, Out, In> dw,
                                         Rows<const Y, Out> dy, Rows<const S, In> x,
                                         Weight<W, Out, In, OfRows, First> w) {
  if constexpr (Backend::rounds_gradients) {
    linear_gradients<write>(be, dx, dw, dy, x, w);
  } else {
    linear_backward<write>(be, dx, dy, w);
    linear_weight_backward(be, dw, dy, x);
  }
}
MAMBA_COMPOSITION
template <Write write, class Backend, class X, class T, class Y, class S, class W, int... Out, int In, int All,
          int OfRows, int First>
MAMBA_HOST_DEVICE void product_gradients(Backend& be, Rows<X, In> dx, WeightGradient<T, All, In> dw,
                                         Beside<const Y, Out...> dy, Rows<const S, In> x,
                                         Weight<W, All, In, OfRows, First> w) {
  if constexpr (Backend::rounds_gradients) {
    linear_gradients<write>(be, dx, dw, dy, x, w);
  } else {
    products_backward<write>(be, dx, dy, w);
    products_weight_backward(be, dw, dy, x);
  }
}

}  // namespace mamba::network
