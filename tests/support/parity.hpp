// A whole model against a reference file: logits, loss, every gradient tensor; and a file's training steps.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

namespace support {

// Where the models of a test run: what nvcc compiles is for the GPU, and skipped where there is none.
#ifdef __CUDACC__
#ifdef MAMBA_TEST_GRID
using Backend = mamba::CudaGrid;
#else
using Backend = mamba::Cuda;
#endif
inline void need_backend() {
  if (mamba::cuda::device_count() == 0) SKIP("no CUDA device");
}
#else
using Backend = mamba::Cpu;
inline void need_backend() {}
#endif

// Relative norms. In double the gradients' bound is that of the files, which hold them in float32, Mamba-3's in
// float64.
template <class Scalar>
inline constexpr double logits_bound = sizeof(Scalar) == 4 ? 2e-6 : 1e-12;
template <class Mixer>
inline constexpr double gradients_bound_of_file = 2e-7;
template <mamba::Mamba3Config config>
inline constexpr double gradients_bound_of_file<mamba::Mamba3<config>> = 1e-12;
template <class Model>
inline constexpr double gradients_bound =
    sizeof(typename Model::Scalar) == 8 ? gradients_bound_of_file<typename Model::Architecture::Mixer>
    : std::is_same_v<typename Model::Architecture::Mixer, mamba::Mamba1> ? 1e-5
                                                                         : 3e-5;

template <class Model>
void check_parity(const std::string& name) {
  need_backend();
  using Scalar = typename Model::Scalar;
  const auto file = reference(name);
  INFO(name << (sizeof(Scalar) == 4 ? ", float" : ", double"));
  const auto ids = tokens(file, "input_ids");
  const int batch = static_cast<int>(file.tensors().at("input_ids").shape[0]);
  Model model({.n_layers = layers_of(file), .gamma = 1.0, .seed = 7});
  model.load_state_dict(tensors<Scalar>(file, "param."));
  CHECK(relative_error(values(model.logits(ids, batch)), file.tensor<double>("logits").values) <= logits_bound<Scalar>);

  double loss = 0;
  if constexpr (requires { model.loss_and_gradients(ids, ids); })
    loss = model.loss_and_gradients(ids, tokens(file, "labels"));
  else loss = model.loss_and_gradients(ids, batch);
  const double expected = file.tensor<double>("loss").values[0];
  CHECK(std::abs(loss - expected) <= logits_bound<Scalar> * std::abs(expected));

  const auto references = tensors<double>(file, "grad.");
  double total = 0;
  for (const auto& [key, tensor] : references)
    for (const double g : tensor.values) total += g * g;
  const auto gradients = model.gradient_dict();
  for (const auto& [key, tensor] : references) {
    INFO("gradient of " << key);
    if (!Model::Architecture::ConvKernel::learned_weight && key.ends_with("conv1d.weight")) {
      CHECK(gradients.count(key) == 0);  // frozen: no gradient
      continue;
    }
    REQUIRE(gradients.count(key) == 1);
    CHECK(relative_error(gradients.at(key).values, tensor.values, 1e-6 * std::sqrt(total)) <= gradients_bound<Model>);
  }
}

template <class Model>
void check_training(const std::string& name, double bound) {
  need_backend();
  using Scalar = typename Model::Scalar;
  const auto file = reference(name);
  const auto ids = tokens(file, "input_ids"), labels = tokens(file, "labels");
  const auto& shape = file.tensors().at("input_ids").shape;  // (steps, batch, length)
  const auto batch = static_cast<std::size_t>(shape[1]), step_tokens = batch * static_cast<std::size_t>(shape[2]);
  Model model({.n_layers = layers_of(file), .gamma = 1.0});
  model.load_state_dict(tensors<Scalar>(file, "initial."));
  mamba::AdamW optimizer(
      model, mamba::AdamWOptions{.lr = 2.5e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2});
  std::vector<double> losses, norms;
  for (std::size_t s = 0; s < static_cast<std::size_t>(shape[0]); ++s) {
    losses.push_back(model.loss_and_gradients(std::span(ids).subspan(s * step_tokens, step_tokens),
                                              std::span(labels).subspan(s * batch, batch)));
    norms.push_back(mamba::clip_grad_norm(model, 1.0));
    optimizer.step();
  }
  CHECK(relative_error(losses, file.tensor<double>("losses").values) <= bound);
  CHECK(relative_error(norms, file.tensor<double>("grad_norms").values) <= 10 * bound);
  const auto final_state = model.state_dict();
  for (const auto& [key, tensor] : tensors<double>(file, "final.")) {
    INFO("final " << key);
    CHECK(relative_error(final_state.at(key).values, tensor.values, 1e-3) <= 100 * bound);
  }
}

}  // namespace support
