// Parameters are declared once: a table of a model's tensors, from which follow their offsets in one arena, their
// initial values (initialisation.hpp), names, shapes and whether they are trained. Gradients, optimiser state and
// derived weights share the arena's layout; a layer is an offset.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/random.hpp>
#include <mamba/core/views.hpp>

namespace mamba {

// A string usable as a template argument: weights.get<"mixer.A_log">().
template <std::size_t Size>
struct FixedString {
  char text[Size]{};
  consteval FixedString(const char (&literal)[Size]) {
    for (std::size_t i = 0; i < Size; ++i) text[i] = literal[i];
  }
  constexpr std::string_view view() const { return {text, Size - 1}; }
};

// What a tensor is in the model: by this, and never by its name, rules choose tensors.
enum class Role {
  embedding,         // of tokens; a tied head's weight, too
  position,          // learned positions
  projection,        // a matrix between activations
  convolution,       // the convolution's kernel
  convolution_bias,  // the convolution's
  step_bias,         // of the step sizes
  key_bias,          // of Mamba-3's keys and queries
  norm,              // an RMSNorm's scale
  rate,              // A_log
  skip,              // D
  rank_scale,        // by which each of a head's inputs, gates and outputs differs from the others (Mamba-3)
  head,              // the weight of a head that has one of its own
};

// The laws of mamba_ssm's own initialisation (specification, section 4.1).
enum class Law {
  normal,                 // Normal(0, scale^2)
  uniform,                // Uniform(-scale, scale)
  uniform_by_depth,       // the same divided by sqrt(n_layers)
  constant,               // scale
  log_of_state,           // ln(n + 1) in column n
  log_uniform,            // ln a, a ~ Uniform(1, scale)
  inverse_softplus_step,  // softplus^-1 of a step drawn log-uniformly from 0.001 .. 0.1
};

// What a backend keeps beside a tensor, computed anew whenever the parameters change.
enum class Derived {
  none,
  transpose,  // (rows, columns) -> (columns, rows)
  rate,       // A log2(e) with A = -exp(A_log); gradients arrive with respect to A
};

struct Parameter {
  std::string_view name;
  Role role = Role::projection;
  int rank = 1;
  int shape[3] = {1, 1, 1};
  Law law = Law::constant;
  double scale = 1;
  Derived derived = Derived::none;
  bool trained = true;

  // As a matrix: the first dimension by all others; a vector is one row.
  constexpr int rows() const { return rank == 1 ? 1 : shape[0]; }
  // Whether kernels read it as weights are stored (Architecture::WeightStorage); the others, vectors and rates, are few
  // numbers that are read as they are computed with. Of 8 bits is what products and look-ups of tokens read.
  template <class Stored>
  constexpr bool in_storage() const {
    const bool of_products = role == Role::embedding || role == Role::projection || role == Role::head;
    if constexpr (std::is_same_v<Stored, std::int8_t>) return of_products;
    else return of_products || role == Role::position || role == Role::convolution;
  }
  constexpr int columns() const { return rank == 1 ? shape[0] : shape[1] * shape[2]; }
  constexpr std::size_t size() const { return static_cast<std::size_t>(rows()) * static_cast<std::size_t>(columns()); }
  // Its elements in an arena: rows padded, and room for the transpose, so that derived weights lie at the same offset.
  constexpr std::size_t arena_size() const {
    const auto natural = static_cast<std::size_t>(rows()) * static_cast<std::size_t>(padded(columns()));
    const auto transposed = static_cast<std::size_t>(columns()) * static_cast<std::size_t>(padded(rows()));
    return derived == Derived::transpose ? (std::max)(natural, transposed) : natural;
  }
};

constexpr Parameter vector_parameter(std::string_view name, Role role, int size, Law law, double scale) {
  return {.name = name, .role = role, .rank = 1, .shape = {size, 1, 1}, .law = law, .scale = scale};
}
// A parameter that keeps one value and is not trained.
constexpr Parameter frozen(Parameter p, double value) {
  p.law = Law::constant, p.scale = value, p.trained = false;
  return p;
}
constexpr Parameter matrix_parameter(std::string_view name, Role role, int rows, int columns, Law law, double scale,
                                     Derived derived = Derived::transpose) {
  return {.name = name,
          .role = role,
          .rank = 2,
          .shape = {rows, columns, 1},
          .law = law,
          .scale = scale,
          .derived = derived};
}

// constexpr square root for the tables' scales (Newton; sizes are far from the ends of the range).
constexpr double table_sqrt(double x) {
  double root = x > 1 ? x : 1;
  for (int i = 0; i < 60; ++i) root = 0.5 * (root + x / root);
  return root;
}

template <std::size_t Count>
using ParameterTable = std::array<Parameter, Count>;

template <std::size_t... Counts>
constexpr auto join(const ParameterTable<Counts>&... tables) {
  ParameterTable<(Counts + ...)> all{};
  std::size_t at = 0;
  const auto append = [&](const auto& table) {
    for (const Parameter& p : table) all[at++] = p;
  };
  (append(tables), ...);
  return all;
}

template <std::size_t Count>
constexpr std::size_t total_size(const ParameterTable<Count>& table) {
  std::size_t sum = 0;
  for (const Parameter& p : table) sum += p.arena_size();
  return sum;
}

// Looks a name up in a table at compile time; a name that is not there does not compile.
template <std::size_t Count>
consteval std::size_t index_of(const ParameterTable<Count>& table, std::string_view name) {
  for (std::size_t i = 0; i < Count; ++i)
    if (table[i].name == name) return i;
  throw "no parameter of this name";
}
template <std::size_t Count>
constexpr std::size_t offset_of(const ParameterTable<Count>& table, std::size_t index) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < index; ++i) at += table[i].arena_size();
  return at;
}
template <auto& table, FixedString name>
struct Lookup {
  static constexpr std::size_t index = index_of(table, name.view()), offset = offset_of(table, index);
  static constexpr int rows = table[index].rows(), columns = table[index].columns();
  template <class Stored>
  static constexpr bool in_storage = table[index].template in_storage<Stored>();
};

// Where the weights of a table, or of a whole model, lie: arenas of one layout, of what is computed with and, where
// that is another type, of what is stored. get<stored, rows, columns>(offset): the weight there.
template <class Stored, class Scalar>
struct WeightPointers {
  const Scalar* values = nullptr;
  const Scalar* derived = nullptr;
  const Stored* stored_values = nullptr;
  const Stored* stored_derived = nullptr;

  MAMBA_HOST_DEVICE constexpr WeightPointers at(std::size_t offset) const {
    return {values + offset, derived + offset, stored_values + offset, stored_derived + offset};
  }
  template <bool stored, int Rows, int Columns>
  MAMBA_HOST_DEVICE constexpr auto get(std::size_t offset) const {
    if constexpr (stored) return Weight<Stored, Rows, Columns>{stored_values + offset, stored_derived + offset};
    else return Weight<Scalar, Rows, Columns>{values + offset, derived + offset};
  }
};
template <class Scalar>
struct WeightPointers<Scalar, Scalar> {
  const Scalar* values = nullptr;
  const Scalar* derived = nullptr;

  MAMBA_HOST_DEVICE constexpr WeightPointers at(std::size_t offset) const {
    return {values + offset, derived + offset};
  }
  template <bool, int Rows, int Columns>
  MAMBA_HOST_DEVICE constexpr auto get(std::size_t offset) const {
    return Weight<Scalar, Rows, Columns>{values + offset, derived + offset};
  }
};
// Scales of 8 bits: a matrix's lie one behind the other, where its first row does, counted in the least that a row has.
template <class Scalar>
struct WeightPointers<std::int8_t, Scalar> {
  const Scalar* values = nullptr;
  const Scalar* derived = nullptr;
  const std::int8_t* stored_values = nullptr;
  const float* scales = nullptr;

  MAMBA_HOST_DEVICE static constexpr std::size_t scale_at(std::size_t offset) { return offset / row_alignment; }
  MAMBA_HOST_DEVICE constexpr WeightPointers at(std::size_t offset) const {
    return {values + offset, derived + offset, stored_values + offset, scales + scale_at(offset)};
  }
  template <bool stored, int Rows, int Columns>
  MAMBA_HOST_DEVICE constexpr auto get(std::size_t offset) const {
    if constexpr (stored) return Weight<std::int8_t, Rows, Columns>{stored_values + offset, scales + scale_at(offset)};
    else return Weight<Scalar, Rows, Columns>{values + offset, derived + offset};
  }
};

// The tensors of one table, with the derived ones beside them.
template <class Stored, class Scalar, auto& table>
struct Weights {
  WeightPointers<Stored, Scalar> pointers;

  template <FixedString name>
  MAMBA_HOST_DEVICE constexpr auto get() const {
    using L = Lookup<table, name>;
    constexpr std::size_t offset = L::offset;
    return pointers.template get<L::template in_storage<Stored>, L::rows, L::columns>(offset);
  }
};

template <class Scalar, auto& table>
struct Gradients {
  Scalar* values = nullptr;

  template <FixedString name>
  MAMBA_HOST_DEVICE constexpr auto get() const {
    using L = Lookup<table, name>;
    constexpr std::size_t offset = L::offset;
    return WeightGradient<Scalar, L::rows, L::columns>{values + offset};
  }
};

// A parameter of a whole model: its full name, its offset in an arena.
struct PlacedParameter {
  std::string name;
  Parameter parameter;
  std::size_t offset = 0;
};

}  // namespace mamba
