// Loading holds no second copy of a model, and describe() touches headers alone: by what the system counts as this
// process's largest memory. Linux only.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/language_model.hpp>

namespace fs = std::filesystem;
using namespace mamba;

namespace {

inline constexpr Config config{.vocab_size = 4096, .d_model = 1024, .d_state = 8};
using Loaded = MambaLMHeadModel<config>;
constexpr int layers = 6;
constexpr double megabyte = 1e6;

double peak() {
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / megabyte;
}
double seconds_of(auto&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void must(bool holds, const char* what) {
  if (holds) return;
  std::printf("does not hold: %s\n", what);
  std::exit(1);
}

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

// A file of these tensors, all of them zeros, that takes no room on the disk. Returns its tensors' bytes.
std::uint64_t write_zeros(const fs::path& path, const std::vector<Tensor>& tensors, const char* dtype,
                          std::uint64_t bytes_each) {
  io::Json::Members header;
  std::uint64_t end = 0;
  for (const Tensor& tensor : tensors) {
    io::Json::Elements shape;
    std::uint64_t size = bytes_each;
    for (const std::int64_t extent : tensor.shape)
      shape.emplace_back(extent), size *= static_cast<std::uint64_t>(extent);
    header.emplace_back(tensor.name, io::Json::Members{{"dtype", dtype},
                                                       {"shape", std::move(shape)},
                                                       {"data_offsets", io::Json::Elements{end, end + size}}});
    end += size;
  }
  const std::string text = io::Json(std::move(header)).dump();
  const std::uint64_t length = text.size();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&length), 8) << text;
  fs::resize_file(path, 8 + text.size() + end);
  return end;
}

void write_config(const fs::path& folder) {
  io::write_file(folder / "config.json", R"({"model_type": "mamba", "vocab_size": 4096, "hidden_size": 1024, )"
                                         R"("state_size": 8, "num_hidden_layers": )" +
                                             std::to_string(layers) + "}");
}

std::vector<Tensor> tensors_of(const Loaded& model) {
  std::vector<Tensor> tensors;
  for (const PlacedParameter& p : model.engine().placed())
    tensors.push_back({p.name, {p.parameter.shape, p.parameter.shape + p.parameter.rank}});
  return tensors;
}

// F64 is looked at twice: once for numbers that float cannot hold, then to be read.
void load_without_a_copy(Loaded& model, const fs::path& root) {
  for (const auto& [dtype, bytes_each] : {std::pair("F32", 4), std::pair("F64", 8), std::pair("BF16", 2)}) {
    const fs::path folder = root / dtype;
    fs::create_directories(folder);
    write_config(folder);
    const double size = static_cast<double>(write_zeros(folder / "model.safetensors", tensors_of(model), dtype,
                                                        static_cast<std::uint64_t>(bytes_each))) /
                        megabyte;
    const double before = peak(), time = seconds_of([&] { load(model, folder); }), more = peak() - before;
    std::printf("load, %s, %.0f MB: %.2f s, %.1f MB more\n", dtype, size, time, more);
    must(size > 80 && more < 16, "loading takes no memory of the model's size");
  }
  const double before = peak();
  save_folder(model, root / "saved", {.shard_bytes = 50'000'000});
  save(model, root / "saved.safetensors");
  std::printf("save: %.1f MB more\n", peak() - before);
  must(peak() - before < 16, "saving takes no memory of the model's size");
}

// 32 shards of 2 GB.
void describe_by_headers(const fs::path& root) {
  const fs::path folder = root / "large";
  fs::create_directories(folder);
  write_config(folder);
  io::Json::Members map;
  std::uint64_t all = 0;
  for (int shard = 0; shard < 32; ++shard) {
    const std::string file = "part-" + std::to_string(shard);
    const Tensor tensor{shard == 0 ? "backbone.embeddings.weight" : "t" + std::to_string(shard), {1024, 1024, 1024}};
    all += write_zeros(folder / file, {tensor}, "BF16", 2);
    map.emplace_back(tensor.name, file);
  }
  io::write_file(folder / "model.safetensors.index.json",
                 io::Json(io::Json::Members{{"weight_map", std::move(map)}}).dump());
  const double before = peak();
  ModelDescription found;
  const double time = seconds_of([&] { found = describe(folder); });
  std::printf("describe, %.0f MB: %.4f s, %.1f MB more\n", static_cast<double>(all) / megabyte, time, peak() - before);
  must(found.precision == "BF16", "the embedding's precision is found");
  must(time < 0.5 && peak() - before < 8, "describe() looks at headers alone");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const fs::path root = argv[1];
  fs::remove_all(root);
  fs::create_directories(root);
  Loaded model({.n_layers = layers, .draw = false});
  // Memory that nobody has written is not there yet.
  std::fill_n(model.engine().mutable_parameters(), model.engine().size(), 1.0F);
  describe_by_headers(root);
  load_without_a_copy(model, root);
  fs::remove_all(root);
}
