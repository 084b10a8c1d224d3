// Folders for tests.
#pragma once

#include <filesystem>
#include <random>
#include <string>
#include <system_error>

namespace support {

namespace detail {

// A folder of this run of the tests, gone when it ends: several may run at once.
class ScratchRoot {
 public:
  ScratchRoot() {
    std::random_device random;
    do path_ = std::filesystem::temp_directory_path() / ("mamba-tests-" + std::to_string(random()));
    while (!std::filesystem::create_directory(path_));
  }
  ScratchRoot(const ScratchRoot&) = delete;
  ScratchRoot& operator=(const ScratchRoot&) = delete;
  ~ScratchRoot() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace detail

// The folder of a test's own files, empty at first.
inline std::filesystem::path scratch(const std::string& name) {
  static const detail::ScratchRoot root;
  const auto path = root.path() / name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

}  // namespace support
