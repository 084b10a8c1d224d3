// Models as safetensors files under mamba_ssm's names, with configuration and variant in the metadata.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <mamba/io/json.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/file_parameters.hpp>
#include <mamba/model/folder.hpp>
#include <mamba/model/model.hpp>
#include <mamba/model/put_parameter.hpp>

namespace mamba {

// The configuration as files tell it (specification, section 8.2): n_layers, gamma, vocab_size, d_model, d_state,
// d_conv where there is a convolution, expand.
inline io::Json config_members(const Config& config, int n_layers, std::optional<double> gamma,
                               bool has_convolution = true) {
  io::Json::Members members{{"n_layers", n_layers},
                            {"gamma", gamma ? io::Json(*gamma) : io::Json()},
                            {"vocab_size", config.vocab_size},
                            {"d_model", config.d_model},
                            {"d_state", config.d_state}};
  if (has_convolution) members.emplace_back("d_conv", config.d_conv);
  members.emplace_back("expand", config.expand);
  return members;
}
template <class A>
inline constexpr bool has_convolution = network::MixerOf<A>::conv_channels > 0;
template <class A>
std::string config_json(const Model<A>& model) {
  return config_members(A::config, model.n_layers(), model.gamma(), has_convolution<A>).dump();
}

// The policies that decide what is computed (not where, nor how precisely), by their names.
template <class A>
std::string variant_json(const Model<A>&) {
  io::Json::Members members{{"mixer", A::Mixer::name},
                            {"conv", A::ConvKernel::name},
                            {"position", A::Position::name},
                            {"residual", A::ConvResidual::name},
                            {"head", A::Head::name}};
  // What shapes do not say; files without it are of as many groups as share b and c.
  if constexpr (requires { A::Mixer::norm_groups; })
    if (A::Mixer::norm_groups != A::Mixer::ngroups) members.emplace_back("norm_groups", A::Mixer::norm_groups);
  if constexpr (requires { network::MixerOf<A>::Na; }) {
    constexpr Mamba3Config own = A::Mixer::config;
    members.emplace_back("ngroups", own.ngroups);
    members.emplace_back("rotates_all", own.rotates_all);
    members.emplace_back("softplus_rate", own.softplus_rate);
  }
  return io::Json(std::move(members)).dump();
}

namespace detail {

// What a file's metadata say under a key; nothing where they do not, or in another program's words.
inline std::optional<io::Json> told(const io::Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return std::nullopt;
  try {
    io::Json json = io::Json::parse(found->second);
    if (json.is_object()) return json;
  } catch (const Error&) {
  }
  return std::nullopt;
}

// Refuses a file of another model, naming what differs; a file that does not say is taken by its tensors alone.
inline void check_same(const io::Metadata& metadata, const char* key, const std::string& own_text,
                       std::string_view ignored) {
  const auto theirs = told(metadata, key);
  if (!theirs) return;
  const io::Json own = io::Json::parse(own_text);
  for (const auto& [name, value] : own.members()) {
    const io::Json* const other = theirs->find(name);
    if (name != ignored && other && other->dump() != value.dump())
      fail(ErrorKind::bad_file, "the file's model has ", name, " = ", other->brief(), ", this one ", value.dump());
  }
}

}  // namespace detail

inline constexpr const char* model_prefix = "model.";  // of the parameters in a training's checkpoint

// Refuses metadata that tells of another configuration or variant, naming the difference.
template <class A>
void check_same_model(const Model<A>& model, const io::Metadata& metadata) {
  detail::check_same(metadata, "config", config_json(model), "gamma");
  const std::string variant = variant_json(model);
  detail::check_same(metadata, "variant", variant, "");
  if (const auto theirs = detail::told(metadata, "variant")) {
    // Who does not say it has the other meaning.
    const io::Json own = io::Json::parse(variant);
    const io::Json *const here = own.find("norm_groups"), *const there = theirs->find("norm_groups");
    if ((here == nullptr) != (there == nullptr))
      fail(ErrorKind::bad_file, "the file's model norms gated rows in ", there ? there->brief() : "ngroups",
           " groups (norm_groups), this one in ", here ? here->brief() : "ngroups");
  }
}

namespace detail {

// The tensors of the model in a file, those whose names begin with `inner`, by their names in the model and in the
// file: without a wrapper's `backbone.` in front of every name.
inline std::map<std::string, std::string> model_tensors(const io::SafetensorsFile& file, std::string_view inner) {
  std::map<std::string, std::string> names;
  const std::string first(inner);
  const std::string wrapper = file.contains(first + "backbone.backbone.embedding.weight") ? "backbone." : "";
  for (const auto& [name, info] : file.tensors()) {
    if (!name.starts_with(first)) continue;
    const std::string own = name.substr(first.size());
    if (!own.starts_with(wrapper))
      fail(ErrorKind::bad_file, "the tensor ", io::in_quotes(name), " lacks the prefix ", wrapper, " that others have");
    names.emplace(own.substr(wrapper.size()), name);
  }
  return names;
}

// The prefix of a model's tensors in a file: model_prefix in a training's checkpoint.
inline std::string_view prefix_in(const io::SafetensorsFile& file) {
  return file.contains(std::string(model_prefix) + "backbone.embedding.weight") ? model_prefix : "";
}

}  // namespace detail

// The parameters in a file, those whose names begin with `inner`: accepts a wrapper's `backbone.` in front of every
// name and, for a model with a tied head, an `lm_head.weight` that is the embedding's.
template <class A>
StateDict<typename A::Scalar> read_state_dict(const io::SafetensorsFile& file, std::string_view inner = "") {
  using Scalar = typename A::Scalar;
  StateDict<Scalar> dict;
  for (const auto& [own, name] : detail::model_tensors(file, inner)) dict.emplace(own, file.tensor<Scalar>(name));
  if constexpr (network::head_of<typename A::Head>() == network::HeadKind::tied) {
    if (const auto head = dict.find("lm_head.weight"); head != dict.end()) {
      const auto embedding = dict.find("backbone.embedding.weight");
      if (embedding == dict.end()) fail(ErrorKind::bad_file, "the parameter backbone.embedding.weight is missing");
      const auto &own = embedding->second.values, &given = head->second.values;
      // By their bytes: a NaN in both is the same NaN.
      if (own.size() != given.size() || std::memcmp(own.data(), given.data(), own.size() * sizeof(Scalar)) != 0)
        fail(ErrorKind::bad_file, "lm_head.weight differs from the embedding: the model's head is tied to it");
      dict.erase(head);
    }
  }
  return dict;
}

namespace detail {

// The same where they lie, for a model to be loaded from there.
template <class A>
FileParameters<A> parameters_in(const io::SafetensorsFile& file, std::string_view inner) {
  FileParameters<A> parameters;
  for (const auto& [own, name] : model_tensors(file, inner)) parameters.add(own, file.view(name));
  if constexpr (network::head_of<typename A::Head>() == network::HeadKind::tied) parameters.take_tied_head();
  return parameters;
}

}  // namespace detail

// The number of layers of the model in a file, or in a training's checkpoint. Throws Error(bad_file) when it holds no
// model of this library's names, or one whose layers are not numbered from 0 on.
inline int layers_in(const io::SafetensorsFile& file) {
  return io::naming(file.path(), [&] {
    constexpr std::string_view layer = "backbone.layers.", norm = ".norm.weight";
    const auto names = detail::model_tensors(file, detail::prefix_in(file));
    int layers = 0;
    for (const auto& [own, name] : names) {
      if (!own.starts_with(layer) || !own.ends_with(norm) || own.ends_with(".mixer.norm.weight")) continue;
      ++layers;
    }
    if (layers == 0) fail(ErrorKind::bad_file, "the file holds no tensor named ...", layer, "N", norm);
    for (int l = 0; l < layers; ++l)
      if (!names.contains(std::string(layer) + std::to_string(l) + std::string(norm)))
        fail(ErrorKind::bad_file, "the file holds ", layers, " layers, but none with the number ", l);
    return layers;
  });
}

// Whether a file holds a model of this kind with so many layers: names and shapes, before such a model is built. Throws
// Error(bad_file) that names the first tensor that is missing or of another shape.
template <class ModelType>
void check_tensors(const io::SafetensorsFile& file, int n_layers) {
  io::naming(file.path(), [&] {
    const auto names = detail::model_tensors(file, detail::prefix_in(file));
    network::for_each_parameter<typename ModelType::Architecture>(n_layers, [&](const PlacedParameter& p) {
      const auto found = names.find(p.name);
      if (found == names.end()) fail(ErrorKind::bad_file, "the parameter ", p.name, " is missing");
      ModelType::check_shape(p, file.tensors().at(found->second).shape);
    });
  });
}

struct SaveOptions {
  // Weights as the model stores them: of a BFloat16 model half the bytes, and the same logits; training goes on better
  // from the master weights.
  bool stored = false;
};

// Writes the model's parameters, the master weights. Throws Error(cannot_write); what stood at the path then still
// does.
template <class A>
void save(const Model<A>& model, const std::filesystem::path& path, const SaveOptions& options = {}) {
  using Stored = typename A::Storage;
  using Scalar = typename A::Scalar;
  io::SafetensorsWriter writer;
  const auto looking = model.look();
  const Scalar* const arena = model.engine().parameters();
  for (const PlacedParameter& p : model.engine().placed()) {
    if (options.stored && p.parameter.template in_storage<Stored>())
      detail::add_parameter<Stored>(writer, p.name, p, arena);
    else detail::add_parameter<Scalar>(writer, p.name, p, arena);
  }
  writer.write(path, {{"format", "pt"}, {"config", config_json(model)}, {"variant", variant_json(model)}});
}

// Reads a saved model, the model in a training's checkpoint, or a folder of transformers or mamba_ssm (folder.hpp).
// Returns how many of its numbers are not finite. Throws Error(bad_file), and changes nothing, when the file is
// missing, malformed or of another model, or holds such numbers and options refuse them. A file is mapped, checked, and
// read tensor by tensor to where the model has them, so that no second copy is held; one that is changed while it is
// read is an error, too, but may leave some of the parameters replaced, and one that is cut off then may end the
// program (io/mapped_file.hpp).
template <class A>
Nonfinite load(Model<A>& model, const std::filesystem::path& path, const LoadOptions& options = {}) {
  std::error_code none;
  if (std::filesystem::is_directory(path, none)) return load_folder(model, path, options);
  const auto file = io::SafetensorsFile::read(path);
  return io::naming(path, [&] {
    check_same_model(model, file.metadata());
    auto parameters = detail::parameters_in<A>(file, detail::prefix_in(file));
    parameters.check(model, options);
    return parameters.load(model);
  });
}

}  // namespace mamba
