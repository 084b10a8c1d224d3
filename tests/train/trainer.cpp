// A training is a function of its options: stopped and continued it ends with the same bytes.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <limits>
#include <optional>
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

TEST_CASE("a run that is counted in epochs may change its rate every step") {
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  TrainingOptions every_step = options;
  every_step.rate_changes = RateChanges::each_step;
  Trainer trainer(model, small_task, every_step);
  CHECK(trainer.total_steps() == 15);
  for (long s = 0; !trainer.finished(); ++s) {
    CHECK(trainer.lr() == options.schedule.at(static_cast<double>(s) / 3.0));
    trainer.step();
  }
}

namespace {

template <class Model>
void check_resumed() {
  const auto folder = support::scratch("resume");
  Model straight_model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 1});
  Trainer straight(straight_model, small_task, options);
  for (int stop : {1, 3, 7, 15}) {
    Model model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 2});
    Trainer first(model, small_task, options);
    for (int s = 0; s < stop; ++s) first.step();
    save_checkpoint(first, folder / "stopped.safetensors", io::Json("note"));
    const auto file = io::SafetensorsFile::read(folder / "stopped.safetensors");
    CHECK(read_checkpoint_notes(file).string() == "note");
    Model fresh({.n_layers = 2, .gamma = 1.0, .seed = 99, .threads = 7});
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
    CHECK((bytes(folder / "resumed.safetensors") ==
           bytes(folder / "straight.safetensors")));  // a failure is not printed byte by byte
  }
}

}  // namespace

TEST_CASE("a run stopped anywhere and resumed ends with the same bytes, with other threads too") {
  check_resumed<Classifier>();
  check_resumed<MambaForComposite<tiny_config, UntiedHead>>();
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
  CHECK_THROWS_WITH(load_checkpoint(other, io::SafetensorsFile::read(folder / "model.safetensors")),
                    ContainsSubstring("not a checkpoint"));
  CHECK(before.at("backbone.embedding.weight").values == deeper.state_dict().at("backbone.embedding.weight").values);
  CHECK(other.steps() == 0);
  TrainingOptions reseeded = options;
  reseeded.seed = 4;
  Classifier again({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer third(again, small_task, reseeded);
  CHECK_THROWS_WITH(load_checkpoint(third, file), ContainsSubstring("another seed"));
  // A checkpoint is also a model.
  load(again, folder / "c.safetensors");
  CHECK(again.state_dict().at("backbone.embedding.weight").values ==
        model.state_dict().at("backbone.embedding.weight").values);
}

TEST_CASE("divergence names step and parameter, and leaves the parameters") {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const char* where : {"backbone.layers.0.mixer.dt_proj.bias", "backbone.layers.0.mixer.in_proj.weight",
                              "backbone.layers.0.mixer.x_proj.weight", "backbone.norm_f.weight",
                              "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.conv1d.bias"}) {
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
  for (const auto& [name, tensor] : single_model.state_dict())
    CHECK((model.state_dict().at(name).values == tensor.values));
  const double loss = trainer.step();
  CHECK(trainer.steps() == 16);
  CHECK(trainer.last_loss() == loss);
  CHECK(trainer.last_lr() == options.schedule.final_lr);
}

TEST_CASE("training lowers the loss") {
  Classifier model({.n_layers = 2, .seed = 3});
  const Task one_batch({.seed = 3, .train_samples = 64});
  Trainer trainer(model, one_batch,
                  {.batch_size = 64,
                   .schedule = {.lr = 1e-2, .final_lr = 1e-2, .warmup = 0, .total = 150},
                   .schedule_in_steps = true});
  const double first = trainer.step();
  double last = first;
  while (!trainer.finished()) last = trainer.step();
  CHECK(last < first - 1);
}

TEST_CASE("bad training options are refused") {
  Classifier model({.n_layers = 1, .seed = 3});
  const auto refused = [&](TrainingOptions o, const char* words) {
    CHECK_THROWS_WITH(Trainer(model, small_task, o), ContainsSubstring(words));
  };
  refused({.batch_size = 0}, "batch size");
  refused({.clip = 0}, "gradient norm");
  refused({.weight_decay = -1}, "weight decay");
  refused({.schedule = {.warmup = 300}}, "warm-up");
}

namespace {

// Whether a checkpoint of a training with these options and this task is refused, with these words, by the one of
// above; nothing changes.
template <class SomeTask>
void refuses(const TrainingOptions& own, const SomeTask& own_task, const char* words) {
  INFO(words);
  const auto folder = support::scratch("other-training");
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3}), other({.n_layers = 1, .gamma = 1.0, .seed = 5});
  Trainer trainer(model, small_task, options);
  trainer.run(2);
  save_checkpoint(trainer, folder / "c.safetensors", {});
  Trainer second(other, own_task, own);
  const auto before = other.state_dict();
  CHECK_THROWS_WITH(load_checkpoint(second, io::SafetensorsFile::read(folder / "c.safetensors")),
                    ContainsSubstring(words));
  CHECK(second.steps() == 0);
  for (const auto& [name, tensor] : other.state_dict()) CHECK((tensor.values == before.at(name).values));
}

}  // namespace

TEST_CASE("a checkpoint is of one training alone: whatever decides it is compared") {
  const auto with = [](auto change) {
    TrainingOptions o = options;
    change(o);
    return o;
  };
  refuses(with([](auto& o) { o.batch_size = 32; }), small_task, "\"batch_size\" = 64; this one has 32");
  refuses(with([](auto& o) { o.schedule.lr = 2e-3; }), small_task, "\"lr\" = 0.001");
  refuses(with([](auto& o) { o.schedule.initial_lr = 2e-5; }), small_task, "initial_lr");
  refuses(with([](auto& o) { o.schedule.final_lr = 2e-5; }), small_task, "final_lr");
  refuses(with([](auto& o) { o.schedule.warmup = 1; }), small_task, "warmup");
  refuses(with([](auto& o) { o.schedule.total = 6; }), small_task, "total");
  refuses(with([](auto& o) { o.schedule_in_steps = true; }), small_task, "schedule_unit");
  refuses(with([](auto& o) { o.rate_changes = RateChanges::each_step; }), small_task, "rate_changes");
  refuses(with([](auto& o) { o.weight_decay = 0; }), small_task, "weight_decay");
  refuses(with([](auto& o) { o.clip = 2; }), small_task, "clip");
  refuses(with([](auto& o) { o.seed = 4; }), small_task, "another seed");
  refuses(options, Task({.seed = 3, .train_samples = 160, .eval_samples = 20}), "\"train_samples\" = 150");
  refuses(options, Task({.seed = 4, .train_samples = 150, .eval_samples = 20}), "task_seed");
  refuses(options, Task({.seed = 3, .filler = {0, 99}, .train_samples = 150}), "filler");
  refuses(options, Task({.seed = 3, .keys = {30, 99}, .train_samples = 150}), "keys");
  refuses(options, Task({.seed = 3, .labels = task::Labels::sum, .train_samples = 150}), "labels");
  refuses(options, task::FullSymmetry({.seed = 3, .train_samples = 150}), "\"task\" = \"composite\"");
  MambaForComposite<tiny_config, double> wide({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer of_doubles(wide, small_task, options);
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, options);
  const auto path = support::scratch("precision") / "c.safetensors";
  save_checkpoint(trainer, path, {});
  CHECK_THROWS_WITH(load_checkpoint(of_doubles, io::SafetensorsFile::read(path)),
                    ContainsSubstring("\"precision\" = \"float\""));
}

namespace {

struct Shifted {
  static constexpr int length = 8;
  int by;
  Task inner{{.train_samples = 100}};
  std::int64_t train_samples() const { return 100; }
  std::int32_t train_sample(std::int64_t i, std::int32_t* ids) const { return inner.train_sample((i + by) % 100, ids); }
  template <class F>
  void for_each_option(F&& f) const {
    f("by", by), f("how", "cyclic"), f("seed", 7), f("lr", 0.5), f("task", "shifted");  // names are the task's own
  }
};

}  // namespace

TEST_CASE("a task of the user's own says what decides its samples") {
  Classifier model({.n_layers = 1}), other({.n_layers = 1});
  const Shifted one{1}, two{2};
  Trainer first(model, one, options), second(other, two, options), third(other, one, options);
  const auto path = support::scratch("own-task") / "c.safetensors";
  save_checkpoint(first, path, {});
  CHECK_THROWS_WITH(load_checkpoint(second, io::SafetensorsFile::read(path)),
                    ContainsSubstring("\"by\" = 1; this one has 2"));
  third.step();
  load_checkpoint(third, io::SafetensorsFile::read(path));
  CHECK(third.steps() == 0);
  CHECK(third.last_loss() == first.last_loss());
}

TEST_CASE("no checkpoint is written from which a run cannot go on, and a run's last step is looked at") {
  const auto folder = support::scratch("exploded");
  const auto path = folder / "c.safetensors";
  const TrainingOptions explosive{
      .batch_size = 64,
      .schedule = {.initial_lr = 1e30, .lr = 1e30, .final_lr = 1e30, .warmup = 0, .total = 2},
      .schedule_in_steps = true};
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, explosive);
  save_checkpoint(trainer, path, {});
  const auto good = bytes(path);
  trainer.step();  // the parameters are about 1e30 now
  const auto kind_of = [](auto&& f) -> std::optional<ErrorKind> {
    try {
      f();
    } catch (const Error& error) {
      return error.kind();
    }
    return std::nullopt;
  };
  CHECK(kind_of([&] { save_checkpoint(trainer, path, {}); }) == ErrorKind::diverged);
  CHECK((bytes(path) == good));
  CHECK(kind_of([&] { evaluate(model, small_task.test_set(0)); }) == ErrorKind::diverged);

  TrainingOptions one_step = explosive;
  one_step.schedule.total = 1;
  Classifier last({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer to_the_end(last, small_task, one_step);
  CHECK(kind_of([&] { to_the_end.run(1000); }) == ErrorKind::diverged);
  Classifier by_steps({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer step_by_step(by_steps, small_task, one_step);
  CHECK(kind_of([&] {
          while (!step_by_step.finished()) step_by_step.step();
        }) == ErrorKind::diverged);

  // A file of such numbers is no checkpoint, whoever wrote it.
  const auto file = io::SafetensorsFile::read(path);
  const auto changed = [&](const std::string& name, float value) {
    io::SafetensorsWriter writer;
    for (const auto& [key, info] : file.tensors()) {
      auto tensor = file.tensor<float>(key);
      if (key == name) tensor.values[0] = value;
      writer.add(key, tensor);
    }
    writer.write(folder / "changed.safetensors", file.metadata());
    return io::SafetensorsFile::read(folder / "changed.safetensors");
  };
  Classifier again({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer resumed(again, small_task, explosive);
  load_checkpoint(resumed, changed("model.backbone.norm_f.weight", 1));
  CHECK(kind_of([&] { load_checkpoint(resumed, changed("model.backbone.norm_f.weight", NAN)); }) ==
        ErrorKind::bad_file);
  CHECK(kind_of([&] { load_checkpoint(resumed, changed("adamw.mean.backbone.norm_f.weight", INFINITY)); }) ==
        ErrorKind::bad_file);
  CHECK(kind_of([&] { load_checkpoint(resumed, changed("adamw.square.backbone.norm_f.weight", -1)); }) ==
        ErrorKind::bad_file);
}

TEST_CASE("a checkpoint's place in the run is checked before it is used") {
  const auto folder = support::scratch("place");
  Classifier model({.n_layers = 1, .gamma = 1.0, .seed = 3});
  Trainer trainer(model, small_task, options);
  trainer.run(4);
  save_checkpoint(trainer, folder / "c.safetensors", {});
  const auto file = io::SafetensorsFile::read(folder / "c.safetensors");
  const auto with_position = [&](const std::string& key, const std::string& value, bool without_record) {
    auto metadata = file.metadata();
    const io::Json position = io::Json::parse(metadata.at("position"));
    std::string text;
    for (const auto& [name, old] : position.members())
      text += (text.empty() ? "{" : ", ") + io::Json(name).dump() + ": " + (name == key ? value : old.dump());
    metadata["position"] = text + "}";
    if (without_record) metadata.erase("training");
    io::SafetensorsWriter writer;
    for (const auto& [name, info] : file.tensors()) writer.add(name, file.tensor<float>(name));
    writer.write(folder / "changed.safetensors", metadata);
    return io::SafetensorsFile::read(folder / "changed.safetensors");
  };
  for (const bool without_record : {false, true}) {
    load_checkpoint(trainer, with_position("", "", without_record));
    for (const auto& [key, value] :
         std::vector<std::pair<std::string, std::string>>{{"step", "-1"},
                                                          {"step", "5"},
                                                          {"step", "1e3"},
                                                          {"epoch", "7"},
                                                          {"step_in_epoch", "2"},
                                                          {"loss_count", "9223372036854775807"},
                                                          {"loss_count", "-1"},
                                                          {"loss_count", "2.5"},
                                                          {"loss_sum", "1e999"},
                                                          {"loss_sum", "null"},
                                                          {"seed", "4"}}) {
      INFO(key << " = " << value);
      CHECK_THROWS_AS(load_checkpoint(trainer, with_position(key, value, without_record)), Error);
    }
  }
}

TEST_CASE("a task without samples, and what is too large for a step, are refused") {
  struct Empty {
    int length = 8;
    std::int64_t samples = 0;
    std::int64_t train_samples() const { return samples; }
    std::int32_t train_sample(std::int64_t, std::int32_t*) const { return 0; }
  };
  Classifier model({.n_layers = 1});
  CHECK_THROWS_WITH(Trainer(model, Empty{}, options), ContainsSubstring("a training sample at least"));
  const Empty no_tokens{.length = 0, .samples = 5}, vast{.length = 1 << 30, .samples = 5};
  CHECK_THROWS_WITH(Trainer(model, no_tokens, options), ContainsSubstring("their length is 0"));
  CHECK_THROWS_WITH(Trainer(model, vast, options), ContainsSubstring("too large for one step"));
  TrainingOptions endless = options;
  endless.schedule.total = std::numeric_limits<long>::max() / 4;
  CHECK_THROWS_WITH(Trainer(model, small_task, endless), ContainsSubstring("longer than what is counted"));
}

TEST_CASE("AdamW: what pads is zero and stays zero, whatever the options") {
  constexpr static Config odd{.vocab_size = 101, .d_model = 18, .d_state = 5, .d_conv = 3, .expand = 1};
  const auto ids = support::random_tokens(12 * 8, 101, 1), labels = support::random_tokens(12, 101, 2);
  for (const AdamWOptions& o :
       {AdamWOptions{.lr = 1e-3, .eps = 0}, AdamWOptions{.lr = 1e-3, .eps = 1e-60}, AdamWOptions{.lr = 0, .eps = 0},
        AdamWOptions{.lr = 1e-3, .beta1 = 0, .beta2 = 0, .eps = 0}}) {
    MambaForComposite<odd> model({.n_layers = 1, .gamma = 0.25, .gamma_zeroes_biases = false, .seed = 1});
    AdamW optimizer(model, o);
    for (int step = 0; step < 3; ++step) {
      CHECK(is_finite(model.loss_and_gradients(ids, labels)));
      optimizer.step();
      CHECK(nonfinite_in(model.state_dict()).count == 0);
    }
    CHECK(count_nonfinite(std::span<const float>(std::as_const(model).engine().parameters(), model.engine().size())) ==
          0);
  }
}
