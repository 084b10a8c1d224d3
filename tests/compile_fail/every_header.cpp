// Compiled with flags that the library refuses, and with macros that must do no harm: everything that a program may
// include.
#include <mamba/composite.hpp>
#include <mamba/io/figure/figure.hpp>
#include <mamba/io/figure/heatmap.hpp>

inline constexpr mamba::Config config{.vocab_size = 10, .d_model = 16, .d_state = 8};

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 1});
  mamba::MambaForComposite<config, double, mamba::Mamba2<>, mamba::LearnedPosition<8>, mamba::ConvGate> other(
      {.n_layers = 1});
  const mamba::task::CompositeFunction task;
  mamba::Trainer trainer(model, task, {});
  mamba::save_checkpoint(trainer, "", {});
  mamba::save(other, "");
  return mamba::io::LineChart{}.svg().empty() ? 1 : 0;
}
