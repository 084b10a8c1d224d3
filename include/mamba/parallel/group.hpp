// Processes that do one piece of work together, and what they say to each other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <mamba/core/error.hpp>

namespace mamba {

// Bytes for another process of the group, and room for those that it sends.
struct Outgoing {
  int to;
  std::span<const std::byte> bytes;
};
struct Incoming {
  int from;
  std::span<std::byte> bytes;
};

// Each process has a number in it, its rank, from 0 on. All of them make the same calls in the same order, each from
// one thread at a time. mpi.hpp has one whose processes are MPI's.
class Group {
 public:
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  virtual ~Group() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_first() const { return rank_ == 0; }

  // Sends and receives all that is named; what one process sends to another arrives in the order of its sending.
  // Returns when all of it is through. Throws Error(group_failed) where a process does not come; the program ends then,
  // for what was to be received may still be written.
  virtual void transfer(std::span<const Outgoing> send, std::span<const Incoming> receive) = 0;

  // Letters are for processes that are not at the same place: posting does not wait for the receiver, who takes the
  // next one that has arrived, if there is any. From one process to another they arrive in the order of their posting.
  struct Letter {
    int from;
    std::string text;
  };
  virtual void post(int to, std::string text) = 0;
  virtual std::optional<Letter> take_letter() = 0;

 protected:
  Group(int rank, int size) : rank_(rank), size_(size) {}

 private:
  int rank_, size_;
};

// A process by itself.
class Alone final : public Group {
 public:
  Alone() : Group(0, 1) {}
  void transfer(std::span<const Outgoing>, std::span<const Incoming>) override {}
  void post(int, std::string) override {}
  std::optional<Letter> take_letter() override { return std::nullopt; }
};

// Of an array that all processes have, of size bounds.back(): elements [bounds[r], bounds[r + 1]) of each <- rank r's.
template <class T>
void share(Group& group, T* all, std::span<const std::size_t> bounds) {
  const auto part = [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    return std::as_writable_bytes(std::span(all + bounds[r], bounds[r + 1] - bounds[r]));
  };
  std::vector<Outgoing> send;
  std::vector<Incoming> receive;
  for (int rank = 0; rank < group.size(); ++rank) {
    if (rank == group.rank()) continue;
    if (!part(group.rank()).empty()) send.push_back({rank, part(group.rank())});
    if (!part(rank).empty()) receive.push_back({rank, part(rank)});
  }
  group.transfer(send, receive);
}

// What each process has, by rank.
template <class T>
std::vector<T> gather(Group& group, const T& own) {
  const auto size = static_cast<std::size_t>(group.size());
  std::vector<T> all(size);
  std::vector<std::size_t> bounds(size + 1);
  for (std::size_t r = 0; r <= size; ++r) bounds[r] = r;
  all[static_cast<std::size_t>(group.rank())] = own;
  share(group, all.data(), bounds);
  return all;
}

// What the first process has.
inline std::string from_first(Group& group, std::string text) {
  const std::size_t size = gather(group, text.size())[0];
  text.resize(size);
  std::vector<std::size_t> bounds(static_cast<std::size_t>(group.size()) + 1, size);
  bounds[0] = 0;
  share(group, text.data(), bounds);
  return text;
}

// An exception as it travels to other processes.
struct Failure {
  enum Kind : int { none, error, no_memory, other };

  Kind kind = none;
  ErrorKind error_kind{};  // of an Error; what a file system refuses counts as one that could not write
  std::string words{};

  static Failure of(const std::exception_ptr& thrown) {
    if (!thrown) return {};
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      return {Failure::error, error.kind(), error.what()};
    } catch (const std::filesystem::filesystem_error& error) {
      return {Failure::error, ErrorKind::cannot_write, error.what()};
    } catch (const std::bad_alloc&) {
      return {no_memory, {}, "not enough memory"};
    } catch (const std::exception& error) {
      return {other, {}, error.what()};
    }
  }
  [[noreturn]] void raise() const {
    if (kind == no_memory) throw std::bad_alloc();
    if (kind == error) throw Error(error_kind, words);
    throw std::runtime_error(words);
  }
};

// f() in each process; what it throws in one of them is thrown in all, the same: that of the lowest rank. It must not
// speak to the group itself, but for what all of its processes do. An Error(group_failed) is thrown where it comes up:
// nobody would hear of it.
template <class F>
void together(Group& group, F&& f) {
  if (group.size() == 1) return f();
  std::exception_ptr thrown;
  try {
    f();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::group_failed) throw;
    thrown = std::current_exception();
  } catch (...) {
    thrown = std::current_exception();
  }
  const std::vector<char> failed = gather(group, static_cast<char>(thrown != nullptr));
  const auto first = std::find(failed.begin(), failed.end(), 1);
  if (first == failed.end()) return;
  struct Head {
    Failure::Kind kind;
    ErrorKind error_kind;
    std::size_t length;  // of the words, which follow
  };
  const Failure own = Failure::of(thrown);
  const std::vector<Head> heads = gather(group, Head{own.kind, own.error_kind, own.words.size()});
  std::vector<std::size_t> bounds{0};
  for (const Head& head : heads) bounds.push_back(bounds.back() + head.length);
  std::string all(bounds.back(), ' ');
  all.replace(bounds[static_cast<std::size_t>(group.rank())], own.words.size(), own.words);
  share(group, all.data(), bounds);
  const auto rank = static_cast<std::size_t>(first - failed.begin());
  Failure{heads[rank].kind, heads[rank].error_kind, all.substr(bounds[rank], heads[rank].length)}.raise();
}

// The same where the first process alone does it.
template <class F>
void in_first(Group& group, F&& f) {
  together(group, [&] {
    if (group.is_first()) f();
  });
}

}  // namespace mamba
