// Models on one GPU, or several, from several threads: each keeps to its own queue; states stay where their model runs.
#include <atomic>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <exception>
#include <thread>

#include "support/cuda.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 100, .d_model = 8, .d_state = 4};
inline constexpr Config wide_config{.d_model = 1536};
// As functions of configurations: nvcc loses types that are named inside a test.
template <Config config>
constexpr int most_rows() {
  return network::most_tile_rows<Resolve<config>>();
}
template <Config config>
void check_rows(int rows) {
  network::check_tile_size<Resolve<config>>(rows);
}

template <class Backend>
using Classifier = MambaForComposite<tiny_config, Backend>;

// use(number) in `count` threads at once; the first error of one of them is thrown here.
template <class Use>
void in_threads(int count, Use&& use) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      try {
        use(i);
      } catch (...) {
        errors[static_cast<std::size_t>(i)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

template <class Scalar>
bool same(const StateDict<Scalar>& a, const StateDict<Scalar>& b) {
  for (const auto& [name, tensor] : a)
    if (std::memcmp(tensor.values.data(), b.at(name).values.data(), tensor.values.size() * sizeof(Scalar)) != 0)
      return false;
  return a.size() == b.size();
}

// A short training with every kind of call in between; the parameters at its end.
template <class Backend>
StateDict<float> short_run(int device, std::uint64_t seed) {
  const task::CompositeFunction task({.seed = seed, .train_samples = 64});
  const auto ids = support::random_tokens(3 * 8, 100, 1);
  Classifier<Backend> model({.n_layers = 1, .gamma = 1.0, .seed = seed, .device = device});
  Trainer trainer(model, task, {.batch_size = 32, .schedule = {.warmup = 1, .total = 3}, .seed = seed});
  while (!trainer.finished()) {
    trainer.run(1), model(ids, 3);
    auto state = model.initial_state(3);
    model.step(std::span(ids).first(3), state);
  }
  return model.state_dict();
}

template <class Backend>
void check_threads(int runs) {
  const auto first = short_run<Backend>(0, 3), second = short_run<Backend>(0, 4);
  std::atomic<bool> all_same{true};
  in_threads(4, [&](int user) {
    for (int run = 0; run < runs; ++run)
      if (!same(short_run<Backend>(0, 3 + static_cast<std::uint64_t>((user + run) % 2)),
                (user + run) % 2 == 0 ? first : second))
        all_same = false;
  });
  CHECK(all_same.load());
}

template <class Backend>
void check_states() {
  Classifier<Backend> model({.n_layers = 2, .seed = 5}), twin({.n_layers = 2, .seed = 5});
  const auto ids = support::random_tokens(2 * 12, 100, 1);
  const auto whole = model.logits(ids, 2);
  auto state = model.initial_state(2);
  const auto step = [&](auto& by, auto& of, int t) {
    const std::int32_t tokens[] = {ids[static_cast<std::size_t>(t)], ids[static_cast<std::size_t>(12 + t)]};
    return Matrix<float>(by.step(tokens, of));
  };
  const auto path = support::scratch("cuda-state") / "s.safetensors";
  for (int t = 0; t < 12; ++t) {
    // A copy goes its own way, whether the newest state is the device's or, after a look, the host's.
    auto copy = state;
    if (t % 3 == 1) save(state, path);
    auto later_copy = state;
    const auto logits = step(model, state, t);
    CHECK(std::abs(logits(0, 0) - whole(t, 0)) < 1e-5F);
    CHECK(step(twin, copy, t).values()[1] == logits.values()[1]);
    CHECK(step(model, later_copy, t).values()[1] == logits.values()[1]);
    if (t % 3 == 2) {
      auto loaded = model.initial_state(2);
      load(loaded, path);
      CHECK(loaded.positions()[0] == t - 1);
      step(model, loaded, t - 1);
      CHECK(step(model, loaded, t).values()[1] == logits.values()[1]);
    }
  }
  // It outlives its model.
  auto left = [&] {
    Classifier<Backend> gone({.n_layers = 2, .seed = 5});
    auto of_gone = gone.initial_state(2);
    step(gone, of_gone, 0);
    return of_gone;
  }();
  auto again = model.initial_state(2);
  step(model, again, 0);
  CHECK(step(model, left, 1).values()[0] == step(model, again, 1).values()[0]);
}

}  // namespace

TEST_CASE("CUDA: models in four threads, a thousand short runs, do not know of each other") {
  support::need_backend();
  check_threads<Cuda>(250);
}

TEST_CASE("CUDA: models over the grid in four threads do not know of each other") {
  support::need_backend();
  check_threads<CudaGrid>(10);
}

TEST_CASE("CUDA: trainings begin while others synchronise the device, and models with cuBLAS come and go") {
  support::need_backend();
  const auto expected = short_run<Cuda>(0, 3);
  std::atomic<bool> done{false}, all_same{true};
  in_threads(4, [&](int user) {
    const cuda::OnDevice on(0);
    if (user < 2) {
      for (int run = 0; run < 100; ++run)
        if (!same(short_run<Cuda>(0, 3), expected)) all_same = false;
      if (user == 0) done = true;
    } else if (user == 2) {
      while (!done) short_run<CudaGrid>(0, 4);
    } else {
      while (!done) cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    }
  });
  CHECK(all_same.load());
}

TEST_CASE("CUDA: an optimiser that is assigned anew is the one that trains") {
  support::need_backend();
  const task::CompositeFunction task({.seed = 3, .train_samples = 64});
  const TrainingOptions options{.batch_size = 32, .schedule = {.warmup = 1, .total = 5}, .seed = 3};
  const auto run = [&](auto& model) {
    Trainer trainer(model, task, options);
    trainer.run(2);
    trainer.optimizer() = AdamW(model, {.lr = 1e-3, .beta1 = 0.5});
    trainer.run(2);
    return model.state_dict();
  };
  support::Pair<tiny_config, Cuda, double> pair;
  CHECK(support::worst_difference(run(pair.cpu), run(pair.gpu)) < 1e-9);
}

TEST_CASE("CUDA: a device that does not exist is refused, and its thread goes on where it was") {
  support::need_backend();
  int before = -1, after = -1;
  cuda::check(cudaGetDevice(&before), "cudaGetDevice");
  CHECK_THROWS_AS(cuda::OnDevice(cuda::device_count()), Error);
  CHECK(cudaGetLastError() == cudaSuccess);
  cuda::check(cudaGetDevice(&after), "cudaGetDevice");
  CHECK(after == before);
  CHECK(same(short_run<Cuda>(0, 3), short_run<Cuda>(0, 3)));
}

TEST_CASE("CUDA: a model on the second device is as on the first") {
  if (cuda::device_count() < 2) SKIP("no second CUDA device");
  const auto on_first = short_run<Cuda>(0, 3), grid_on_first = short_run<CudaGrid>(0, 3);
  CHECK(same(short_run<Cuda>(1, 3), on_first));
  CHECK(same(short_run<CudaGrid>(1, 3), grid_on_first));
  std::atomic<bool> all_same{true};
  in_threads(4, [&](int user) {
    for (int run = 0; run < 20; ++run)
      if (!same(short_run<Cuda>(user % 2, 3), on_first)) all_same = false;
  });
  CHECK(all_same.load());
  // A state goes where its next model runs.
  Classifier<Cuda> here({.n_layers = 1, .seed = 5, .device = 0}), there({.n_layers = 1, .seed = 5, .device = 1});
  const auto ids = support::random_tokens(10, 100, 1);
  auto alone = here.initial_state(1), moving = here.initial_state(1);
  for (int t = 0; t < 10; ++t) {
    const auto token = std::span(ids).subspan(static_cast<std::size_t>(t), 1);
    const auto& expected = here.step(token, alone);
    const float first = expected(0, 0);
    CHECK((t % 2 == 0 ? there : here).step(token, moving)(0, 0) == first);
  }
}

TEST_CASE("CUDA: a state stays on the device until the host asks, and can be copied, kept and handed on") {
  support::need_backend();
  check_states<Cuda>();
  check_states<CudaGrid>();
}

TEST_CASE("CUDA: a sequence of more elements than kernels count is refused in words") {
  CHECK_THROWS_WITH(check_rows<wide_config>(most_rows<wide_config>() + 1),
                    ContainsSubstring("too long for this model on a GPU"));
  CHECK_NOTHROW(check_rows<wide_config>(most_rows<wide_config>()));
  support::need_backend();
  constexpr int most = most_rows<tiny_config>();
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(most) + 1, 7);
  Classifier<Cuda> model({.n_layers = 1});
  Classifier<CudaGrid> grid({.n_layers = 1});
  CHECK_THROWS_WITH(model(ids, 1), ContainsSubstring("too long for this model on a GPU"));
  CHECK_THROWS_WITH(grid(ids, 1), ContainsSubstring("too long for this model on a GPU"));
  CHECK_NOTHROW(model(std::span(ids).first(100), 1));
}
