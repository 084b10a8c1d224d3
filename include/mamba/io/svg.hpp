// SVG text, piece by piece.
#pragma once

#include <cstdio>
#include <string>

namespace mamba::io::detail {

inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

inline std::string number(double x, const char* format = "%.6g") {
  char text[40];
  std::snprintf(text, sizeof text, format, x == 0 ? 0.0 : x);
  return text;
}

// A white page to draw on.
class Svg {
 public:
  Svg(double width, double height)
      : out_("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) + "\" width=\"" + number(width) +
             "\" height=\"" + number(height) + "\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n") {}

  // attributes: as in SVG, for all that has some.
  void text(double x, double y, const std::string& s, const std::string& attributes) {
    out_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(s) + "</text>\n";
  }
  void upward_text(double x, double y, const std::string& s) {
    out_ += "<text transform=\"translate(" + number(x) + " " + number(y) + ") rotate(-90)\" text-anchor=\"middle\">" + escaped(s) + "</text>\n";
  }
  void line(double x1, double y1, double x2, double y2, const std::string& attributes) {
    out_ += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) + "\" " + attributes + "/>\n";
  }
  void circle(double x, double y, const std::string& attributes) { out_ += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" " + attributes + "/>\n"; }
  // points: "x,y x,y ..."
  void polyline(const std::string& points, const std::string& attributes) {
    out_ += "<polyline fill=\"none\" " + attributes + " points=\"" + points + "\"/>\n";
  }
  void polygon(const std::string& points, const std::string& attributes) { out_ += "<polygon " + attributes + " points=\"" + points + "\"/>\n"; }

  std::string finished() const { return out_ + "</svg>\n"; }

 private:
  std::string out_;
};

}  // namespace mamba::io::detail
