// SVG text, piece by piece.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <mamba/core/text.hpp>
#include <mamba/io/json_text.hpp>  // utf8_size

namespace mamba::io::detail {

// The bytes of the character at `at`, or 0 where there is none that XML 1.0 allows: no UTF-8, a control character,
// U+FFFE or U+FFFF.
inline std::size_t xml_character_size(std::string_view text, std::size_t at) {
  const std::size_t size = utf8_size(text, at);
  const std::string_view character = text.substr(at, size);
  if (size == 1 && static_cast<unsigned char>(character[0]) < 0x20 && character != "\t" && character != "\n" &&
      character != "\r")
    return 0;
  return character == "\xEF\xBF\xBE" || character == "\xEF\xBF\xBF" ? 0 : size;
}

// A text as it stands in SVG, between tags as in an attribute; U+FFFD for a byte that has no place there.
inline std::string escaped(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = xml_character_size(text, at);
    if (size == 0) out += "\xEF\xBF\xBD";
    else if (text[at] == '<') out += "&lt;";
    else if (text[at] == '>') out += "&gt;";
    else if (text[at] == '&') out += "&amp;";
    else if (text[at] == '"') out += "&quot;";
    else out += text.substr(at, size);
    at += size == 0 ? 1 : size;
  }
  return out;
}

// To some significant digits, and to some decimals; no zero has a sign.
inline std::string number(double x, int digits = 6) { return general_text(x == 0 ? 0.0 : x, digits); }
inline std::string fixed(double x, int decimals) {
  std::string text = fixed_text(x, decimals);
  if (text[0] == '-' && text.find_first_not_of("-0.") == std::string::npos)
    text.erase(0, 1);  // no zero has a sign, rounded or not
  return text;
}

// A white page to draw on.
class Svg {
 public:
  Svg(double width, double height)
      : out_("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) +
             "\" width=\"" + number(width) + "\" height=\"" + number(height) +
             "\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" "
             "fill=\"white\"/>\n") {}

  // attributes: as in SVG, for all that has some.
  void text(double x, double y, const std::string& s, const std::string& attributes) {
    out_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(s) + "</text>\n";
  }
  void upward_text(double x, double y, const std::string& s) {
    out_ += "<text transform=\"translate(" + number(x) + " " + number(y) + ") rotate(-90)\" text-anchor=\"middle\">" +
            escaped(s) + "</text>\n";
  }
  void line(double x1, double y1, double x2, double y2, const std::string& attributes) {
    out_ += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) +
            "\" " + attributes + "/>\n";
  }
  void circle(double x, double y, const std::string& attributes) {
    out_ += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" " + attributes + "/>\n";
  }
  // points: "x,y x,y ..."
  void polyline(const std::string& points, const std::string& attributes) {
    out_ += "<polyline fill=\"none\" " + attributes + " points=\"" + points + "\"/>\n";
  }
  void polygon(const std::string& points, const std::string& attributes) {
    out_ += "<polygon " + attributes + " points=\"" + points + "\"/>\n";
  }

  std::string finished() const { return out_ + "</svg>\n"; }

 private:
  std::string out_;
};

}  // namespace mamba::io::detail
