#include <catch2/catch_test_macros.hpp>
#include <clocale>
#include <filesystem>
#include <locale>
#include <string>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/io/figure/figure.hpp>
#include <mamba/io/figure/heatmap.hpp>

#include "support/scratch.hpp"

using mamba::io::Json;

namespace {

// A comma before the decimals, a point between thousands, as in Germany.
struct Commas : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

// Sets such a locale for C++, and for C where the machine has one.
class Foreign {
 public:
  Foreign()
      : c_before_(std::setlocale(LC_ALL, nullptr)),
        before_(std::locale::global(std::locale(std::locale(), new Commas))) {
    for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "German"})
      if (std::setlocale(LC_ALL, name)) break;
  }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;
  ~Foreign() {
    std::locale::global(before_);
    std::setlocale(LC_ALL, c_before_.c_str());
  }

 private:
  std::string c_before_;
  std::locale before_;
};

inline constexpr mamba::Config config{.vocab_size = 1300, .d_model = 8, .d_state = 4};
using Model = mamba::MambaForComposite<config>;

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const mamba::Error& error) {
    return error.what();
  }
  return "none";
}

// All that the library writes of numbers.
std::vector<std::string> texts(const std::filesystem::path& folder) {
  using mamba::io::LineChart, mamba::io::Scale;
  std::vector<std::string> all;
  const mamba::io::Series series{"line", {{0.25, 1234.5}, {1500.5, 0.0625}}, true, {{1, 0.5, 2.5}, {2, 1.5, 3.5}}};
  for (const Scale scale : {Scale::linear, Scale::log})
    for (const int columns : {1, 2})
      all.push_back(LineChart{.title = "t",
                              .x_label = "x",
                              .panels = {{"y", {series}}, {"z", {series}, 0.5, 1e4}},
                              .columns = columns,
                              .x_scale = scale,
                              .y_scale = scale}
                        .svg());
  all.push_back(mamba::io::heatmaps_svg("t", {{"m", "r", "c", {"a"}, {"b", "c", "d"}, {{0.5, -1234.5, 1e12}}}}));
  all.push_back(mamba::io::BarChart{"t", "y", {"a"}, {"b"}, {{0.375}}}.svg());

  all.push_back(message_of([] {
    mamba::fail(mamba::ErrorKind::invalid_argument, 1234567, " and ", 0.5, " and ", 1234567.5F, " and ", 1e300);
  }));
  all.push_back(Json(0.5).dump() + Json(1234567).dump() + Json(1e-7).dump() + Json(1234567.25).dump());
  all.push_back(
      Json(Json::parse("[0.5, 1234567, 1.5e3]").elements()[2].number() + Json::parse("1234567.5").number()).dump());

  Model model({.n_layers = 1, .gamma = 0.5, .threads = 1});
  all.push_back(mamba::config_json(model));
  all.push_back(message_of([&] { model(std::vector<std::int32_t>{1234567}, 1); }));
  all.push_back(message_of([] { Model wrong({.n_layers = 1, .gamma = -1234.5, .threads = 1}); }));
  mamba::save(model, folder / "model");
  const std::vector<char> bytes = mamba::io::read_file(folder / "model");
  all.emplace_back(bytes.data(), bytes.size());
  mamba::load(model, folder / "model");
  all.push_back(mamba::config_json(model));
  return all;
}

}  // namespace

TEST_CASE("what the library writes does not ask the program's locale") {
  const auto folder = support::scratch("locale");
  const std::vector<std::string> here = texts(folder);
  std::vector<std::string> there;
  {
    const Foreign locale;
    there = texts(folder);
  }
  REQUIRE(there.size() == here.size());
  for (std::size_t i = 0; i < here.size(); ++i) {
    INFO("text " << i);
    CHECK(there[i] == here[i]);
  }
  CHECK(here[6] == "1234567 and 0.5 and 1.23457e+06 and 1e+300");
}
