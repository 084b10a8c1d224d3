// Bytes as a folder's config.json or, where the first is odd, as its index: what is refused leaves the model as it was.
#include "models.hpp"
#include "target.hpp"

namespace {

namespace fs = std::filesystem;

// A folder with a model's tensors, gone at the end.
class Folder {
 public:
  explicit Folder(const mamba::StateDict<double>& dict)
      : path_(fs::temp_directory_path() / ("mamba-fuzz-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
    mamba::io::SafetensorsWriter writer;
    for (const auto& [name, tensor] : dict) writer.add(name, tensor);
    writer.write(path_ / "a.safetensors", {});
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void put(const char* name, std::string_view text) const { mamba::io::write_file(path_ / name, text); }

 private:
  fs::path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static auto model = fuzz::language_model(1);
  static const auto before = model.state_dict();
  static const Folder folder(before);
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  const bool is_index = (bytes[0] & 1) != 0;
  std::string index = R"({"weight_map":{)";
  for (const auto& [name, tensor] : before)
    index += (index.back() == '{' ? "\"" : ",\"") + name + "\":\"a.safetensors\"";
  folder.put("model.safetensors.index.json", is_index ? text : index + "}}");
  folder.put(
      "config.json",
      is_index
          ? R"({"d_model":4,"n_layer":2,"vocab_size":10,"ssm_cfg":{"layer":"Mamba2","d_state":2,"d_conv":2,"expand":1,"headdim":4}})"
          : text);
  (void)fuzz::accepted([&] { (void)mamba::describe(folder.path()); });
  (void)fuzz::accepted([&] { (void)mamba::load(model, folder.path()); });
  fuzz::must(fuzz::same_dict(model.state_dict(), before), "the model is what it was");
  return 0;
}
