// Folders of results: made when there is something to write, and one program's at a time.
#pragma once

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

#include <mamba/core/error.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#endif

namespace support {

// Throws Error(cannot_write).
inline void create_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", path.string(), ": ", error.message());
}

// Makes `path`, or the first of path-2, path-3, ... that is not there yet. Throws Error(cannot_write).
inline std::filesystem::path create_fresh_folder(const std::filesystem::path& path) {
  if (path.has_parent_path()) create_folder(path.parent_path());
  std::filesystem::path fresh = path;
  for (int n = 2;; ++n) {
    std::error_code error;
    if (std::filesystem::create_directory(fresh, error)) return fresh;  // ours, even if others look for one now
    if (!std::filesystem::exists(fresh)) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", fresh.string(), ": ", error.message());
    fresh = path.string() + "-" + std::to_string(n);
  }
}

// Holds a folder for this process, where the system knows how: two that wrote the same tables would lose each other's rows.
class FolderLock {
 public:
  // Throws Error(invalid_argument) where another process has it.
  explicit FolderLock(const std::filesystem::path& folder) {
#if defined(__unix__) || defined(__APPLE__)
    file_ = ::open((folder / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    if (file_ >= 0 && ::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(file_);
      mamba::fail(mamba::ErrorKind::invalid_argument, folder.string(),
                  " is another process's: a shard, or a second run of the program, needs a folder of its own");
    }
#else
    (void)folder;
#endif
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() {
#if defined(__unix__) || defined(__APPLE__)
    if (file_ >= 0) ::close(file_);
#endif
  }

 private:
  int file_ = -1;
};

}  // namespace support
