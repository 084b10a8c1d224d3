// Files that are whole or not there: written beside their place, synced, renamed.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

#include <mamba/core/error.hpp>

namespace mamba::io {

// Throws Error(bad_file) when the file is missing or cannot be read.
inline std::vector<char> read_file(const std::filesystem::path& path) {
  std::FILE* const file = std::fopen(path.c_str(), "rb");
  if (!file) fail(ErrorKind::bad_file, "cannot open ", path.string(), ": ", std::strerror(errno));
  std::vector<char> bytes;
  char block[1 << 16];
  for (std::size_t n; (n = std::fread(block, 1, sizeof block, file)) > 0;) bytes.insert(bytes.end(), block, block + n);
  const bool failed = std::ferror(file) != 0;
  const int reason = errno;
  std::fclose(file);
  if (failed) fail(ErrorKind::bad_file, "cannot read ", path.string(), ": ", std::strerror(reason));
  return bytes;
}

// Replaces the file's contents by the pieces, one after the other; on any failure what was there before stays, and
// Error(cannot_write) is thrown.
inline void write_file(const std::filesystem::path& path, const std::vector<std::string_view>& pieces) {
  std::filesystem::path beside = path;
  beside += ".tmp";
  std::FILE* const file = std::fopen(beside.c_str(), "wb");
  if (!file) fail(ErrorKind::cannot_write, "cannot write ", beside.string(), ": ", std::strerror(errno));
  bool ok = true;
  int reason = 0;
  const auto keep = [&](bool done) {
    if (ok && !done) ok = false, reason = errno;
  };
  for (const std::string_view piece : pieces) keep(std::fwrite(piece.data(), 1, piece.size(), file) == piece.size());
  keep(std::fflush(file) == 0);
#if defined(__unix__) || defined(__APPLE__)
  keep(::fsync(::fileno(file)) == 0);
#endif
  keep(std::fclose(file) == 0);
  if (ok) keep(std::rename(beside.c_str(), path.c_str()) == 0);
  if (!ok) {
    std::remove(beside.c_str());
    fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": ", std::strerror(reason));
  }
#if defined(__unix__) || defined(__APPLE__)
  // The rename itself is safe once the folder is synced; a file system that cannot do that is left to its own.
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (const int fd = ::open(folder.c_str(), O_RDONLY); fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
#endif
}

inline void write_file(const std::filesystem::path& path, std::string_view text) { write_file(path, std::vector<std::string_view>{text}); }

}  // namespace mamba::io
