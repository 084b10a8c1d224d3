// A training is a function of its options: stopped and continued it ends with the same bytes.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <limits>
#include <set>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 100, .d_model = 8, .d_state = 4};
using Classifier = MambaForComposite<tiny_config>;
using Task = task::CompositeFunction;

const Task small_task({.seed = 3, .train_samples = 150, .eval_samples = 20});
const TrainingOptions options{.batch_size = 64, .schedule = {.lr = 1e-3, .warmup = 2, .total = 5}, .seed = 3};

std::vector<char> bytes(const std::filesystem::path& path) { return io::read_file(path); }

}  // namespace

TEST_CASE("an epoch shows every sample once, its last batch smaller; the rate changes with the epoch") {
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, options);
  CHECK(trainer.steps_per_epoch() == 3);
  CHECK(trainer.total_steps() == 15);
  std::vector<double> rates;
  while (!trainer.finished()) {
    rates.push_back(trainer.lr());
    trainer.step();
  }
  CHECK(trainer.sequences() == 750);
  for (std::size_t s = 0; s < 15; ++s) CHECK(rates[s] == options.schedule.at(static_cast<long>(s / 3)));
}

TEST_CASE("a run stopped anywhere and resumed ends with the same bytes, with other threads too") {
  const auto folder = support::scratch("resume");
  Classifier straight_model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 1});
  Trainer straight(straight_model, small_task, options);
  for (int stop : {1, 3, 7, 15}) {
    Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 2});
    Trainer first(model, small_task, options);
    for (int s = 0; s < stop; ++s) first.step();
    save_checkpoint(first, folder / "stopped.safetensors", io::Json("note"));
    const auto file = io::SafetensorsFile::read(folder / "stopped.safetensors");
    CHECK(read_checkpoint_notes(file).string() == "note");
    Classifier fresh({.n_layers = 2, .gamma = 1.0, .seed = 99, .threads = 7});
    Trainer second(fresh, small_task, options);
    load_checkpoint(second, file);
    CHECK(second.steps() == stop);
    while (!second.finished()) second.step();
    save_checkpoint(second, folder / "resumed.safetensors", io::Json("end"));
    if (!straight.finished()) {
      while (!straight.finished()) straight.step();
      save_checkpoint(straight, folder / "straight.safetensors", io::Json("end"));
    }
    // gamma is part of the recorded configuration; the seed of the initial values is not, nor matters any more.
    CHECK((bytes(folder / "resumed.safetensors") == bytes(folder / "straight.safetensors")));  // a failure is not printed byte by byte
  }
}

TEST_CASE("a checkpoint of another model, run or kind is refused and changes nothing") {
  const auto folder = support::scratch("refuse-checkpoint");
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, options);
  trainer.step();
  save_checkpoint(trainer, folder / "c.safetensors", {});
  save(model, folder / "model.safetensors");
  const auto file = io::SafetensorsFile::read(folder / "c.safetensors");

  Classifier deeper({.n_layers = 2, .gamma = 1.0, .seed = 3});
  Trainer other(deeper, small_task, options);
  const auto before = deeper.state_dict();
  CHECK_THROWS_WITH(load_checkpoint(other, file), ContainsSubstring("n_layers = 1, this one 2"));
  CHECK_THROWS_WITH(load_checkpoint(other, io::SafetensorsFile::read(folder / "model.safetensors")), ContainsSubstring("not a checkpoint"));
  CHECK(before.at("backbone.embedding.weight").values == deeper.state_dict().at("backbone.embedding.weight").values);
  CHECK(other.steps() == 0);
  TrainingOptions reseeded = options;
  reseeded.seed = 4;
  Classifier again({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer third(again, small_task, reseeded);
  CHECK_THROWS_WITH(load_checkpoint(third, file), ContainsSubstring("another seed"));
  // A checkpoint is also a model.
  load(again, folder / "c.safetensors");
  CHECK(again.state_dict().at("backbone.embedding.weight").values == model.state_dict().at("backbone.embedding.weight").values);
}

TEST_CASE("divergence names step and parameter, and leaves the parameters") {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const char* where : {"backbone.layers.0.mixer.dt_proj.bias", "backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.x_proj.weight",
                              "backbone.norm_f.weight", "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.conv1d.bias"}) {
      INFO(where << " = " << poison);
      Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
      Trainer trainer(model, small_task, options);
      trainer.step();
      auto dict = model.state_dict();
      dict.at(where).values[0] = poison;
      model.load_state_dict(dict);
      try {
        trainer.step();
        FAIL("did not diverge");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::diverged);
        CHECK_THAT(error.what(), ContainsSubstring("step 2 diverged") && ContainsSubstring("backbone."));
      }
      CHECK(model.state_dict().at("backbone.embedding.weight").values == dict.at("backbone.embedding.weight").values);
      CHECK(trainer.steps() == 1);
    }
}

TEST_CASE("run() ends where the run ends, step() goes on at the final rate") {
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3}), single_model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, options);
  Trainer single(single_model, small_task, options);
  trainer.run(4), trainer.run(1000), trainer.run(1000), trainer.run(-3);
  CHECK(trainer.steps() == 15);
  while (!single.finished()) single.step();
  CHECK(trainer.last_loss() == single.last_loss());
  CHECK(trainer.last_lr() == options.schedule.at(4));
  for (const auto& [name, tensor] : single_model.state_dict()) CHECK((model.state_dict().at(name).values == tensor.values));
  const double loss = trainer.step();
  CHECK(trainer.steps() == 16);
  CHECK(trainer.last_loss() == loss);
  CHECK(trainer.last_lr() == options.schedule.final_lr);
}

TEST_CASE("training lowers the loss") {
  Classifier model({.n_layers = 2, .seed = 3});
  const Task one_batch({.seed = 3, .train_samples = 64});
  Trainer trainer(model, one_batch, {.batch_size = 64, .schedule = {.lr = 1e-2, .final_lr = 1e-2, .warmup = 0, .total = 150}, .schedule_in_steps = true});
  const double first = trainer.step();
  double last = first;
  while (!trainer.finished()) last = trainer.step();
  CHECK(last < first - 1);
}

TEST_CASE("bad training options are refused") {
  Classifier model({.n_layers = 1, .seed = 3});
  const auto refused = [&](TrainingOptions o, const char* words) { CHECK_THROWS_WITH(Trainer(model, small_task, o), ContainsSubstring(words)); };
  refused({.batch_size = 0}, "batch size");
  refused({.clip = 0}, "gradient norm");
  refused({.weight_decay = -1}, "weight decay");
  refused({.schedule = {.warmup = 300}}, "warm-up");
}
