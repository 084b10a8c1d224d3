// config.json of folders of transformers and of mamba_ssm, read into one program's words: which model a folder says
// that it holds, and whether that is the one at hand (specification, section 16).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/json_text.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/network/head.hpp>
#include <mamba/network/mamba3.hpp>

namespace mamba {

// What a folder says that it holds: enough to choose a model's type by.
struct ModelDescription {
  std::string mixer;  // "mamba1", "mamba2" or "mamba3"
  Config config;      // vocab_size: the embedding's rows, as the folder stores them
  int n_layers = 0;
  int headdim = 0, ngroups = 1;    // of Mamba-2 and Mamba-3
  std::optional<int> norm_groups;  // of Mamba-2's gated norm
  int rank = 0;                    // Mamba3Config's, of Mamba-3, as the next two
  bool rotates_all = false, output_norm = false;
  std::optional<bool> softplus_rate;     // the same, which mamba_ssm's own folders do not say
  bool tied = true;                      // whether the head shares the embedding's weight
  std::string precision;                 // what the weights are stored in, as safetensors call it: F32, BF16, F16
  std::vector<std::int32_t> end_tokens;  // behind one of which a text ends, where the folder says so
};

namespace detail {

// Whether this version of transformers norms Mamba-2's gated rows by n_groups groups, as mamba_ssm does: from 5.23 on.
// The ones before norm the whole row (but for mamba_ssm's kernels, where they are installed). A version that is not
// given, or is no version, is the newest.
inline bool norms_by_groups(std::string_view version) {
  const std::size_t dot = version.find('.');
  const auto major = io::integer_of<int>(version.substr(0, dot));
  if (!major || dot == std::string_view::npos) return true;
  const std::string_view rest = version.substr(dot + 1);
  const auto minor = io::integer_of<int>(rest.substr(0, rest.find_first_not_of("0123456789")));
  return !minor || *major > 5 || (*major == 5 && *minor >= 23);
}

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
      const io::Json* version = given("transformers_version");
      d.norm_groups = norms_by_groups(version ? version->string() : "") ? d.ngroups : 1;
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
    const bool second = name == "Mamba2", third = name == "Mamba3";
    if (name != "Mamba1" && !second && !third)
      fail(ErrorKind::bad_file, "config.json is of the layer ", io::in_quotes(name),
           "; Mamba1, Mamba2 and Mamba3 can be loaded");
    check_ssm_cfg(cfg, third);
    const auto own = [&](const char* key, int otherwise) {
      const io::Json* value = cfg.find(key);
      return value && !value->is_null() ? positive(*value, key) : otherwise;
    };
    d.mixer = third ? "mamba3" : second ? "mamba2" : "mamba1";
    d.config = {.vocab_size = padded_by(number("vocab_size", 50277), number("pad_vocab_size_multiple", 8)),
                .d_model = number("d_model", 0),
                .d_state = own("d_state", second || third ? 128 : 16),
                .d_conv = own("d_conv", 4),
                .expand = own("expand", 2)};
    d.n_layers = number("n_layer", 0);
    d.tied = flag("tie_embeddings", true);
    if (second || third) d.headdim = own("headdim", 64), d.ngroups = own("ngroups", 1);
    else check_rank(cfg.find("dt_rank"), "dt_rank");
    if (second) d.norm_groups = d.ngroups;
    if (third) of_third(cfg, own("mimo_rank", 4));
    must(flag("rms_norm", true), "rms_norm = false");
    const io::Json* attention = given("attn_layer_idx");
    must(!attention || attention->elements().empty(), "attention layers (attn_layer_idx)");
    const io::Json* mlp = given("d_intermediate");
    must(!mlp || mlp->integer() == 0, "d_intermediate", mlp);
  }

  // Mamba-3's own.
  void of_third(const io::Json& cfg, int rank) {
    const auto given_in = [&](const char* key) {
      const io::Json* value = cfg.find(key);
      return value && !value->is_null() ? value : nullptr;
    };
    const auto is = [&](const char* key) { return given_in(key) && given_in(key)->boolean(); };
    auto& d = description_;
    d.rank = is("is_mimo") ? rank : 0;
    d.output_norm = is("is_outproj_norm");
    if (const io::Json* part = given_in("rope_fraction")) {
      d.rotates_all = part->number() == 1;
      must(d.rotates_all || part->number() == 0.5, "ssm_cfg.rope_fraction", part);
    }
    if (const io::Json* rate = given_in("a_activation")) {
      d.softplus_rate = rate->string() == "softplus";
      must(*d.softplus_rate || rate->string() == "reciprocal", "ssm_cfg.a_activation", rate);
    }
  }

  // What changes the computation must be as these models have it; how weights begin, or which kernel runs, is past.
  void check_ssm_cfg(const io::Json& cfg, bool third) const {
    static const std::set<std::string_view> read{"layer",   "d_state", "d_conv", "expand",
                                                 "headdim", "ngroups", "dt_rank"},
        past{"dt_min",       "dt_max",    "dt_init",       "dt_scale",         "dt_init_floor",
             "A_init_range", "conv_init", "use_fast_path", "use_mem_eff_path", "chunk_size"},
        of_third{"rope_fraction", "is_outproj_norm", "is_mimo", "mimo_rank", "a_activation"};
    for (const auto& [key, value] : cfg.members()) {
      if (read.contains(key) || past.contains(key) || (third && of_third.contains(key)) || value.is_null()) continue;
      const bool known = key == "conv_bias" || key == "rmsnorm"                              ? value.boolean()
                         : key == "bias" || key == "D_has_hdim" || key == "norm_before_gate" ? !value.boolean()
                         : key == "activation" ? value.string() == "swish" || value.string() == "silu"
                         : key == "dt_limit"   ? is_no_limit(value)
                         : key == "A_floor"    ? third && value.number() == 1e-4
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

// What a folder of this model says, rows of its vocabulary padded.
template <class A>
ModelDescription description_of(int n_layers) {
  ModelDescription d;
  d.mixer = A::Mixer::name;
  d.config = A::config;
  d.config.vocab_size = A::config.padded_vocab_size();
  d.n_layers = n_layers;
  d.tied = network::head_of<typename A::Head>() == network::HeadKind::tied;
  if constexpr (requires { A::Mixer::norm_groups; })
    d.headdim = A::Mixer::headdim == 0 ? A::config.d_inner() : A::Mixer::headdim, d.ngroups = A::Mixer::ngroups,
    d.norm_groups = A::Mixer::norm_groups;
  if constexpr (requires { network::MixerOf<A>::Na; }) {
    constexpr Mamba3Config own = A::Mixer::config;
    d.headdim = network::MixerOf<A>::P, d.ngroups = own.ngroups, d.rank = own.rank;
    d.rotates_all = own.rotates_all, d.output_norm = own.output_norm, d.softplus_rate = own.softplus_rate;
  }
  return d;
}

// All that differs, with both values: "layers 2 (this one 3), ..."; empty where nothing does. How numbers are stored is
// no difference.
inline std::string differences(const ModelDescription& theirs, const ModelDescription& own) {
  std::string all;
  const auto compare = [&](const char* what, const auto& their, const auto& here) {
    if (their == here) return;
    const auto text = [](const auto& value) {
      if constexpr (std::is_convertible_v<decltype(value), std::string>) return std::string(value);
      else if constexpr (std::is_same_v<decltype(value), const bool&>) return std::string(value ? "true" : "false");
      else return std::to_string(value);
    };
    all += (all.empty() ? "" : ", ") + std::string(what) + " " + text(their) + " (this one " + text(here) + ")";
  };
  const auto head = [](const ModelDescription& d) { return std::string(d.tied ? "tied" : "untied"); };
  compare("mixer", theirs.mixer, own.mixer);
  compare("layers", theirs.n_layers, own.n_layers);
  compare("d_model", theirs.config.d_model, own.config.d_model);
  compare("d_state", theirs.config.d_state, own.config.d_state);
  if (own.mixer != "mamba3") compare("d_conv", theirs.config.d_conv, own.config.d_conv);
  compare("expand", theirs.config.expand, own.config.expand);
  compare("vocab_size", theirs.config.vocab_size, own.config.vocab_size);
  compare("head", head(theirs), head(own));
  if (theirs.mixer == own.mixer && own.mixer != "mamba1") {
    compare("headdim", theirs.headdim, own.headdim);
    compare("ngroups", theirs.ngroups, own.ngroups);
    compare("rank", theirs.rank, own.rank);
    compare("rotates_all", theirs.rotates_all, own.rotates_all);
    compare("output_norm", theirs.output_norm, own.output_norm);
    if (theirs.softplus_rate && own.softplus_rate) compare("softplus_rate", *theirs.softplus_rate, *own.softplus_rate);
    if (theirs.norm_groups && own.norm_groups) compare("norm_groups", *theirs.norm_groups, *own.norm_groups);
  }
  return all;
}

// Refuses another model than A, naming all that differs, with both values.
template <class A>
void check_described(const ModelDescription& folder, int n_layers) {
  ModelDescription own = description_of<A>(n_layers);
  // Rows are as they are stored: this one's vocabulary, padded to a multiple of 8 or not.
  if (folder.config.vocab_size != own.config.vocab_size) own.config.vocab_size = A::config.vocab_size;
  if (const std::string all = differences(folder, own); !all.empty())
    fail(ErrorKind::bad_file, "the folder's model has ", all);
}

}  // namespace detail

}  // namespace mamba
