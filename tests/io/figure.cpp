#include <algorithm>
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <mamba/io/figure/axis.hpp>
#include <mamba/io/figure/figure.hpp>
#include <mamba/io/figure/heatmap.hpp>

using mamba::io::LineChart;

namespace {
int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
}  // namespace

TEST_CASE("a chart holds its labels and one line for each series") {
  const std::string svg = LineChart{"a < b & c",
                                    "epoch",
                                    {{"loss", {{"training", {{0, 4.6}, {1, 2}, {2, 1}}}}},
                                     {"accuracy", {{"one", {{0, 0}, {2, 1}}}, {"two", {{0, 0.5}}}}, 0, 1}}}
                              .svg();
  CHECK(svg.starts_with("<svg"));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<polyline") == 3);
  CHECK(count(svg, "<circle") == 1);  // a single point is drawn as one
  for (const char* label :
       {"a &lt; b &amp; c", ">epoch<", ">loss<", ">accuracy<", ">training<", ">one<", ">two<", ">0.5<"})
    CHECK(count(svg, label) >= 1);
}

TEST_CASE("a band is drawn behind its line, and the axis has room for it") {
  LineChart chart{"t", "x", {{"y", {{"mean", {{0, 1}, {1, 2}}, false, {{0, 0, 1.5}, {0.5, NAN, 1}, {1, 1, 40}}}}}}};
  const std::string svg = chart.svg();
  CHECK(count(svg, "<polygon") == 1);
  CHECK(svg.find("<polygon") < svg.find("<polyline"));
  CHECK(count(svg, ">40<") == 1);
  const auto at = svg.find("points=\"", svg.find("<polygon")) + 8;
  CHECK(count(svg.substr(at, svg.find('"', at + 1) - at), ",") == 4);
}

TEST_CASE("a legend too long for its chart takes several rows") {
  LineChart chart{"t", "x", {}};
  chart.columns = 2;
  for (int p = 0; p < 2; ++p) {
    auto& series = chart.panels.emplace_back(mamba::io::Panel{"y", {}}).series;
    for (int line = 0; line < 6; ++line)
      series.push_back({"a name of thirty letters no. " + std::to_string(line), {{0, 1}, {1, 2}}});
  }
  const auto places = mamba::io::detail::legend_positions(
      {"a name of thirty letters no. 0", "a name of thirty letters no. 1", "a"}, 400);
  CHECK(places[1] == std::pair(0.0, 18.0));
  CHECK(places[2].second == 18.0);
  CHECK(count(chart.svg(), ">a name of thirty letters no. 5<") == 1);
}

TEST_CASE("no two of 42 lines look the same") {
  std::set<std::string> strokes;
  for (std::size_t line = 0; line < 42; ++line) strokes.insert(mamba::io::detail::stroke_of(line));
  CHECK(strokes.size() == 42);
}

TEST_CASE("degenerate data still make a chart") {
  for (const auto& points :
       {std::vector<std::pair<double, double>>{}, {{1, 1}}, {{1, NAN}, {2, INFINITY}}, {{0, 3}, {1, 3}}}) {
    const std::string svg = LineChart{"t", "x", {{"y", {{"s", points}}}}}.svg();
    CHECK(count(svg, "nan") == 0);
    CHECK(count(svg, "inf") == 0);
    CHECK(count(svg, "<polyline") == 1);
  }
}

TEST_CASE("neighbouring ticks have different labels, however near the values") {
  for (const double step : {1.0, 1e-3, 1e-6, 1e-9, 1e-11}) {
    const auto axis = mamba::io::detail::linear_y_axis({4.6, 4.6 + step});
    REQUIRE(axis.ticks.size() >= 2);
    for (std::size_t i = 1; i < axis.ticks.size(); ++i)
      CHECK(mamba::io::detail::number(axis.ticks[i - 1], axis.digits(4)) !=
            mamba::io::detail::number(axis.ticks[i], axis.digits(4)));
  }
  CHECK(mamba::io::detail::fixed(-0.001, 2) == "0.00");
  CHECK(mamba::io::detail::fixed(-0.01, 2) == "-0.01");
}

TEST_CASE("any two numbers make a chart of few ticks") {
  constexpr double infinity = std::numeric_limits<double>::infinity(), largest = (std::numeric_limits<double>::max)();
  const std::vector<double> numbers = {0,
                                       1,
                                       5e-324,
                                       -5e-324,
                                       1e-310,
                                       1e-300,
                                       1e-12,
                                       4.611457387112744,
                                       4.611457387112745,
                                       std::nextafter(2.0, 0),
                                       2,
                                       5e12,
                                       1e15,
                                       1e16,
                                       1e300,
                                       -1e300,
                                       1e308,
                                       largest,
                                       -largest,
                                       NAN,
                                       infinity,
                                       -infinity};
  using mamba::io::Scale;
  for (const double a : numbers)
    for (const double b : numbers)
      for (const Scale x_scale : {Scale::linear, Scale::log})
        for (const Scale y_scale : {Scale::linear, Scale::log}) {
          INFO(a << " and " << b);
          const std::string svg =
              LineChart{.title = "t",
                        .x_label = "x",
                        .panels = {{"y", {{"s", {{a, a}, {b, b}}, true, {{a, a, b}}}}}, {"z", {{"s", {{a, b}}}}, a, b}},
                        .columns = 0,
                        .x_scale = x_scale,
                        .y_scale = y_scale}
                  .svg();
          CHECK(count(svg, "nan") + count(svg, "inf") == 0);
          CHECK(count(svg, "<line ") < 100);
          CHECK(count(svg, "<line ") > 6);
        }
  for (const double a : numbers)
    for (const double b : numbers)
      CHECK(count(mamba::io::heatmaps_svg("t", {{"m", "r", "c", {"a"}, {}, {{a, b}, {b}}, a}}, 0) +
                      mamba::io::BarChart{"t", "", {}, {"a"}, {{a, b}}}.svg(),
                  "inf") == 0);
}

TEST_CASE("an axis has a low and a high end, and every tick between them") {
  using namespace mamba::io::detail;
  const auto check = [](const Axis& axis) {
    CHECK(axis.low < axis.high);
    CHECK(axis.ticks.size() <= 12);
    for (std::size_t i = 0; i < axis.ticks.size(); ++i) {
      CHECK((axis.position(axis.ticks[i]) >= 0 && axis.position(axis.ticks[i]) <= 1));
      if (i > 0) CHECK(axis.position(axis.ticks[i]) > axis.position(axis.ticks[i - 1]));
    }
  };
  std::uint64_t state = 1;
  const auto next = [&] {
    return state = state * 6364136223846793005ULL + 1442695040888963407ULL, state ^ state >> 29;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t bits = next();
    const auto a = std::bit_cast<double>(bits),
               b = std::bit_cast<double>(i % 2 ? bits + next() % 1000 : next());  // near each other, or anywhere
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    INFO(a << " and " << b);
    check(linear_x_axis({std::min(a, b), std::max(a, b)}));
    check(linear_y_axis({std::min(a, b), std::max(a, b)}));
    CHECK(linear_y_axis({std::min(a, b), std::max(a, b)}).ticks.size() >= 2);
    if (a > 0 && b > 0)
      check(log_x_axis({a, b})), check(log_y_axis({std::min(a, b), std::max(a, b)})),
          check(log_axis(std::min(a, b), std::max(a, b), 7));
  }
}

TEST_CASE("text of any bytes is a figure's text") {
  using mamba::io::detail::escaped;
  const std::string unknown = "\xEF\xBF\xBD";
  CHECK(escaped("<a href=\"b\"> & 'c'") == "&lt;a href=&quot;b&quot;&gt; &amp; 'c'");
  CHECK(escaped("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\t\n\r") == "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\t\n\r");
  CHECK(escaped(std::string("\0", 1)) == unknown);
  for (const char* text : {"\x01", "\x1F", "\x80", "\xFF", "\xC3", "\xF5"}) CHECK(escaped(text) == unknown);
  CHECK(escaped("\xC0\xAF") == unknown + unknown);                              // a '/' that is too long
  CHECK(escaped("\xED\xA0\x80") == unknown + unknown + unknown);                // half of a pair
  CHECK(escaped("\xEF\xBF\xBE") == unknown + unknown + unknown);                // no character
  CHECK(escaped("\xF4\x90\x80\x80") == unknown + unknown + unknown + unknown);  // beyond the last
  CHECK(escaped("\xE2\x82<") == unknown + unknown + "&lt;");
  const std::string svg = LineChart{"\x01", "\xFF", {{"\x02", {{"\x03", {}}}}}, 1, {}, {}, "\x04"}.svg() +
                          mamba::io::heatmaps_svg("\x05", {{"\x06", "\x07", "\x08", {"\x0B"}, {"\x0C"}, {{1}}}}) +
                          mamba::io::BarChart{"\x0E", "\x0F", {"\x10"}, {"\x11"}, {{1}}}.svg();
  CHECK(std::none_of(svg.begin(), svg.end(), [](char c) { return (c >= 0 && c < ' ' && c != '\n') || c == '\xFF'; }));
}

TEST_CASE("a million points, no panel, no series, no names") {
  LineChart chart{"", "", {{"", {{"", {}}}}, {"", {}}}};
  for (int i = 0; i < 1'000'000; ++i) {
    chart.panels[0].series[0].points.emplace_back(i, i % 100);
    chart.panels[0].series[0].band.push_back({static_cast<double>(i), 0, 100});
  }
  const std::string svg = chart.svg();
  CHECK(svg.size() > 30'000'000);
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(LineChart{"", "", {}}.svg().ends_with("</svg>\n"));
  CHECK(LineChart{.title = "", .x_label = "", .panels = {}, .columns = 0}.svg().ends_with("</svg>\n"));
  CHECK(count(mamba::io::heatmaps_svg("", {{"", "", "", {}, {}, {{1, 2}, {}}}}), ">1.00<") == 1);
  CHECK(count(mamba::io::heatmaps_svg("", {{"", "", "", {"a"}, {"b"}, {{1e300}}}}), ">1e+300<") == 1);
  CHECK(count(mamba::io::BarChart{"", "", {}, {}, {{0.5}}}.svg(), "0.5000") == 1);
}

TEST_CASE("log axes end at round numbers and have few ticks") {
  using namespace mamba::io::detail;
  const auto is = [](const std::vector<double>& ticks, const std::vector<double>& expected) {
    REQUIRE(ticks.size() == expected.size());
    for (std::size_t i = 0; i < ticks.size(); ++i) CHECK(std::abs(ticks[i] / expected[i] - 1) < 1e-12);
  };
  const auto axis = log_y_axis({3, 70});
  is({axis.low, axis.high}, {2, 100});
  is(axis.ticks, {2, 5, 10, 20, 50, 100});
  CHECK(std::abs(axis.position(std::sqrt(200.0)) - 0.5) < 1e-12);
  CHECK(axis.position(1) == 0);
  is(log_y_axis({0.1, 1000}).ticks, {0.1, 1, 10, 100, 1000});
  is(log_y_axis({1e-6, 1e6}).ticks, {1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6});
  is({log_y_axis({10, 10}).low, log_y_axis({10, 10}).high}, {5, 20});
  is(log_x_axis({8, 2, 32, 8}).ticks, {2, 8, 32});  // a measurement's own values
  // Whole numbers are written whole, as others by six digits.
  CHECK(number(1048576, log_x_axis({2048, 1048576}).digits(6)) == "1048576");
  CHECK(number(1e-6, log_y_axis({1e-6, 1e6}).digits(6)) == "1e-06");
  std::vector<double> many;
  for (int i = 1; i <= 100; ++i) many.push_back(i);
  is(log_x_axis(many).ticks, {1, 2, 5, 10, 20, 50, 100});
}

TEST_CASE("a grid of log panels shares axes and one legend") {
  using mamba::io::Panel, mamba::io::Scale, mamba::io::Series;
  const Series one{"one", {{8, 0.5}, {64, 40}}, true}, two{"two", {{8, 0}, {64, 300}}},
      three{"three", {{1, 1}, {2, 2}}};
  const std::string svg =
      LineChart{.title = "grid",
                .x_label = "",
                .panels = {Panel{"time", {one, two}}, Panel{"time", {three}}, Panel{"bytes", {two}, 0, 0, "length"},
                           Panel{"words", {three}, 1, 50, "layers"}},
                .columns = 2,
                .x_scale = Scale::log,
                .y_scale = Scale::log,
                .note = "small print"}
          .svg();
  CHECK(count(svg, "<polyline") == 5);
  CHECK(count(svg, "<circle") == 2 + 1 + 1);  // marks, and two's only positive point twice
  for (const char* name : {">one<", ">two<", ">three<"}) CHECK(count(svg, name) == 1);
  CHECK(count(svg, ">time<") == 1);  // the row's second panel goes on with the first's axis
  for (const char* label : {">bytes<", ">words<", ">length<", ">layers<", ">64<", ">small print<"})
    CHECK(count(svg, label) == 1);
  CHECK(count(svg, "nan") + count(svg, "inf") == 0);
  // No room for the number before the last one.
  const std::string crowded = LineChart{.title = "",
                                        .x_label = "",
                                        .panels = {{"y", {{"s", {{8, 1}, {32768, 1}, {65536, 1}}}}}, {"y", {}}},
                                        .columns = 2,
                                        .x_scale = Scale::log}
                                  .svg();
  CHECK(count(crowded, ">8<") == 1);
  CHECK(count(crowded, ">32768<") == 0);
  CHECK(count(crowded, ">65536<") == 1);
  CHECK(count(LineChart{.title = "empty",
                        .x_label = "x",
                        .panels = {{"y", {{"s", {}}}}, {"y", {}}},
                        .columns = 3,
                        .x_scale = Scale::log,
                        .y_scale = Scale::log}
                  .svg(),
              "nan") == 0);
}

TEST_CASE("heatmaps and bars hold every number") {
  const mamba::io::Heatmap map{"layer 0", "to", "from", {"a", "b"}, {"c", "d"}, {{0.25, -1}, {0, 12.5}}};
  const std::string maps = mamba::io::heatmaps_svg("title", {map, map, map}, 2);
  CHECK(count(maps, "<rect") == 1 + 3 * 4);
  for (const char* number : {">0.25<", ">-1.00<", ">0.00<", ">12.5<"}) CHECK(count(maps, number) == 3);
  mamba::io::Heatmap noted = map;
  noted.notes = {{}, {"1 seed", "", "beyond"}, {"beyond"}};
  const std::string with_notes = mamba::io::heatmaps_svg("title", {noted});
  CHECK(count(with_notes, ">1 seed<") == 1);
  CHECK(count(with_notes, "beyond") == 0);
  const std::string bars =
      mamba::io::BarChart{"title", "rate", {"11", "12"}, {"one", "two"}, {{0.5, NAN}, {1, 0.25}}}.svg();
  CHECK(count(bars, "<title>") == 3);  // the missing one leaves its place empty
  for (const char* number : {"11, one: 0.5000", "12, one: 1.0000", "12, two: 0.2500"}) CHECK(count(bars, number) == 1);
  CHECK(count(mamba::io::heatmaps_svg("none", {}), "nan") == 0);
}
