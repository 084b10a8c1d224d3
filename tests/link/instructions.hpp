// What two sources of one program, compiled for different vector instructions, each compute with models of their own.
#pragma once

#include <mamba/composite.hpp>
#include <string>
#include <typeinfo>
#include <vector>

namespace {

inline constexpr mamba::Config config{.vocab_size = 10, .d_model = 40, .d_state = 24};
using Model = mamba::MambaForComposite<config>;

struct Result {
  double loss;
  std::string model;  // its type's name, by which it is linked
};

Result result() {
  Model model({.n_layers = 2, .seed = 3, .threads = 2});
  std::vector<std::int32_t> ids(40 * 8), labels(40);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 10);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int32_t>(i % 10);
  mamba::AdamW optimizer(model, {.lr = 1e-3});
  double loss = 0;
  for (int step = 0; step < 3; ++step) loss = model.loss_and_gradients(ids, labels), optimizer.step();
  auto state = model.initial_state(40);
  for (const std::int32_t token : model.next_tokens(labels, 40, state, {.temperature = 1})) loss += token;
  return {loss, typeid(Model).name()};
}

}  // namespace
