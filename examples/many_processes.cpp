// One training by all processes that are started together: mpirun -n 4 many_processes
#include <cstdio>
#include <exception>

#include <mamba/composite.hpp>
#include <mamba/parallel/mpi.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128, .d_conv = 4, .expand = 2};

int main() {
  int given = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
  try {
    mamba::MpiGroup group;  // of all processes
    mamba::MambaForComposite<config> model({.n_layers = 2, .gamma = 1.0, .seed = 42, .threads = 1});
    const mamba::task::CompositeFunction task;
    // As many processes as divide the shards end with the same bytes.
    mamba::Trainer trainer(
        model, task, {.batch_size = 256, .schedule = {.lr = 1e-3, .total = 20}, .schedule_in_steps = true, .shards = 8},
        group);
    trainer.run(trainer.total_steps());
    mamba::save_checkpoint(trainer, "many_processes.safetensors", {});  // all call it, the first one writes
    if (group.is_first())
      std::printf("%d processes, %ld steps: the last loss was %.6f\n", group.size(), trainer.steps(),
                  trainer.last_loss());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "many_processes: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
