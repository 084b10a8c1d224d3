// JSON (RFC 8259), strictly: what safetensors headers and configuration files need, no more. No duplicate keys, valid
// UTF-8 only, limited nesting. Numbers keep their text, so that 64-bit integers stay exact.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mamba/core/error.hpp>

namespace mamba::io {

class Json {
 public:
  using Members = std::vector<std::pair<std::string, Json>>;  // in the order of the text
  using Elements = std::vector<Json>;
  struct Number {
    std::string text;
  };

  Json() = default;  // null
  Json(bool b) : value_(b) {}
  Json(int n) : Json(static_cast<std::int64_t>(n)) {}
  Json(std::int64_t n) : value_(Number{std::to_string(n)}) {}
  Json(std::uint64_t n) : value_(Number{std::to_string(n)}) {}
  // The shortest text that reads back as the same double; JSON has no infinities and no NaN: they become null.
  Json(double x) {
    if (!std::isfinite(x)) return;
    char text[32];
    value_ = Number{std::string(text, std::to_chars(text, text + sizeof text, x).ptr)};
  }
  Json(const char* s) : value_(std::string(s)) {}
  Json(std::string s) : value_(std::move(s)) {}
  Json(Elements elements) : value_(std::move(elements)) {}
  Json(Members members) : value_(std::move(members)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_object() const { return std::holds_alternative<Members>(value_); }
  bool is_array() const { return std::holds_alternative<Elements>(value_); }
  bool is_number() const { return std::holds_alternative<Number>(value_); }

  const std::string& string() const { return get<std::string>("a string"); }
  const Members& members() const { return get<Members>("an object"); }
  const Elements& elements() const { return get<Elements>("an array"); }
  bool boolean() const { return get<bool>("true or false"); }
  double number() const {
    const std::string& text = get<Number>("a number").text;
    double x = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), x).ec != std::errc{}) fail(ErrorKind::bad_file, "JSON: the number ", text, " is out of range");
    return x;
  }
  // An integer that Int can hold, written without fraction and exponent.
  template <class Int = std::int64_t>
  Int integer() const {
    const std::string& text = get<Number>("an integer").text;
    Int n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc{} || end != text.data() + text.size()) fail(ErrorKind::bad_file, "JSON: ", text, " is not an integer of the expected range");
    return n;
  }
  // The member of this name, or null when there is none.
  const Json* find(std::string_view key) const {
    for (const auto& [name, member] : members())
      if (name == key) return &member;
    return nullptr;
  }
  const Json& at(std::string_view key) const {
    if (const Json* member = find(key)) return *member;
    fail(ErrorKind::bad_file, "JSON: the key \"", key, "\" is missing");
  }

  // indent < 0: on one line.
  std::string dump(int indent = -1) const {
    std::string text;
    write(text, indent, 0);
    return text;
  }

  // Throws Error(bad_file) with the place of the first fault.
  static Json parse(std::string_view text);

 private:
  class Parser;

  template <class T>
  const T& get(const char* expected) const {
    if (const T* value = std::get_if<T>(&value_)) return *value;
    fail(ErrorKind::bad_file, "JSON: expected ", expected, ", found ", dump().substr(0, 40));
  }

  static void write_string(std::string& text, std::string_view s) {
    constexpr const char* hex = "0123456789abcdef";
    text += '"';
    for (const char c : s) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') (text += '\\') += c;
      else if (c == '\n') text += "\\n";
      else if (byte < 0x20) ((text += "\\u00") += hex[byte >> 4]) += hex[byte & 15];
      else text += c;
    }
    text += '"';
  }

  void write(std::string& text, int indent, int depth) const {
    const auto line = [&](int level) {
      if (indent >= 0) (text += '\n').append(static_cast<std::size_t>(indent * level), ' ');
    };
    const auto list = [&](char open, char close, const auto& items, auto&& item) {
      text += open;
      bool first = true;
      for (const auto& i : items) {
        if (!first) text += indent >= 0 ? "," : ", ";
        first = false;
        line(depth + 1);
        item(i);
      }
      if (!first) line(depth);
      text += close;
    };
    if (is_null()) text += "null";
    else if (const bool* b = std::get_if<bool>(&value_)) text += *b ? "true" : "false";
    else if (const Number* n = std::get_if<Number>(&value_)) text += n->text;
    else if (const std::string* s = std::get_if<std::string>(&value_)) write_string(text, *s);
    else if (const Elements* e = std::get_if<Elements>(&value_)) list('[', ']', *e, [&](const Json& x) { x.write(text, indent, depth + 1); });
    else
      list('{', '}', std::get<Members>(value_), [&](const auto& member) {
        write_string(text, member.first);
        text += ": ";
        member.second.write(text, indent, depth + 1);
      });
  }

  std::variant<std::monostate, bool, Number, std::string, Elements, Members> value_;
};

class Json::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = element(0);
    skip_space();
    if (at_ != text_.size()) fault("text after the end");
    return value;
  }

 private:
  static constexpr int deepest = 64;

  [[noreturn]] void fault(const char* what) const { fail(ErrorKind::bad_file, "JSON, byte ", at_, ": ", what); }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    skip_space();
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* what) {
    if (!take(c)) fault(what);
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json element(int depth) {
    if (depth > deepest) fault("nested too deeply");
    skip_space();
    if (peek() == '{') return object(depth);
    if (peek() == '[') return array(depth);
    if (peek() == '"') return string();
    if (take_word("true")) return true;
    if (take_word("false")) return false;
    if (take_word("null")) return {};
    return number();
  }

  Json object(int depth) {
    Members members;
    expect('{', "expected {");
    if (take('}')) return members;
    do {
      skip_space();
      std::string key = string();
      for (const auto& member : members)
        if (member.first == key) fault("a key occurs twice");
      expect(':', "expected :");
      members.emplace_back(std::move(key), element(depth + 1));
    } while (take(','));
    expect('}', "expected , or }");
    return members;
  }

  Json array(int depth) {
    Elements elements;
    expect('[', "expected [");
    if (take(']')) return elements;
    do elements.push_back(element(depth + 1));
    while (take(','));
    expect(']', "expected , or ]");
    return elements;
  }

  Json number() {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) fault("expected a value");
      return at_ - first;
    };
    if (peek() == '-') ++at_;
    const bool zero = peek() == '0';
    if (digits() > 1 && zero) fault("a number begins with 0");
    if (peek() == '.') ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    Json value;
    value.value_ = Number{std::string(text_.substr(begin, at_ - begin))};
    return value;
  }

  std::string string() {
    std::string s;
    if (peek() != '"' || at_ >= text_.size()) fault("expected a string");
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fault("a string without end");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fault("a control character in a string");
      if (c == '\\') escape(s);
      else character(s);
    }
    ++at_;
    return s;
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) fault("expected four hexadecimal digits");
      code = 16 * code + static_cast<unsigned>(digit);
    }
    return code;
  }

  void escape(std::string& s) {
    ++at_;
    const char c = peek();
    ++at_;
    if (constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t"; letters.find(c) != std::string_view::npos && c != '\0') {
      s += meanings[letters.find(c)];
      return;
    }
    if (c != 'u') fault("unknown escape");
    unsigned code = hex4();
    if (code >= 0xDC00 && code <= 0xDFFF) fault("half of a surrogate pair");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (!take_word("\\u")) fault("half of a surrogate pair");
      const unsigned low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fault("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    const auto put = [&](unsigned byte) { s += static_cast<char>(byte); };
    if (code < 0x80) put(code);
    else if (code < 0x800) put(0xC0 | code >> 6), put(0x80 | (code & 63));
    else if (code < 0x10000) put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
    else put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  }

  // One character of UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF.
  void character(std::string& s) {
    const auto byte = [&](std::size_t i) { return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0U; };
    const unsigned lead = byte(0);
    const std::size_t size = lead < 0x80 ? 1 : lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
    if (size == 0) fault("not UTF-8");
    for (std::size_t i = 1; i < size; ++i)
      if ((byte(i) & 0xC0) != 0x80) fault("not UTF-8");
    if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) || (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F))
      fault("not UTF-8");
    s.append(text_.substr(at_, size));
    at_ += size;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

inline Json Json::parse(std::string_view text) { return Parser(text).document(); }

}  // namespace mamba::io
