// The files of a folder of transformers while a model is written over another: at every moment the folder holds the old
// model or the new one, whole.
//
// That takes one rename (or one removal) by which readers turn from the old weights to the new ones. They read
// model.safetensors where it is there, else what the index names:
//   1. Shards are written under names that nothing in the folder has.
//   2. One file: it is renamed to model.safetensors. Shards: the index is renamed to its name, then an old
//      model.safetensors is removed. That is the moment.
//   3. What only the old model had is removed; config.json, which says the same model as before, or is the first, comes
//      last.
// A writer that is killed leaves shards that no index names, and one unfinished; the next one removes them. Each file
// is whole or not there (io/file.hpp). A reader that has the old index and comes to its shards too late finds none,
// which is an error. Two writers at once are not provided for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/folder_config.hpp>

namespace mamba::detail {

inline constexpr const char* one_file = "model.safetensors";
inline constexpr const char* index_file = "model.safetensors.index.json";

class FolderFiles {
 public:
  // Makes the folder where there is none. Throws Error(cannot_write) where it cannot, and where a config.json is there
  // that is not one of the model `own`.
  FolderFiles(const std::filesystem::path& folder, const ModelDescription& own) : folder_(folder) {
    io::detail::check_path(ErrorKind::cannot_write, "write", folder);
    std::error_code error;
    if (std::filesystem::exists(folder / "config.json", error)) check_same(own);
    std::filesystem::create_directories(folder, error);
    if (!std::filesystem::is_directory(folder, error))
      fail(ErrorKind::cannot_write, "cannot write ", folder.string(), ": it is no folder, and none can be made there");
  }

  // places: each tensor's name and the number of its shard. Returns when the folder holds the new weights.
  void write_weights(const std::vector<io::SafetensorsWriter>& shards,
                     const std::vector<std::pair<std::string, std::size_t>>& places, std::uint64_t parameters) {
    const std::set<std::string> old = old_shards();
    for (const std::string& name : shards_there())
      if (!old.contains(name)) remove(name);  // a dead writer's
    io::remove_unfinished(folder_, [](std::string_view name) {
      return is_shard(name) || name == one_file || name == index_file || name == "config.json" ||
             name == "generation_config.json" || name == "tokenizer.json";
    });
    std::set<std::string> kept;
    if (shards.size() == 1) {
      shards[0].write(folder_ / one_file, metadata());
      remove(index_file);
    } else {
      const std::vector<std::string> names = free_names(shards.size());
      kept = {names.begin(), names.end()};
      std::uint64_t bytes = 0;
      for (std::size_t i = 0; i < shards.size(); ++i) {
        shards[i].write(folder_ / names[i], metadata());
        bytes += shards[i].data_bytes();
      }
      io::Json::Members map;
      for (const auto& [tensor, shard] : places) map.emplace_back(tensor, names[shard]);
      const io::Json index =
          io::Json::Members{{"metadata", io::Json::Members{{"total_parameters", parameters}, {"total_size", bytes}}},
                            {"weight_map", std::move(map)}};
      io::write_file(folder_ / index_file, index.dump(2) + "\n");
      remove(one_file);
    }
    for (const std::string& name : shards_there())
      if (!kept.contains(name)) remove(name);
  }

  void write_config(const std::string& text) const { io::write_file(folder_ / "config.json", text); }

 private:
  static io::Metadata metadata() { return {{"format", "pt"}}; }

  void check_same(const ModelDescription& own) const {
    std::string why;
    try {
      const io::Json config = read_config(folder_);
      why = differences(FolderConfig(config).description(), own);
      if (!why.empty()) why = "the folder's model has " + why;
    } catch (const Error& error) {
      why = error.what();
    }
    if (!why.empty())
      fail(ErrorKind::cannot_write, "cannot write a model to ", folder_.string(), ", which holds another: ", why);
  }

  // "model-00001-of-00003.safetensors", and with a number behind "model".
  static bool is_shard(std::string_view name) {
    const auto take = [&](std::string_view text) {
      const bool begins = name.starts_with(text);
      if (begins) name.remove_prefix(text.size());
      return begins;
    };
    const auto digits = [&] {
      const std::size_t n = (std::min)(name.size(), name.find_first_not_of("0123456789"));
      name.remove_prefix(n);
      return n;
    };
    if (!take("model-")) return false;
    std::size_t n = digits();
    if (!take("-of-")) {
      if (n == 0 || !take("-")) return false;
      n = digits();
      if (!take("-of-")) return false;
    }
    return n >= 5 && digits() >= 5 && name == ".safetensors";
  }

  std::set<std::string> shards_there() const {
    std::set<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error))
      if (std::string name = entry->path().filename().string(); is_shard(name)) names.insert(std::move(name));
    return names;
  }

  // Those that the folder's index names, where it is read; all that are there where it is none.
  std::set<std::string> old_shards() const {
    std::error_code error;
    if (std::filesystem::exists(folder_ / one_file, error) || !std::filesystem::exists(folder_ / index_file, error))
      return {};
    try {
      const std::vector<char> text = io::read_file(folder_ / index_file);
      const io::Json index = io::Json::parse({text.data(), text.size()});
      std::set<std::string> names;
      for (const auto& [tensor, shard] : index.at("weight_map").members()) names.insert(shard.string());
      return names;
    } catch (const Error&) {
      return shards_there();
    }
  }

  // As transformers names shards; where such are there, with the first number behind "model" that none has.
  std::vector<std::string> free_names(std::size_t count) const {
    const auto padded = [](std::size_t n) {
      const std::string digits = std::to_string(n);
      return std::string(5 - (std::min)(digits.size(), std::size_t{5}), '0') + digits;
    };
    for (int number = 1;; ++number) {
      const std::string begin = number == 1 ? "model-" : "model-" + std::to_string(number) + "-";
      std::vector<std::string> names;
      for (std::size_t i = 0; i < count; ++i)
        names.push_back(begin + padded(i + 1) + "-of-" + padded(count) + ".safetensors");
      std::error_code error;
      if (std::none_of(names.begin(), names.end(), [&](const std::string& name) {
            return std::filesystem::exists(std::filesystem::symlink_status(folder_ / name, error));
          }))
        return names;
    }
  }

  void remove(const std::string& name) const {
    std::error_code error;
    std::filesystem::remove(folder_ / name, error);
    if (error) fail(ErrorKind::cannot_write, "cannot remove ", (folder_ / name).string(), ": ", error.message());
  }

  std::filesystem::path folder_;
};

}  // namespace mamba::detail
