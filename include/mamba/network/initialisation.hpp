// The initial values of a model's parameters (specification, section 4).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <mamba/core/config.hpp>
#include <mamba/core/random.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

// The initial value of element `k` of a tensor: with gamma, the origin's rule (section 4.2), else mamba_ssm's (4.1).
// tensor: the parameter's number in the walk over the model.
inline double initial_value(const Parameter& p, std::string_view full_name, const ModelOptions& options, std::uint32_t tensor, std::size_t k) {
  const Random4 r = random_words(options.seed, RandomPurpose::initialisation, tensor, k);
  const double u = random_uniform(r.word[0], r.word[1]);
  const auto named = [&](std::string_view part) { return full_name.find(part) != std::string_view::npos; };
  if (named("embedding"))
    if (const auto& deviation = named("position_embedding") ? options.position_std : options.embedding_std) return random_normal(r) * *deviation;
  if (options.gamma && p.trained) {
    const int d1 = options.gamma_fan == Fan::out || named("embedding") ? p.rows() : p.columns();
    if (p.rank >= 2 && named("weight")) return random_normal(r) * std::pow(d1, -*options.gamma);
    if (!named("weight") && named("bias") && options.gamma_zeroes_biases) return 0;
  }
  switch (p.law) {
    case Law::normal:
      return p.scale * random_normal(r);
    case Law::uniform:
      return p.scale * (2 * u - 1);
    case Law::uniform_by_depth:
      return p.scale * (2 * u - 1) / std::sqrt(options.n_layers);
    case Law::constant:
      return p.scale;
    case Law::log_of_state:
      return std::log1p(static_cast<double>(k % static_cast<std::size_t>(p.columns())));
    case Law::log_uniform:
      return std::log(1 + (p.scale - 1) * u);
    case Law::inverse_softplus_step: {
      const double step = (std::max)(1e-4, std::exp(u * (std::log(0.1) - std::log(0.001)) + std::log(0.001)));
      return step + std::log(-std::expm1(-step));
    }
  }
  return 0;
}

}  // namespace mamba
