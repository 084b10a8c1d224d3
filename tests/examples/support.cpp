// What the programs share: numbers and tables that are read from files, command lines, folders.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <clocale>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>

#include "support/arguments.hpp"
#include "support/folder.hpp"
#include "support/number_table.hpp"
#include "support/numbers.hpp"
#include "support/progress.hpp"
#include "support/text_file.hpp"

namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

fs::path fresh_folder(const char* name) {
  const fs::path folder = fs::temp_directory_path() / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

// The kind of the Error that f throws, if it does.
template <class F>
std::optional<mamba::ErrorKind> kind_of(F&& f) {
  try {
    f();
  } catch (const mamba::Error& error) {
    return error.kind();
  }
  return std::nullopt;
}

std::optional<int> parse(std::vector<std::string> words, const std::vector<std::string>& may_be_empty = {}) {
  CLI::App app;
  std::string text;
  fs::path path;
  std::optional<double> number;
  std::vector<std::string> names;
  app.add_option("--text", text);
  app.add_option("--path", path);
  app.add_option("--number", number);
  app.add_option("names", names);
  words.insert(words.begin(), "program");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return support::parse(app, static_cast<int>(argv.size()), argv.data(), [] {}, may_be_empty);
}

}  // namespace

TEST_CASE("examples: a number is all of its text, in any locale") {
  if (std::setlocale(LC_ALL, "de_DE.UTF-8")) SUCCEED("with a decimal comma");
  CHECK(support::number("0.25") == 0.25);
  CHECK(support::row_text({0.5, NAN, 1e-4, INFINITY}) == "0.5,nan,1e-04,nan");
  for (const char* text : {"", "0,25", "1 ", " 1", "1x", "1e400", "--1"}) CHECK_FALSE(support::number(text));
  CHECK(support::whole<int>("-3") == -3);
  for (const char* text : {"", "1.0", "2147483648", "+1", "1e3"}) CHECK_FALSE(support::whole<int>(text));
  CHECK(support::at_right("0.5", 6) == "   0.5");
  std::setlocale(LC_ALL, "C");
}

TEST_CASE("examples: an empty word is no value") {
  CHECK_FALSE(parse({"--text", "a", "--path", "b", "--number", "1", "c"}));
  for (const char* option : {"--text", "--path", "--number"}) {
    CHECK(parse({option, ""}) == support::usage);
    CHECK(parse({std::string(option) + "=", "a"}) == support::usage);
  }
  CHECK(parse({""}) == support::usage);
  CHECK(parse({"a", ""}) == support::usage);
  CHECK_FALSE(parse({"--text", ""}, {"--text"}));
  CHECK(parse({"--help"}) == support::done);
}

TEST_CASE("examples: a table is what it should be, or an error names file, line and column") {
  const fs::path file = fresh_folder("mamba-examples-table") / "table.csv";
  const std::vector<support::Column> columns{
      support::whole_column("layers", 1, 1000), lacking(support::share_column("share")), {"loss"}};
  const auto read = [&](const std::string& text) {
    mamba::io::write_file(file, text);
    return support::NumberTable::read(file, columns).rows;
  };
  CHECK(read("layers,share,loss\n2,0.5,-1\n1000,1,1e300\n") ==
        std::vector<std::vector<double>>{{2, .5, -1}, {1000, 1, 1e300}});
  CHECK(std::isnan(read("layers,share,loss\n2,nan,1")[0][1]));
  for (const char* row : {"1e300,0,0", "0,0,0",    "1001,0,0", "1.5,0,0",   "-1,0,0",   "nan,0,0", "inf,0,0",
                          "2,1.01,0",  "2,-0.1,0", "2,inf,0",  "2,1e300,0", "2,0,nan",  "2,0,inf", "2,0",
                          "2,0,0,0",   "2,0,0,",   "2,,0",     "",          "2,0,zero", "2, 0,0",  "2,0,0\r"}) {
    INFO(row);
    const auto text = std::string("layers,share,loss\n3,0,0\n") + row + "\n";
    CHECK(kind_of([&] { read(text); }) == mamba::ErrorKind::bad_file);
    CHECK_THROWS_MATCHES(read(text), mamba::Error,
                         MessageMatches(ContainsSubstring(file.string()) && ContainsSubstring("line 3")));
  }
  CHECK_THROWS_MATCHES(read("layers,share,loss\n2,3,0\n"), mamba::Error,
                       MessageMatches(ContainsSubstring("share is a number from 0 to 1, or nan; given 3")));
  for (const char* text : {"", "\n", "layers,share\n1,1\n", "layers,loss,share\n1,1,1\n"})
    CHECK_THROWS_MATCHES(read(text), mamba::Error,
                         MessageMatches(ContainsSubstring("does not begin with layers,share,loss")));
}

TEST_CASE("examples: what is refused of a file names the file, once, and is the file's fault") {
  const auto from = [](auto&& f) { return [f] { support::from_file("runs/config.json", f); }; };
  const auto out_of_range = from([] { mamba::fail(mamba::ErrorKind::invalid_argument, "layers are 0"); });
  CHECK(kind_of(out_of_range) == mamba::ErrorKind::bad_file);
  CHECK_THROWS_MATCHES(out_of_range(), mamba::Error,
                       MessageMatches(Catch::Matchers::Equals("runs/config.json: layers are 0")));
  CHECK_THROWS_MATCHES(from([] { mamba::fail(mamba::ErrorKind::bad_file, "cannot open runs/config.json"); })(),
                       mamba::Error, MessageMatches(Catch::Matchers::Equals("cannot open runs/config.json")));
  CHECK(kind_of(from([] { mamba::fail(mamba::ErrorKind::diverged, "x"); })) == mamba::ErrorKind::diverged);
}

TEST_CASE("examples: a folder has one owner, and who cannot own it says why") {
  const fs::path folder = fresh_folder("mamba-examples-folder");
  {
    const support::OwnFolder own(folder / "a" / "b");
    CHECK(fs::is_directory(folder / "a" / "b"));
#if defined(__unix__) || defined(__APPLE__)
    CHECK(kind_of([&] { support::OwnFolder{folder / "a" / "b"}; }) == mamba::ErrorKind::invalid_argument);
#endif
    const support::OwnFolder other(folder / "a");
  }
  const support::OwnFolder again(folder / "a" / "b");
#if defined(__unix__) || defined(__APPLE__)
  fs::create_directories(folder / "locked" / ".lock");  // cannot be opened for writing, not even by root
  CHECK(kind_of([&] { support::OwnFolder{folder / "locked"}; }) == mamba::ErrorKind::cannot_write);
  fs::create_directories(folder / "link");
  fs::create_symlink(folder / "elsewhere", folder / "link" / ".lock");
  CHECK(kind_of([&] { support::OwnFolder{folder / "link"}; }) == mamba::ErrorKind::cannot_write);
  CHECK_FALSE(fs::exists(folder / "elsewhere"));
#endif
  mamba::io::write_file(folder / "file", "");
  CHECK(kind_of([&] { support::OwnFolder{folder / "file"}; }) == mamba::ErrorKind::cannot_write);
  CHECK(support::create_fresh_folder(folder / "new") == folder / "new");
  CHECK(support::create_fresh_folder(folder / "new") == folder / "new-2");
}

TEST_CASE("examples: durations of any size are told") {
  CHECK(support::duration_text(7260) == "2h01m");
  CHECK(support::duration_text(61) == "1m01s");
  CHECK(support::duration_text(NAN) == "0s");
  CHECK(support::duration_text(-1) == "0s");
  CHECK(support::duration_text(1e300) == support::duration_text(1e9));
}
