// Training steps of the inverse sequence task's model (d_model 128, 29 tokens) at each scope:
// training_step_inverse/<backend>/float/<mixer>/<layers>/<batch>.
#include "cuda_training.hpp"

namespace {

using namespace mamba;

inline constexpr Config config{.vocab_size = task::InverseSequence::tokens, .d_model = 128};

template <class... Policies>
void training_step(benchmark::State& state) {
  bench::training_step<config, task::InverseSequence, Policies...>(state);
}

void sizes(benchmark::internal::Benchmark* b) { b->Apply(bench::layers_and_batch)->Args({2, 1024}); }

BENCHMARK(training_step<Cuda, Mamba1>)->Name("training_step_inverse/cuda/float/mamba1")->Apply(sizes);
BENCHMARK(training_step<CudaBlock, Mamba1>)->Name("training_step_inverse/block/float/mamba1")->Apply(sizes);
BENCHMARK(training_step<CudaGrid, Mamba1>)->Name("training_step_inverse/grid/float/mamba1")->Apply(sizes);
BENCHMARK(training_step<Cuda, Mamba2<>>)->Name("training_step_inverse/cuda/float/mamba2")->Apply(sizes);
BENCHMARK(training_step<CudaBlock, Mamba2<>>)->Name("training_step_inverse/block/float/mamba2")->Apply(sizes);
BENCHMARK(training_step<CudaGrid, Mamba2<>>)->Name("training_step_inverse/grid/float/mamba2")->Apply(sizes);

}  // namespace
