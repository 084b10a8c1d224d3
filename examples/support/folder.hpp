// Folders of results: made when there is something to write, and one program's at a time.
#pragma once

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <mamba/core/error.hpp>
#include <mamba/parallel/group.hpp>

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
    if (!std::filesystem::exists(fresh))
      mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", fresh.string(), ": ", error.message());
    fresh = path.string() + "-" + std::to_string(n);
  }
}

// Somebody else has a folder.
struct FolderInUse : mamba::Error {
  explicit FolderInUse(const std::string& folder)
      : Error(mamba::ErrorKind::invalid_argument,
              folder + " is another process's: a shard, or a second run of the program, needs a folder of its own") {}
};

// A folder that this process alone writes into for as long as the object lives: two that wrote the same tables, or the
// same run, would lose each other's work. Whoever writes results asks for one. Where system or file system knows no
// locks, nobody is kept away.
class OwnFolder {
 public:
  // Makes the folder where it is not there yet. Throws Error(cannot_write) where that fails, or nothing can be written
  // into it, and FolderInUse where another process, or another object of this one, has it.
  explicit OwnFolder(std::filesystem::path path) : path_(std::move(path)) { take(); }
  // Of a group's processes the first one has the folder; the others know where it is, and write nothing.
  OwnFolder(std::filesystem::path path, const mamba::Group& group) : path_(std::move(path)) {
    if (group.is_first()) take();
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;
  ~OwnFolder() {
#if defined(__unix__) || defined(__APPLE__)
    if (file_ >= 0) ::close(file_);
#endif
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }
  std::string string() const { return path_.string(); }

 private:
  void take() {
    create_folder(path_);
#if defined(__unix__) || defined(__APPLE__)
    file_ = ::open((path_ / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (file_ < 0)
      mamba::fail(mamba::ErrorKind::cannot_write, "cannot write into ", path_.string(),
                  ": its .lock cannot be opened: ", std::strerror(errno));
    while (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      if (reason == EINTR) continue;
      if (reason == ENOLCK || reason == ENOTSUP || reason == EOPNOTSUPP || reason == ENOSYS || reason == EINVAL)
        break;  // a file system without locks
      ::close(file_);
      if (reason == EWOULDBLOCK) throw FolderInUse(path_.string());
      mamba::fail(mamba::ErrorKind::cannot_write, "cannot lock ", path_.string(), ": ", std::strerror(reason));
    }
#endif
  }

  std::filesystem::path path_;
#if defined(__unix__) || defined(__APPLE__)
  int file_ = -1;
#endif
};

}  // namespace support
