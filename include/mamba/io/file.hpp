// Files that are whole or not there: written beside their target, synced, renamed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/posix.hpp>

namespace mamba::io {

namespace detail {

// Throws an Error unless a file can have that name at all.
inline void check_path(ErrorKind kind, const char* verb, const std::filesystem::path& path) {
  if (path.empty()) fail(kind, "cannot ", verb, " a file: its path is empty");
  if (path.native().find(std::filesystem::path::value_type(0)) != std::filesystem::path::string_type::npos)
    fail(kind, "cannot ", verb, " ", path.string().c_str(), "...: the path holds a zero byte");
}

// As many bytes as the file is said to have. Throws Error(bad_file) where there is no memory for them.
inline std::vector<char> room_for(std::uintmax_t size, const std::filesystem::path& path) {
  try {
    if (size <= (std::uintmax_t(-1) >> 1)) return std::vector<char>(static_cast<std::size_t>(size));
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  fail(ErrorKind::bad_file, "cannot read ", path.string(), ": there is no memory for its ", size, " bytes");
}

[[noreturn]] inline void fail_as_changed(const std::filesystem::path& path) {
  fail(ErrorKind::bad_file, "cannot read ", path.string(), ": its size changed while it was read");
}

}  // namespace detail

#if defined(__unix__) || defined(__APPLE__)

namespace detail {

// Opens a file to be read and says what it is. Only regular files are read: a folder, a pipe or a device is refused.
// Throws Error(bad_file).
inline struct stat open_to_read(Descriptor& file, const std::filesystem::path& path) {
  check_path(ErrorKind::bad_file, "read", path);
  const auto cannot_open = [&] { fail(ErrorKind::bad_file, "cannot open ", path.string(), ": ", reason_text(errno)); };
  const auto check = [&](const struct stat& info) {
    if (S_ISDIR(info.st_mode)) fail(ErrorKind::bad_file, "cannot read ", path.string(), ": it is a folder");
    if (!S_ISREG(info.st_mode))
      fail(ErrorKind::bad_file, "cannot read ", path.string(),
           ": it is no regular file but a pipe, a socket or a device");
  };
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) cannot_open();
  check(info);  // before it is opened: to open a pipe waits, to open a device may do something
  file.reset(uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); }));
  if (!file.open() || ::fstat(file.get(), &info) != 0) cannot_open();
  check(info);
  return info;
}

// The bytes of an open file of this size. Throws Error(bad_file), also where the size changes meanwhile.
inline std::vector<char> read_all(const Descriptor& file, std::uintmax_t size, const std::filesystem::path& path) {
  constexpr std::size_t at_most = std::size_t(1) << 30;  // some systems take no more than an int's at once
  std::vector<char> bytes = room_for(size, path);
  const auto read_to = [&](char* to, std::size_t most) {
    const auto n = uninterrupted([&] { return ::read(file.get(), to, most); });
    if (n < 0) fail(ErrorKind::bad_file, "cannot read ", path.string(), ": ", reason_text(errno));
    return static_cast<std::size_t>(n);
  };
  for (std::size_t done = 0; done < bytes.size();) {
    const std::size_t n = read_to(bytes.data() + done, (std::min)(bytes.size() - done, at_most));
    if (n == 0) fail_as_changed(path);
    done += n;
  }
  char more = 0;
  if (read_to(&more, 1) != 0) fail_as_changed(path);
  return bytes;
}

}  // namespace detail

// A file's bytes. Only regular files are read: a folder, a pipe or a device is refused. Throws Error(bad_file), also
// where the file is missing, cannot be read, or changes its size meanwhile.
inline std::vector<char> read_file(const std::filesystem::path& path) {
  detail::Descriptor file;
  const struct stat info = detail::open_to_read(file, path);
  return detail::read_all(file, static_cast<std::uintmax_t>(info.st_size), path);
}

// Takes the next bytes of a file that is being written.
using Put = std::function<void(std::string_view)>;

// Makes what produce(put) puts, piece after piece, the file's contents: no more of it than a piece is in memory.
// Whoever reads sees the old file or the new one, each whole, however many write and whenever one of them is killed; on
// any failure what was there stays, and Error(cannot_write) is thrown, or what produce() throws.
//
// A symbolic link stays, and what it leads to is written. Rights, and owner where permitted, stay as they were; another
// name of the same file (a hard link) keeps the old contents. A file that this process may not write is not replaced. A
// FIFO, a character device and an open file of this process (/dev/stdout) are written to as they stand, a folder,
// socket or block device is refused.
inline void write_file(const std::filesystem::path& path, const std::function<void(const Put&)>& produce) {
  detail::check_path(ErrorKind::cannot_write, "write", path);
  const auto cannot = [&](const std::string& reason) {
    fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": ", reason);
  };
  const auto check = [&](int reason) {
    if (reason != 0) cannot(detail::reason_text(reason));
  };
  const auto put_to = [&](int descriptor) {
    produce([&](std::string_view piece) { check(detail::write_all(descriptor, piece)); });
  };
  const detail::Target target = detail::target_of(path);
  if (target.own_descriptor >= 0) return put_to(target.own_descriptor);
  const mode_t mode = target.info.st_mode;
  if (target.exists && (S_ISFIFO(mode) || S_ISCHR(mode))) {
    const detail::Descriptor file(detail::open_to_write_directly(target, path));
    return put_to(file.get());
  }
  if (target.exists && S_ISDIR(mode)) cannot("it is a folder");
  if (target.exists && !S_ISREG(mode)) cannot("it is no regular file but a socket or a block device");
  if (!target.path.has_filename()) cannot("the path ends with no file's name");
  if (target.exists && ::faccessat(AT_FDCWD, target.path.c_str(), W_OK, AT_EACCESS) != 0) check(errno);

  // What nobody else may read is not for anybody to read on its way there.
  detail::Temporary file(target.path, target.exists ? S_IRUSR | S_IWUSR : 0666, path);
  put_to(file.descriptor());
  if (target.exists) check(file.take_rights(target.info));
  check(file.move_to(target.path));
}

// A writer that is killed leaves its temporary file, which the next one of the same path removes. Removes those of
// every path in the folder whose file name is_one takes, for who writes under new names each time; not a living
// writer's.
inline void remove_unfinished(const std::filesystem::path& folder,
                              const std::function<bool(std::string_view)>& is_one) {
  detail::Temporary::remove_leftovers(folder, [&](std::string_view begin) {
    return is_one(begin.substr(1, begin.size() - 2));  // without the points around it
  });
}

#else

namespace detail {

inline std::FILE* open_file(const std::filesystem::path& path, bool create) {
#if defined(_WIN32)
  return ::_wfopen(path.c_str(), create ? L"wbx" : L"rb");
#else
  return std::fopen(path.c_str(), create ? "wbx" : "rb");
#endif
}
inline std::string reason_text(int reason) { return std::generic_category().message(reason); }

// Throws an Error where something other than a regular file lies there.
inline void check_kind(ErrorKind kind, const char* verb, const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) fail(kind, "cannot ", verb, " ", path.string(), ": it is a folder");
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    fail(kind, "cannot ", verb, " ", path.string(), ": it is no regular file");
}

}  // namespace detail

// A file's bytes. Only regular files are read. Throws Error(bad_file), also where the file is missing, cannot be read,
// or changes its size meanwhile.
inline std::vector<char> read_file(const std::filesystem::path& path) {
  detail::check_path(ErrorKind::bad_file, "read", path);
  detail::check_kind(ErrorKind::bad_file, "read", path);
  std::FILE* const file = detail::open_file(path, false);
  if (!file) fail(ErrorKind::bad_file, "cannot open ", path.string(), ": ", detail::reason_text(errno));
  struct Closed {
    std::FILE* file;
    ~Closed() { std::fclose(file); }
  } const closed{file};
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorKind::bad_file, "cannot read ", path.string(), ": ", error.message());
  std::vector<char> bytes = detail::room_for(size, path);
  char more = 0;
  if (std::fread(bytes.data(), 1, bytes.size(), file) != bytes.size() || std::fread(&more, 1, 1, file) != 0)
    detail::fail_as_changed(path);
  return bytes;
}

// Takes the next bytes of a file that is being written.
using Put = std::function<void(std::string_view)>;

// Makes what produce(put) puts, piece after piece, the file's contents: written to a file of another name beside its
// target, then renamed. On any failure what was there stays, and Error(cannot_write) is thrown, or what produce()
// throws.
inline void write_file(const std::filesystem::path& path, const std::function<void(const Put&)>& produce) {
  static std::atomic<std::uint64_t> count{0};
  detail::check_path(ErrorKind::cannot_write, "write", path);
  detail::check_kind(ErrorKind::cannot_write, "write", path);
  if (!path.has_filename())
    fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": the path ends with no file's name");
  std::error_code error;
  std::filesystem::path target = std::filesystem::weakly_canonical(path, error);
  if (error) target = path;
  const std::filesystem::path beside =
      target.parent_path() / (".mamba-" + std::to_string(std::chrono::system_clock::now().time_since_epoch().count()) +
                              "-" + std::to_string(count.fetch_add(1)) + ".tmp");
  std::FILE* const file = detail::open_file(beside, true);
  if (!file)
    fail(ErrorKind::cannot_write, "cannot write ", path.string(),
         ": no new file can be made in its folder: ", detail::reason_text(errno));
  int reason = 0;
  const auto keep = [&](bool done) {
    if (reason == 0 && !done) reason = errno != 0 ? errno : EIO;
  };
  struct Left {
    std::FILE* file;
    const std::filesystem::path* path;
    ~Left() {
      std::error_code ignored;
      if (file) std::fclose(file);
      if (path) std::filesystem::remove(*path, ignored);
    }
  } left{file, &beside};
  produce([&](std::string_view piece) {
    if (reason == 0) keep(std::fwrite(piece.data(), 1, piece.size(), file) == piece.size());
  });
  keep(std::fflush(file) == 0);
  left.file = nullptr;
  keep(std::fclose(file) == 0);
  std::string words = reason != 0 ? detail::reason_text(reason) : "";
  if (reason == 0) {
    std::filesystem::rename(beside, target, error);
    if (!error) {
      left.path = nullptr;
      return;
    }
    words = error.message();
  }
  fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": ", words);
}

// Here a temporary file's name does not say whose it is, nor its locks whether that one lives: all stay.
inline void remove_unfinished(const std::filesystem::path&, const std::function<bool(std::string_view)>&) {}

#endif

// The same of bytes that are in memory, in pieces or whole.
inline void write_file(const std::filesystem::path& path, const std::vector<std::string_view>& pieces) {
  write_file(path, [&](const Put& put) {
    for (const std::string_view piece : pieces) put(piece);
  });
}
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  write_file(path, [&](const Put& put) { put(text); });
}

}  // namespace mamba::io
