// Trainings of language models, each type behind the same face, in a translation unit of its own (sizes.cmake).
#pragma once

#include <vector>

#include "training_run.hpp"

namespace language {

// A type that train_language_model was built with.
struct BuiltTraining {
  const char* mixer;
  int width, vocab_size;
  // Trains, or continues, to the end or to an interrupt; returns the exit code.
  int (*train)(const TrainingOptions& options, const Encoding& encoding, const Corpus& corpus,
               const support::OwnFolder& folder, mamba::Group& group);

  template <class Model>
  static BuiltTraining of() {
    using A = typename Model::Architecture;
    return {A::Mixer::name, A::config.d_model, A::config.vocab_size, language::train<Model>};
  }
};

const std::vector<BuiltTraining>& trainings_on_cpu();
const std::vector<BuiltTraining>& trainings_on_gpu();  // none without a CUDA compiler

}  // namespace language
