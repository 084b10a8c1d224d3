// Folders of transformers and of mamba_ssm: the same logits and the same continuation, what describe() says of them,
// and what is refused, the model as it was.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#if defined(__unix__)
#include <sys/stat.h>
#endif

#include <mamba/generate.hpp>
#include <mamba/model/save_folder.hpp>

#include "support/parity.hpp"
#include "support/reference.hpp"

namespace fs = std::filesystem;
using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

const fs::path data = MAMBA_TEST_DATA;

inline constexpr Config hf_config{.vocab_size = 96, .d_model = 32, .d_state = 8};
inline constexpr Config odd_config{.vocab_size = 11, .d_model = 8, .d_state = 5};

// input_ids (2, 19), logits (2, 19, vocabulary), greedy: a prompt of 5 tokens and the 12 that follow.
template <class Model>
void check_folder(const std::string& name) {
  INFO(name);
  const auto expected = io::SafetensorsFile::read(data / name / "expected.safetensors");
  Model model({.n_layers = 2, .seed = 9});
  CHECK(load(model, data / name).count == 0);
  const auto logits = model.logits(support::tokens(expected, "input_ids"), 2);
  CHECK(support::relative_error(support::values(logits), expected.tensor<double>("logits").values) < 1e-5);
  if (!expected.contains("greedy")) return;
  const auto all = support::tokens(expected, "greedy");
  CHECK(generate(model, std::vector(all.begin(), all.begin() + 5), {.max_new_tokens = 12}) ==
        std::vector(all.begin() + 5, all.end()));
}

// A folder of a reference model that may be changed.
fs::path copy_of(const std::string& name) {
  const fs::path folder = support::scratch("folder");
  fs::copy(data / name, folder, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  return folder;
}
nlohmann::json read(const fs::path& path) { return nlohmann::json::parse(std::ifstream(path)); }
void write(const fs::path& path, const nlohmann::json& json) { std::ofstream(path) << json.dump(); }

// A folder as mamba_ssm's save_pretrained writes it, but for the weights' format.
template <class Model>
fs::path as_mamba_ssm(const Model& model, const nlohmann::json& ssm_cfg, int vocab_size) {
  const fs::path folder = support::scratch("mamba_ssm");
  io::SafetensorsWriter writer;
  for (const auto& [name, tensor] : model.state_dict()) writer.add(name, tensor);
  writer.write(folder / "model.safetensors", {});
  write(folder / "config.json", {{"d_model", Model::config.d_model},
                                 {"d_intermediate", 0},
                                 {"n_layer", model.n_layers()},
                                 {"vocab_size", vocab_size},
                                 {"ssm_cfg", ssm_cfg},
                                 {"attn_layer_idx", nlohmann::json::array()},
                                 {"attn_cfg", nlohmann::json::object()},
                                 {"rms_norm", true},
                                 {"residual_in_fp32", true},
                                 {"fused_add_norm", true},
                                 {"pad_vocab_size_multiple", 8},
                                 {"tie_embeddings", true}});
  return folder;
}

}  // namespace

TEST_CASE("folders of transformers give its logits and its continuation") {
  check_folder<MambaLMHeadModel<hf_config>>("hf_mamba_tiny");
  check_folder<MambaLMHeadModel<hf_config>>("hf_mamba_tiny_bf16");
  check_folder<MambaLMHeadModel<hf_config>>("hf_mamba_tiny_sharded");
  check_folder<MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>, UntiedHead>>("hf_mamba2_tiny");
  check_folder<MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>, UntiedHead, double>>("hf_mamba2_tiny_untied");
}

TEST_CASE("what a folder holds is said before a model is built") {
  const ModelDescription one = describe(data / "hf_mamba_tiny_sharded"), two = describe(data / "hf_mamba2_tiny");
  CHECK(one.mixer == "mamba1");
  CHECK(one.config.vocab_size == 96);
  CHECK(one.config.d_model == 32);
  CHECK(one.config.d_state == 8);
  CHECK(one.config.d_conv == 4);
  CHECK(one.config.expand == 2);
  CHECK(one.n_layers == 2);
  CHECK(one.tied);
  CHECK(one.precision == "F32");
  CHECK(describe(data / "hf_mamba_tiny_bf16").precision == "BF16");
  CHECK(two.mixer == "mamba2");
  CHECK(two.headdim == 16);
  CHECK(two.ngroups == 2);
  CHECK(two.norm_groups == 1);
  CHECK_FALSE(two.tied);
}

TEST_CASE("folders of mamba_ssm's Mamba3 load, and are written") {
  static constexpr Mamba3Config siso{.headdim = 16, .ngroups = 2},
      mimo{.headdim = 16, .rank = 3, .rotates_all = true, .output_norm = true},
      older{.headdim = 16, .ngroups = 2, .softplus_rate = true};
  const auto ids = support::random_tokens(20, 96, 1);
  const auto same = [&](auto& one, auto& other) {
    CHECK(support::values(other.logits(ids, 2)) == support::values(one.logits(ids, 2)));
  };
  using Siso = MambaLMHeadModel<hf_config, Mamba3<siso>>;
  using Mimo = MambaLMHeadModel<hf_config, Mamba3<mimo>, UntiedHead>;
  Siso one({.n_layers = 3, .seed = 1}), read_one({.n_layers = 3, .seed = 2});
  const nlohmann::json cfg{{"layer", "Mamba3"}, {"d_state", 8}, {"headdim", 16}, {"ngroups", 2}, {"d_conv", 7}};
  const fs::path theirs = as_mamba_ssm(one, cfg, 91);
  load(read_one, theirs);
  same(one, read_one);
  CHECK(describe(theirs).mixer == "mamba3");
  CHECK(describe(theirs).rank == 0);
  CHECK_FALSE(describe(theirs).softplus_rate);
  // Whether rates are a softplus its folders do not say.
  MambaLMHeadModel<hf_config, Mamba3<older>> old({.n_layers = 3, .seed = 2});
  CHECK_NOTHROW(load(old, theirs));
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"rope_fraction", 0.25},
                                   {"A_floor", 1e-3},
                                   {"a_activation", "relu"},
                                   {"a_new_thing", 1}}) {
    auto other_cfg = cfg;
    other_cfg[key] = value;
    CHECK_THROWS_WITH(load(read_one, as_mamba_ssm(one, other_cfg, 91)),
                      ContainsSubstring("ssm_cfg." + std::string(key)));
  }
  auto of_mamba2 = cfg;
  of_mamba2["layer"] = "Mamba2", of_mamba2["rope_fraction"] = 1;
  CHECK_THROWS_WITH(load(read_one, as_mamba_ssm(one, of_mamba2, 91)), ContainsSubstring("ssm_cfg.rope_fraction"));

  const fs::path own = support::scratch("mamba3_folder");
  Mimo several({.n_layers = 2, .seed = 1}), read_several({.n_layers = 2, .seed = 2});
  save_folder(several, own, {.shard_bytes = 30'000});
  load(read_several, own);
  same(several, read_several);
  const ModelDescription found = describe(own);
  CHECK(found.rank == 3);
  CHECK(found.rotates_all);
  CHECK(found.output_norm);
  CHECK(found.softplus_rate == false);
  CHECK_FALSE(found.tied);
  CHECK(found.headdim == 16);
  const auto config = read(own / "config.json");
  CHECK(config.at("ssm_cfg").at("mimo_rank") == 3);
  CHECK(config.at("ssm_cfg").at("rope_fraction") == 1);
  CHECK(config.at("vocab_size") == 96);
  CHECK_THROWS_WITH(load(read_one, own), ContainsSubstring("layers 2 (this one 3)") &&
                                             ContainsSubstring("rank 3 (this one 0)") &&
                                             ContainsSubstring("output_norm true (this one false)"));
  CHECK_THROWS_WITH(save_folder(MambaLMHeadModel<hf_config, Mamba3<siso>, SinusoidalPosition>({.n_layers = 1}), own),
                    ContainsSubstring("mamba_ssm has no model with position = sinusoidal"));
  // A vocabulary that is padded stays so.
  static constexpr Config even{.vocab_size = 11, .d_model = 8, .d_state = 6};
  MambaLMHeadModel<even, Mamba3<>> padded_one({.n_layers = 1, .seed = 1}), read_padded({.n_layers = 1, .seed = 2});
  const fs::path of_padded = support::scratch("mamba3_padded");
  save_folder(padded_one, of_padded);
  load(read_padded, of_padded);
  const auto few = support::random_tokens(10, 11, 1);
  CHECK(support::values(read_padded.logits(few, 1)) == support::values(padded_one.logits(few, 1)));
  CHECK(describe(of_padded).config.vocab_size == 16);
}

TEST_CASE("folders of mamba_ssm load, whose norm goes by groups") {
  MambaLMHeadModel<hf_config, Mamba2<16, 2>> model({.n_layers = 3, .seed = 1}), other({.n_layers = 3, .seed = 2});
  const nlohmann::json second{{"layer", "Mamba2"}, {"d_state", 8}, {"headdim", 16}, {"ngroups", 2}};
  const fs::path folder = as_mamba_ssm(model, second, 91);  // padded to 96
  load(other, folder);
  const auto ids = support::random_tokens(20, 96, 1);
  CHECK(support::values(other.logits(ids, 2)) == support::values(model.logits(ids, 2)));
  CHECK(describe(folder).norm_groups == 2);
  MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>> whole_row({.n_layers = 3});
  CHECK_THROWS_WITH(load(whole_row, folder), ContainsSubstring("norm_groups 2 (this one 1)"));

  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"dt_limit", {0.01, 0.1}},
                                   {"norm_before_gate", true},
                                   {"activation", "relu"},
                                   {"bias", true},
                                   {"a_new_thing", 1}}) {
    auto other_cfg = second;
    other_cfg[key] = value;
    CHECK_THROWS_WITH(load(other, as_mamba_ssm(model, other_cfg, 91)),
                      ContainsSubstring("ssm_cfg." + std::string(key)));
  }
  auto usual = second;
  usual["rmsnorm"] = usual["conv_bias"] = true, usual["bias"] = false, usual["chunk_size"] = 256,
  usual["activation"] = "swish";
  CHECK_NOTHROW(load(other, as_mamba_ssm(model, usual, 91)));

  MambaLMHeadModel<odd_config> odd({.n_layers = 2, .seed = 1}), odd_other({.n_layers = 2, .seed = 2});
  load(odd_other, as_mamba_ssm(odd, {{"d_state", 5}}, 11));
  CHECK(odd_other.state_dict().at("backbone.layers.1.mixer.A_log").values ==
        odd.state_dict().at("backbone.layers.1.mixer.A_log").values);
}

TEST_CASE("a vocabulary that is not padded to a multiple of 8 loads") {
  MambaLMHeadModel<odd_config> model({.n_layers = 2, .seed = 1}), other({.n_layers = 2, .seed = 2});
  const fs::path folder = support::scratch("unpadded");
  io::SafetensorsWriter writer;
  auto dict = model.state_dict();
  auto embedding = dict.extract("backbone.embedding.weight");
  embedding.key() = "backbone.embeddings.weight";
  embedding.mapped().shape[0] = 11;
  embedding.mapped().values.resize(11 * 8);
  dict.insert(std::move(embedding));
  for (const auto& [name, tensor] : dict) writer.add(name, tensor);
  writer.write(folder / "model.safetensors", {});
  write(folder / "config.json",
        {{"model_type", "mamba"}, {"vocab_size", 11}, {"hidden_size", 8}, {"state_size", 5}, {"num_hidden_layers", 2}});
  load(other, folder);
  const auto ids = support::random_tokens(9, 11, 1);
  const auto found = other.logits(ids, 1), expected = model.logits(ids, 1);
  for (std::ptrdiff_t i = 0; i < 9; ++i)
    for (std::ptrdiff_t v = 0; v < 11; ++v) CHECK(found(i, v) == expected(i, v));
  CHECK(found(0, 15) == 0);
}

TEST_CASE("folders of other models are refused with what differs, and leave the model") {
  MambaLMHeadModel<hf_config> model({.n_layers = 3});
  const auto before = model.state_dict();
  const auto refused = [&](const fs::path& folder, const char* why) {
    INFO(why);
    CHECK_THROWS_WITH(load(model, folder), ContainsSubstring(why) && ContainsSubstring("folder"));
    const auto after = model.state_dict();
    for (const auto& [name, tensor] : before) CHECK(after.at(name).values == tensor.values);
  };
  CHECK_THROWS_WITH(load(model, data / "hf_mamba_tiny"), ContainsSubstring("layers 2 (this one 3)"));
  MambaLMHeadModel<odd_config> odd({.n_layers = 2});
  CHECK_THROWS_WITH(load(odd, data / "hf_mamba_tiny"),
                    ContainsSubstring("d_model 32 (this one 8), d_state 8 (this one 5), vocab_size 96 (this one 11)"));
  const auto with = [&](const char* key, const nlohmann::json& value, const char* why) {
    const fs::path folder = copy_of("hf_mamba_tiny");
    auto config = read(folder / "config.json");
    config["num_hidden_layers"] = 3;
    config[key] = value;
    write(folder / "config.json", config);
    refused(folder, why);
  };
  with("hidden_size", 64, "intermediate_size");
  with("state_size", 16, "d_state 16 (this one 8)");
  with("conv_kernel", 3, "d_conv 3 (this one 4)");
  with("vocab_size", 97, "vocab_size 97 (this one 96)");
  with("tie_word_embeddings", false, "head untied (this one tied)");
  with("model_type", "falcon_mamba", "architecture \"falcon_mamba\"");
  with("model_type", "jamba", "architecture \"jamba\"");
  with("model_type", nullptr, "expected a string");
  with("use_bias", true, "use_bias = true");
  with("use_conv_bias", false, "use_conv_bias = false");
  with("hidden_act", "gelu", "hidden_act = \"gelu\"");
  with("layer_norm_epsilon", 1e-6, "layer_norm_epsilon");
  with("time_step_rank", 7, "time_step_rank = 7");
  with("intermediate_size", 7, "intermediate_size");
  with("num_hidden_layers", 0, "num_hidden_layers = 0");
  with("num_hidden_layers", "two", "expected an integer");
  with("intermediate_size", 64, "is missing");  // the third layer's tensors

  // A head that is tied and there, too, is the embedding's: transformers would not tie another one.
  for (const bool same : {true, false}) {
    const MambaLMHeadModel<hf_config> whole({.n_layers = 2, .seed = 1});
    MambaLMHeadModel<hf_config> other({.n_layers = 2, .seed = 2});
    const fs::path folder = as_mamba_ssm(whole, {{"d_state", 8}}, 96);
    io::SafetensorsWriter writer;
    for (const auto& [name, tensor] : whole.state_dict()) writer.add(name, tensor);
    auto head = whole.state_dict().at("backbone.embedding.weight");
    head.values[5] += same ? 0.0F : 1.0F;
    writer.add("lm_head.weight", head);
    writer.write(folder / "model.safetensors", {});
    const auto values = other.state_dict();
    if (same) {
      load(other, folder);
      CHECK(other.state_dict().at("backbone.embedding.weight").values ==
            whole.state_dict().at("backbone.embedding.weight").values);
    } else {
      CHECK_THROWS_WITH(load(other, folder), ContainsSubstring("lm_head.weight differs from the embedding"));
      CHECK(other.state_dict().at("backbone.norm_f.weight").values == values.at("backbone.norm_f.weight").values);
    }
  }

  MambaLMHeadModel<hf_config, Mamba2<16, 2>, UntiedHead> by_groups({.n_layers = 2});
  CHECK_THROWS_WITH(load(by_groups, data / "hf_mamba2_tiny"), ContainsSubstring("norm_groups 1 (this one 2)"));
  MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>> tied({.n_layers = 2});
  CHECK_THROWS_WITH(load(tied, data / "hf_mamba2_tiny"), ContainsSubstring("head untied (this one tied)"));
  CHECK_THROWS_WITH(load(tied, data / "hf_mamba_tiny"), ContainsSubstring("mixer mamba1 (this one mamba2)"));
  const fs::path clamped = copy_of("hf_mamba2_tiny");
  auto config = read(clamped / "config.json");
  config["time_step_limit"] = {0.0, 0.1};
  write(clamped / "config.json", config);
  CHECK_THROWS_WITH(load(tied, clamped), ContainsSubstring("time_step_limit"));
  // As Python writes it.
  config["time_step_limit"] = {0.0, "INFINITY"};
  std::string text = config.dump();
  text.replace(text.find("\"INFINITY\""), 10, "Infinity");
  std::ofstream(clamped / "config.json") << text;
  MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>, UntiedHead> unlimited({.n_layers = 2});
  CHECK_NOTHROW(load(unlimited, clamped));
  const fs::path huge = copy_of("hf_mamba2_tiny");
  for (const char* key : {"hidden_size", "expand", "head_dim", "num_heads"}) config[key] = 16777216;
  config["time_step_limit"] = nullptr;
  write(huge / "config.json", config);
  CHECK_THROWS_WITH(describe(huge), ContainsSubstring("expand times hidden_size"));
}

TEST_CASE("folders with files that are missing or malformed are refused by name") {
  MambaLMHeadModel<hf_config> model({.n_layers = 2});
  const auto refused = [&](const fs::path& folder, const char* why) {
    INFO(why);
    CHECK_THROWS_WITH(load(model, folder), ContainsSubstring(why));
    CHECK_THROWS_WITH(describe(folder), ContainsSubstring(why));
  };
  const auto sharded = [] { return copy_of("hf_mamba_tiny_sharded"); };
  const char *index = "model.safetensors.index.json", *shard = "model-00002-of-00004.safetensors";
  auto folder = sharded();
  fs::remove(folder / "config.json");
  refused(folder, "config.json");
  folder = sharded();
  std::ofstream(folder / "config.json") << "{";
  refused(folder, "config.json");
  folder = sharded();
  fs::remove(folder / index);
  refused(folder, "neither model.safetensors nor");
  folder = sharded();
  fs::remove(folder / shard);
  refused(folder, shard);
  folder = sharded();
  std::ofstream(folder / shard) << "no tensors";
  refused(folder, "is not a valid safetensors file");
  // What lies in a shard's place, or is cut off.
  folder = sharded();
  fs::remove(folder / shard);
  fs::create_directory(folder / shard);
  refused(folder, "it is a folder");
#if defined(__unix__)
  folder = sharded();
  fs::remove(folder / shard);
  REQUIRE(::mkfifo((folder / shard).c_str(), 0600) == 0);
  refused(folder, "no regular file but a pipe");
#endif
  folder = sharded();
  fs::resize_file(folder / shard, fs::file_size(folder / shard) - 1);
  refused(folder, "not inside the file's");
  folder = sharded();
  fs::resize_file(folder / shard, 100);
  refused(folder, "reaches beyond the file's 100 bytes");
  folder = sharded();
  fs::resize_file(folder / shard, 0);
  refused(folder, "too few for a header length");
  folder = sharded();
  std::ofstream(folder / index) << "[1, 2";
  refused(folder, index);
  folder = sharded();
  auto json = read(folder / index);
  json["weight_map"]["backbone.norm_f.weight"] = "model-00009-of-00004.safetensors";
  write(folder / index, json);
  refused(folder, "model-00009-of-00004.safetensors");
  folder = sharded();
  json = read(folder / index);
  json["weight_map"]["backbone.layers.9.norm.weight"] = shard;
  write(folder / index, json);
  refused(folder, "which it lacks");
  json = read(data / "hf_mamba_tiny_sharded" / index);
  json["weight_map"]["backbone.norm_f.weight"] = "../model.safetensors";
  write(folder / index, json);
  refused(folder, "none of the folder's");
  json.erase("weight_map");
  write(folder / index, json);
  refused(folder, "weight_map");
  CHECK_THROWS_WITH(load(model, support::scratch("empty")), ContainsSubstring("config.json"));
}

// The last tensors of a folder have what is wrong: nothing before them has been read into the model then.
TEST_CASE("a folder is checked as a whole before the model is changed, number by number where numbers can be wrong") {
  MambaLMHeadModel<hf_config> model({.n_layers = 2, .seed = 1});
  const auto before = model.state_dict();
  const auto folder_with = [&](const std::string& name, auto&& change) {
    const fs::path folder = as_mamba_ssm(model, {{"d_state", 8}}, 96);
    const MambaLMHeadModel<hf_config, double> wide({.n_layers = 2, .seed = 2});
    io::SafetensorsWriter writer;
    for (auto& [own, tensor] : wide.state_dict()) {
      auto changed = tensor;
      if (own == name) change(changed);
      writer.add(own, changed);
    }
    writer.write(folder / "model.safetensors", {});
    return folder;
  };
  const auto refused = [&](const fs::path& folder, const std::string& why, const LoadOptions& options = {}) {
    INFO(why);
    CHECK_THROWS_WITH(load(model, folder, options), ContainsSubstring(why) && ContainsSubstring(folder.string()));
    for (const auto& [name, tensor] : model.state_dict()) CHECK(tensor.values == before.at(name).values);
  };
  const std::string last = "backbone.norm_f.weight";
  refused(folder_with(last, [](auto& tensor) { tensor.values[31] = 1e39; }), "element 31 of the tensor \"" + last);
  refused(folder_with(last, [](auto& tensor) { tensor.values[31] = NAN; }), "not finite, the first of them in " + last,
          {.refuse_nonfinite = true});
  refused(folder_with(last, [](auto& tensor) { tensor.shape = {4, 8}; }),
          last + " has the shape (4, 8); the model's is (32)");
  refused(folder_with("backbone.layers.1.mixer.A_log",
                      [](auto& tensor) {
                        tensor.shape = {0, 8};
                        tensor.values.clear();
                      }),
          "has the shape (0, 8); the model's is (64, 8)");
  CHECK(load(model, folder_with(last, [](auto& tensor) { tensor.values[31] = NAN; })).first == last);
}

TEST_CASE("files say in how many groups gated rows are normed") {
  const fs::path folder = support::scratch("norm_groups");
  MambaLMHeadModel<hf_config, Mamba2<16, 2>> by_groups({.n_layers = 1, .seed = 1});
  MambaLMHeadModel<hf_config, Mamba2<16, 2, 1>> whole({.n_layers = 1, .seed = 1});
  save(by_groups, folder / "by_groups");
  save(whole, folder / "whole");
  CHECK_NOTHROW(load(by_groups, folder / "by_groups"));
  CHECK_NOTHROW(load(whole, folder / "whole"));
  CHECK_THROWS_WITH(load(whole, folder / "by_groups"), ContainsSubstring("norm_groups"));
  CHECK_THROWS_WITH(load(by_groups, folder / "whole"), ContainsSubstring("norm_groups"));
}
