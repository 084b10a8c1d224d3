// Reads JSON (RFC 8259) piece by piece, strictly: valid UTF-8 only, no duplicate keys, limited nesting. Time grows with
// n log n, memory with the keys of the objects that are open.
#pragma once

#include <algorithm>
#include <cstddef>
#include <forward_list>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json_text.hpp>

namespace mamba::io {

// A place in a text. Each function reads one value that stands there, and throws Error(bad_file) with the place where
// another or none does.
class JsonReader {
 public:
  enum class Kind { object, array, string, number, boolean, null };

  explicit JsonReader(std::string_view text) : text_(text) {}

  // What the next value is, as far as its first character tells.
  Kind kind() {
    skip_space();
    switch (peek()) {
      case '{':
        return Kind::object;
      case '[':
        return Kind::array;
      case '"':
        return Kind::string;
      case 't':
      case 'f':
        return Kind::boolean;
      case 'n':
        return Kind::null;
      default:
        return Kind::number;
    }
  }

  // Calls member(key) for each member; it must read the member's value. The key is valid during the call. A key that
  // occurs twice is found at the object's end.
  template <class Member>
  void object(Member&& member) {
    std::vector<std::string_view> keys;
    std::forward_list<std::string> decoded;  // the keys that are not as they stand in the text
    std::string room;
    open('{', "expected an object");
    if (!take('}')) {
      do {
        std::string_view key = string(room);
        if (key.data() == room.data()) key = decoded.emplace_front(std::move(room)), room.clear();
        keys.push_back(key);
        if (!take(':')) fault("expected :");
        member(key);
      } while (take(','));
      if (!take('}')) fault("expected , or }");
    }
    --depth_;
    std::sort(keys.begin(), keys.end());
    if (const auto twice = std::adjacent_find(keys.begin(), keys.end()); twice != keys.end())
      fault("the key ", in_quotes(*twice), " occurs twice");
  }

  // Calls element() for each element; it must read it.
  template <class Element>
  void array(Element&& element) {
    open('[', "expected an array");
    if (!take(']')) {
      do element();
      while (take(','));
      if (!take(']')) fault("expected , or ]");
    }
    --depth_;
  }

  // The string: a part of the text, or, where it has escapes, of `room`.
  std::string_view string(std::string& room) {
    skip_space();
    if (peek() != '"') fault("expected a string");
    const std::size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\') at_ += character();
    if (peek() == '"') return text_.substr(begin, at_++ - begin);
    room.assign(text_.substr(begin, at_ - begin));
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') {
        escape(room);
      } else {
        const std::size_t size = character();
        room += text_.substr(at_, size);
        at_ += size;
      }
    }
    if (peek() != '"') fault("a string without end");
    ++at_;
    return room;
  }

  // The text of the number.
  std::string_view number() {
    skip_space();
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
    return text_.substr(begin, at_ - begin);
  }

  bool boolean() {
    skip_space();
    if (take_word("true")) return true;
    if (!take_word("false")) fault("expected a value");
    return false;
  }
  void null() {
    skip_space();
    if (!take_word("null")) fault("expected a value");
  }

  // Any value, checked and forgotten.
  void skip() {
    std::string room;
    switch (kind()) {
      case Kind::object:
        return object([&](std::string_view) { skip(); });
      case Kind::array:
        return array([&] { skip(); });
      case Kind::string:
        return void(string(room));
      case Kind::number:
        return void(number());
      case Kind::boolean:
        return void(boolean());
      case Kind::null:
        return null();
    }
  }

  // Nothing but white space may follow.
  void end() {
    skip_space();
    if (at_ != text_.size()) fault("text after the end");
  }

  template <class... Parts>
  [[noreturn]] void fault(const Parts&... parts) const {
    fail(ErrorKind::bad_file, "JSON, byte ", at_, ": ", parts...);
  }

 private:
  static constexpr int deepest = 127;  // as Python's safetensors library

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    skip_space();
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void open(char bracket, const char* expected) {
    if (!take(bracket)) fault(expected);
    if (++depth_ > deepest) fault("nested too deeply");
  }

  // The size of the character of a string that stands here.
  std::size_t character() const {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) fault("a control character in a string");
    const std::size_t size = utf8_size(text_, at_);
    if (size == 0) fault("not UTF-8");
    return size;
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fault("expected four hexadecimal digits");
      code = 16 * code + static_cast<unsigned>(digit);
    }
    return code;
  }

  void escape(std::string& s) {
    ++at_;
    const char c = peek();
    ++at_;
    if (constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        letters.find(c) != std::string_view::npos && c != '\0') {
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

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace mamba::io
