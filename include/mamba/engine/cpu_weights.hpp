// What kernels on the CPU read of a model's parameters: what is derived from them, and, where weights are stored in
// another type than they are computed with, what is stored beside the parameters (the master weights).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/eigen/weights.hpp>
#include <mamba/network/network.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

template <class A>
class CpuWeights {
  using S = typename A::WeightStorage;
  using T = typename A::Scalar;
  using Pointers = WeightPointers<S, T>;
  static constexpr bool stores_apart = !std::is_same_v<S, T>, in_8_bits = std::is_same_v<S, std::int8_t>;

 public:
  // Of arenas of so many elements.
  explicit CpuWeights(std::size_t size) {
    // A few beyond the end: a product reads whole vectors of a weight's last row.
    if constexpr (stores_apart) {
      stored_.reserve((size + row_alignment) * sizeof(S));
      beside_.reserve((place_beside(size) + row_alignment) * sizeof(Beside));
    }
  }

  std::size_t bytes() const { return stored_.bytes() + beside_.bytes(); }

  // One parameter anew, of arenas of values and of what is derived from them.
  void renew(const PlacedParameter& p, const T* values, T* derived) {
    const std::size_t at = p.offset;
    if constexpr (stores_apart)
      if (p.parameter.template in_storage<S>())
        return eigen::store(stored_.as<S>() + at, beside_.as<Beside>() + place_beside(at), values + at, p.parameter);
    eigen::derive(derived + at, values + at, p.parameter);
  }

  network::ModelWeights<A> of(const T* values, const T* derived, int n_layers) const {
    if constexpr (stores_apart) return {{values, derived, stored_.as<S>(), beside_.as<Beside>()}, n_layers};
    else return {{values, derived}, n_layers};
  }

 private:
  // What lies beside stored weights: transposes, or the scales of rows of 8 bits.
  using Beside = std::conditional_t<in_8_bits, float, S>;
  static std::size_t place_beside(std::size_t offset) {
    if constexpr (in_8_bits) return Pointers::scale_at(offset);
    else return offset;
  }

  Buffer stored_, beside_;
};

}  // namespace mamba
