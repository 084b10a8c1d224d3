#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <string>

#include <mamba/io/figure.hpp>

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
