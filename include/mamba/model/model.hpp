// What all models share: parameters by name, initialisation, logits of every position.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/core/parameters.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/model/batch.hpp>
#include <mamba/model/cpu_engine.hpp>

namespace mamba {

template <class Scalar>
using StateDict = std::map<std::string, HostTensor<Scalar>>;

// The base of MambaLMHeadModel and MambaForComposite. A model is used by one thread at a time; different models are
// independent of each other. Calls allocate on first use and when a call is larger than all before, then no more,
// except for the matrices that they return.
template <class A>
class Model {
 public:
  using Architecture = A;
  using Scalar = typename A::Scalar;
  static constexpr Config config = A::config;

  // Draws the initial parameters: with options.gamma the origin's rule, else mamba_ssm's (specification, section 4).
  // Throws Error for n_layers < 1, a gamma that is negative or not finite, threads < 0.
  explicit Model(const ModelOptions& options) : engine_(checked(options)), options_(options) {
    std::uint32_t tensor = 0;
    for (const PlacedParameter& p : engine_.placed()) {
      Scalar* const values = engine_.mutable_parameters() + p.offset;
      for_each_element(p.parameter, [&](std::size_t k, std::size_t at) {
        values[at] = static_cast<Scalar>(initial_value(p.parameter, p.name, options.gamma, options.n_layers, options.seed, tensor, k));
      });
      ++tensor;
    }
  }

  int n_layers() const { return options_.n_layers; }
  std::optional<double> gamma() const { return options_.gamma; }
  const ModelOptions& options() const { return options_; }

  // The bytes that the model holds now: parameters, gradients, activations.
  std::size_t memory_bytes() const { return engine_.memory_bytes(); }

  // The logits of all positions, (batch * length, padded vocabulary); ids (batch, length). Positions from a sequence's
  // length on are zero. Throws Error on ids that are not in the vocabulary or do not divide into the batch.
  Matrix<Scalar> logits(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const Batch input = checked_batch(config, ids, batch, lengths);
    Matrix<Scalar> result(static_cast<std::ptrdiff_t>(input.batch) * input.length, config.padded_vocab_size());
    const std::vector<std::ptrdiff_t> rows = lengths.empty() ? std::vector<std::ptrdiff_t>{} : rows_of(input);
    engine_.logits(input, Readout::all, [&](int first, auto logits) {
      for (int i = 0; i < logits.rows; ++i)
        std::copy_n(logits[i], result.cols(), &result(rows.empty() ? first + i : rows[static_cast<std::size_t>(first + i)], 0));
    });
    return result;
  }

  // Parameters by mamba_ssm's names, the tied embedding once.
  StateDict<Scalar> state_dict() const {
    return dict_of(engine_.parameters(), [](const PlacedParameter&) { return true; });
  }

  // The gradients of the last loss_and_gradients; frozen parameters have none.
  StateDict<Scalar> gradient_dict() const { return trained_dict(engine_.gradients()); }

  // Replaces all parameters. Throws Error, and changes nothing, unless names and shapes are this model's and frozen
  // tensors hold what they must.
  void load_state_dict(const StateDict<Scalar>& dict) {
    check_dict(dict, [](const PlacedParameter&) { return true; });
    fill_arena(engine_.mutable_parameters(), dict);
    engine_.parameters_changed();
  }

  // The same for an arena of the parameters' layout (an optimiser's state): the trained parameters by name.
  StateDict<Scalar> trained_dict(const Scalar* arena) const { return dict_of(arena, is_trained); }
  void check_trained_dict(const StateDict<Scalar>& dict) const { check_dict(dict, is_trained); }
  void fill_arena(Scalar* arena, const StateDict<Scalar>& dict) const {
    for (const PlacedParameter& p : engine_.placed())
      if (const auto found = dict.find(p.name); found != dict.end())
        for_each_element(p.parameter, [&](std::size_t k, std::size_t at) { arena[p.offset + at] = found->second.values[k]; });
  }

  // For optimisers and the like: the arenas behind the dictionaries.
  Engine<A>& engine() { return engine_; }
  const Engine<A>& engine() const { return engine_; }

 private:
  static const ModelOptions& checked(const ModelOptions& options) {
    require(options.n_layers >= 1, "a model has at least one layer; n_layers is ", options.n_layers);
    require(!options.gamma || (std::isfinite(*options.gamma) && *options.gamma >= 0), "gamma must be a number from 0 on; given ", options.gamma.value_or(0));
    require(options.threads >= 0, "threads must be 0 (all cores) or more; given ", options.threads);
    return options;
  }

  // f(element in row-major order, its place in the padded arena)
  template <class F>
  static void for_each_element(const Parameter& p, F&& f) {
    const auto columns = static_cast<std::size_t>(p.columns()), stride = static_cast<std::size_t>(padded(p.columns()));
    for (std::size_t k = 0; k < p.size(); ++k) f(k, k / columns * stride + k % columns);
  }

  static bool is_trained(const PlacedParameter& p) { return p.parameter.trained; }

  template <class Wanted>
  StateDict<Scalar> dict_of(const Scalar* arena, Wanted&& wanted) const {
    StateDict<Scalar> dict;
    for (const PlacedParameter& p : engine_.placed())
      if (wanted(p)) dict.emplace(p.name, tensor_of(p.parameter, arena + p.offset));
    return dict;
  }

  template <class Wanted>
  void check_dict(const StateDict<Scalar>& dict, Wanted&& wanted) const {
    std::size_t expected = 0;
    for (const PlacedParameter& p : engine_.placed()) {
      if (!wanted(p)) continue;
      ++expected;
      const auto found = dict.find(p.name);
      if (found == dict.end()) fail(ErrorKind::bad_file, "the parameter ", p.name, " is missing");
      check_tensor(p, found->second);
    }
    if (dict.size() == expected) return;
    for (const auto& [name, tensor] : dict)
      if (std::none_of(engine_.placed().begin(), engine_.placed().end(), [&](const PlacedParameter& p) { return wanted(p) && p.name == name; }))
        fail(ErrorKind::bad_file, "the model has no parameter ", name);
  }

  static HostTensor<Scalar> tensor_of(const Parameter& p, const Scalar* values) {
    HostTensor<Scalar> tensor{{p.shape, p.shape + p.rank}, std::vector<Scalar>(p.size())};
    for_each_element(p, [&](std::size_t k, std::size_t at) { tensor.values[k] = values[at]; });
    return tensor;
  }

  static void check_tensor(const PlacedParameter& p, const HostTensor<Scalar>& tensor) {
    const std::vector<std::int64_t> expected(p.parameter.shape, p.parameter.shape + p.parameter.rank);
    const auto written = [](const std::vector<std::int64_t>& shape) {
      std::string text = "(";
      for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
      return text + ")";
    };
    if (tensor.shape != expected) fail(ErrorKind::bad_file, p.name, " has the shape ", written(tensor.shape), "; the model's is ", written(expected));
    if (tensor.values.size() != p.parameter.size())
      fail(ErrorKind::bad_file, p.name, " holds ", tensor.values.size(), " values; its shape ", written(expected), " has ", p.parameter.size());
    if (!p.parameter.trained)
      for (const Scalar x : tensor.values)
        if (x != static_cast<Scalar>(p.parameter.scale)) fail(ErrorKind::bad_file, p.name, " is frozen at ", p.parameter.scale, " in this model; given ", x);
  }

  static std::vector<std::ptrdiff_t> rows_of(const Batch& input) {
    std::vector<std::ptrdiff_t> rows;
    for (int s = 0; s < input.batch; ++s)
      for (int t = 0; t < input.length_of(s); ++t) rows.push_back(static_cast<std::ptrdiff_t>(s) * input.length + t);
    return rows;
  }

  Engine<A> engine_;
  ModelOptions options_;
};

}  // namespace mamba
