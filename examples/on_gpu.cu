// A model on an NVIDIA GPU where there is one, else on the CPU: the same source, the same files.
#include <cstdio>

#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128};

int main() {
  const auto choice = mamba::DeviceChoice::parse("auto");  // or "cpu", "cuda", "cuda:1"
  if (const auto problem = mamba::gpu_problem(); !problem.empty()) std::printf("on the CPU: %s\n", problem.c_str());
  mamba::ModelOptions options{.n_layers = 2, .seed = 1};
  return mamba::on_device(choice, options, [&]<class Backend>() {
    mamba::MambaForComposite<config, Backend> model(options);
    const mamba::task::CompositeFunction task;
    mamba::Trainer trainer(
        model, task,
        {.batch_size = 256, .schedule = {.lr = 1e-3, .warmup = 10, .total = 100}, .schedule_in_steps = true});
    trainer.run(100);  // the GPU draws the batches itself
    std::printf("loss after 100 steps: %.3f\n", trainer.last_loss());
    mamba::save(model, "model_on_gpu.safetensors");  // a model on the CPU loads it
    return trainer.last_loss() < 4.55 ? 0 : 1;
  });
}
