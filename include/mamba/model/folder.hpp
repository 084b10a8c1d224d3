// Models as folders of Hugging Face transformers (MambaForCausalLM, Mamba2ForCausalLM) and of mamba_ssm: config.json
// beside model.safetensors, or beside its shards and their index (specification, section 16).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/file_parameters.hpp>
#include <mamba/model/folder_config.hpp>
#include <mamba/model/model.hpp>

namespace mamba {

namespace detail {

// The safetensors files of a folder, and which of them has each tensor.
class FolderTensors {
 public:
  explicit FolderTensors(const std::filesystem::path& folder) : folder_(folder) {
    const auto index = folder / "model.safetensors.index.json";
    std::error_code none;
    if (std::filesystem::exists(folder / "model.safetensors", none)) {
      for (const auto& [name, info] : open("model.safetensors").tensors()) places_.emplace(name, "model.safetensors");
      return;
    }
    if (!std::filesystem::exists(index, none))
      fail(ErrorKind::bad_file,
           "the folder holds neither model.safetensors nor model.safetensors.index.json; a "
           "pytorch_model.bin has to be converted first");
    const std::vector<char> text = io::read_file(index);
    const io::Json file = io::naming(index, [&] { return io::Json::parse({text.data(), text.size()}); });
    io::naming(index, [&] {
      for (const auto& [name, shard] : file.at("weight_map").members()) {
        const std::string& own = shard.string();
        if (own.empty() || own.find('/') != std::string::npos || own.find('\\') != std::string::npos)
          fail(ErrorKind::bad_file, "the index names the file ", io::in_quotes(own), ", which is none of the folder's");
        places_.emplace(name, own);
      }
    });
    for (const auto& [name, shard] : places_)
      if (!open(shard).contains(name))
        fail(ErrorKind::bad_file, "the index says that ", shard, " has the tensor ", io::in_quotes(name),
             ", which it lacks");
  }

  const std::map<std::string, std::string>& places() const { return places_; }
  const io::SafetensorsFile& file_of(const std::string& name) { return open(places_.at(name)); }

 private:
  const io::SafetensorsFile& open(const std::string& shard) {
    auto found = files_.find(shard);
    if (found == files_.end()) found = files_.emplace(shard, io::SafetensorsFile::read(folder_ / shard)).first;
    return found->second;
  }

  std::filesystem::path folder_;
  std::map<std::string, std::string> places_;
  std::map<std::string, io::SafetensorsFile> files_;
};

// The eos_token_id, one or several, of generation_config.json or else of config.json.
inline std::vector<std::int32_t> read_end_tokens(const std::filesystem::path& folder, const io::Json& config) {
  const auto path = folder / "generation_config.json";
  const auto of = [](const io::Json& file) {
    std::vector<std::int32_t> ids;
    const io::Json* const found = file.find("eos_token_id");
    if (!found || found->is_null()) return ids;
    if (found->is_array())
      for (const io::Json& id : found->elements()) ids.push_back(id.integer<std::int32_t>());
    else ids.push_back(found->integer<std::int32_t>());
    return ids;
  };
  std::error_code none;
  if (!std::filesystem::exists(path, none)) return of(config);
  const std::vector<char> text = io::read_file(path);
  const auto ids = io::naming(path, [&] { return of(io::Json::parse({text.data(), text.size()})); });
  return ids.empty() ? of(config) : ids;
}

}  // namespace detail

// What a folder holds, before a model of its kind is built. Throws Error(bad_file) that names the file and what is
// wrong with it, or what such models have not.
inline ModelDescription describe(const std::filesystem::path& folder) {
  const io::Json config = detail::read_config(folder);
  return io::naming(folder, [&] {
    ModelDescription found = detail::FolderConfig(config).description();
    found.end_tokens = detail::read_end_tokens(folder, config);
    detail::FolderTensors tensors(folder);
    for (const char* name : {"backbone.embeddings.weight", "backbone.embedding.weight"})
      if (tensors.places().contains(name)) found.precision = tensors.file_of(name).tensors().at(name).dtype;
    return found;
  });
}

// Reads a folder of transformers or mamba_ssm, as load() does with one. Returns how many of its numbers are not finite.
// Throws Error(bad_file), and changes nothing, when a file is missing or malformed, or the folder is of another model;
// where a file is changed while it is read some of the parameters may be replaced.
template <class A>
Nonfinite load_folder(Model<A>& model, const std::filesystem::path& folder, const LoadOptions& options = {}) {
  const io::Json config = detail::read_config(folder);
  return io::naming(folder, [&] {
    const ModelDescription description = detail::FolderConfig(config).description();
    detail::check_described<A>(description, model.n_layers());
    detail::FolderTensors tensors(folder);
    detail::FileParameters<A> parameters;
    for (const auto& [name, shard] : tensors.places()) {
      const std::string own = name == "backbone.embeddings.weight" ? "backbone.embedding.weight" : name;
      const io::TensorView tensor = tensors.file_of(name).view(name);
      // A vocabulary that is not padded gets rows of zeros.
      constexpr std::int64_t all = A::config.padded_vocab_size();
      const auto& shape = tensor.info().shape;
      if ((own == "lm_head.weight" || own == "backbone.embedding.weight") && shape.size() == 2 &&
          shape[0] == A::config.vocab_size && shape[0] < all)
        parameters.add_padded(own, tensor, all);
      else parameters.add(own, tensor);
    }
    // transformers does not tie the head, whatever config.json says, where both are there and differ.
    if (description.tied) parameters.take_tied_head();
    parameters.check(model, options);
    return parameters.load(model);
  });
}

}  // namespace mamba
