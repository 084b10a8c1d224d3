// A batch in shards: the same bytes for any number of processes that share them out.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include <mamba/composite.hpp>

#include "support/reference.hpp"
#include "support/thread_group.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using support::in_threads, support::words_of;

namespace {

inline constexpr Config tiny_config{.vocab_size = 100, .d_model = 8, .d_state = 4};
using Classifier = MambaForComposite<tiny_config>;
using Task = task::CompositeFunction;

const Task small_task({.seed = 3, .train_samples = 150, .eval_samples = 20});

// Batches of 64, 64 and 22.
TrainingOptions options_of(int shards) {
  return {
      .batch_size = 64, .schedule = {.lr = 1e-2, .warmup = 1, .total = 3}, .clip = 0.5, .seed = 3, .shards = shards};
}

// The checkpoint after `steps` steps by so many processes, from one that is there or from the beginning.
template <class Model>
std::vector<char> trained_by(int processes, const TrainingOptions& options, long steps,
                             const std::filesystem::path& from = {}) {
  const auto path = support::scratch("sharded") / "checkpoint.safetensors";
  const auto thrown = in_threads(processes, [&](Group& group) {
    Model model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 1 + group.rank() % 2});
    Trainer trainer(model, small_task, options, group);
    if (!from.empty()) load_checkpoint(trainer, io::SafetensorsFile::read(from));
    while (trainer.steps() < steps) trainer.step();
    save_checkpoint(trainer, path, io::Json("end"));
  });
  for (const auto& error : thrown) CHECK(words_of(error).empty());
  return io::read_file(path);
}

template <class Model>
void check_same_bytes() {
  for (const int shards : {8, 12, 48}) {  // 48: the last batch has fewer sequences
    const auto alone = trained_by<Model>(1, options_of(shards), 7);
    for (const int processes : {2, 3, 4, 6, 8}) {
      if (shards % processes != 0) continue;
      INFO(shards << " shards, " << processes << " processes");
      CHECK((trained_by<Model>(processes, options_of(shards), 7) == alone));
    }
  }
}

}  // namespace

TEST_CASE("any number of processes that divides the shards ends with the same bytes") {
  check_same_bytes<Classifier>();
  check_same_bytes<MambaForComposite<tiny_config, Mamba2<4>, UntiedHead>>();
  check_same_bytes<MambaForComposite<tiny_config, double, OnesConv>>();  // a frozen parameter between trained ones
  check_same_bytes<MambaForComposite<tiny_config, BFloat16>>();
}

TEST_CASE("a model of several pieces for the optimiser, and more processes than pieces") {
  using Wide = MambaForComposite<Config{.vocab_size = 100, .d_model = 160, .d_state = 4}>;
  CHECK((trained_by<Wide>(8, options_of(8), 2) == trained_by<Wide>(1, options_of(8), 2)));
  CHECK(Wide({.n_layers = 2}).engine().trained_pieces() > 16);
  CHECK(Classifier({.n_layers = 1}).engine().trained_pieces() > 8);
}

TEST_CASE("a run of four processes goes on with one, and the other way") {
  const auto straight = trained_by<Classifier>(2, options_of(8), 9);
  const auto folder = support::scratch("sharded-resume");
  for (const auto& [before, after] : {std::pair(4, 1), std::pair(1, 8), std::pair(2, 4)}) {
    const auto stopped = trained_by<Classifier>(before, options_of(8), 4);
    io::write_file(folder / "stopped.safetensors", std::string(stopped.begin(), stopped.end()));
    CHECK((trained_by<Classifier>(after, options_of(8), 9, folder / "stopped.safetensors") == straight));
  }
}

TEST_CASE("shards add up to the batch, and one shard is the batch") {
  using Exact = MambaForComposite<tiny_config, double>;
  Exact whole_model({.n_layers = 2, .gamma = 1.0, .seed = 3}), cut_model({.n_layers = 2, .gamma = 1.0, .seed = 3});
  Trainer whole(whole_model, small_task, options_of(1)), cut(cut_model, small_task, options_of(8));
  for (int s = 0; s < 7; ++s) CHECK(std::abs(whole.step() - cut.step()) < 1e-12);
  const auto a = whole_model.state_dict(), b = cut_model.state_dict();
  for (const auto& [name, tensor] : a) {
    INFO(name);
    for (std::size_t i = 0; i < tensor.values.size(); ++i)
      if (!(std::abs(tensor.values[i] - b.at(name).values[i]) < 1e-9)) FAIL_CHECK(i);
  }
  // One shard is what a Trainer without a group does.
  CHECK((trained_by<Classifier>(1, options_of(1), 3) == [] {
    const auto path = support::scratch("sharded-plain") / "checkpoint.safetensors";
    Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3});
    Trainer trainer(model, small_task, options_of(1));
    for (int s = 0; s < 3; ++s) trainer.step();
    save_checkpoint(trainer, path, io::Json("end"));
    return io::read_file(path);
  }()));
}

TEST_CASE("each process keeps the optimiser's means of its own stretch, after a checkpoint was loaded too") {
  const auto folder = support::scratch("sharded-means");
  std::vector<std::size_t> nonzero(4), after_load(4);
  const auto count = [](const Trainer<Classifier, Task>& trainer) {
    const float* const means = trainer.optimizer().mean().as<float>();
    return static_cast<std::size_t>(
        std::count_if(means, means + trainer.model().engine().size(), [](float x) { return x != 0; }));
  };
  const auto thrown = in_threads(4, [&](Group& group) {
    const auto r = static_cast<std::size_t>(group.rank());
    Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3});
    Trainer trainer(model, small_task, options_of(8), group);
    for (int s = 0; s < 3; ++s) trainer.step();
    save_checkpoint(trainer, folder / "c.safetensors", {});
    nonzero[r] = count(trainer);
    load_checkpoint(trainer, io::SafetensorsFile::read(folder / "c.safetensors"));
    after_load[r] = count(trainer);
  });
  for (const auto& error : thrown) CHECK(words_of(error).empty());
  Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3});
  Trainer alone(model, small_task, options_of(8));
  for (int s = 0; s < 3; ++s) alone.step();
  CHECK(nonzero[0] + nonzero[1] + nonzero[2] + nonzero[3] == count(alone));
  CHECK(*std::max_element(nonzero.begin(), nonzero.end()) < count(alone));
  CHECK(after_load == nonzero);
}

TEST_CASE("divergence is met by all processes in the same words, and leaves the parameters") {
  std::mutex lock;
  std::vector<std::string> words;
  const auto one = [&](Group& group) {
    Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3});
    Trainer trainer(model, small_task, options_of(8), group);
    trainer.step();
    auto dict = model.state_dict();
    dict.at("backbone.layers.1.mixer.x_proj.weight").values[0] = std::numeric_limits<float>::infinity();
    model.load_state_dict(dict);
    const auto throws_diverged = [&](auto&& f) {
      try {
        f();
        return std::string("it did not diverge");
      } catch (const Error& error) {
        return error.kind() == ErrorKind::diverged ? std::string(error.what()) : std::string("another error");
      }
    };
    const std::string step = throws_diverged([&] { trainer.step(); }),
                      file = throws_diverged([&] { save_checkpoint(trainer, "never-written", {}); });
    const std::lock_guard hold(lock);
    words.push_back(step + "|" + file);
    for (const auto& [name, tensor] : model.state_dict())
      if (tensor.values != dict.at(name).values && name != "backbone.layers.1.mixer.x_proj.weight")
        words.emplace_back("changed " + name);
    if (trainer.steps() != 1) words.emplace_back("a step was counted");
  };
  for (const auto& error : in_threads(1, one)) CHECK(words_of(error).empty());
  for (const auto& error : in_threads(4, one)) CHECK(words_of(error).empty());
  CHECK(words.size() == 5);
  for (const std::string& each : words) CHECK(each == words[0]);
  CHECK_THAT(words[0], ContainsSubstring("step 2 diverged") && ContainsSubstring("backbone.") &&
                           ContainsSubstring("not finite, the first of them in backbone.layers.1.mixer.x_proj.weight"));
  CHECK(!std::filesystem::exists("never-written"));
}

namespace {

// Samples of which one cannot be made.
struct FailingTask : Task {
  FailingTask() : Task({.seed = 3, .train_samples = 150, .eval_samples = 20}) {}
  static constexpr bool draws_on_device = false;
  template <class... Arguments>
  std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    if (index == 77) fail(ErrorKind::bad_file, "sample 77 cannot be read");
    return Task::train_sample(index, ids);
  }
};

}  // namespace

TEST_CASE("what one process cannot do ends the step of all, and the next one is as if it had not been tried") {
  const FailingTask failing;
  std::mutex lock;
  std::vector<std::string> words;
  for (const auto& error : in_threads(4, [&](Group& group) {
         Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
         Trainer<Classifier, FailingTask> trainer(model, failing, options_of(8), group);
         for (int tries = 0; tries < 2; ++tries) try {
             while (!trainer.finished()) trainer.step();
           } catch (const Error& caught) {
             const std::lock_guard hold(lock);
             words.push_back(std::to_string(trainer.steps()) + " " + caught.what());
           }
       }))
    CHECK(words_of(error).empty());
  CHECK(words.size() == 8);
  for (const std::string& each : words) CHECK(each == words[0]);
  CHECK_THAT(words[0], ContainsSubstring("sample 77 cannot be read"));
}

TEST_CASE("processes that do not divide the shards, and another number of shards, are refused") {
  for (const auto& error : in_threads(3, [&](Group& group) {
         Classifier model({.n_layers = 1});
         Trainer trainer(model, small_task, options_of(8), group);
       }))
    CHECK_THAT(words_of(error), ContainsSubstring("3 processes do not divide 8 shards"));
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  CHECK_THROWS_WITH(Trainer(model, small_task, options_of(0)), ContainsSubstring("1 to 65536 shards; given 0"));
  Trainer trainer(model, small_task, options_of(4));
  trainer.step();
  const auto path = support::scratch("sharded-other") / "c.safetensors";
  save_checkpoint(trainer, path, {});
  Trainer other(model, small_task, options_of(2)), plain(model, small_task, options_of(1));
  CHECK_THROWS_WITH(load_checkpoint(other, io::SafetensorsFile::read(path)),
                    ContainsSubstring("\"shards\" = 4; this one has 2"));
  CHECK_THROWS_WITH(load_checkpoint(plain, io::SafetensorsFile::read(path)),
                    ContainsSubstring("\"shards\" = 4; this one has none"));
}
