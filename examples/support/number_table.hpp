// Tables of numbers as comma-separated values, checked as they are read.
#pragma once

#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/text.hpp>
#include <mamba/io/json.hpp>

#include "numbers.hpp"
#include "text_file.hpp"

namespace support {

// What the numbers of a column may be.
struct Column {
  std::string name;
  double low = -INFINITY, high = INFINITY;  // both included; an infinite one stands for any finite number
  bool whole = false, may_lack = false;     // may_lack: "nan" stands where there is none
};
inline Column whole_column(std::string name, double low, double high) { return {std::move(name), low, high, true}; }
inline Column share_column(std::string name) { return {std::move(name), 0, 1}; }
inline Column positive_column(std::string name) { return {std::move(name), 0}; }
inline Column lacking(Column column) {
  column.may_lack = true;
  return column;
}

// Whether a column may hold x.
inline bool fits(const Column& column, double x) {
  if (std::isnan(x)) return column.may_lack;
  return std::isfinite(x) && x >= column.low && x <= column.high && (!column.whole || std::floor(x) == x);
}

// "a whole number from 0 to 5"
inline std::string expectation(const Column& column) {
  std::string text = column.whole ? "a whole number" : "a number";
  if (std::isfinite(column.low)) text += " from " + mamba::general_text(column.low, 17);
  if (std::isfinite(column.high)) text += " to " + mamba::general_text(column.high, 17);
  return column.may_lack ? text + ", or nan" : text;
}

// "1,0.25,nan"
inline std::string row_text(const std::vector<double>& row) {
  std::string text;
  for (const double x : row)
    text.append(text.empty() ? "" : ",").append(std::isfinite(x) ? mamba::shortest_text(x) : "nan");
  return text;
}

// The pieces of a text between separators: one more than there are of those.
inline std::vector<std::string_view> pieces(std::string_view text, char separator) {
  std::vector<std::string_view> all;
  for (;;) {
    const auto at = text.find(separator);
    all.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return all;
    text.remove_prefix(at + 1);
  }
}

// A table of numbers under a line of names.
struct NumberTable {
  std::vector<std::string> names;
  std::vector<std::vector<double>> rows;

  // Any table. Throws Error(bad_file) where a line has not a number for each name; "nan" counts as one.
  static NumberTable read(const std::filesystem::path& path) {
    const std::string text = read_text(path);
    auto lines = pieces(text, '\n');
    if (lines.size() > 1 && lines.back().empty()) lines.pop_back();
    NumberTable table;
    for (const std::string_view name : pieces(lines[0], ',')) table.names.emplace_back(name);
    for (std::size_t i = 1; i < lines.size(); ++i) {
      std::vector<double> row;
      bool numbers = true;
      for (const std::string_view cell : pieces(lines[i], ',')) {
        const auto x = number(cell);
        row.push_back(x.value_or(0));
        numbers = numbers && x && !std::isinf(*x);
      }
      if (!numbers || row.size() != table.names.size())
        mamba::fail(mamba::ErrorKind::bad_file, path.string(), ", line ", i + 1, ": '", lines[i].substr(0, 200),
                    "' is not a row of ", table.names.size(), " numbers");
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  // A table of these columns. Throws Error(bad_file) where it has others, or a number that its column cannot hold.
  static NumberTable read(const std::filesystem::path& path, const std::vector<Column>& columns) {
    NumberTable table = read(path);
    std::string expected;
    bool same = table.names.size() == columns.size();
    for (std::size_t c = 0; c < columns.size(); ++c) {
      expected.append(c ? "," : "").append(columns[c].name);
      same = same && table.names[c] == columns[c].name;
    }
    if (!same) mamba::fail(mamba::ErrorKind::bad_file, path.string(), " does not begin with ", expected);
    for (std::size_t r = 0; r < table.rows.size(); ++r)
      for (std::size_t c = 0; c < columns.size(); ++c)
        if (!fits(columns[c], table.rows[r][c]))
          mamba::fail(mamba::ErrorKind::bad_file, path.string(), ", line ", r + 2, ": ", columns[c].name, " is ",
                      expectation(columns[c]), "; given ", mamba::general_text(table.rows[r][c], 17));
    return table;
  }
};

}  // namespace support
