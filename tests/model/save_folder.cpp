// Folders as transformers reads them: what is written comes back, byte by byte, what transformers has not is refused,
// and whoever is killed leaves the old model or the new one. Beside transformers itself: transformers_folders.py.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#if defined(__unix__)
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <mamba/composite.hpp>

#include "support/reference.hpp"

namespace fs = std::filesystem;
using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config config{.vocab_size = 96, .d_model = 32, .d_state = 8};
inline constexpr Config odd_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
using Tied = MambaLMHeadModel<config>;
using Second = MambaLMHeadModel<config, Mamba2<16, 2>, UntiedHead>;

nlohmann::json read(const fs::path& path) { return nlohmann::json::parse(std::ifstream(path)); }

std::set<std::string> files_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}
std::map<std::string, std::vector<char>> contents_of(const fs::path& folder) {
  std::map<std::string, std::vector<char>> contents;
  for (const std::string& name : files_in(folder)) contents[name] = io::read_file(folder / name);
  return contents;
}

template <class Model>
void check_same(const Model& a, const Model& b) {
  const auto one = a.state_dict(), other = b.state_dict();
  for (const auto& [name, tensor] : one) {
    INFO(name);
    auto values = tensor.values;
    // What pads the vocabulary is not written, and zero.
    if (name == "backbone.embedding.weight" || name == "lm_head.weight")
      std::fill(values.begin() + Model::config.vocab_size * tensor.shape[1], values.end(), 0);
    CHECK((values == other.at(name).values));
  }
}
template <class Model>
bool same(const Model& a, const Model& b) {
  const auto one = a.state_dict(), other = b.state_dict();
  for (const auto& [name, tensor] : one)
    if (tensor.values != other.at(name).values) return false;
  return true;
}

// Saves, describes, loads; returns the folder.
template <class Model>
fs::path check_round_trip(const char* precision, const SaveFolderOptions& options = {}) {
  const fs::path folder = support::scratch("round_trip") / "new" / "folder";
  Model model({.n_layers = 3, .seed = 1}), other({.n_layers = 3, .seed = 2});
  save_folder(model, folder, options);
  const ModelDescription found = describe(folder);
  using A = typename Model::Architecture;
  CHECK(found.mixer == A::Mixer::name);
  CHECK(found.n_layers == 3);
  CHECK(found.config.vocab_size == Model::config.vocab_size);
  CHECK(found.config.d_state == Model::config.d_state);
  CHECK(found.tied == std::is_same_v<typename A::Head, TiedHead>);
  CHECK(found.precision == precision);
  CHECK(load(other, folder).count == 0);
  const auto ids = support::random_tokens(22, Model::config.vocab_size, 1);
  const auto own = other.logits(ids, 2), expected = model.logits(ids, 2);
  bool same_logits = true;
  for (std::ptrdiff_t i = 0; i < own.rows(); ++i)
    for (std::ptrdiff_t v = 0; v < Model::config.vocab_size; ++v) same_logits &= own(i, v) == expected(i, v);
  CHECK(same_logits);
  if (options.precision != FolderPrecision::bfloat16 && found.precision != "BF16") check_same(model, other);
  return folder;
}

}  // namespace

TEST_CASE("a folder that is saved is described and loaded again, to the same bytes") {
  check_round_trip<Tied>("F32");
  check_round_trip<MambaLMHeadModel<config, UntiedHead>>("F32");
  check_round_trip<MambaLMHeadModel<config, Mamba2<16, 2>>>("F32");
  check_round_trip<Second>("F32");
  check_round_trip<MambaLMHeadModel<odd_config>>("F32");
  check_round_trip<MambaLMHeadModel<odd_config, Mamba2<>, UntiedHead>>("F32");
  check_round_trip<MambaLMHeadModel<config, double>>("F64");
  check_round_trip<MambaLMHeadModel<config, Mamba2<16, 2>, UntiedHead, double>>("F64");
  // What the model computes with comes back; the master weights do where they are asked for.
  check_round_trip<MambaLMHeadModel<config, BFloat16>>("BF16");
  check_round_trip<MambaLMHeadModel<config, Mamba2<16, 2>, UntiedHead, BFloat16>>("BF16");
  check_round_trip<MambaLMHeadModel<config, BFloat16>>("F32", {.precision = FolderPrecision::float32});
  check_round_trip<MambaLMHeadModel<config, BFloat16>>("BF16", {.precision = FolderPrecision::bfloat16});
  const fs::path folder = support::scratch("rounded");
  const MambaLMHeadModel<config, double> wide({.n_layers = 1, .seed = 1});
  MambaLMHeadModel<config, double> rounded({.n_layers = 1, .seed = 2});
  save_folder(wide, folder, {.precision = FolderPrecision::bfloat16});
  load(rounded, folder);
  const auto before = wide.state_dict(), after = rounded.state_dict();
  for (const char* name : {"backbone.embedding.weight", "backbone.layers.0.mixer.A_log"}) {
    const double bits = std::string_view(name).ends_with("weight") ? 0x1p-8 : 0x1p-23;
    for (std::size_t i = 0; i < before.at(name).values.size(); ++i) {
      const double x = before.at(name).values[i];
      CHECK(std::abs(after.at(name).values[i] - x) <= bits * std::abs(x));
    }
  }
}

TEST_CASE("a model is cut into shards where it is larger, at tensors") {
  const fs::path folder = check_round_trip<Second>("F32", {.shard_bytes = 20'000});
  const auto index = read(folder / "model.safetensors.index.json");
  std::set<std::string> shards;
  for (const auto& [name, shard] : index.at("weight_map").items()) shards.insert(shard);
  CHECK(shards.size() > 3);
  const auto of = "-of-0000" + std::to_string(shards.size()) + ".safetensors";
  CHECK(shards.begin()->starts_with("model-00001" + of));
  std::uint64_t bytes = 0;
  for (const std::string& shard : shards) {
    const auto file = io::SafetensorsFile::read(folder / shard);
    CHECK(file.metadata().at("format") == "pt");
    std::uint64_t own = 0;
    for (const auto& [name, info] : file.tensors()) {
      CHECK(index.at("weight_map").at(name) == shard);
      own += info.end - info.begin;
    }
    CHECK((own <= 20'000 || file.tensors().size() == 1));
    bytes += own;
  }
  CHECK(index.at("metadata").at("total_size") == bytes);
  CHECK(files_in(folder).size() == shards.size() + 2);
  check_round_trip<Tied>("F32", {.shard_bytes = 1});  // each tensor its own
  CHECK_THROWS_WITH(save_folder(Tied({.n_layers = 1}), folder, {.shard_bytes = 0}), ContainsSubstring("0 bytes"));
}

TEST_CASE("config.json says what transformers asks for") {
  const fs::path folder = support::scratch("config");
  io::write_file(folder / "words.json", R"({"any": "tokenizer"})");
  save_folder(Second({.n_layers = 2}), folder / "two",
              {.precision = FolderPrecision::bfloat16, .tokenizer = folder / "words.json", .eos_token = 0});
  const auto two = read(folder / "two" / "config.json");
  const nlohmann::json expected{{"architectures", {"Mamba2ForCausalLM"}},
                                {"bos_token_id", nullptr},
                                {"chunk_size", 256},
                                {"conv_kernel", 4},
                                {"dtype", "bfloat16"},
                                {"eos_token_id", 0},
                                {"expand", 2},
                                {"head_dim", 16},
                                {"hidden_act", "silu"},
                                {"hidden_size", 32},
                                {"intermediate_size", 64},
                                {"layer_norm_epsilon", 1e-5},
                                {"model_type", "mamba2"},
                                {"n_groups", 2},
                                {"num_heads", 4},
                                {"num_hidden_layers", 2},
                                {"pad_token_id", nullptr},
                                {"residual_in_fp32", true},
                                {"rms_norm", true},
                                {"state_size", 8},
                                {"tie_word_embeddings", false},
                                {"time_step_rank", 2},
                                {"torch_dtype", "bfloat16"},
                                {"transformers_version", "5.23.0"},
                                {"use_bias", false},
                                {"use_cache", true},
                                {"use_conv_bias", true},
                                {"vocab_size", 96}};
  CHECK(two == expected);
  CHECK(read(folder / "two" / "tokenizer.json") == read(folder / "words.json"));
  CHECK(io::SafetensorsFile::read(folder / "two" / "model.safetensors").contains("backbone.embeddings.weight"));
  save_folder(MambaLMHeadModel<odd_config>({.n_layers = 2}), folder / "one");
  const auto one = read(folder / "one" / "config.json");
  CHECK(one.at("architectures") == nlohmann::json{"MambaForCausalLM"});
  CHECK(one.at("model_type") == "mamba");
  CHECK(one.at("vocab_size") == 11);
  CHECK(one.at("tie_word_embeddings") == true);
  CHECK(one.at("dtype") == "float32");
  CHECK(one.at("time_step_rank") == 1);
  CHECK_FALSE(one.contains("head_dim"));
}

TEST_CASE("groups of a norm mean what the version of transformers makes of them") {
  using WholeRow = MambaLMHeadModel<config, Mamba2<16, 2, 1>>;
  check_round_trip<WholeRow>("F32", {.transformers = "5.17.0"});
  check_round_trip<WholeRow>("F32", {.transformers = "4.57.1"});
  const fs::path folder = support::scratch("versions");
  save_folder(WholeRow({.n_layers = 1}), folder, {.transformers = "5.22.9"});
  auto json = read(folder / "config.json");
  for (const auto& [version, groups] : {std::pair<nlohmann::json, int>{"5.22.9", 1},
                                        {"4.46.0.dev0", 1},
                                        {"5.9", 1},
                                        {"5.23.0.dev0", 2},
                                        {"5.24.0", 2},
                                        {"10.1", 2},
                                        {"new", 2},
                                        {"", 2},
                                        {nullptr, 2}}) {
    json["transformers_version"] = version;
    std::ofstream(folder / "config.json") << json;
    CHECK(describe(folder).norm_groups == groups);
  }
  CHECK_THROWS_WITH(save_folder(WholeRow({.n_layers = 1}), folder, {.transformers = "5.22.9"}),
                    ContainsSubstring("norm_groups 2 (this one 1)"));
}

TEST_CASE("what transformers has not is refused by name, and nothing is written") {
  const fs::path folder = support::scratch("refused") / "folder";
  const auto refused = [&](const auto& model, const char* why, const SaveFolderOptions& options = {}) {
    INFO(why);
    try {
      save_folder(model, folder, options);
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::invalid_argument);
      CHECK_THAT(error.what(), ContainsSubstring(why));
    }
    CHECK_FALSE(fs::exists(folder));
  };
  const ModelOptions options{.n_layers = 1};
  refused(MambaLMHeadModel<config, ConvGate>(options), "residual = gate");
  refused(MambaLMHeadModel<config, ConvResidual>(options), "residual = identity");
  refused(MambaLMHeadModel<config, LinearConvResidual>(options), "residual = linear");
  refused(MambaLMHeadModel<config, LearnedPosition<8>>(options), "position = learned");
  refused(MambaLMHeadModel<config, SinusoidalPosition>(options), "position = sinusoidal");
  refused(MambaLMHeadModel<config, OnesConv>(options), "conv = ones");
  refused(MambaLMHeadModel<config, FrozenOnesConv, ConvGate>(options), "conv = ones-frozen, residual = gate");
  refused(MambaLMHeadModel<config, Mamba2<16, 2, 1>>(options), "norm_groups = 1 (version 5.23.0 has 2;");
  refused(MambaLMHeadModel<config, Mamba2<16, 2>>(options), "norm_groups = 2 (version 5.22.1 has 1;",
          {.transformers = "5.22.1"});
  refused(MambaForComposite<config>(options), "MambaForComposite");
  refused(Tied(options), "the token 96 is not in the vocabulary", {.eos_token = 96});
  refused(Tied(options), "the token -1 is not in the vocabulary", {.bos_token = -1});
  MambaLMHeadModel<config, double> model(options);
  auto dict = model.state_dict();
  dict.at("backbone.layers.0.mixer.D").values[3] = 1e39;
  model.load_state_dict(dict);
  refused(model, "backbone.layers.0.mixer.D holds 1e+39, which is beyond F32", {.precision = FolderPrecision::float32});
  MambaLMHeadModel<config> wide(options);
  auto of_wide = wide.state_dict();
  of_wide.at("backbone.embedding.weight").values[3] = 3.4e38F;
  wide.load_state_dict(of_wide);
  refused(wide, "beyond BF16", {.precision = FolderPrecision::bfloat16});
  CHECK_THROWS_WITH(save_folder(wide, folder, {.tokenizer = folder.parent_path() / "none.json"}),
                    ContainsSubstring("none.json"));
  CHECK_FALSE(fs::exists(folder));
}

TEST_CASE("tokens that are named win over those that a folder had") {
  const fs::path folder = support::scratch("tokens");
  const Tied model({.n_layers = 2, .seed = 1});
  save_folder(model, folder, {.eos_token = 3});
  CHECK(describe(folder).end_tokens == std::vector<std::int32_t>{3});
  save_folder(model, folder, {.eos_token = 5});
  CHECK(describe(folder).end_tokens == std::vector<std::int32_t>{5});
  save_folder(model, folder);  // what stands there stays
  CHECK(describe(folder).end_tokens == std::vector<std::int32_t>{5});
}

TEST_CASE("a folder keeps its other files, and gets another model of the same kind alone") {
  const fs::path folder = support::scratch("kept");
  const Tied first({.n_layers = 2, .seed = 1}), second({.n_layers = 2, .seed = 2});
  Tied found({.n_layers = 2, .seed = 3});
  for (const char* name : {"tokenizer.json", "generation_config.json", "README.md"})
    io::write_file(folder / name, name);
  const std::set<std::string> others = files_in(folder);
  const auto check = [&](const Tied& model, std::size_t files, const SaveFolderOptions& options) {
    save_folder(model, folder, options);
    load(found, folder);
    check_same(model, found);
    const auto now = files_in(folder);
    CHECK(now.size() == others.size() + 1 + files);
    for (const std::string& name : others) {
      const auto bytes = io::read_file(folder / name);
      CHECK(std::string(bytes.begin(), bytes.end()) == name);
    }
  };
  // One file, shards and back; from some shards to as many, and to others.
  check(first, 1, {});
  check(second, 1, {});
  check(first, 4, {.shard_bytes = 40'000});
  check(second, 4, {.shard_bytes = 40'000});
  check(first, 4, {.shard_bytes = 40'000});
  check(second, 3, {.shard_bytes = 60'000});
  check(first, 1, {});

  const auto before = contents_of(folder);
  const auto refused = [&](const auto& model, const char* why) {
    INFO(why);
    try {
      save_folder(model, folder);
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::cannot_write);
      CHECK_THAT(error.what(), ContainsSubstring(why) && ContainsSubstring("which holds another"));
    }
  };
  refused(Tied({.n_layers = 3}), "layers 2 (this one 3)");
  refused(MambaLMHeadModel<config, UntiedHead>({.n_layers = 2}), "head tied (this one untied)");
  refused(Second({.n_layers = 2}), "mixer mamba1 (this one mamba2)");
  CHECK(contents_of(folder) == before);
  io::write_file(folder / "config.json", R"({"model_type": "llama"})");
  refused(first, "the architecture \"llama\"");
  io::write_file(folder / "config.json", "{");
  refused(first, "config.json");
}

TEST_CASE("a folder that cannot be made is an error") {
  const fs::path folder = support::scratch("no_folder");
  io::write_file(folder / "file", "not a folder");
  const Tied model({.n_layers = 1});
  for (const fs::path& path : {folder / "file", folder / "file" / "below", fs::path()}) try {
      save_folder(model, path);
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::cannot_write);
    }
}

#if defined(__linux__)
// Kills at all times of a save, each a little later than the one before.
TEST_CASE("a writer that is killed leaves the old model or the new one") {
  const fs::path folder = support::scratch("killed");
  const Tied first({.n_layers = 2, .seed = 1}), second({.n_layers = 2, .seed = 2});
  Tied found({.n_layers = 2, .seed = 3});
  const SaveFolderOptions sharded{.shard_bytes = 40'000}, whole{};
  const auto finished = [&](const Tied& model, const SaveFolderOptions& options, int microseconds) {
    const pid_t child = ::fork();
    if (child == 0) {
      save_folder(model, folder, options);
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(microseconds));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status);
  };
  save_folder(first, folder, sharded);
  const auto begin = std::chrono::steady_clock::now();
  save_folder(first, folder, whole);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  const int step = std::max(97, static_cast<int>(took.count() / 30));
  int cut = 0, delay = 0;
  for (int run = 0; run < 400 && cut < 120; ++run) {
    // Options differ from run to run, so that the folder goes from every form to every other.
    const Tied& model = run % 2 == 0 ? second : first;
    const bool done = finished(model, run % 3 == 0 ? whole : sharded, delay);
    cut += done ? 0 : 1;
    delay = done ? 0 : delay + step;  // a little later each time, until it is through
    CHECK_NOTHROW(load(found, folder));
    const bool is_first = same(found, first), is_second = same(found, second);
    CHECK((is_first || is_second));
    if (done) CHECK(same(found, model));
  }
  CHECK(cut > 20);
  // The next one cleans up, whichever file was being written.
  for (const char* name : {"model-2-00003-of-00003.safetensors", "model-00001-of-00002.safetensors",
                           "model.safetensors", "model.safetensors.index.json"})
    io::write_file(folder / (std::string(".") + name + ".1-0123456789abcdef.tmp"), "unfinished");
  save_folder(second, folder, sharded);
  CHECK(std::ranges::none_of(files_in(folder), [](const std::string& name) { return name.ends_with(".tmp"); }));
  save_folder(first, folder, whole);
  CHECK(files_in(folder) == std::set<std::string>{"config.json", "model.safetensors"});
}
#endif
