// A value of JSON (RFC 8259): what configuration files and records need, no more. Numbers keep their text, so that
// 64-bit integers stay exact.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/text.hpp>
#include <mamba/io/json_reader.hpp>
#include <mamba/io/json_text.hpp>

namespace mamba::io {

class Json {
 public:
  using Members = std::vector<std::pair<std::string, Json>>;  // in the order of the text
  using Elements = std::vector<Json>;

  Json() = default;  // null
  template <std::same_as<bool> Bool>
  Json(Bool b) : value_(b) {}
  template <std::integral Int>
  requires(!std::same_as<Int, bool>)
  Json(Int n) : value_(number_value(std::to_string(n))) {}
  // The shortest text that reads back as the same double; JSON has no infinities and no NaN: they become null.
  Json(double x) {
    if (std::isfinite(x)) value_ = number_value(shortest_text(x));
  }
  Json(const char* s) : Json(std::string(s)) {}
  Json(std::string s) : value_(Box<std::string>(std::move(s))) {}
  Json(Elements elements) : value_(Box<Elements>(std::move(elements))) {}
  Json(Members members) : value_(Box<Object>(Object(std::move(members)))) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_string() const { return std::holds_alternative<Box<std::string>>(value_); }
  bool is_object() const { return std::holds_alternative<Box<Object>>(value_); }
  bool is_array() const { return std::holds_alternative<Box<Elements>>(value_); }
  bool is_number() const {
    return std::holds_alternative<ShortNumber>(value_) || std::holds_alternative<LongNumber>(value_);
  }

  // What the value is. Each throws Error(bad_file) when it is something else.
  const std::string& string() const { return get<Box<std::string>>("a string").get(); }
  const Members& members() const { return get<Box<Object>>("an object").get().members; }
  const Elements& elements() const { return get<Box<Elements>>("an array").get(); }
  bool boolean() const { return get<bool>("true or false"); }
  // The double nearest to the number.
  double number() const {
    const std::string_view text = number_text("a number");
    double x = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(x))
      fail(ErrorKind::bad_file, "JSON: the number ", clipped(text), " is out of range");
    return x;
  }
  // An integer that Int can hold, written without fraction and exponent.
  template <class Int = std::int64_t>
  Int integer() const {
    const std::string_view text = number_text("an integer");
    const auto n = integer_of<Int>(text);
    if (!n) fail(ErrorKind::bad_file, "JSON: ", clipped(text), " is not an integer of the expected range");
    return *n;
  }
  // The member of this name, or null when there is none.
  const Json* find(std::string_view key) const { return get<Box<Object>>("an object").get().find(key); }
  const Json& at(std::string_view key) const {
    if (const Json* member = find(key)) return *member;
    fail(ErrorKind::bad_file, "JSON: the key ", in_quotes(key), " is missing");
  }

  // What the value is, for a message: short, however large it is.
  std::string brief() const {
    if (is_object()) return "an object";
    if (is_array()) return "an array";
    if (is_string()) return in_quotes(string(), 40);
    return is_number() ? clipped(number_text("a number")) : dump();
  }

  // Valid JSON, whatever bytes the strings hold. indent < 0: on one line.
  std::string dump(int indent = -1) const {
    std::string text;
    write(text, indent, 0);
    return text;
  }

  // Throws Error(bad_file) with the place of the first fault.
  static Json parse(std::string_view text) {
    JsonReader reader(text);
    Json value = read(reader);
    reader.end();
    return value;
  }

 private:
  // A value elsewhere, so that a Json is small; one that is empty takes no memory.
  template <class T>
  class Box {
   public:
    explicit Box(T value) : value_(value.empty() ? nullptr : std::make_unique<T>(std::move(value))) {}
    Box(const Box& other) : value_(other.value_ ? std::make_unique<T>(*other.value_) : nullptr) {}
    Box(Box&&) noexcept = default;
    Box& operator=(Box other) noexcept {
      value_.swap(other.value_);
      return *this;
    }
    ~Box() = default;
    const T& get() const {
      static const T none{};
      return value_ ? *value_ : none;
    }

   private:
    std::unique_ptr<T> value_;
  };

  struct Object {
    Members members;
    std::vector<std::uint32_t> by_name;  // the members' indices in the order of their names, where they are many

    Object() = default;
    explicit Object(Members given) : members(std::move(given)) {
      constexpr std::size_t many = 16;
      if (members.size() <= many) return;
      by_name.resize(members.size());
      std::iota(by_name.begin(), by_name.end(), 0U);
      std::sort(by_name.begin(), by_name.end(), [this](std::uint32_t a, std::uint32_t b) {
        const int order = members[a].first.compare(members[b].first);
        return order < 0 || (order == 0 && a < b);
      });
    }
    bool empty() const { return members.empty(); }
    const Json* find(std::string_view key) const {
      if (by_name.empty()) {
        const auto found =
            std::find_if(members.begin(), members.end(), [&](const auto& member) { return member.first == key; });
        return found == members.end() ? nullptr : &found->second;
      }
      const auto found =
          std::lower_bound(by_name.begin(), by_name.end(), key,
                           [this](std::uint32_t at, std::string_view k) { return members[at].first < k; });
      return found == by_name.end() || members[*found].first != key ? nullptr : &members[*found].second;
    }
  };

  // The text of a number, in place where it is short; zeros fill the rest.
  struct ShortNumber {
    char text[8];
  };
  struct LongNumber {
    Box<std::string> text;
  };
  using Value =
      std::variant<std::monostate, bool, ShortNumber, LongNumber, Box<std::string>, Box<Elements>, Box<Object>>;

  static Value number_value(std::string_view text) {
    if (text.size() > sizeof(ShortNumber)) return LongNumber{Box<std::string>(std::string(text))};
    ShortNumber n{};
    std::memcpy(n.text, text.data(), text.size());
    return n;
  }

  std::string_view number_text(const char* expected) const {
    if (const auto* n = std::get_if<ShortNumber>(&value_))
      return {n->text, static_cast<std::size_t>(std::find(n->text, n->text + sizeof n->text, '\0') - n->text)};
    return get<LongNumber>(expected).text.get();
  }
  static std::string clipped(std::string_view number) {
    return number.size() <= 40 ? std::string(number) : std::string(number.substr(0, 40)) + "...";
  }

  template <class T>
  const T& get(const char* expected) const {
    if (const T* value = std::get_if<T>(&value_)) return *value;
    fail(ErrorKind::bad_file, "JSON: expected ", expected, ", found ", brief());
  }

  static Json read(JsonReader& reader) {
    using Kind = JsonReader::Kind;
    const Kind kind = reader.kind();
    std::string room;
    Json value;
    if (kind == Kind::object) {
      Members members;
      reader.object([&](std::string_view key) {
        std::string name(key);
        members.emplace_back(std::move(name), read(reader));
      });
      value = std::move(members);
    } else if (kind == Kind::array) {
      Elements elements;
      reader.array([&] { elements.push_back(read(reader)); });
      value = std::move(elements);
    } else if (kind == Kind::string) {
      value = std::string(reader.string(room));
    } else if (kind == Kind::number) {
      value.value_ = number_value(reader.number());
    } else if (kind == Kind::boolean) {
      value = reader.boolean();
    } else {
      reader.null();
    }
    return value;
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
    else if (is_number()) text += number_text("a number");
    else if (is_string()) append_json_string(text, string());
    else if (is_array()) list('[', ']', elements(), [&](const Json& x) { x.write(text, indent, depth + 1); });
    else
      list('{', '}', members(), [&](const auto& member) {
        append_json_string(text, member.first);
        text += ": ";
        member.second.write(text, indent, depth + 1);
      });
  }

  Value value_;
};

}  // namespace mamba::io
