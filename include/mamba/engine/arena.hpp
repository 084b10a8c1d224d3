// A model's parameters, what is derived from them and their gradients: three arenas of one layout, in a backend's kind
// of memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/views.hpp>
#include <mamba/engine/state.hpp>
#include <mamba/network/network.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

// Memory: Buffer, or another that hands out its host's elements by as<T>(), read-only where it is const.
template <class A, class Memory>
class Arenas {
 public:
  using T = typename A::Scalar;
  using Tables = network::Tables<A>;
  using Arena = Memory;

  // make_memory(bytes): such a memory, zeroed.
  Arenas(int n_layers, std::function<Memory(std::size_t bytes)> make_memory)
      : n_layers_(n_layers),
        size_(Tables::size(n_layers)),
        make_memory_(std::move(make_memory)),
        // A few elements beyond the end: a product on the CPU reads whole vectors of a weight's last row.
        parameters_(make_memory_((size_ + row_alignment) * sizeof(T))),
        derived_(make_memory_((size_ + row_alignment) * sizeof(T))),
        gradients_(make_memory_((size_ + row_alignment) * sizeof(T))) {
    network::for_each_parameter<A>(n_layers_, [&](PlacedParameter p) { placed_.push_back(std::move(p)); });
  }

  // Every parameter with its name and its offset in an arena.
  const std::vector<PlacedParameter>& placed() const { return placed_; }
  std::size_t size() const { return size_; }  // elements of an arena
  int n_layers() const { return n_layers_; }

  // The arenas, seen from the host. Whoever writes parameters says so afterwards.
  const T* parameters() const { return std::as_const(parameters_).template as<T>(); }
  T* mutable_parameters() { return parameters_.template as<T>(); }
  T* gradients() { return gradients_.template as<T>(); }
  const T* gradients() const { return std::as_const(gradients_).template as<T>(); }
  void parameters_changed() { stale_ = true; }
  // All parameters anew: source.read(parameter, first row, rows, to) writes these rows to `to`, padded(columns) apart,
  // where what pads is zero already. What it throws leaves some of the parameters replaced.
  template <class Source>
  void replace_parameters(Source&& source) {
    stale_ = true;
    T* const all = mutable_parameters();
    for (const PlacedParameter& p : placed_) {
      // What pads is zero, whatever an update has made of it.
      std::fill_n(all + p.offset, p.parameter.arena_size(), T(0));
      source.read(p, 0, static_cast<std::size_t>(p.parameter.rows()), all + p.offset);
    }
  }

  // Memory of the same layout, for an optimiser's state.
  Arena make_arena() const { return make_memory_(size_ * sizeof(T)); }
  // The state of `batch` sequences that have had no token.
  State<A> make_state(int batch) const { return State<A>(n_layers_, batch, make_memory_); }

  std::size_t memory_bytes() const { return parameters_.bytes() + derived_.bytes() + gradients_.bytes(); }

 protected:
  int n_layers_;
  std::size_t size_;
  std::function<Memory(std::size_t)> make_memory_;
  Memory parameters_, derived_, gradients_;
  bool stale_ = true;  // the derived weights are those of other parameters

 private:
  std::vector<PlacedParameter> placed_;
};

}  // namespace mamba
