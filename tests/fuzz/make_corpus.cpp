// The seeds of the targets: make_corpus DATA OUT writes OUT/json, OUT/safetensors, OUT/load_model, OUT/load_state,
// OUT/checkpoint, OUT/folder, OUT/tokenizer and OUT/text, of the reference files in DATA cut small, of files that the
// library itself writes, and of headers by hand.
#include <algorithm>
#include <fstream>
#include <string>

#include "models.hpp"

namespace fs = std::filesystem;
namespace io = mamba::io;

namespace {

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void write_headed(const fs::path& path, const std::string& header, std::size_t data) {
  const std::uint64_t size = header.size();
  write(path, std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(data, '\1'));
}

// The file with its small tensors alone.
void write_cut(const io::SafetensorsFile& file, const fs::path& path) {
  io::SafetensorsWriter writer;
  int written = 0;
  for (const auto& [name, info] : file.tensors()) {
    if (info.end - info.begin > 256 || written == 4) continue;
    ++written;
    if (info.dtype == "F64") writer.add(name, file.tensor<double>(name));
    else if (info.dtype.starts_with("I")) writer.add(name, file.tensor<std::int64_t>(name));
    else writer.add(name, file.tensor<float>(name));
  }
  writer.write(path, file.metadata());
}

// The same tensors without the metadata, under a wrapper's names, and with the head that the embedding is tied to.
template <class Model>
void write_foreign(const Model& model, const fs::path& folder, const std::string& name) {
  const auto dict = model.state_dict();
  io::SafetensorsWriter plain, wrapped, tied;
  for (const auto& [key, tensor] : dict)
    plain.add(key, tensor), wrapped.add("backbone." + key, tensor), tied.add(key, tensor);
  tied.add("lm_head.weight", dict.at("backbone.embedding.weight"));
  plain.write(folder / (name + "-plain"), {});
  wrapped.write(folder / (name + "-wrapped"), {});
  tied.write(folder / (name + "-tied"), {{"config", "mamba-130m"}});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "%s DATA OUT\n", argv[0]);
    return 2;
  }
  const fs::path data = argv[1], out = argv[2];
  for (const char* target :
       {"json", "safetensors", "load_model", "load_state", "checkpoint", "folder", "tokenizer", "text"})
    fs::create_directories(out / target);

  int number = 0;
  for (const char* text :
       {"{}", "[]", "null", "-12.5e1", "\"\"", R"("a \"quoted\" \\ \u00e9\ud83d\ude00\/ γ")",
        R"({"a":[1,-3,0.1,1e-300,18446744073709551615,null,true,false],"b":{"c":{}}})", R"([[[[[[]]]]]])",
        R"({"a":1,"a":2})", "[1,]", "01", "\"\\ud800\"", "{\"k\" 1}", " [ 1 , 2 ] "})
    write(out / "json" / ("text" + std::to_string(number++)), text);

  for (const auto& entry : fs::directory_iterator(data)) {
    const fs::path& path = entry.path();
    if (path.extension() != ".safetensors") continue;
    const auto file = io::SafetensorsFile::read(path);
    write_cut(file, out / "safetensors" / path.stem());
    for (const auto& [key, value] : file.metadata()) write(out / "json" / (path.stem().string() + "-" + key), value);
  }
  fs::copy_file(data / "all_dtypes.safetensors", out / "safetensors/all_dtypes", fs::copy_options::overwrite_existing);
  number = 0;
  for (
      const char* header :
      {R"({})", R"( {"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )",
       R"({"__metadata__":null,"t":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})",
       R"({"__metadata__":{"a":"b"},"t":{"dtype":"C64","shape":[0],"data_offsets":[0,0],"more":[{}]},"u":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})",
       R"({"t":{"dtype":"I64","shape":[],"data_offsets":[0,4]}})"})
    write_headed(out / "safetensors" / ("header" + std::to_string(number++)), header,
                 std::string_view(header) == "{}" ? 0 : 4);

  number = 0;
  for (
      const char* text :
      {R"(0{"model_type":"mamba2","vocab_size":16,"hidden_size":4,"state_size":2,"conv_kernel":2,"expand":1,"head_dim":4,"num_heads":1,"n_groups":1,"num_hidden_layers":2,"time_step_limit":[0.0,{"__float__":"Infinity"}],"tie_word_embeddings":true,"layer_norm_epsilon":1e-05})",
       R"(0{"model_type":"mamba","time_step_rank":"auto","use_bias":false,"hidden_act":"silu"})",
       R"(0{"d_model":4,"n_layer":2,"vocab_size":10,"ssm_cfg":{"layer":"Mamba2","d_state":2,"d_conv":2,"expand":1,"headdim":4},"attn_layer_idx":[],"tie_embeddings":true})",
       R"(1{"weight_map":{"backbone.embedding.weight":"a.safetensors","backbone.norm_f.weight":"b.safetensors"}})"})
    write(out / "folder" / std::to_string(number++), text);
  number = 0;
  for (
      const char* text :
      {R"({"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},"pre_tokenizer":{"type":"ByteLevel"}})",
       R"({"added_tokens":[{"id":3,"content":"<|endoftext|>","special":true,"lstrip":true,"rstrip":true,"single_word":true,"normalized":false}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"NFD"}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\p{N}{1,3}"},"behavior":"MergedWithNext","invert":true},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,"use_regex":false}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[3]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}})"})
    write(out / "tokenizer" / std::to_string(number++), text);
  number = 0;
  for (const char* text : {"a text", "\xC3\xA9 e\xCC\x81 \xE2\x82\xAC \xF0\x9F\x99\x82",
                           "  12345\n\n\t x<|endoftext|>y", "\xE2\x82", "It's 'LL \xEF\xAC\x81 \xFF\xC0\x80"})
    write(out / "text" / std::to_string(number++), text);

  auto classifier = fuzz::classifier(3);
  auto language_model = fuzz::language_model(3);
  mamba::save(classifier, out / "load_model/classifier");
  mamba::save(language_model, out / "load_model/language_model");
  write_foreign(classifier, out / "load_model", "classifier");
  write_foreign(language_model, out / "load_model", "language_model");

  const std::int32_t tokens[] = {1, 2};
  const auto save_state = [&](auto& model, const fs::path& path) {
    auto state = model.initial_state(2);
    (void)model.step(tokens, state);
    mamba::save(state, path);
  };
  save_state(classifier, out / "load_state/classifier");
  save_state(language_model, out / "load_state/language_model");

  const fuzz::Task task;
  mamba::Trainer trainer(classifier, task, fuzz::training);
  for (int step = 0; step < 3; ++step) {
    trainer.step();
    mamba::save_checkpoint(trainer, out / "checkpoint" / ("step" + std::to_string(step)),
                           io::Json(io::Json::Members{{"options", io::Json::Members{}}}));
  }
  fs::copy_file(out / "checkpoint/step0", out / "load_model/checkpoint", fs::copy_options::overwrite_existing);
  return 0;
}
