// Logits and gradients of a language model with given weights, as files: what compare/accuracy_gpu.py measures beside
// mamba_ssm. On the CPU, where the same source shows the CPU's 16 bits: c++ -x c++ -DBACKEND=mamba::Cpu.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <mamba/language_model.hpp>

#ifndef BACKEND
#define BACKEND mamba::Cuda
#endif

namespace {

using namespace mamba;

constexpr const char* usage = R"(usage: bench_cuda_accuracy MIXER PRECISION WEIGHTS INPUTS RESULT

  MIXER      mamba1 (d_state 16) or mamba2 (d_state 128, heads of 64); d_model 768, vocabulary 50280, any layers
  PRECISION  bfloat16 or float: the policy of the model
  WEIGHTS    safetensors file with mamba_ssm's names; only numbers that bfloat16 can hold
  INPUTS     safetensors file with input_ids, integers (batch, length), length 2 or more
  RESULT     safetensors file to write, float32: logits (batch * length, vocabulary); loss (1), the mean
             cross-entropy of the next token over all positions that have one; its gradients as grad.NAME

Exit code 0: written; 1: an error, which is said; 2: wrong usage.
)";

// The hub's mamba-130m and mamba2-130m but for the layers, with a vocabulary that needs no padding in either.
inline constexpr Config mamba1_config{.vocab_size = 50280, .d_model = 768, .d_state = 16},
    mamba2_config{.vocab_size = 50280, .d_model = 768, .d_state = 128};

// A weight that bfloat16 cannot hold is another one in the model than in what it is compared with, and the difference
// would count as the model's error.
void check_representable(const StateDict<float>& weights) {
  for (const auto& [name, tensor] : weights)
    for (const float x : tensor.values)
      if (static_cast<float>(BFloat16(x)) != x)
        fail(ErrorKind::bad_file, name, " holds ", shortest_text(x),
             ", which bfloat16 cannot: round the weights first");
}

template <const Config& config, class... Policies>
void write_results(const std::filesystem::path& weights, const std::filesystem::path& inputs,
                   const std::filesystem::path& result) {
  const auto input_file = io::SafetensorsFile::read(inputs);
  const auto ids = input_file.tensor<std::int32_t>("input_ids");
  if (ids.shape.size() != 2) input_file.refuse("input_ids has ", ids.shape.size(), " dimensions, not (batch, length)");
  if (ids.shape[0] < 1 || ids.shape[1] < 2)
    input_file.refuse("input_ids is (", ids.shape[0], ", ", ids.shape[1], "): no token has a next one");
  const auto batch = static_cast<int>(ids.shape[0]);

  MambaLMHeadModel<config, BACKEND, Policies...> model(
      {.n_layers = layers_in(io::SafetensorsFile::read(weights)), .draw = false});
  load(model, weights);
  check_representable(model.state_dict());

  io::SafetensorsWriter writer;
  {
    const Matrix<float> logits = model.logits(ids.values, batch);
    const std::span<const float> values = logits.values();
    writer.add("logits", HostTensor<float>{{logits.rows(), logits.cols()}, {values.begin(), values.end()}});
  }
  const double loss = model.loss_and_gradients(ids.values, batch);
  writer.add("loss", HostTensor<float>{{1}, {static_cast<float>(loss)}});
  for (const auto& [name, gradient] : model.gradient_dict()) writer.add("grad." + name, gradient);
  writer.write(result, {});
  std::printf("%d layers, %d x %d tokens, loss %.6f: %s\n", model.n_layers(), batch, static_cast<int>(ids.shape[1]),
              loss, result.c_str());
}

}  // namespace

int main(int count, char** arguments) try {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (words.size() == 1 && (words[0] == "--help" || words[0] == "-h")) return std::fputs(usage, stdout), 0;
  if (words.size() != 5) return std::fputs(usage, stderr), 2;
  const std::string what = words[0] + " " + words[1];
  if (what == "mamba1 bfloat16") write_results<mamba1_config, BFloat16>(words[2], words[3], words[4]);
  else if (what == "mamba1 float") write_results<mamba1_config>(words[2], words[3], words[4]);
  else if (what == "mamba2 bfloat16") write_results<mamba2_config, Mamba2<64>, BFloat16>(words[2], words[3], words[4]);
  else if (what == "mamba2 float") write_results<mamba2_config, Mamba2<64>>(words[2], words[3], words[4]);
  else {
    std::fprintf(stderr, "bench_cuda_accuracy: there is no model '%s'\n\n%s", what.c_str(), usage);
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_cuda_accuracy: %s\n", error.what());
  return 1;
}
