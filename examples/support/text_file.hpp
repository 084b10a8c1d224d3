// Small text files: whole, and tables of comma-separated values.
#pragma once

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>

namespace support {

// Throws Error(bad_file).
inline std::string read_text(const std::filesystem::path& path) {
  const auto bytes = mamba::io::read_file(path);
  return {bytes.data(), bytes.size()};
}

// Throws Error(bad_file) that names the file.
inline mamba::io::Json read_json(const std::filesystem::path& path) {
  const std::string text = read_text(path);
  try {
    return mamba::io::Json::parse(text);
  } catch (const mamba::Error& error) {
    mamba::fail(error.kind(), path.string(), ": ", error.what());
  }
}

// The cells of a line.
inline std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> all;
  std::istringstream in(line);
  for (std::string cell; std::getline(in, cell, ',');) all.push_back(cell);
  return all;
}

// "1,0.25,nan"
inline std::string row_text(const std::vector<double>& row) {
  std::string text;
  for (const double x : row) text.append(text.empty() ? "" : ",").append(std::isfinite(x) ? mamba::io::Json(x).dump() : "nan");
  return text;
}

// A table of numbers under a line of names.
struct NumberTable {
  std::vector<std::string> names;
  std::vector<std::vector<double>> rows;

  // Throws Error(bad_file) where a line has not a number for each name.
  static NumberTable read(const std::filesystem::path& path) {
    std::istringstream in(read_text(path));
    std::string line;
    std::getline(in, line);
    NumberTable table{cells(line), {}};
    while (std::getline(in, line)) {
      std::vector<double> row;
      bool numbers = true;
      for (const std::string& cell : cells(line)) {
        char* end = nullptr;
        row.push_back(std::strtod(cell.c_str(), &end));
        numbers = numbers && !cell.empty() && *end == '\0';
      }
      if (!numbers || row.size() != table.names.size())
        mamba::fail(mamba::ErrorKind::bad_file, path.string(), ": '", line, "' is not a row of ", table.names.size(), " numbers");
      table.rows.push_back(std::move(row));
    }
    return table;
  }
};

}  // namespace support
