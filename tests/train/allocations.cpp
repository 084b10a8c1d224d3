// Counts what the global operator new hands out during training steps: after the first step, nothing.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include <mamba/composite.hpp>

namespace {
std::atomic<long> allocations{0};

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  if (void* p = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)) return p;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) { return counted(size, static_cast<std::size_t>(alignment)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

inline constexpr mamba::Config config{.d_model = 16, .d_state = 16};

template <class... Policies>
long allocations_in_steps() {
  mamba::MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 1, .threads = 3});
  const mamba::task::CompositeFunction task({.train_samples = 640});
  mamba::Trainer trainer(model, task, {.batch_size = 256, .schedule = {.warmup = 0, .total = 9}, .schedule_in_steps = true});
  trainer.step();
  const long before = allocations;
  while (!trainer.finished()) trainer.step();  // whole batches and the smaller last ones
  const long training = allocations - before;

  auto state = model.initial_state(3);
  const std::int32_t tokens[] = {1, 2, 3};
  model.step(tokens, state);
  const long before_decoding = allocations;
  for (int t = 0; t < 20; ++t) model.step(tokens, state);
  const long decoding = allocations - before_decoding;
  std::printf("%ld allocations in training steps, %ld in decoding steps after the first\n", training, decoding);
  return training + decoding;
}

int main() { return allocations_in_steps<>() + allocations_in_steps<mamba::Mamba2<8>>() == 0 ? 0 : 1; }
