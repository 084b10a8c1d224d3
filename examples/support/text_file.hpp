// Small text files, and what is wrong with a file's content said with its name.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>

namespace support {

// What f returns, which reads what came out of the file at `path`: whatever is refused there, a value out of range
// included, is Error(bad_file) with the file's name.
template <class F>
decltype(auto) from_file(const std::filesystem::path& path, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const mamba::Error& error) {
    if (error.kind() != mamba::ErrorKind::bad_file && error.kind() != mamba::ErrorKind::invalid_argument) throw;
    const std::string name = path.string();
    if (std::string_view(error.what()).find(name) != std::string_view::npos)
      mamba::fail(mamba::ErrorKind::bad_file, error.what());
    mamba::fail(mamba::ErrorKind::bad_file, name, ": ", error.what());
  }
}

// Throws Error(bad_file).
inline std::string read_text(const std::filesystem::path& path) {
  const auto bytes = mamba::io::read_file(path);
  return {bytes.data(), bytes.size()};
}

// Throws Error(bad_file) that names the file.
inline mamba::io::Json read_json(const std::filesystem::path& path) {
  const std::string text = read_text(path);
  return from_file(path, [&] { return mamba::io::Json::parse(text); });
}

}  // namespace support
