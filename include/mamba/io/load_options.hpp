// What every load() asks of a file's numbers, and how its errors name the file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>

namespace mamba {

struct LoadOptions {
  bool refuse_nonfinite = false;  // a file with NaNs or infinities is an error

  // How many of a dictionary's numbers are not finite. Throws Error(bad_file) where such are refused.
  template <class Dict>
  Nonfinite checked(const Dict& dict) const {
    Nonfinite found = nonfinite_in(dict);
    check(found);
    return found;
  }
  // The same where they are counted already.
  void check(const Nonfinite& found) const {
    if (refuse_nonfinite && found)
      fail(ErrorKind::bad_file, found.count, " of its numbers are not finite, the first of them in ", found.first);
  }
};

namespace io {

// f(), whose errors of kind bad_file begin with the file's name where they do not yet.
template <class F>
decltype(auto) naming(const std::filesystem::path& path, F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    const std::string name = path.string();
    const std::string_view words = error.what();
    const bool named = words.starts_with(name + ":") || words.starts_with(name + " ") || words.starts_with("cannot ");
    if (error.kind() != ErrorKind::bad_file || named) throw;
    fail(error.kind(), name, ": ", words);
  }
}

}  // namespace io

}  // namespace mamba
