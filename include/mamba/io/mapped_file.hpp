// A file's bytes where the system keeps them: mapped, so that a program reads what it looks at and holds no copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace mamba::io {

// Read-only. Where files cannot be mapped (another system, a file system without it) they are read instead.
//
// Whoever replaces a file as write_file does leaves a mapping as it is. One that is written to in place changes under
// it, and to touch what was cut off ends the program (SIGBUS): so who reads long asks check_unchanged() before and
// after each piece.
class MappedFile {
 public:
  // Bytes that are in memory already.
  explicit MappedFile(std::vector<char> bytes) : own_(std::move(bytes)), bytes_(own_.data(), own_.size()) {}
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return bytes_; }

#if defined(__unix__) || defined(__APPLE__)
  // Throws Error(bad_file) where read_file would.
  explicit MappedFile(const std::filesystem::path& path) : path_(path), opened_(detail::open_to_read(file_, path)) {
    const auto size = static_cast<std::uintmax_t>(opened_.st_size);
    if (size == 0) return;
    void* const at = size > SIZE_MAX / 2
                         ? MAP_FAILED
                         : ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, file_.get(), 0);
    if (at == MAP_FAILED) {
      own_ = detail::read_all(file_, size, path);
      bytes_ = {own_.data(), own_.size()};
      return;
    }
    mapped_ = at;
    bytes_ = {static_cast<const char*>(at), static_cast<std::size_t>(size)};
  }
  ~MappedFile() {
    if (mapped_) ::munmap(mapped_, bytes_.size());
  }

  // Throws Error(bad_file) where the file's size, or when it was last written, is not what it was.
  void check_unchanged() const {
    if (!mapped_) return;
    struct stat now{};
    if (::fstat(file_.get(), &now) != 0)
      fail(ErrorKind::bad_file, "cannot read ", path_.string(), ": ", detail::reason_text(errno));
    const auto written = [](const struct stat& info) {
#if defined(__APPLE__)
      return std::pair(info.st_mtimespec.tv_sec, info.st_mtimespec.tv_nsec);
#else
      return std::pair(info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
#endif
    };
    if (now.st_size != opened_.st_size || written(now) != written(opened_))
      fail(ErrorKind::bad_file, "cannot read ", path_.string(), ": it was changed while it was read");
  }

  // That bytes begin .. end - 1 are not wanted soon: they no longer count as this process's memory, and are read again
  // where they are. So are some before them: a system that is asked for a page brings its neighbours.
  void forget(std::size_t begin, std::size_t end) const {
    constexpr std::size_t neighbours = std::size_t{1} << 21;
    if (!mapped_ || begin >= end) return;
    begin = begin / neighbours * neighbours;
    (void)::madvise(static_cast<char*>(mapped_) + begin, end - begin, MADV_DONTNEED);
  }

 private:
  std::filesystem::path path_;
  detail::Descriptor file_;
  struct stat opened_{};
  void* mapped_ = nullptr;
#else
  explicit MappedFile(const std::filesystem::path& path) : MappedFile(read_file(path)) {}
  void check_unchanged() const {}
  void forget(std::size_t, std::size_t) const {}

 private:
#endif
  std::vector<char> own_;
  std::string_view bytes_;
};

}  // namespace mamba::io
