// Models as folders of Hugging Face transformers (MambaForCausalLM, Mamba2ForCausalLM) and of mamba_ssm: config.json
// beside model.safetensors, or beside its shards and their index (specification, section 16).
#pragma once

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/model.hpp>

namespace mamba {

// What a folder says that it holds: enough to choose a model's type by.
struct ModelDescription {
  std::string mixer;  // "mamba1" or "mamba2"
  Config config;      // vocab_size: the embedding's rows, as the folder stores them
  int n_layers = 0;
  int headdim = 0, ngroups = 1;    // of Mamba-2
  std::optional<int> norm_groups;  // of Mamba-2's gated norm
  bool tied = true;                // whether the head shares the embedding's weight
  std::string precision;           // what the weights are stored in, as safetensors call it: F32, BF16, F16
};

namespace detail {

// A folder's config.json, in one program's words.
class FolderConfig {
 public:
  explicit FolderConfig(const io::Json& file) : file_(file) {
    const io::Json* type = file.find("model_type");
    if (!type && file.find("d_model") && file.find("n_layer")) of_mamba_ssm();
    else if (!type) fail(ErrorKind::bad_file, "config.json says neither a model_type nor a d_model with n_layer");
    else if (type->string() == "mamba") of_transformers(false);
    else if (type->string() == "mamba2") of_transformers(true);
    else
      fail(ErrorKind::bad_file, "config.json is of the architecture ", io::in_quotes(type->string()),
           "; mamba and mamba2 can be loaded");
  }

  const ModelDescription& description() const { return description_; }

 private:
  void of_transformers(bool second) {
    auto& d = description_;
    d.mixer = second ? "mamba2" : "mamba1";
    d.config = {.vocab_size = number("vocab_size", second ? 32768 : 50280),
                .d_model = number("hidden_size", second ? 4096 : 768),
                .d_state = number("state_size", second ? 128 : 16),
                .d_conv = number("conv_kernel", 4),
                .expand = number("expand", 2)};
    d.n_layers = number("num_hidden_layers", second ? 64 : 32);
    d.tied = flag("tie_word_embeddings", !second);
    must(flag("use_conv_bias", true), "use_conv_bias = false");
    must(!flag("use_bias", false), "use_bias = true");
    const io::Json* act = given("hidden_act");
    must(!act || act->string() == "silu" || act->string() == "swish", "hidden_act", act);
    const io::Json* epsilon = given("layer_norm_epsilon");
    must(!epsilon || epsilon->number() == 1e-5, "layer_norm_epsilon", epsilon);
    const std::int64_t inner = std::int64_t{d.config.expand} * d.config.d_model;
    must(inner <= (1 << 28), "an expand times hidden_size beyond all models");
    if (second) {
      d.headdim = number("head_dim", 64), d.ngroups = number("n_groups", 8);
      must(given("num_heads") == nullptr ? inner % d.headdim == 0
                                         : std::int64_t{number("num_heads", 1)} * d.headdim == inner,
           "num_heads times head_dim other than expand times hidden_size");
      must(flag("rms_norm", true), "rms_norm = false");
      const io::Json* limit = given("time_step_limit");
      must(!limit || is_no_limit(*limit), "time_step_limit", limit);
      // transformers' own path norms the whole row; its fast one, which is mamba_ssm's, would norm by groups.
      d.norm_groups = 1;
    } else {
      must(given("intermediate_size") == nullptr || number("intermediate_size", 1) == inner,
           "an intermediate_size other than expand times hidden_size");
      check_rank(given("time_step_rank"), "time_step_rank");
    }
  }

  void of_mamba_ssm() {
    auto& d = description_;
    const io::Json* given_cfg = given("ssm_cfg");
    const io::Json cfg = given_cfg ? *given_cfg : io::Json(io::Json::Members{});
    const io::Json* layer = cfg.find("layer");
    const std::string name = layer ? layer->string() : "Mamba1";
    if (name != "Mamba1" && name != "Mamba2")
      fail(ErrorKind::bad_file, "config.json is of the layer ", io::in_quotes(name),
           "; Mamba1 and Mamba2 can be loaded");
    const bool second = name == "Mamba2";
    check_ssm_cfg(cfg);
    const auto own = [&](const char* key, int otherwise) {
      const io::Json* value = cfg.find(key);
      return value && !value->is_null() ? positive(*value, key) : otherwise;
    };
    d.mixer = second ? "mamba2" : "mamba1";
    d.config = {.vocab_size = padded_by(number("vocab_size", 50277), number("pad_vocab_size_multiple", 8)),
                .d_model = number("d_model", 0),
                .d_state = own("d_state", second ? 128 : 16),
                .d_conv = own("d_conv", 4),
                .expand = own("expand", 2)};
    d.n_layers = number("n_layer", 0);
    d.tied = flag("tie_embeddings", true);
    if (second) d.headdim = own("headdim", 64), d.ngroups = own("ngroups", 1), d.norm_groups = d.ngroups;
    else check_rank(cfg.find("dt_rank"), "dt_rank");
    must(flag("rms_norm", true), "rms_norm = false");
    const io::Json* attention = given("attn_layer_idx");
    must(!attention || attention->elements().empty(), "attention layers (attn_layer_idx)");
    const io::Json* mlp = given("d_intermediate");
    must(!mlp || mlp->integer() == 0, "d_intermediate", mlp);
  }

  // What changes the computation must be as these models have it; how weights begin, or which kernel runs, is past.
  void check_ssm_cfg(const io::Json& cfg) const {
    static const std::set<std::string_view> read{"layer",   "d_state", "d_conv", "expand",
                                                 "headdim", "ngroups", "dt_rank"},
        past{"dt_min",       "dt_max",    "dt_init",       "dt_scale",         "dt_init_floor",
             "A_init_range", "conv_init", "use_fast_path", "use_mem_eff_path", "chunk_size"};
    for (const auto& [key, value] : cfg.members()) {
      if (read.contains(key) || past.contains(key) || value.is_null()) continue;
      const bool known = key == "conv_bias" || key == "rmsnorm"                              ? value.boolean()
                         : key == "bias" || key == "D_has_hdim" || key == "norm_before_gate" ? !value.boolean()
                         : key == "activation" ? value.string() == "swish" || value.string() == "silu"
                         : key == "dt_limit"   ? is_no_limit(value)
                                               : false;
      must(known, ("ssm_cfg." + key).c_str(), &value);
    }
  }
  static bool is_no_limit(const io::Json& limit) {
    const auto& ends = limit.elements();
    return ends.size() == 2 && ends[0].is_number() && ends[0].number() == 0 && is_infinite(ends[1]);
  }

  static int padded_by(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }
  static bool is_infinite(const io::Json& value) {
    if (value.is_object()) {
      const io::Json* text = value.find("__float__");
      return text && text->is_string() && text->string() == "Infinity";
    }
    return value.is_null() || (value.is_string() && value.string() == "Infinity");
  }

  void check_rank(const io::Json* rank, const char* name) const {
    const int own = (description_.config.d_model + 15) / 16;
    must(!rank || rank->is_null() || (rank->is_string() ? rank->string() == "auto" : rank->integer() == own), name,
         rank);
  }

  const io::Json* given(const char* key) const {
    const io::Json* value = file_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  static int positive(const io::Json& value, const char* key) {
    const int n = value.integer<int>();
    if (n <= 0 || n > (1 << 24)) fail(ErrorKind::bad_file, "config.json has ", key, " = ", n);
    return n;
  }
  int number(const char* key, int otherwise) const {
    const io::Json* value = given(key);
    return value ? positive(*value, key) : otherwise;
  }
  bool flag(const char* key, bool otherwise) const {
    const io::Json* value = given(key);
    return value ? value->boolean() : otherwise;
  }
  void must(bool holds, const char* what, const io::Json* value = nullptr) const {
    if (!holds)
      fail(ErrorKind::bad_file, "config.json has ", what, value ? " = " + value->brief() : std::string(),
           ", which these models have not");
  }

  const io::Json& file_;
  ModelDescription description_;
};

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

// config.json, in which Python writes infinities as JSON has none.
inline io::Json read_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  const std::vector<char> bytes = io::read_file(path);
  const std::string_view file(bytes.data(), bytes.size());
  std::string text;
  bool in_string = false;
  for (std::size_t i = 0; i < file.size(); ++i) {
    if (file[i] == '"') in_string = !in_string;
    if (in_string && file[i] == '\\' && i + 1 < file.size()) text += file[i++];
    const std::string_view rest = file.substr(i);
    if (!in_string && rest.starts_with("Infinity")) text += "\"Infinity\"", i += 7;
    else text += file[i];
  }
  return io::naming(path, [&] { return io::Json::parse(text); });
}

// Refuses another model than A, naming all that differs, with both values.
template <class A>
void check_described(const ModelDescription& folder, int n_layers) {
  std::string differences;
  const auto compare = [&](const char* what, const auto& theirs, const auto& own) {
    if (theirs == own) return;
    const auto text = [](const auto& value) {
      if constexpr (std::is_convertible_v<decltype(value), std::string>) return std::string(value);
      else return std::to_string(value);
    };
    differences +=
        (differences.empty() ? "" : ", ") + std::string(what) + " " + text(theirs) + " (this one " + text(own) + ")";
  };
  constexpr Config config = A::config;
  compare("mixer", folder.mixer, std::string(A::Mixer::name));
  compare("layers", folder.n_layers, n_layers);
  compare("d_model", folder.config.d_model, config.d_model);
  compare("d_state", folder.config.d_state, config.d_state);
  compare("d_conv", folder.config.d_conv, config.d_conv);
  compare("expand", folder.config.expand, config.expand);
  // Rows are as they are stored: this one's vocabulary, padded to a multiple of 8 or not.
  if (folder.config.vocab_size != config.padded_vocab_size())
    compare("vocab_size", folder.config.vocab_size, config.vocab_size);
  constexpr bool tied = network::head_of<typename A::Head>() == network::HeadKind::tied;
  compare("head", std::string(folder.tied ? "tied" : "untied"), std::string(tied ? "tied" : "untied"));
  if constexpr (requires { A::Mixer::norm_groups; })
    if (folder.mixer == A::Mixer::name) {
      compare("headdim", folder.headdim, A::Mixer::headdim == 0 ? config.d_inner() : A::Mixer::headdim);
      compare("ngroups", folder.ngroups, A::Mixer::ngroups);
      if (folder.norm_groups) compare("norm_groups", *folder.norm_groups, A::Mixer::norm_groups);
    }
  if (!differences.empty()) fail(ErrorKind::bad_file, "the folder's model has ", differences);
}

}  // namespace detail

// What a folder holds, before a model of its kind is built. Throws Error(bad_file) that names the file and what is
// wrong with it, or what such models have not.
inline ModelDescription describe(const std::filesystem::path& folder) {
  const io::Json config = detail::read_config(folder);
  return io::naming(folder, [&] {
    ModelDescription found = detail::FolderConfig(config).description();
    detail::FolderTensors tensors(folder);
    for (const char* name : {"backbone.embeddings.weight", "backbone.embedding.weight"})
      if (tensors.places().contains(name)) found.precision = tensors.file_of(name).tensors().at(name).dtype;
    return found;
  });
}

// Reads a folder of transformers or mamba_ssm, as load() does with one. Returns how many of its numbers are not finite.
// Throws Error(bad_file), and changes nothing, when a file is missing or malformed, or the folder is of another model.
template <class A>
Nonfinite load_folder(Model<A>& model, const std::filesystem::path& folder, const LoadOptions& options = {}) {
  using Scalar = typename A::Scalar;
  const io::Json config = detail::read_config(folder);
  return io::naming(folder, [&] {
    const ModelDescription description = detail::FolderConfig(config).description();
    detail::check_described<A>(description, model.n_layers());
    detail::FolderTensors tensors(folder);
    StateDict<Scalar> dict;
    for (const auto& [name, shard] : tensors.places()) {
      std::string own = name;
      if (own == "backbone.embeddings.weight") own = "backbone.embedding.weight";
      const bool is_head = own == "lm_head.weight";
      if (is_head && description.tied) continue;  // the embedding again
      HostTensor<Scalar> tensor = tensors.file_of(name).template tensor<Scalar>(name);
      // A vocabulary that is not padded gets rows of zeros.
      constexpr std::int64_t all = A::config.padded_vocab_size();
      if ((is_head || own == "backbone.embedding.weight") && tensor.shape.size() == 2 &&
          tensor.shape[0] == A::config.vocab_size && tensor.shape[0] < all) {
        tensor.shape[0] = all;
        tensor.values.resize(static_cast<std::size_t>(all * tensor.shape[1]));
      }
      dict.emplace(std::move(own), std::move(tensor));
    }
    const Nonfinite found = options.checked(dict);
    model.load_state_dict(dict);
    return found;
  });
}

}  // namespace mamba
