#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <string>

#include <mamba/io/figure.hpp>
#include <mamba/io/heatmap.hpp>

using mamba::io::LineChart;

namespace {
int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
}  // namespace

TEST_CASE("a chart holds its labels and one line for each series") {
  const std::string svg =
      LineChart{
          "a < b & c", "epoch", {{"loss", {{"training", {{0, 4.6}, {1, 2}, {2, 1}}}}}, {"accuracy", {{"one", {{0, 0}, {2, 1}}}, {"two", {{0, 0.5}}}}, 0, 1}}}
          .svg();
  CHECK(svg.starts_with("<svg"));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<polyline") == 3);
  CHECK(count(svg, "<circle") == 1);  // a single point is drawn as one
  for (const char* label : {"a &lt; b &amp; c", ">epoch<", ">loss<", ">accuracy<", ">training<", ">one<", ">two<", ">0.5<"}) CHECK(count(svg, label) >= 1);
}

TEST_CASE("degenerate data still make a chart") {
  for (const auto& points : {std::vector<std::pair<double, double>>{}, {{1, 1}}, {{1, NAN}, {2, INFINITY}}, {{0, 3}, {1, 3}}}) {
    const std::string svg = LineChart{"t", "x", {{"y", {{"s", points}}}}}.svg();
    CHECK(count(svg, "nan") == 0);
    CHECK(count(svg, "inf") == 0);
    CHECK(count(svg, "<polyline") == 1);
  }
}

TEST_CASE("heatmaps and bars hold every number") {
  const mamba::io::Heatmap map{"layer 0", "to", "from", {"a", "b"}, {"c", "d"}, {{0.25, -1}, {0, 12.5}}};
  const std::string maps = mamba::io::heatmaps_svg("title", {map, map, map}, 2);
  CHECK(count(maps, "<rect") == 1 + 3 * 4);
  for (const char* number : {">0.25<", ">-1.00<", ">0.00<", ">12.5<"}) CHECK(count(maps, number) == 3);
  const std::string bars = mamba::io::BarChart{"title", "rate", {"11", "12"}, {"one", "two"}, {{0.5, NAN}, {1, 0.25}}}.svg();
  CHECK(count(bars, "<title>") == 3);  // the missing one leaves its place empty
  for (const char* number : {"11, one: 0.5000", "12, one: 1.0000", "12, two: 0.2500"}) CHECK(count(bars, number) == 1);
  CHECK(count(mamba::io::heatmaps_svg("none", {}), "nan") == 0);
}
