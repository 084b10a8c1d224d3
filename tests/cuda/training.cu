// Trainings that the GPU runs by itself: as the CPU's, and the same bytes wherever a run is cut.
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <limits>

#include "support/cuda.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using Task = task::CompositeFunction;

namespace {

// In double: in float CPU and GPU part by rounding alone, for training magnifies it.
inline constexpr Config tiny_config{.vocab_size = 100, .d_model = 8, .d_state = 4};
template <class Backend>
using Plain = MambaForComposite<tiny_config, Backend, double>;
inline constexpr Config float_config{.vocab_size = 100, .d_model = 32, .d_state = 16};
inline constexpr Config wide_config{.vocab_size = 110, .d_model = 8, .d_state = 4};
template <class Backend>
using Wide = MambaForComposite<wide_config, Backend, double>;
template <class Backend>
using Frozen = MambaForComposite<tiny_config, Backend, double, Mamba2<4>, FrozenOnesConv, LearnedPosition<8>>;

const ModelOptions model_options{.n_layers = 2, .gamma = 1.0, .seed = 3};

// Epochs of three steps, 64, 64 and 22 sequences.
const Task small_task({.seed = 3, .train_samples = 150, .eval_samples = 200});
const TrainingOptions by_epochs{.batch_size = 64, .schedule = {.lr = 1e-3, .warmup = 2, .total = 5}, .seed = 3};
const TrainingOptions by_steps{
    .batch_size = 64,
    .schedule = {.initial_lr = 1e-5, .lr = 2e-3, .final_lr = 1e-4, .warmup = 20, .total = 300},
    .schedule_in_steps = true,
    .seed = 3};

// Tasks that are not as the models expect, or not drawn on the device.
struct ManyTokens : Task {
  using Task::Task;
  static constexpr int vocab_size = 101;
};
struct LongSequences : Task {
  using Task::Task;
  static constexpr int length = 9;
};
struct DrawnByTheHost {
  static constexpr int length = Task::length;
  Task task;
  std::int64_t train_samples() const { return task.train_samples(); }
  std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const { return task.train_sample(index, ids); }
};

template <class Scalar>
bool same_bytes(const StateDict<Scalar>& a, const StateDict<Scalar>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    const auto found = b.find(name);
    if (found == b.end() || found->second.shape != tensor.shape || found->second.values.size() != tensor.values.size())
      return false;
    if (std::memcmp(found->second.values.data(), tensor.values.data(), tensor.values.size() * sizeof(Scalar)) != 0)
      return false;
  }
  return true;
}

// What a training changes.
struct Snapshot {
  StateDict<double> parameters, mean, square;
  long steps = 0;
  double loss_sum = 0;
  std::int64_t loss_count = 0;
};
template <class Trainer>
Snapshot snapshot(Trainer& trainer) {
  return {trainer.model().state_dict(),
          trainer.optimizer().mean_dict(),
          trainer.optimizer().square_dict(),
          trainer.steps(),
          trainer.loss_sum(),
          trainer.loss_count()};
}
void check_same(const Snapshot& a, const Snapshot& b) {
  CHECK(same_bytes(a.parameters, b.parameters));
  CHECK(same_bytes(a.mean, b.mean));
  CHECK(same_bytes(a.square, b.square));
  CHECK(a.steps == b.steps);
  CHECK(a.loss_sum == b.loss_sum);
  CHECK(a.loss_count == b.loss_count);
}

// The trainer's state as the bytes of a checkpoint.
template <class Trainer>
std::vector<char> bytes_of(Trainer& trainer, const std::filesystem::path& folder) {
  save_checkpoint(trainer, folder / "bytes.safetensors", {});
  return io::read_file(folder / "bytes.safetensors");
}

template <class From, class To>
void hand_over(From& from, To& to, const std::filesystem::path& folder) {
  save_checkpoint(from, folder / "handed.safetensors", {});
  load_checkpoint(to, io::SafetensorsFile::read(folder / "handed.safetensors"));
}

double relative(double x, double expected) { return std::abs(x - expected) / std::abs(expected); }

double norm_of(const StateDict<double>& dict) {
  double sum = 0;
  for (const auto& [name, tensor] : dict)
    for (const double x : tensor.values) sum += x * x;
  return std::sqrt(sum);
}

// All of a run, step by step, beside the CPU's: losses, gradients after clipping, rates, mean losses, parameters at the
// end.
template <template <class> class Model>
void check_beside_cpu(const Task& task, const TrainingOptions& options, bool clips) {
  INFO("batch size " << options.batch_size << ", " << task.train_samples() << " samples, clip " << options.clip);
  Model<Cpu> cpu_model(model_options);
  Model<support::Backend> gpu_model(model_options);
  Trainer cpu(cpu_model, task, options);
  Trainer gpu(gpu_model, task, options);
  double worst = 0, worst_norm = 0, largest_norm = 0;
  bool rates = true;
  while (!cpu.finished()) {
    rates = rates && gpu.lr() == cpu.lr();
    const double expected = cpu.step();
    worst = support::larger(worst, relative(gpu.step(), expected));
    rates = rates && gpu.last_lr() == cpu.last_lr() && gpu.optimizer().lr() == cpu.optimizer().lr();
    if (cpu.steps() % 10 == 1) {
      const double norm = norm_of(cpu_model.gradient_dict());
      worst_norm = support::larger(worst_norm, relative(norm_of(gpu_model.gradient_dict()), norm));
      largest_norm = std::max(largest_norm, norm);
    }
  }
  INFO("worst relative difference of the losses: " << worst << ", of the gradients' norms: " << worst_norm);
  CHECK(worst < 1e-8);
  CHECK(worst_norm < 1e-6);
  CHECK(rates);
  CHECK((largest_norm > 0.999 * options.clip) == clips);
  CHECK(largest_norm <= options.clip);
  CHECK(gpu.finished());
  CHECK(gpu.sequences() == cpu.sequences());
  CHECK(gpu.loss_count() == cpu.loss_count());
  CHECK(relative(gpu.take_mean_loss(), cpu.take_mean_loss()) < 1e-8);
  CHECK(support::worst_difference(cpu_model.state_dict(), gpu_model.state_dict()) < 1e-6);

  // The same run, not looked at on its way.
  Model<support::Backend> again_model(model_options);
  Trainer again(again_model, task, options);
  again.run(again.total_steps());
  CHECK(same_bytes(again_model.state_dict(), gpu_model.state_dict()));
  CHECK(again.last_loss() == gpu.last_loss());
}

}  // namespace

TEST_CASE("CUDA: a run of many steps is as many single ones, to the last bit, wherever it is cut") {
  support::need_backend();
  const auto folder = support::scratch("cuda-training");
  const auto check = [&]<template <class> class Model>() {
    Model<support::Backend> single_model(model_options);
    Trainer single(single_model, small_task, by_epochs);
    std::vector<Snapshot> after{snapshot(single)};
    std::vector<double> losses{single.last_loss()};
    while (!single.finished()) {
      losses.push_back(single.step());
      after.push_back(snapshot(single));
    }
    CHECK(after.size() == 16);
    for (const long cut : {0L, 1L, 2L, 3L, 4L, 7L, 11L, 14L, 15L}) {
      INFO("cut after step " << cut);
      Model<support::Backend> first_model(model_options), second_model({.n_layers = 2, .gamma = 1.0, .seed = 99});
      Trainer first(first_model, small_task, by_epochs);
      Trainer second(second_model, small_task, by_epochs);
      first.run(cut);
      CHECK(first.last_loss() == losses[static_cast<std::size_t>(cut)]);
      check_same(snapshot(first), after[static_cast<std::size_t>(cut)]);
      second.run(2);  // what it did before is forgotten
      hand_over(first, second, folder);
      first.run(1000);  // no more than are left
      second.run(1000);
      CHECK(first.finished());
      check_same(snapshot(first), after.back());
      check_same(snapshot(second), after.back());
      CHECK((bytes_of(first, folder) == bytes_of(single, folder)));
      CHECK((bytes_of(second, folder) == bytes_of(single, folder)));
      first.run(1), first.run(0), first.run(-1);  // nothing is left
      check_same(snapshot(first), after.back());
    }
  };
  check.template operator()<Plain>();
  check.template operator()<Frozen>();
}

// In float the grid's step is a graph. Other calls in between use the same memory, and may move it.
template <class Model>
void check_between_other_calls(std::size_t tile_bytes = ModelOptions{}.tile_bytes) {
  using Scalar = typename Model::Scalar;
  ModelOptions of_model = model_options;
  of_model.tile_bytes = tile_bytes;
  Model straight_model(of_model), model(of_model);
  Trainer straight(straight_model, small_task, by_epochs), trainer(model, small_task, by_epochs);
  const long launched = cuda::Graph::launches();
  straight.run(15);
  // All but the first of each size.
  if constexpr (std::is_same_v<typename Model::Architecture::Storage, float>)
    CHECK(cuda::Graph::launches() - launched >= 13);
  const auto ids = support::random_tokens(900 * 8, 100, 1), labels = support::random_tokens(900, 100, 2);
  const std::vector<std::int32_t> two{1, 2};
  auto state = model.initial_state(2);
  for (long at = 0; !trainer.finished(); ++at) {
    trainer.run(at % 3 + 1);
    const int sequences = 100 * static_cast<int>(at + 1);
    const std::span some(ids.data(), static_cast<std::size_t>(sequences * 8));
    if (at % 2 == 0) model.loss_and_gradients(some, std::span(labels.data(), static_cast<std::size_t>(sequences)));
    else model(some, sequences);
    model.step(two, state);
  }
  CHECK(trainer.loss_sum() == straight.loss_sum());
  CHECK(same_bytes(model.state_dict(), straight_model.state_dict()));
  // What is derived of the parameters, and stored apart from them, is theirs.
  Model fresh({.n_layers = 2, .seed = 77, .tile_bytes = tile_bytes});
  fresh.load_state_dict(model.state_dict());
  const std::span some(ids.data(), std::size_t{64 * 8});
  const auto logits = model(some, 64), expected = fresh(some, 64);
  CHECK(std::memcmp(logits.data(), expected.data(), sizeof(Scalar) * 64 * 100) == 0);
}

TEST_CASE("CUDA: a training between other calls is the same bytes") {
  support::need_backend();
  check_between_other_calls<MambaForComposite<float_config, support::Backend>>();
  check_between_other_calls<MambaForComposite<float_config, support::Backend, Mamba2<16>, LearnedPosition<8>>>();
  check_between_other_calls<MambaForComposite<float_config, support::Backend, BFloat16>>();
  // Over the grid every sequence is a tile of its own.
  check_between_other_calls<MambaForComposite<float_config, support::Backend>>(1);
}

TEST_CASE("CUDA: a run of more steps than are planned at once") {
  support::need_backend();
  const auto folder = support::scratch("cuda-training-long");
  TrainingOptions options = by_steps;
  options.schedule.total = 2300;
  Plain<support::Backend> whole_model(model_options), cut_model(model_options);
  Trainer whole(whole_model, small_task, options);
  Trainer cut(cut_model, small_task, options);
  whole.run(2300);
  for (long count = 1; !cut.finished(); count *= 2) cut.run(count);
  CHECK(whole.steps() == 2300);
  CHECK((bytes_of(whole, folder) == bytes_of(cut, folder)));
}

TEST_CASE("CUDA: a training goes on on the other device") {
  support::need_backend();
  const auto folder = support::scratch("cuda-training-devices");
  const auto check = [&]<template <class> class Model>() {
    Model<Cpu> straight_model(model_options);
    Trainer straight(straight_model, small_task, by_epochs);
    straight.run(15);
    for (const long cut : {1L, 5L, 9L}) {
      INFO("cut after step " << cut);
      Model<Cpu> cpu_model(model_options), last_model(model_options);
      Model<support::Backend> gpu_model(model_options);
      Trainer cpu(cpu_model, small_task, by_epochs);
      Trainer gpu(gpu_model, small_task, by_epochs);
      Trainer last(last_model, small_task, by_epochs);
      cpu.run(cut);
      hand_over(cpu, gpu, folder);
      CHECK(gpu.steps() == cut);
      check_same(snapshot(gpu), snapshot(cpu));  // nothing is lost on the way
      gpu.run(3);
      hand_over(gpu, last, folder);
      check_same(snapshot(last), snapshot(gpu));
      gpu.run(1000);
      last.run(1000);
      for (const auto& at_end : {snapshot(gpu), snapshot(last)}) {
        CHECK(at_end.steps == 15);
        CHECK(support::worst_difference(straight_model.state_dict(), at_end.parameters) < 1e-8);
        CHECK(support::worst_difference(straight.optimizer().mean_dict(), at_end.mean) < 1e-8);
        CHECK(support::worst_difference(straight.optimizer().square_dict(), at_end.square) < 1e-8);
        CHECK(relative(at_end.loss_sum, straight.loss_sum()) < 1e-8);
        CHECK(at_end.loss_count == straight.loss_count());
      }
    }
  };
  check.template operator()<Plain>();
  check.template operator()<Frozen>();
}

TEST_CASE("CUDA: 300 steps of a training stay beside the CPU's") {
  support::need_backend();
  TrainingOptions options = by_epochs;
  options.schedule.warmup = 10, options.schedule.total = 100;
  for (const bool clips : {false, true}) {
    options.clip = clips ? 0.05 : 1e3;
    check_beside_cpu<Plain>(small_task, options, clips);
    check_beside_cpu<Frozen>(small_task, options, clips);
  }
}

TEST_CASE("CUDA: a schedule in steps is the CPU's") {
  support::need_backend();
  TrainingOptions options = by_steps;
  options.schedule.total = 60;
  options.clip = 1e3;
  check_beside_cpu<Plain>(small_task, options, false);
}

TEST_CASE("CUDA: a rate that changes every step of an epoch, and labels that are sums, are the CPU's") {
  support::need_backend();
  TrainingOptions options = by_epochs;
  options.schedule.warmup = 4, options.schedule.total = 20;
  options.rate_changes = RateChanges::each_step;
  options.clip = 1e3;
  const Task sums({.seed = 3, .labels = task::Labels::sum, .train_samples = 150});
  check_beside_cpu<Wide>(sums, options, false);
  Plain<support::Backend> narrow(model_options);
  Trainer trainer(narrow, sums, options);
  CHECK_THROWS_WITH(trainer.run(1), ContainsSubstring("the task's 110 tokens are more than the model's 100"));
}

TEST_CASE("CUDA: batches of any size, larger than the training set or of one sequence") {
  support::need_backend();
  TrainingOptions options = by_steps;
  options.schedule.total = 24;
  options.clip = 1e3;
  for (const auto& [batch_size, samples] : {std::pair{1000, 37}, {37, 37}, {64, 1}, {1, 3}, {17, 35}, {200, 3001}}) {
    options.batch_size = batch_size;
    check_beside_cpu<Plain>(Task({.seed = 5, .train_samples = samples, .eval_samples = 1}), options, false);
  }
  // What the training set lacks is not missed.
  const Task few({.seed = 5, .train_samples = 37, .eval_samples = 1});
  Snapshot ends[2];
  for (const int i : {0, 1}) {
    options.batch_size = i == 0 ? 37 : 2048;
    Plain<support::Backend> model(model_options);
    Trainer trainer(model, few, options);
    trainer.run(24);
    CHECK(trainer.steps_per_epoch() == 1);
    CHECK(trainer.sequences() == 24 * 37);
    ends[i] = snapshot(trainer);
  }
  check_same(ends[0], ends[1]);
}

TEST_CASE("CUDA: frozen parameters stay, and have no state") {
  support::need_backend();
  Frozen<support::Backend> model(model_options);
  const auto before = model.state_dict();
  Trainer trainer(model, small_task, by_epochs);
  trainer.run(15);
  const auto after = model.state_dict();
  for (const auto& [name, tensor] : before) {
    INFO(name);
    const bool frozen = name.find("conv1d") != std::string::npos;
    CHECK((after.at(name).values == tensor.values) == frozen);
    CHECK(trainer.optimizer().mean_dict().contains(name) == !frozen);
    if (frozen)
      for (const double x : after.at(name).values) CHECK(x == (name.ends_with("weight") ? 1.0 : 0.0));
  }
}

TEST_CASE("CUDA: the mean loss is that of the samples since it was asked for") {
  support::need_backend();
  Plain<support::Backend> single_model(model_options), model(model_options);
  Trainer single(single_model, small_task, by_epochs);
  Trainer trainer(model, small_task, by_epochs);
  CHECK(std::isnan(trainer.take_mean_loss()));
  for (const int steps : {4, 1, 10}) {
    double sum = 0, count = 0;
    for (int s = 0; s < steps; ++s) {
      const double size = single.steps() % 3 == 2 ? 22 : 64;
      sum += single.step() * size, count += size;
    }
    trainer.run(steps);
    CHECK(relative(trainer.take_mean_loss(), sum / count) < 1e-14);
    CHECK(std::isnan(trainer.take_mean_loss()));
  }
}

TEST_CASE("CUDA: samples that the host draws are the device's") {
  support::need_backend();
  const DrawnByTheHost by_host{small_task};
  Plain<support::Backend> model(model_options), host_model(model_options);
  Trainer trainer(model, small_task, by_epochs);
  Trainer host(host_model, by_host, by_epochs);
  double worst = 0;
  while (!trainer.finished()) {
    const double expected = host.step();
    worst = support::larger(worst, relative(trainer.step(), expected));
  }
  CHECK(worst < 1e-11);
}

TEST_CASE("CUDA: a training that diverges stops before the step, though more are queued") {
  support::need_backend();
  // Seven steps at a good rate, then one that throws the parameters far out.
  const Task task({.seed = 3, .train_samples = 400, .eval_samples = 1});
  const TrainingOptions options{.batch_size = 64,
                                .schedule = {.initial_lr = 1e-3, .lr = 1e30, .final_lr = 0, .warmup = 1, .total = 9},
                                .seed = 3};
  const auto check = [&]<template <class> class Model>() {
    Model<support::Backend> single_model(model_options), model(model_options);
    Trainer single(single_model, task, options);
    Trainer trainer(model, task, options);
    Snapshot before, good;
    std::string words;
    while (words.empty() && !single.finished()) {
      before = snapshot(single);
      if (single.steps() == 7) good = before;
      try {
        single.step();
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::diverged);
        words = error.what();
      }
    }
    REQUIRE_FALSE(words.empty());
    CHECK(before.steps >= 8);
    CHECK(single.steps() == before.steps);
    check_same(snapshot(single), before);
    CHECK_THAT(words, ContainsSubstring("step " + std::to_string(before.steps + 1) + " diverged"));
    try {
      trainer.run(60);
      FAIL("did not diverge");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::diverged);
      CHECK(error.what() == words);
    }
    check_same(snapshot(trainer), before);
    CHECK_FALSE((std::isfinite(trainer.last_loss()) && std::isfinite(norm_of(model.gradient_dict()))));
    // Again the same, and nothing has moved.
    CHECK_THROWS_WITH(trainer.run(60), words);
    check_same(snapshot(trainer), before);
    // From good values on it works.
    model.load_state_dict(good.parameters);
    trainer.optimizer().load_state(good.mean, good.square, 6);
    trainer.run(1);
    CHECK(trainer.steps() == 7);
    CHECK(std::isfinite(trainer.last_loss()));
  };
  check.template operator()<Plain>();
  check.template operator()<Frozen>();
}

TEST_CASE("CUDA: of a training that diverges in float the gradients are those of its step") {
  support::need_backend();
  // The last good step is an epoch's last but one: behind the bad one, a batch of another size is queued.
  const TrainingOptions options{.batch_size = 64,
                                .schedule = {.initial_lr = 1e-3, .lr = 1e30, .final_lr = 0, .warmup = 1, .total = 4},
                                .seed = 3};
  using Float = MambaForComposite<float_config, support::Backend>;
  Float single_model(model_options), model(model_options);
  Trainer single(single_model, small_task, options), trainer(model, small_task, options);
  std::string words, expected;
  try {
    while (true) single.step();
  } catch (const Error& error) {
    expected = error.what();
  }
  try {
    trainer.run(12);
  } catch (const Error& error) {
    words = error.what();
  }
  CHECK(words == expected);
  CHECK_THAT(words, ContainsSubstring("diverged"));
  CHECK(trainer.steps() == single.steps());
  CHECK(same_bytes(model.state_dict(), single_model.state_dict()));
  CHECK(same_bytes(model.gradient_dict(), single_model.gradient_dict()));
}

TEST_CASE("CUDA: divergence names step and parameter, and good values mend it") {
  support::need_backend();
  Plain<support::Backend> straight_model(model_options);
  Trainer straight(straight_model, small_task, by_epochs);
  straight.run(12);
  const auto expected = snapshot(straight);
  struct Poison {
    const char* where;
    double value;
    bool named;  // a huge weight overflows the norm of gradients that are all finite
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const Poison& poison :
       {Poison{"backbone.norm_f.weight", nan, true}, Poison{"backbone.layers.0.mixer.D", infinity, true},
        Poison{"backbone.layers.1.mixer.dt_proj.bias", nan, true}, Poison{"backbone.layers.0.mixer.A_log", nan, true},
        Poison{"backbone.embedding.weight", infinity, true}, Poison{"backbone.norm_f.weight", 1e200, false}}) {
    INFO(poison.where << " = " << poison.value);
    Plain<support::Backend> model(model_options);
    Trainer trainer(model, small_task, by_epochs);
    trainer.run(4);
    const auto good = model.state_dict();
    auto bad = good;
    for (double& x : bad.at(poison.where).values) x = poison.value;
    model.load_state_dict(bad);
    const auto before = snapshot(trainer);
    try {
      trainer.run(9);
      FAIL("did not diverge");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::diverged);
      CHECK_THAT(error.what(), ContainsSubstring("step 5 diverged"));
      CHECK((std::string(error.what()).find("the first parameter whose gradient is not finite is backbone.") !=
             std::string::npos) == poison.named);
    }
    check_same(snapshot(trainer), before);
    model.load_state_dict(good);
    trainer.run(8);
    check_same(snapshot(trainer), expected);
  }
}

TEST_CASE("CUDA: accuracies are the CPU's") {
  support::need_backend();
  Plain<support::Backend> gpu(model_options);
  Trainer trainer(gpu, small_task, by_steps);
  trainer.run(300);
  Plain<Cpu> cpu(model_options);
  cpu.load_state_dict(gpu.state_dict());
  double sum = 0;
  for (int p = 0; p < Task::pair_count; ++p) {
    INFO("pair " << p);
    const auto set = small_task.test_set(p);
    CHECK(predictions(gpu(set.ids, set.size())) == predictions(cpu(set.ids, set.size())));
    const PairAccuracy here = evaluate(gpu, set), there = evaluate(cpu, set);
    CHECK(here.label == there.label);
    CHECK(here.composite == there.composite);
    CHECK(here.symmetric == there.symmetric);
    sum += here.label + here.composite + here.symmetric;
  }
  CHECK(sum > 0);
}

TEST_CASE("CUDA: a task that is not the model's is refused before anything changes") {
  support::need_backend();
  const auto refused = [](auto& model, const auto& task, const char* words) {
    Trainer trainer(model, task, by_epochs);
    const auto before = snapshot(trainer);
    for (int again = 0; again < 2; ++again) {
      try {
        trainer.run(3);
        FAIL("not refused");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::invalid_argument);
        CHECK_THAT(error.what(), ContainsSubstring(words));
      }
      check_same(snapshot(trainer), before);
    }
  };
  Frozen<support::Backend> model(model_options);
  refused(model, ManyTokens({.train_samples = 150}), "the task's 101 tokens are more than the model's 100");
  const LongSequences longer({.train_samples = 150});
  CHECK_THROWS_WITH(Trainer(model, longer, by_epochs),
                    ContainsSubstring("the task's sequences of 9 tokens are longer than the model's max_seq_len 8"));
  Trainer trainer(model, small_task, by_epochs);  // the model is as good as before
  trainer.run(15);
  Frozen<support::Backend> fresh_model(model_options);
  Trainer fresh(fresh_model, small_task, by_epochs);
  fresh.run(15);
  check_same(snapshot(trainer), snapshot(fresh));
}

TEST_CASE("CUDA: trainings whose products are of TF32") {
  support::need_backend();
  using Float = MambaForComposite<float_config, support::Backend>;
  const auto losses = [&](Products products) {
    Float model({.n_layers = 2, .seed = 3, .products = products});
    Trainer trainer(model, small_task, by_epochs);
    trainer.run(6);
    return trainer.loss_sum();
  };
  const double exact = losses(Products::exact), by_tf32 = losses(Products::tf32);
  CHECK((by_tf32 != exact && relative(by_tf32, exact) < 1e-2));
  CHECK(losses(Products::tf32) == by_tf32);
  // A checkpoint goes on with the products that it began with.
  const auto folder = support::scratch("cuda-tf32");
  Float model({.n_layers = 2, .seed = 3, .products = Products::tf32}), other({.n_layers = 2, .seed = 3});
  Trainer trainer(model, small_task, by_epochs), exact_trainer(other, small_task, by_epochs);
  save_checkpoint(trainer, folder / "tf32.safetensors", {});
  CHECK_THROWS_WITH(load_checkpoint(exact_trainer, io::SafetensorsFile::read(folder / "tf32.safetensors")),
                    ContainsSubstring("products"));
}
