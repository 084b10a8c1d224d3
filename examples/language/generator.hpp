// Models that generate, each type behind the same face, in a translation unit of its own (sizes.cmake).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <mamba/generate.hpp>
#include <mamba/model/save.hpp>

#include "evaluation.hpp"
#include "size.hpp"

namespace language {

class Generator {
 public:
  virtual ~Generator() = default;
  // As mamba::generate().
  virtual void generate(std::span<const std::int32_t> prompt, const mamba::GenerateOptions& options,
                        const std::function<bool(std::int32_t)>& callback) = 0;
  // The bits that the model needs for a text (evaluation.hpp).
  virtual double bits(std::span<const std::int32_t> tokens) = 0;
};

namespace detail {

template <class Model>
class GeneratorOf : public Generator {
 public:
  GeneratorOf(const std::filesystem::path& folder, const mamba::ModelOptions& options) : model_(options) {
    mamba::load(model_, folder, {.refuse_nonfinite = true});
  }
  void generate(std::span<const std::int32_t> prompt, const mamba::GenerateOptions& options,
                const std::function<bool(std::int32_t)>& callback) override {
    mamba::generate(model_, prompt, options, callback);
  }
  double bits(std::span<const std::int32_t> tokens) override {
    return *bits_of(model_, tokens, [] { return true; });
  }

 private:
  Model model_;
};

}  // namespace detail

// A type that generate was built with.
struct BuiltGenerator {
  std::string fields;  // of its size
  // The model in a folder, which is of this size.
  std::unique_ptr<Generator> (*load)(const std::filesystem::path& folder, const mamba::ModelOptions& options);

  template <class Model>
  static BuiltGenerator of() {
    return {fields_of<Model>(),
            [](const std::filesystem::path& folder, const mamba::ModelOptions& options) -> std::unique_ptr<Generator> {
              return std::make_unique<detail::GeneratorOf<Model>>(folder, options);
            }};
  }
};

const std::vector<BuiltGenerator>& float_generators_on_cpu();
const std::vector<BuiltGenerator>& float_generators_on_gpu();  // none without a CUDA compiler, as the other GPUs' list
const std::vector<BuiltGenerator>& bfloat16_generators_on_cpu();
const std::vector<BuiltGenerator>& bfloat16_generators_on_gpu();
const std::vector<BuiltGenerator>& int8weights_generators_on_cpu();
const std::vector<BuiltGenerator>& int8weights_generators_on_gpu();

}  // namespace language
