// The models that the targets load into and that make_corpus writes: as small as models are.
#pragma once

#include <mamba/composite.hpp>

namespace fuzz {

inline constexpr mamba::Config config{.vocab_size = 10, .d_model = 4, .d_state = 2, .d_conv = 2, .expand = 1};
using Classifier = mamba::MambaForComposite<config>;
using LanguageModel = mamba::MambaLMHeadModel<config, double, mamba::Mamba2<4>>;

// A training of two steps an epoch.
struct Task {
  static constexpr int length = 3;
  std::int64_t train_samples() const { return 4; }
  std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    for (int i = 0; i < length; ++i) ids[i] = static_cast<std::int32_t>((index + i) % config.vocab_size);
    return ids[0];
  }
};
inline constexpr mamba::TrainingOptions training{
    .batch_size = 2, .schedule = {.lr = 1e-3, .warmup = 1, .total = 4}, .seed = 3};

inline Classifier classifier(std::uint64_t seed) { return Classifier({.n_layers = 1, .seed = seed, .threads = 1}); }
inline LanguageModel language_model(std::uint64_t seed) {
  return LanguageModel({.n_layers = 2, .seed = seed, .threads = 1});
}

}  // namespace fuzz
