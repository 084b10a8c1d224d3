// How a training step and decoding grow with each size of a model and of its input: what is measured, and of which
// models. The programs for the CPU (bench_scaling) and for a GPU (bench_cuda_scaling) have the same sources, of which
// those with models are compiled for either.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <mamba/core/config.hpp>

namespace scaling {

inline constexpr mamba::Config base{};  // the composite task's sizes, from which each axis departs

// What is measured, but for the models' sizes.
struct Plan {
  std::vector<int> batches{1, 4, 16, 64, 256, 1024, 4096};
  std::vector<int> lengths{8, 32, 128, 512, 2048, 8192, 32768, 65536};
  std::vector<int> layer_counts{1, 2, 4, 8, 16};
  std::vector<int> prompts{2048, 8192, 32768, 131072, 524288, 1048576};
  int tokens = 65536;       // a step's, whatever the sequences' length
  int batch = 256;          // where the batch does not vary
  double budget = 1;        // seconds of repeats for each point
  std::size_t repeats = 3;  // at least
  int threads = 1;

  // Every line has its ends, and every model that was compiled runs.
  static Plan quick() {
    return {.batches = {1, 16, 256},
            .lengths = {8, 128, 1024},
            .layer_counts = {1, 4},
            .prompts = {2048, 32768},
            .tokens = 1024,
            .batch = 16,
            .budget = 0,
            .repeats = 1};
  }
};

// The input of one point, and the model's depth; the length of decoding is what the sequence has had before.
struct Shape {
  int layers = 2, batch = 1, length = 8;
};

// What one call takes, and what the model holds then.
struct Measured {
  double seconds, tokens;
  std::size_t bytes;
};
struct Measurement : Measured {
  std::string axis;
  int value;
  std::string mixer, work;
};

// A model of the composite task's kind, and what is measured of it.
struct Model {
  std::string mixer;
  mamba::Config config;
  Measured (*training)(const Plan&, Shape);
  Measured (*decoding)(const Plan&, Shape);
};

// A broader one, on a GPU alone, that reads one long sequence in pieces: so many layers, so many tokens at a time.
inline constexpr int prompt_layers = 2, prompt_piece = 16384;
struct PromptModel {
  std::string mixer, precision;
  mamba::Config config;
  Measured (*forward)(const Plan&, int tokens);
};

// The models of each mixer, in translation units of their own, and of prompts: none on the CPU.
std::vector<Model> mamba1_models();
std::vector<Model> mamba2_models();
std::vector<PromptModel> prompt_models();

// Where the models run.
extern const bool on_gpu;
// Its name for people. Throws mamba::Error(device_failed) where they cannot run there.
std::string place(const Plan&);

}  // namespace scaling
