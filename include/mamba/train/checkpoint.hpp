// Checkpoints of a training: parameters, optimiser state, position; one safetensors file, replaced as a whole.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mamba/core/finite.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/put_parameter.hpp>
#include <mamba/model/save.hpp>
#include <mamba/task/words.hpp>
#include <mamba/train/trainer.hpp>

namespace mamba {

inline constexpr const char* mean_prefix = "adamw.mean.";
inline constexpr const char* square_prefix = "adamw.square.";

namespace detail {

inline io::Json json_of(task::TokenRange range) { return io::Json::Elements{range.first, range.last}; }
inline io::Json json_of(const char* text) { return std::string(text); }
template <class T>
io::Json json_of(const T& value) {
  if constexpr (std::is_same_v<T, bool> || std::is_floating_point_v<T>) return value;
  else if constexpr (std::is_unsigned_v<T>) return static_cast<std::uint64_t>(value);
  else if constexpr (std::is_integral_v<T>) return static_cast<std::int64_t>(value);
  else return std::string(value);
}

// Options by their names, in the order of their addition.
class OptionRecord {
 public:
  OptionRecord() { members_.reserve(16); }
  void add(const char* name, io::Json value) { members_.push_back({name, std::move(value)}); }
  io::Json json() { return {std::move(members_)}; }

 private:
  io::Json::Members members_;
};

// All that decides how a training goes on from a checkpoint, by names.
template <class ModelType, class Task>
io::Json training_record(const Trainer<ModelType, Task>& trainer) {
  const TrainingOptions& o = trainer.options();
  const AdamWOptions& adamw = trainer.optimizer().options();
  io::Json::Members members{{"precision", precision_name<typename ModelType::Architecture::Precision>},
                            {"batch_size", o.batch_size},
                            {"schedule_unit", o.schedule_in_steps ? "steps" : "epochs"},
                            {"initial_lr", o.schedule.initial_lr},
                            {"lr", o.schedule.lr},
                            {"final_lr", o.schedule.final_lr},
                            {"warmup", json_of(o.schedule.warmup)},
                            {"total", json_of(o.schedule.total)},
                            {"weight_decay", o.weight_decay},
                            {"beta1", adamw.beta1},
                            {"beta2", adamw.beta2},
                            {"eps", adamw.eps},
                            {"clip", o.clip},
                            {"seed", o.seed},
                            {"length", json_of(trainer.task().length)},
                            {"train_samples", json_of(trainer.task().train_samples())}};
  // There was no choice when checkpoints began.
  if (!o.schedule_in_steps && o.rate_changes == RateChanges::each_step)
    members.emplace_back("rate_changes", "each step");
  if (o.shards > 1) members.emplace_back("shards", o.shards);  // younger than the others
  // What decides the order of sums on a GPU.
  if constexpr (!std::is_same_v<typename ModelType::Architecture::Backend, Cpu>)
    members.emplace_back("tile_bytes", static_cast<std::uint64_t>(trainer.model().options().tile_bytes));
  if constexpr (!std::is_same_v<typename ModelType::Architecture::Backend, Cpu>)
    if (const Scope scope = trainer.model().options().scope; scope != Scope::by_sizes)
      members.emplace_back("scope", scope == Scope::block ? "block" : "grid");
  if constexpr (!std::is_same_v<typename ModelType::Architecture::Backend, Cpu> &&
                std::is_same_v<typename ModelType::Architecture::Storage, float>)
    if (trainer.model().options().products == Products::tf32) members.emplace_back("products", "tf32");
  // The task's names are its own.
  OptionRecord options;
  const auto add = [&](const char* name, const auto& value) { options.add(name, json_of(value)); };
  if constexpr (requires { trainer.task().for_each_option(add); }) trainer.task().for_each_option(add);
  members.emplace_back("task", options.json());
  return members;
}

}  // namespace detail

// A training's tensors, for who trains without a Trainer, too: the model's parameters and the arenas of the optimiser's
// means. They are read where they lie when the file is written, which nothing may change until then.
template <class ModelType>
void add_training(io::SafetensorsWriter& writer, const ModelType& model,
                  const typename AdamW<ModelType>::Arenas::Arena& mean,
                  const typename AdamW<ModelType>::Arenas::Arena& square) {
  using Scalar = typename ModelType::Scalar;
  const auto& engine = model.engine();
  const auto add = [&](const char* prefix, const Scalar* arena, bool of_trained) {
    for (const PlacedParameter& p : engine.placed())
      if (p.parameter.trained || !of_trained) detail::add_parameter<Scalar>(writer, prefix + p.name, p, arena);
  };
  add(model_prefix, engine.parameters(), false);
  add(mean_prefix, mean.template as<Scalar>(), true);
  add(square_prefix, square.template as<Scalar>(), true);
}
template <class ModelType>
void add_training(io::SafetensorsWriter& writer, const ModelType& model, const AdamW<ModelType>& optimizer) {
  add_training(writer, model, optimizer.mean(), optimizer.square());
}

// The same back from a file, after so many steps. Throws Error(bad_file), and changes nothing, where they are another
// model's or not finite.
template <class ModelType>
void restore_training(ModelType& model, AdamW<ModelType>& optimizer, const io::SafetensorsFile& file, long steps) {
  using A = typename ModelType::Architecture;
  const auto mean = read_state_dict<A>(file, mean_prefix), square = read_state_dict<A>(file, square_prefix);
  auto parameters = detail::parameters_in<A>(file, model_prefix);
  parameters.check(model, {.refuse_nonfinite = true});
  optimizer.check_state(mean, square);
  parameters.load(model);
  optimizer.load_state(mean, square, steps);
}

// Writes a trainer's state. `notes` is the program's own part, handed back by read_checkpoint_notes. Makes sure that
// the run can go on from there, which sets the model's gradients to the next step's. Throws Error(diverged) where it
// cannot, and Error(cannot_write); what stood at the path then still does. Of processes that train together all call
// it, and the first one writes.
template <class ModelType, class Task>
void save_checkpoint(Trainer<ModelType, Task>& trainer, const std::filesystem::path& path, const io::Json& notes) {
  trainer.check_next_step();
  const io::Json position = io::Json::Members{
      {"step", static_cast<std::int64_t>(trainer.steps())},
      {"epoch", static_cast<std::int64_t>(trainer.steps() / trainer.steps_per_epoch())},  // the shuffle's stream
      {"step_in_epoch",
       static_cast<std::int64_t>(trainer.steps() % trainer.steps_per_epoch())},  // how far it has come in it
      {"seed", trainer.options().seed},
      {"loss_sum", trainer.loss_sum()},
      {"loss_count", trainer.loss_count()},
      {"last_loss", trainer.last_loss()},
  };
  trainer.parallel().with_whole_means(std::as_const(trainer.optimizer()), [&](const auto& mean, const auto& square) {
    io::SafetensorsWriter writer;
    const auto looking = trainer.model().look();
    add_training(writer, std::as_const(trainer.model()), mean, square);
    writer.write(path, {{"format", "pt"},
                        {"config", config_json(trainer.model())},
                        {"variant", variant_json(trainer.model())},
                        {"training", detail::training_record(trainer).dump()},
                        {"position", position.dump()},
                        {"notes", notes.dump()}});
  });
}

// The program's own part of a checkpoint. Throws Error(bad_file).
inline io::Json read_checkpoint_notes(const io::SafetensorsFile& file) {
  const auto notes = file.metadata().find("notes");
  return io::naming(file.path(), [&] {
    if (notes == file.metadata().end()) fail(ErrorKind::bad_file, "the file is not a checkpoint of a training");
    return io::Json::parse(notes->second);
  });
}

namespace detail {

// Refuses what differs between two records, but for the member `apart`. How a GPU cuts its batches is no matter for who
// has none.
inline void check_same_members(const io::Json& own, const io::Json& theirs, std::string_view apart) {
  const auto brief = [](const io::Json* value) { return value ? value->brief() : std::string("none"); };
  for (const auto* record : {&own, &theirs})
    for (const auto& [name, value] : record->members()) {
      const io::Json *const here = own.find(name), *const there = theirs.find(name);
      if (name == apart || (name == "tile_bytes" && (!here || !there))) continue;
      if (!here || !there || here->dump() != there->dump())
        fail(ErrorKind::bad_file, "the checkpoint is of a training with ", io::in_quotes(name), " = ", brief(there),
             "; this one has ", brief(here));
    }
}

// Refuses a checkpoint of another training, naming what differs. One that was written before trainings were recorded
// says its seed alone.
template <class ModelType, class Task>
void check_same_training(const Trainer<ModelType, Task>& trainer, const io::SafetensorsFile& file,
                         const io::Json& position) {
  check_same_model(trainer.model(), file.metadata());
  if (position.at("seed").template integer<std::uint64_t>() != trainer.options().seed)
    fail(ErrorKind::bad_file, "the checkpoint is of a training with another seed");
  const auto found = file.metadata().find("training");
  if (found == file.metadata().end()) {
    if (position.at("step").template integer<std::int64_t>() > trainer.total_steps())
      fail(ErrorKind::bad_file, "the checkpoint is of a longer training than this one of ", trainer.total_steps(),
           " steps");
    return;
  }
  const io::Json theirs = io::Json::parse(found->second), own = training_record(trainer);
  check_same_members(own, theirs, "task");
  check_same_members(own.at("task"), theirs.at("task"), "");
}

}  // namespace detail

// Continues from a checkpoint: to the same bytes as without a stop where the run goes on with the same binary on the
// same backend. Throws Error(bad_file), and changes nothing, when it is another model's or another training's, naming
// what differs.
template <class ModelType, class Task>
void load_checkpoint(Trainer<ModelType, Task>& trainer, const io::SafetensorsFile& file) {
  io::naming(file.path(), [&] {
    const auto found = file.metadata().find("position");
    if (found == file.metadata().end()) fail(ErrorKind::bad_file, "the file is not a checkpoint of a training");
    const io::Json position = io::Json::parse(found->second);
    detail::check_same_training(trainer, file, position);
    const auto step = position.at("step").integer<std::int64_t>();
    const auto loss_sum = position.at("loss_sum").number();
    const auto loss_count = position.at("loss_count").integer<std::int64_t>();
    const auto per_epoch = static_cast<std::int64_t>(trainer.steps_per_epoch());
    constexpr std::int64_t most = std::int64_t{1} << 53;
    if (step < 0 || step > most || step / per_epoch != position.at("epoch").integer<std::int64_t>() ||
        step % per_epoch != position.at("step_in_epoch").integer<std::int64_t>())
      fail(ErrorKind::bad_file, "the checkpoint's step ", step,
           " is not where its epoch says: it is of a training with another batch size or number of samples");
    if (!is_finite(loss_sum) || loss_count < 0 || loss_count > most || step / per_epoch > 0xFFFFFFFF)
      fail(ErrorKind::bad_file, "the checkpoint's position in the run is none: step ", step, ", loss ", loss_sum,
           " over ", loss_count, " samples");
    const io::Json* const last = position.find("last_loss");  // younger than the others
    const double last_loss = last && !last->is_null() ? last->number() : std::numeric_limits<double>::quiet_NaN();
    restore_training(trainer.model(), trainer.optimizer(), file, static_cast<long>(step));
    trainer.parallel().keep_own_means(trainer.optimizer());
    trainer.restore_loss(loss_sum, loss_count, last_loss);
  });
}

}  // namespace mamba
