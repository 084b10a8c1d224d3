// The initial values of a model's parameters (specification, section 4): functions of (seed, tensor, element), so that
// any number of threads draws the same.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/instruction_set.hpp>
#include <mamba/core/random.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

// How a tensor's elements are drawn.
struct InitialLaw {
  Law law;
  double scale;
  double divisor = 1;  // of uniform values
};

// Whether gamma's rule draws tensors of this role, or makes biases zero.
inline bool takes(const GammaExcept& except, Role role) {
  switch (role) {
    case Role::embedding:
      return !except.embedding;
    case Role::position:
      return !except.position;
    case Role::projection:
      return !except.projection;
    case Role::convolution:
      return !except.convolution;
    case Role::head:
      return !except.head;
    case Role::convolution_bias:
      return !except.convolution_bias;
    case Role::step_bias:
      return !except.step_bias;
    case Role::key_bias:
      return !except.key_bias;
    case Role::norm:
    case Role::rate:
    case Role::skip:
    case Role::rank_scale:
      return false;
  }
  return false;
}

// What the options make of a tensor's own law: with gamma the origin's rule (specification, section 4.2), which takes
// every trained weight by its role, but for those in gamma_except; else mamba_ssm's (4.1).
inline InitialLaw initial_law(const Parameter& p, const ModelOptions& options) {
  const bool looked_up = p.role == Role::embedding || p.role == Role::position;
  if (looked_up)
    if (const auto& deviation = p.role == Role::position ? options.position_std : options.embedding_std)
      return {Law::normal, *deviation};
  if (options.gamma && p.trained) {
    const bool bias = p.role == Role::convolution_bias || p.role == Role::step_bias || p.role == Role::key_bias,
               taken = takes(options.gamma_except, p.role);
    if (bias && taken && options.gamma_zeroes_biases) return {Law::constant, 0};
    if (!bias && taken)
      return {Law::normal,
              std::pow(options.gamma_fan == Fan::out || looked_up ? p.rows() : p.columns(), -*options.gamma)};
  }
  if (p.law == Law::uniform_by_depth) return {Law::uniform, p.scale, std::sqrt(options.n_layers)};
  return {p.law, p.scale};
}

inline namespace MAMBA_INSTRUCTION_SET {

// f(index in the arena, value) for every element of the tensor's rows first .. end - 1, drawn as its law says; `tensor`
// is its number in the walk over the model. Constants and what depends on the column alone are not drawn.
template <class F>
void draw_rows(const Parameter& p, InitialLaw law, std::uint64_t seed, std::uint32_t tensor, std::size_t first,
               std::size_t end, F&& f) {
  const auto columns = static_cast<std::size_t>(p.columns()), stride = static_cast<std::size_t>(padded(p.columns()));
  const auto each = [&](auto&& value_of) {
    constexpr std::size_t block = 64;  // so many that a compiler does not write them out one by one
    std::size_t row = first, column = 0;
    for (std::size_t k = first * columns; k < end * columns; k += block) {
      const RandomBlock<block> r(seed, RandomPurpose::initialisation, tensor, k);
      double drawn[block];
      for (std::size_t i = 0; i < block; ++i) drawn[i] = value_of(r[static_cast<int>(i)]);
      for (std::size_t i = 0; i < (std::min)(block, end * columns - k); ++i) {
        f(row * stride + column, drawn[i]);
        if (++column == columns) column = 0, ++row;
      }
    }
  };
  const auto undrawn = [&](auto&& value_of) {
    for (std::size_t row = first; row < end; ++row)
      for (std::size_t column = 0; column < columns; ++column) f(row * stride + column, value_of(column));
  };
  const auto uniform = [](const Random4& r) { return random_uniform(r.word[0], r.word[1]); };
  switch (law.law) {
    case Law::normal:
      return each([&](const Random4& r) { return law.scale * random_normal(r); });
    case Law::uniform:
    case Law::uniform_by_depth:
      return each([&](const Random4& r) { return law.scale * (2 * uniform(r) - 1) / law.divisor; });
    case Law::constant:
      return undrawn([&](std::size_t) { return law.scale; });
    case Law::log_of_state:
      return undrawn([](std::size_t column) { return std::log1p(static_cast<double>(column)); });
    case Law::log_uniform:
      return each([&](const Random4& r) { return std::log(1 + (law.scale - 1) * uniform(r)); });
    case Law::inverse_softplus_step:
      return each([&](const Random4& r) {
        const double step =
            (std::max)(1e-4, std::exp(uniform(r) * (std::log(0.1) - std::log(0.001)) + std::log(0.001)));
        return step + std::log(-std::expm1(-step));
      });
  }
}

// An arena of parameters <- their initial values; with options.draw off the frozen ones alone. Throws Error where a
// value is beyond what T holds, and names the tensor.
template <class T>
void initialise(T* arena, const std::vector<PlacedParameter>& placed, const ModelOptions& options) {
  // Rows of one tensor, about as many elements each.
  struct Piece {
    std::uint32_t tensor;
    std::size_t first, end;
  };
  constexpr std::size_t elements_of_piece = 16384, few = 1 << 18;
  std::vector<Piece> pieces;
  std::vector<InitialLaw> laws;
  std::size_t elements = 0;
  for (const PlacedParameter& p : placed) {
    const auto tensor = static_cast<std::uint32_t>(laws.size());
    laws.push_back(initial_law(p.parameter, options));
    if (!options.draw && p.parameter.trained) continue;
    const auto rows = static_cast<std::size_t>(p.parameter.rows()),
               columns = static_cast<std::size_t>(p.parameter.columns());
    const std::size_t at_once = (std::max)(std::size_t{1}, elements_of_piece / columns);
    for (std::size_t row = 0; row < rows; row += at_once)
      pieces.push_back({tensor, row, (std::min)(rows, row + at_once)});
    elements += rows * columns;
  }
  ThreadPool pool(elements < few ? 1 : options.threads);  // a small model is not worth waking threads
  constexpr std::uint32_t none = 0xFFFFFFFF;
  std::atomic<std::uint32_t> beyond{none};  // the first tensor with a value that T does not hold
  pool.run(static_cast<int>(pieces.size()), [&](int task, int) {
    const auto& [tensor, first, end] = pieces[static_cast<std::size_t>(task)];
    const PlacedParameter& p = placed[tensor];
    T* const values = arena + p.offset;
    bool finite = true;
    draw_rows(p.parameter, laws[tensor], options.seed, tensor, first, end, [&](std::size_t at, double value) {
      values[at] = static_cast<T>(value);
      finite = finite && is_finite(values[at]);
    });
    if (finite) return;
    for (std::uint32_t known = beyond; tensor < known && !beyond.compare_exchange_weak(known, tensor);) {
    }
  });
  const std::uint32_t which = beyond;
  if (which != none)
    fail(ErrorKind::invalid_argument, "the initial values of ", placed[which].name, " are beyond what a ",
         sizeof(T) == 4 ? "float" : "double", " holds: gamma or a standard deviation is too large");
}

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
