// What a file of a model says of itself, and whether it holds what it says.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <mamba/composite.hpp>

#include "options.hpp"
#include "support/text_file.hpp"

namespace runs {

// The variant of an experiment's model that a file's metadata names, if they do. Throws Error(bad_file).
template <class Experiment>
std::optional<Variant> variant_of(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path) {
  const auto variant = mamba::detail::told(file.metadata(), "variant");
  if (!variant) return std::nullopt;
  return support::from_file(path, [&] {
    Variant v = variant_from(*variant);
    if (const auto config = mamba::detail::told(file.metadata(), "config"))
      if (const Json* const tokens = config->find("vocab_size"))
        v.vocab_size = named_vocab_size<Experiment>(tokens->integer<int>());
    return v;
  });
}

// The record of a run's options, and the file that it stands in.
struct Record {
  Json options;
  std::filesystem::path path;
};

// The notes of a checkpoint: "options" and "history". Throws Error(bad_file) that names the file, which is what
// SafetensorsFile::read has read.
inline Json notes_of(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path) {
  return support::from_file(path, [&] { return mamba::read_checkpoint_notes(file); });
}

// The record of the run that a file came from: a checkpoint's notes, or the config.json beside it where it is these
// programs'. Throws Error(bad_file).
inline std::optional<Record> record_of(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path) {
  const bool is_checkpoint = file.metadata().count("notes") > 0 && file.metadata().count("position") > 0;
  if (is_checkpoint) return support::from_file(path, [&] { return Record{notes_of(file, path).at("options"), path}; });
  const auto beside = path.parent_path() / "config.json";
  if (!std::filesystem::exists(beside)) return std::nullopt;
  return support::from_file(beside, [&]() -> std::optional<Record> {
    const Json json = support::read_json(beside);
    return json.find("schedule_unit") ? std::optional(Record{json, beside}) : std::nullopt;
  });
}

// How many layers a file says its model has. Throws Error(bad_file).
inline int layers_of(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path) {
  return support::from_file(path, [&] {
    const int layers = mamba::layers_in(file);
    mamba::require(layers <= most_layers, "a model has at most ", most_layers, " layers; this one has ", layers);
    return layers;
  });
}

// Refuses a file that is not of a Model of so many layers, each with all its tensors. Asked before such a model is
// built, for its size is what the file says: as many numbers must be there. Throws Error(bad_file).
template <class Model>
void check_layers(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path, int layers) {
  constexpr std::string_view first = "backbone.layers.0.";
  const Json named = json_of(answers_of<Model>());
  support::from_file(path, [&] {
    using namespace mamba::detail;
    check_same(file.metadata(), "variant", named.dump(), "");
    check_same(file.metadata(), "config",
               mamba::config_members(Model::Architecture::config, layers, std::nullopt,
                                     mamba::has_convolution<typename Model::Architecture>)
                   .dump(),
               "gamma");
    const auto names = model_tensors(file, prefix_in(file));
    const Model one({.n_layers = 1, .threads = 1});
    for (const auto& [name, tensor] : one.state_dict()) {
      if (!name.starts_with(first)) continue;
      for (int layer = 0; layer < layers; ++layer) {
        const std::string wanted = "backbone.layers." + std::to_string(layer) + "." + name.substr(first.size());
        const auto found = names.find(wanted);
        mamba::require(found != names.end(), "the file names ", layers, " layers; the tensor ", wanted, " is missing");
        mamba::require(file.tensors().at(found->second).shape == tensor.shape, "the tensor ", found->second,
                       " has another shape than this model's");
      }
    }
  });
}

}  // namespace runs
