// What the fuzz targets share. A target is a function of bytes: anything but a return, or a mamba::Error that it
// expects, is a finding.
#pragma once

#include <fcntl.h>
#include <unistd.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <mamba/core/error.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

namespace fuzz {

// Ends the program, which is a finding, where what must hold does not.
inline void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// Whether two lists have the same bytes: NaNs are not equal to themselves.
template <class List>
bool same_bytes(const List& a, const List& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
}
template <class Dict>
bool same_dict(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a)
    if (const auto other = b.find(name);
        other == b.end() || tensor.shape != other->second.shape || !same_bytes(tensor.values, other->second.values))
      return false;
  return true;
}

// A file that holds one input after the other. It is never cut to nothing in between: some file systems wait for the
// disk then.
class InputFile {
 public:
  // In $TMPDIR, best a memory's; gone at the end.
  InputFile() : passing_(true) {
    std::string name = (std::filesystem::temp_directory_path() / "mamba-fuzz-XXXXXX").string();
    file_ = ::mkstemp(name.data());
    path_ = name;
    must(file_ >= 0, "a temporary file can be made");
  }
  // At this place; it stays.
  explicit InputFile(const std::filesystem::path& path)
      : passing_(false), path_(path), file_(::open(path.c_str(), O_RDWR | O_CREAT, 0666)) {
    must(file_ >= 0, "the file for the last input can be made");
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() {
    ::close(file_);
    std::error_code ignored;
    if (passing_) std::filesystem::remove(path_, ignored);
  }
  const std::filesystem::path& holding(const std::uint8_t* bytes, std::size_t size) const {
    must(::pwrite(file_, bytes, size, 0) == static_cast<::ssize_t>(size) &&
             ::ftruncate(file_, static_cast<::off_t>(size)) == 0,
         "the input can be written");
    return path_;
  }

 private:
  bool passing_;
  std::filesystem::path path_;
  int file_ = -1;
};

// Whether f() returns; false after a mamba::Error that says something about a file.
template <class F>
bool accepted(F&& f) {
  try {
    f();
    return true;
  } catch (const mamba::Error& error) {
    must(error.kind() == mamba::ErrorKind::bad_file, "what is wrong with a file is of the kind bad_file");
    must(std::strlen(error.what()) < 2000, "a message is short, whatever the file holds");
    return false;
  }
}

}  // namespace fuzz
