// Models written as folders that transformers' AutoModelForCausalLM.from_pretrained loads, or of mamba_ssm
// (specification, section 16).
//
//   mamba::save_folder(model, "folder", {.tokenizer = "tokenizer.json"});
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/core/instruction_set.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/text.hpp>
#include <mamba/core/views.hpp>
#include <mamba/io/dtype.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/folder_config.hpp>
#include <mamba/model/folder_files.hpp>
#include <mamba/model/model.hpp>
#include <mamba/model/put_parameter.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

// What a folder's matrices are written in. Vectors and rates, which are few, are float32 beside bfloat16.
enum class FolderPrecision { stored, float32, bfloat16 };  // stored: as the model stores them

struct SaveFolderOptions {
  FolderPrecision precision = FolderPrecision::stored;
  // As many bytes of tensors go into one file; more are cut into shards, at tensors. transformers' own default.
  std::uint64_t shard_bytes = 5'000'000'000;
  // A tokenizer.json that is copied into the folder; none where empty.
  std::filesystem::path tokenizer = {};
  // The tokens that config.json and generation_config.json name; transformers ends a text at eos_token.
  std::optional<std::int32_t> bos_token = {}, eos_token = {}, pad_token = {};
  // The version that reads it, which config.json names as the one that wrote it: by it Mamba-2's n_groups have their
  // meaning (norms_by_groups in folder_config.hpp).
  std::string transformers = "5.23.0";
};

namespace detail {

// Whether transformers has no such mixer: its models are written as mamba_ssm has them.
template <class A>
inline constexpr bool as_mamba_ssm = requires { network::MixerOf<A>::Na; };

// What of a model the reader's own have not, in words; empty where they have all of it.
template <class A>
std::string beyond_readers(const std::string& version) {
  std::string all;
  const auto add = [&](const char* question, const std::string& answer) {
    all += (all.empty() ? "" : ", ") + std::string(question) + " = " + answer;
  };
  if constexpr (!std::is_same_v<typename A::ConvKernel, LearnedConv>) add("conv", A::ConvKernel::name);
  if constexpr (!std::is_same_v<typename A::Position, NoPosition>) add("position", A::Position::name);
  if constexpr (!std::is_same_v<typename A::ConvResidual, NoConvResidual>) add("residual", A::ConvResidual::name);
  if constexpr (requires { A::Mixer::norm_groups; }) {
    if (const int theirs = norms_by_groups(version) ? A::Mixer::ngroups : 1; A::Mixer::norm_groups != theirs)
      add("norm_groups",
          joined(A::Mixer::norm_groups, " (version ", version, " has ", theirs, "; SaveFolderOptions::transformers)"));
  } else if constexpr (!std::is_same_v<typename A::Mixer, Mamba1> && !as_mamba_ssm<A>) {
    add("mixer", A::Mixer::name);
  }
  return all;
}

// What transformers' PretrainedConfig calls a precision.
template <class Matrix>
inline constexpr const char* torch_dtype = std::is_same_v<Matrix, double>     ? "float64"
                                           : std::is_same_v<Matrix, BFloat16> ? "bfloat16"
                                                                              : "float32";

// config.json of a model whose matrices are of this type. What only says how weights begin is left to transformers'
// defaults.
template <class A, class Matrix>
io::Json folder_config(int n_layers, const SaveFolderOptions& options) {
  constexpr Config config = A::config;
  constexpr bool second = requires { A::Mixer::norm_groups; };
  const auto token = [](const std::optional<std::int32_t>& id) { return id ? io::Json(*id) : io::Json(); };
  io::Json::Members members{{"architectures", io::Json::Elements{second ? "Mamba2ForCausalLM" : "MambaForCausalLM"}},
                            {"bos_token_id", token(options.bos_token)},
                            {"conv_kernel", config.d_conv},
                            {"dtype", torch_dtype<Matrix>},
                            {"eos_token_id", token(options.eos_token)},
                            {"expand", config.expand},
                            {"hidden_act", "silu"},
                            {"hidden_size", config.d_model},
                            {"intermediate_size", config.d_inner()},
                            {"layer_norm_epsilon", 1e-5},
                            {"model_type", second ? "mamba2" : "mamba"},
                            {"num_hidden_layers", n_layers},
                            {"pad_token_id", token(options.pad_token)},
                            {"residual_in_fp32", true},
                            {"state_size", config.d_state},
                            {"tie_word_embeddings", std::is_same_v<typename A::Head, TiedHead>},
                            {"time_step_rank", (config.d_model + 15) / 16},
                            {"torch_dtype", torch_dtype<Matrix>},  // as transformers 4 calls it
                            {"transformers_version", options.transformers},
                            {"use_bias", false},
                            {"use_cache", true},
                            {"use_conv_bias", true},
                            {"vocab_size", config.vocab_size}};
  if constexpr (second) {
    constexpr int headdim = A::Mixer::headdim == 0 ? config.d_inner() : A::Mixer::headdim;
    members.emplace_back("chunk_size", 256);
    members.emplace_back("head_dim", headdim);
    members.emplace_back("n_groups", A::Mixer::ngroups);
    members.emplace_back("num_heads", config.d_inner() / headdim);
    members.emplace_back("rms_norm", true);
  }
  return members;
}

// generation_config.json, which readers ask before config.json; empty where the options name no token. What stands in
// the folder then stays, with all that a user may have written there.
inline io::Json generation_config(const SaveFolderOptions& options) {
  io::Json::Members members;
  for (const auto& [key, id] :
       {std::pair("bos_token_id", options.bos_token), std::pair("eos_token_id", options.eos_token),
        std::pair("pad_token_id", options.pad_token)})
    if (id) members.emplace_back(key, *id);
  return members;
}

// The same as mamba_ssm has it. It knows no a_activation, and does not mind one: which rates it means by a folder it
// does not say (specification, section 14.3).
template <class A>
io::Json mamba_ssm_config(int n_layers) {
  using Mixer = network::MixerOf<A>;
  constexpr Mamba3Config own = A::Mixer::config;
  io::Json::Members layer{{"layer", "Mamba3"},
                          {"d_state", Mixer::N},
                          {"expand", A::config.expand},
                          {"headdim", Mixer::P},
                          {"ngroups", Mixer::G},
                          {"rope_fraction", own.rotates_all ? 1.0 : 0.5},
                          {"is_outproj_norm", own.output_norm},
                          {"is_mimo", Mixer::multiple},
                          {"a_activation", own.softplus_rate ? "softplus" : "reciprocal"}};
  if (Mixer::multiple) layer.emplace_back("mimo_rank", Mixer::R);
  return io::Json::Members{{"d_model", A::config.d_model},
                           {"d_intermediate", 0},
                           {"n_layer", n_layers},
                           {"vocab_size", A::config.vocab_size},
                           {"ssm_cfg", std::move(layer)},
                           {"attn_layer_idx", io::Json::Elements{}},
                           {"attn_cfg", io::Json::Members{}},
                           {"rms_norm", true},
                           {"residual_in_fp32", true},
                           {"fused_add_norm", true},
                           {"pad_vocab_size_multiple", A::config.pad_vocab_size_multiple},
                           {"tie_embeddings", std::is_same_v<typename A::Head, TiedHead>}};
}

// Throws Error(invalid_argument) where a finite value is none in Stored.
template <class Stored, class T>
void check_holds(const PlacedParameter& p, const T* arena) {
  if constexpr (!std::is_same_v<Stored, T>) {
    const auto columns = static_cast<std::size_t>(p.parameter.columns()),
               stride = static_cast<std::size_t>(padded(p.parameter.columns()));
    for (int row = 0; row < p.parameter.rows(); ++row)
      for (std::size_t i = 0; i < columns; ++i)
        if (const T x = arena[p.offset + static_cast<std::size_t>(row) * stride + i];
            is_finite(x) && !is_finite(static_cast<float>(rounded_to<Stored>(x))))
          fail(ErrorKind::invalid_argument, p.name, " holds ", x, ", which is beyond ", io::dtype_of<Stored>());
  }
}

// Matrix and Vector: what the two kinds of parameters are written in.
template <class Matrix, class Vector, class A>
void save_folder_as(const Model<A>& model, const std::filesystem::path& folder, const SaveFolderOptions& options) {
  const auto looking = model.look();
  const auto& placed = model.engine().placed();
  const auto* const arena = model.engine().parameters();
  // What pads a vocabulary is no token: in transformers it would be one, while mamba_ssm pads as we do.
  const auto rows_of = [](const PlacedParameter& p) {
    const bool of_tokens = p.parameter.role == Role::embedding || p.parameter.role == Role::head;
    return static_cast<std::size_t>(of_tokens && !as_mamba_ssm<A> ? A::config.vocab_size : p.parameter.rows());
  };
  const auto with_type = [](const PlacedParameter& p, auto&& f) {
    if (p.parameter.template in_storage<Matrix>()) f(Matrix{});
    else f(Vector{});
  };
  for (const PlacedParameter& p : placed) with_type(p, [&]<class Stored>(Stored) { check_holds<Stored>(p, arena); });

  std::optional<std::vector<char>> tokenizer;
  if (!options.tokenizer.empty()) tokenizer = io::read_file(options.tokenizer);
  const io::Json config = [&] {
    if constexpr (as_mamba_ssm<A>) return mamba_ssm_config<A>(model.n_layers());
    else return folder_config<A, Matrix>(model.n_layers(), options);
  }();
  FolderFiles files(folder, FolderConfig(config).description());

  std::vector<io::SafetensorsWriter> shards(1);
  std::vector<std::pair<std::string, std::size_t>> places;
  std::uint64_t parameters = 0;
  for (const PlacedParameter& p : placed)
    with_type(p, [&]<class Stored>(Stored) {
      const std::string name =
          p.name == "backbone.embedding.weight" && !as_mamba_ssm<A> ? "backbone.embeddings.weight" : p.name;
      const std::size_t rows = rows_of(p), elements = rows * static_cast<std::size_t>(p.parameter.columns());
      const std::uint64_t size = elements * sizeof(Stored);
      std::vector<std::int64_t> shape(p.parameter.shape, p.parameter.shape + p.parameter.rank);
      if (p.parameter.rank > 1) shape[0] = static_cast<std::int64_t>(rows);
      if (shards.back().data_bytes() > 0 && shards.back().data_bytes() + size > options.shard_bytes)
        shards.emplace_back();
      shards.back().template add<Stored>(
          name, shape, [&p, rows, arena](const io::Put& put) { put_parameter<Stored>(p, rows, arena, put); });
      places.emplace_back(name, shards.size() - 1);
      parameters += elements;
    });
  files.write_weights(shards, places, parameters);
  if (tokenizer) io::write_file(folder / "tokenizer.json", {tokenizer->data(), tokenizer->size()});
  if (const io::Json tokens = generation_config(options); !tokens.members().empty())
    io::write_file(folder / "generation_config.json", tokens.dump(2) + "\n");
  files.write_config(config.dump(2) + "\n");
}

}  // namespace detail

// Writes a language model as a folder of transformers: model.safetensors, or shards and their index, in transformers'
// names, and config.json; the vocabulary without the rows that pad it. One of Mamba-3, which transformers has not, as a
// folder of mamba_ssm, which reads its weights from a pytorch_model.bin, though: torch.save of them by safetensors. The
// folder is made where there is none, and files of other names stay. A writer that is killed leaves the model that was
// there or the new one (folder_files.hpp). No copy of the model is made but, of one on a GPU, the host's.
//
// Throws Error(invalid_argument), and writes nothing, for what transformers has not (a gate, positions, a frozen
// convolution, other groups of a norm), named, for options out of range and for values that the precision cannot hold;
// Error(bad_file) for a tokenizer that cannot be read; Error(cannot_write), also where the folder holds another model
// than this one, for which old and new files would have to change at once.
template <class A>
void save_folder(const Model<A>& model, const std::filesystem::path& folder, const SaveFolderOptions& options = {}) {
  if (const std::string beyond = detail::beyond_readers<A>(options.transformers); !beyond.empty())
    fail(ErrorKind::invalid_argument, detail::as_mamba_ssm<A> ? "mamba_ssm" : "transformers", " has no model with ",
         beyond);
  require(options.shard_bytes > 0, "a shard of 0 bytes holds no tensor");
  for (const auto& token : {options.bos_token, options.eos_token, options.pad_token})
    require(!token || (*token >= 0 && *token < A::config.vocab_size), "the token ", token.value_or(0),
            " is not in the vocabulary of ", A::config.vocab_size);
  using Scalar = typename A::Scalar;
  switch (options.precision) {
    case FolderPrecision::stored:
      return detail::save_folder_as<typename A::Storage, Scalar>(model, folder, options);
    case FolderPrecision::float32:
      return detail::save_folder_as<float, float>(model, folder, options);
    case FolderPrecision::bfloat16:
      return detail::save_folder_as<BFloat16, float>(model, folder, options);
  }
  fail(ErrorKind::invalid_argument, "the folder's precision is none of FolderPrecision's");
}

inline namespace MAMBA_INSTRUCTION_SET {
template <Config config, class... Policies>
class MambaForComposite;
}

// Of a MambaForComposite only the last token's logits mean something, and its vocabulary is a task's: it is refused. A
// language model that is given its parameters (load_state_dict) can be saved.
template <Config config, class... Policies>
void save_folder(const MambaForComposite<config, Policies...>&, const std::filesystem::path&,
                 const SaveFolderOptions& = {}) {
  fail(ErrorKind::invalid_argument,
       "transformers has no MambaForComposite; a MambaLMHeadModel with its parameters can be saved as a folder");
}

}  // namespace mamba
