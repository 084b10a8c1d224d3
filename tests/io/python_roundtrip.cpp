// write FILE: saves a model. check FILE: loads it again, after another program wrote it, and compares; ends with 1 and
// words where that fails.
#include <cstdio>
#include <string_view>

#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 10, .d_model = 16, .d_state = 8};

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  mamba::MambaForComposite<config> model({.n_layers = 2, .gamma = 1.0, .seed = 1});
  if (std::string_view(argv[1]) == "write") {
    mamba::save(model, argv[2]);
    return 0;
  }
  mamba::MambaForComposite<config> other({.n_layers = 2, .seed = 2});
  try {
    (void)mamba::load(other, argv[2]);
  } catch (const mamba::Error& error) {
    return std::printf("%s\n", error.what()), 1;
  }
  const auto a = model.state_dict(), b = other.state_dict();
  for (const auto& [name, tensor] : a)
    if (tensor.values != b.at(name).values) return std::printf("%s differs\n", name.c_str()), 1;
  return 0;
}
