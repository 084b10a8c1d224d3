// Checkpoints of a training: parameters, optimiser state, position; one safetensors file, replaced as a whole.
#pragma once

#include <filesystem>
#include <string>

#include <mamba/io/json.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/save.hpp>
#include <mamba/train/trainer.hpp>

namespace mamba {

inline constexpr const char* mean_prefix = "adamw.mean.";
inline constexpr const char* square_prefix = "adamw.square.";

// Writes a trainer's state. `notes` is the program's own part, handed back by read_checkpoint_notes. Throws
// Error(cannot_write); what stood at the path then still does.
template <class ModelType, class Task>
void save_checkpoint(Trainer<ModelType, Task>& trainer, const std::filesystem::path& path, const io::Json& notes) {
  io::SafetensorsWriter writer;
  const auto add = [&](const char* prefix, const auto& dict) {
    for (const PlacedParameter& p : trainer.model().engine().placed())
      if (const auto found = dict.find(p.name); found != dict.end()) writer.add(prefix + p.name, found->second);
  };
  add(model_prefix, trainer.model().state_dict());
  add(mean_prefix, trainer.optimizer().mean_dict());
  add(square_prefix, trainer.optimizer().square_dict());
  const io::Json position = io::Json::Members{
      {"step", static_cast<std::int64_t>(trainer.steps())},
      {"epoch", static_cast<std::int64_t>(trainer.steps() / trainer.steps_per_epoch())},          // the shuffle's stream
      {"step_in_epoch", static_cast<std::int64_t>(trainer.steps() % trainer.steps_per_epoch())},  // the place in it
      {"seed", trainer.options().seed},
      {"loss_sum", trainer.loss_sum()},
      {"loss_count", trainer.loss_count()},
  };
  writer.write(path, {{"format", "pt"},
                      {"config", config_json(trainer.model())},
                      {"variant", variant_json(trainer.model())},
                      {"position", position.dump()},
                      {"notes", notes.dump()}});
}

// The program's own part of a checkpoint. Throws Error(bad_file).
inline io::Json read_checkpoint_notes(const io::SafetensorsFile& file) {
  const auto notes = file.metadata().find("notes");
  if (notes == file.metadata().end()) fail(ErrorKind::bad_file, "the file is not a checkpoint of a training");
  return io::Json::parse(notes->second);
}

// Continues from a checkpoint. Throws Error(bad_file), and changes nothing, when it is another model's.
template <class ModelType, class Task>
void load_checkpoint(Trainer<ModelType, Task>& trainer, const io::SafetensorsFile& file) {
  using Scalar = typename ModelType::Scalar;
  const auto found = file.metadata().find("position");
  if (found == file.metadata().end()) fail(ErrorKind::bad_file, "the file is not a checkpoint of a training");
  const io::Json position = io::Json::parse(found->second);
  const auto step = position.at("step").integer<std::int64_t>();
  const auto loss_sum = position.at("loss_sum").number();
  const auto loss_count = position.at("loss_count").integer<std::int64_t>();
  if (position.at("seed").integer<std::uint64_t>() != trainer.options().seed || step < 0 || step > trainer.total_steps())
    fail(ErrorKind::bad_file, "the checkpoint is of a training with another seed or length");
  check_same_model(trainer.model(), file.metadata());
  const auto mean = read_state_dict<Scalar>(file, mean_prefix), square = read_state_dict<Scalar>(file, square_prefix);
  const auto parameters = read_state_dict<Scalar>(file, model_prefix);
  trainer.model().check_trained_dict(mean);
  trainer.model().check_trained_dict(square);
  trainer.model().load_state_dict(parameters);
  trainer.optimizer().load_state(mean, square, static_cast<long>(step));
  trainer.restore_loss(loss_sum, loss_count);
}

}  // namespace mamba
