// Weights of mamba_ssm's MambaLMHeadModel, as the README says how they become a safetensors file:
//   load_mamba_ssm FILE
// The sizes are those of the program that trained the weights; what differs is named in an error.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <mamba/language_model.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128, .d_conv = 4, .expand = 2};

int main(int count, char** arguments) try {
  if (count != 2) return std::fprintf(stderr, "usage: load_mamba_ssm FILE\n"), 2;
  const int n_layers = mamba::layers_in(mamba::io::SafetensorsFile::read(arguments[1]));
  mamba::MambaLMHeadModel<config> model({.n_layers = n_layers, .draw = false});
  mamba::load(model, arguments[1]);
  std::printf("%d layers", n_layers);

  const std::vector<std::int32_t> prompt{25, 31, 47};
  const auto logits = model.logits(prompt, 1).row(static_cast<std::ptrdiff_t>(prompt.size()) - 1);
  std::printf(", and after 25 31 47 comes %td\n", std::max_element(logits.begin(), logits.end()) - logits.begin());
  return 0;
} catch (const mamba::Error& error) {
  std::fprintf(stderr, "load_mamba_ssm: %s\n", error.what());
  return 1;
}
