// Byte-pair encoding of a word (Sennrich et al. 2016) with a byte-level vocabulary: of neighbours that make a token,
// those with the lowest rank become one, the first of equals first.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>
#include <mamba/text/byte_level.hpp>

namespace mamba::text {

// A token for each pair that makes one, and the pair's rank. Open addressing: a text asks for it in every word.
class MergeTable {
 public:
  struct Merge {
    std::int32_t rank, made;
  };

  void reserve(std::size_t count) {
    std::size_t places = 16;
    while (places < 2 * count) places *= 2;
    places_.assign(places, {none, {}});
  }
  // In place of what the pair made before.
  void insert(std::int32_t left, std::int32_t right, Merge merge) {
    find(key(left, right)) = {key(left, right), merge};
  }
  const Merge* find(std::int32_t left, std::int32_t right) const {
    const Place& place = const_cast<MergeTable*>(this)->find(key(left, right));
    return place.key == none ? nullptr : &place.merge;
  }

 private:
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  struct Place {
    std::uint64_t key;
    Merge merge;
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  Place& find(std::uint64_t k) {
    std::size_t at = static_cast<std::size_t>((k ^ k >> 32) * 0x9E3779B97F4A7C15U >> 32) & (places_.size() - 1);
    while (places_[at].key != k && places_[at].key != none) at = (at + 1) & (places_.size() - 1);
    return places_[at];
  }

  std::vector<Place> places_;
};

class BytePairs {
 public:
  // A file's "model". Throws Error(bad_file) for what it asks for that is not there, by its name.
  explicit BytePairs(const io::Json& file) {
    if (const io::Json* type = file.find("type"); type && type->string() != "BPE")
      fail(ErrorKind::bad_file, "the tokenizer's model ", io::in_quotes(type->string()), " is not supported (BPE is)");
    for (const char* option : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token"})
      if (const io::Json* given = file.find(option); given && !given->is_null() &&
                                                     !(given->is_string() && given->string().empty()) &&
                                                     !(given->is_number() && given->number() == 0))
        fail(ErrorKind::bad_file, "the tokenizer's model has ", option, " = ", given->brief(),
             ", which is not supported");
    if (const io::Json* given = file.find("byte_fallback"); given && given->boolean())
      fail(ErrorKind::bad_file, "the tokenizer's model has byte_fallback, which is not supported");
    if (const io::Json* given = file.find("ignore_merges")) ignores_merges_ = given->boolean();
    read_vocabulary(file.at("vocab"));
    read_merges(file.at("merges").elements());
  }

  // What the file calls a token, by its number; empty where there is none.
  const std::vector<std::string>& tokens() const { return tokens_; }

  // ids += those of a word's bytes. Bytes that no token has are left out, as they are by the tokenizers library.
  void append(std::vector<std::int32_t>& ids, std::string_view word) const {
    if (ignores_merges_)
      if (const auto whole = words_.find(std::string(word)); whole != words_.end()) {
        ids.push_back(whole->second);
        return;
      }
    merge(ids, word);
  }

 private:
  void read_vocabulary(const io::Json& file) {
    for (const auto& [token, number] : file.members()) {
      const auto id = number.integer<std::int32_t>();
      const auto most = static_cast<std::int32_t>((std::min)(std::size_t{1} << 24, 4 * file.members().size() + 65536));
      if (id < 0 || id >= most)
        fail(ErrorKind::bad_file, "the tokenizer's token ", id, " is out of range (0 .. ", most - 1, ")");
      const auto at = static_cast<std::size_t>(id);
      if (at >= tokens_.size()) tokens_.resize(at + 1);
      if (!tokens_[at].empty()) fail(ErrorKind::bad_file, "two of the tokenizer's tokens have the number ", id);
      tokens_[at] = token;
      ids_.emplace(token, id);
      if (auto bytes = bytes_of_token(token)) {
        if (bytes->size() == 1) of_byte_[static_cast<unsigned char>(bytes->front())] = id;
        if (ignores_merges_) words_.emplace(std::move(*bytes), id);
      }
    }
  }

  void read_merges(const io::Json::Elements& file) {
    if (file.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
      fail(ErrorKind::bad_file, "the tokenizer has too many merges");
    merges_.reserve(file.size());
    std::int32_t rank = 0;
    for (const io::Json& line : file) {
      const auto [left, right] = pair(line);
      const auto id = [&](const std::string& token) {
        const auto found = ids_.find(token);
        if (found == ids_.end())
          fail(ErrorKind::bad_file, "the tokenizer's merge ", line.brief(), " has the token ", io::in_quotes(token),
               ", which is not in its vocabulary");
        return found->second;
      };
      const std::int32_t first = id(left), second = id(right);
      merges_.insert(first, second, {rank++, id(left + right)});
    }
  }

  // "left right", or the two as elements.
  static std::pair<std::string, std::string> pair(const io::Json& line) {
    if (line.is_array() && line.elements().size() == 2)
      return {line.elements()[0].string(), line.elements()[1].string()};
    if (line.is_string())
      if (const auto space = line.string().find(' '); space != std::string::npos)
        return {line.string().substr(0, space), line.string().substr(space + 1)};
    fail(ErrorKind::bad_file, "the tokenizer's merge ", line.brief(), " is no pair of tokens");
  }

  void merge(std::vector<std::int32_t>& ids, std::string_view word) const {
    struct Symbol {
      std::int32_t id;
      int before, behind;  // -1: none
      bool exists = true;
    };
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    for (const char c : word)
      if (const std::int32_t id = of_byte_[static_cast<unsigned char>(c)]; id >= 0) {
        const int at = static_cast<int>(symbols.size());
        symbols.push_back({id, at - 1, at + 1});
      }
    if (symbols.empty()) return;
    symbols.back().behind = -1;

    // Rank and place of a pair, its left symbol's place, and what it would make.
    using Candidate = std::tuple<std::int32_t, int, std::int32_t>;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
    const auto consider = [&](int left) {
      if (left < 0 || symbols[static_cast<std::size_t>(left)].behind < 0) return;
      const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
      if (const auto* found = merges_.find(symbol.id, symbols[static_cast<std::size_t>(symbol.behind)].id))
        candidates.emplace(found->rank, left, found->made);
    };
    for (int at = 0; at + 1 < static_cast<int>(symbols.size()); ++at) consider(at);
    while (!candidates.empty()) {
      const auto [rank, at, made] = candidates.top();
      candidates.pop();
      Symbol& left = symbols[static_cast<std::size_t>(at)];
      if (!left.exists || left.behind < 0) continue;
      Symbol& right = symbols[static_cast<std::size_t>(left.behind)];
      const auto* found = merges_.find(left.id, right.id);
      if (!found || found->rank != rank) continue;  // one of the two has become another since
      left.id = made;
      right.exists = false;
      left.behind = right.behind;
      if (right.behind >= 0) symbols[static_cast<std::size_t>(right.behind)].before = at;
      consider(left.before);
      consider(at);
    }
    for (int at = 0; at >= 0; at = symbols[static_cast<std::size_t>(at)].behind)
      ids.push_back(symbols[static_cast<std::size_t>(at)].id);
  }

  bool ignores_merges_ = false;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int32_t> ids_, words_;  // by the file's text; by bytes, where words are tokens
  std::array<std::int32_t, 256> of_byte_ = [] {
    std::array<std::int32_t, 256> none{};
    none.fill(-1);
    return none;
  }();
  MergeTable merges_;
};

}  // namespace mamba::text
