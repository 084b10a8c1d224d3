// Models as safetensors files under mamba_ssm's names, with configuration and variant in the metadata.
#pragma once

#include <filesystem>
#include <string>

#include <mamba/io/json.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/model.hpp>

namespace mamba {

// The brief's dictionary: n_layers, gamma, vocab_size, d_model, d_state, d_conv, expand.
inline io::Json config_members(const Config& config, int n_layers, std::optional<double> gamma) {
  return io::Json::Members{{"n_layers", n_layers},
                           {"gamma", gamma ? io::Json(*gamma) : io::Json()},
                           {"vocab_size", config.vocab_size},
                           {"d_model", config.d_model},
                           {"d_state", config.d_state},
                           {"d_conv", config.d_conv},
                           {"expand", config.expand}};
}
template <class A>
std::string config_json(const Model<A>& model) {
  return config_members(A::config, model.n_layers(), model.gamma()).dump();
}

// The policies that decide what is computed (not where, nor how precisely), by their names.
template <class A>
std::string variant_json(const Model<A>&) {
  return io::Json(
             io::Json::Members{{"mixer", A::Mixer::name}, {"conv", A::ConvKernel::name}, {"position", A::Position::name}, {"residual", A::ConvResidual::name}})
      .dump();
}

namespace detail {

// Refuses a file of another model, naming what differs; a file that does not say is taken by its tensors alone.
inline void check_same(const io::Metadata& metadata, const char* key, const std::string& own_text, std::string_view ignored) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return;
  const io::Json theirs = io::Json::parse(found->second), own = io::Json::parse(own_text);
  for (const auto& [name, value] : own.members()) {
    const io::Json* const other = theirs.find(name);
    if (name != ignored && other && other->dump() != value.dump())
      fail(ErrorKind::bad_file, "the file's model has ", name, " = ", other->dump(), ", this one ", value.dump());
  }
}

}  // namespace detail

inline constexpr const char* model_prefix = "model.";  // of the parameters in a training's checkpoint

// Refuses metadata that tells of another configuration or variant, naming the difference.
template <class A>
void check_same_model(const Model<A>& model, const io::Metadata& metadata) {
  detail::check_same(metadata, "config", config_json(model), "gamma");
  detail::check_same(metadata, "variant", variant_json(model), "");
}

// The parameters in a file, those whose names begin with `inner`: accepts a wrapper's `backbone.` in front of every name and a tied `lm_head.weight`.
template <class Scalar>
StateDict<Scalar> read_state_dict(const io::SafetensorsFile& file, std::string_view inner = "") {
  StateDict<Scalar> dict;
  const std::string first(inner);
  const std::string wrapper = file.contains(first + "backbone.backbone.embedding.weight") ? "backbone." : "";
  for (const auto& [name, info] : file.tensors()) {
    if (!name.starts_with(first)) continue;
    const std::string own = name.substr(first.size());
    if (!own.starts_with(wrapper)) fail(ErrorKind::bad_file, "the tensor ", name, " lacks the prefix ", wrapper, " that others have");
    dict.emplace(own.substr(wrapper.size()), file.tensor<Scalar>(name));
  }
  if (const auto head = dict.find("lm_head.weight"); head != dict.end()) {
    const auto embedding = dict.find("backbone.embedding.weight");
    if (embedding == dict.end() || embedding->second.values != head->second.values)
      fail(ErrorKind::bad_file, "lm_head.weight differs from the embedding: the model's head is tied to it");
    dict.erase(head);
  }
  return dict;
}

// The number of layers of the model in a file. Throws Error(bad_file) when it holds no model of this library's names.
inline int layers_in(const io::SafetensorsFile& file) {
  constexpr std::string_view marker = "backbone.layers.", norm = ".norm.weight";
  int layers = 0;
  for (const auto& [name, info] : file.tensors()) {
    const auto at = name.find(marker);
    if (at == std::string::npos || !name.ends_with(norm) || name.starts_with("adamw.") || name.ends_with("mixer.norm.weight")) continue;
    ++layers;
  }
  if (layers == 0) fail(ErrorKind::bad_file, "the file holds no tensor named ...", marker, "N", norm);
  return layers;
}

// Throws Error(cannot_write); what stood at the path then still does.
template <class A>
void save(const Model<A>& model, const std::filesystem::path& path) {
  io::SafetensorsWriter writer;
  const auto dict = model.state_dict();
  for (const PlacedParameter& p : model.engine().placed()) writer.add(p.name, dict.at(p.name));
  writer.write(path, {{"format", "pt"}, {"config", config_json(model)}, {"variant", variant_json(model)}});
}

// Reads a saved model, or the model in a training's checkpoint. Throws Error(bad_file), and changes nothing, when the
// file is missing, malformed or of another model.
template <class A>
void load(Model<A>& model, const std::filesystem::path& path) {
  const auto file = io::SafetensorsFile::read(path);
  try {
    check_same_model(model, file.metadata());
    const bool is_checkpoint = file.contains(std::string(model_prefix) + "backbone.embedding.weight");
    model.load_state_dict(read_state_dict<typename A::Scalar>(file, is_checkpoint ? model_prefix : ""));
  } catch (const Error& error) {
    fail(error.kind(), path.string(), ": ", error.what());
  }
}

}  // namespace mamba
