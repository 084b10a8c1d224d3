// Groups whose processes are threads of this one, each with a member of its own.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mamba/parallel/group.hpp>

namespace support {

// What lies between threads: messages, each in the order of its sending.
class Mailbox {
 public:
  void put(int from, int to, std::span<const std::byte> bytes) {
    const std::lock_guard hold(lock_);
    messages_[{from, to}].emplace_back(bytes.begin(), bytes.end());
    arrived_.notify_all();
  }
  // Throws Error where the message is not what is expected.
  void take(int from, int to, std::span<std::byte> bytes) {
    std::unique_lock hold(lock_);
    auto& queue = messages_[{from, to}];
    arrived_.wait(hold, [&] { return !queue.empty(); });
    mamba::require(queue.front().size() == bytes.size(), "a message of ", queue.front().size(), " bytes where ",
                   bytes.size(), " are expected");
    std::copy(queue.front().begin(), queue.front().end(), bytes.begin());
    queue.pop_front();
  }
  void post(int from, int to, std::string text) {
    const std::lock_guard hold(lock_);
    letters_[to].push_back({from, std::move(text)});
  }
  std::optional<mamba::Group::Letter> take_letter(int to) {
    const std::lock_guard hold(lock_);
    auto& queue = letters_[to];
    if (queue.empty()) return std::nullopt;
    auto letter = std::move(queue.front());
    queue.pop_front();
    return letter;
  }
  bool is_empty() const {
    return std::all_of(messages_.begin(), messages_.end(), [](const auto& entry) { return entry.second.empty(); });
  }

 private:
  std::mutex lock_;
  std::condition_variable arrived_;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> messages_;
  std::map<int, std::deque<mamba::Group::Letter>> letters_;
};

class ThreadGroup final : public mamba::Group {
 public:
  ThreadGroup(Mailbox& mailbox, int rank, int size) : Group(rank, size), mailbox_(mailbox) {}
  void transfer(std::span<const mamba::Outgoing> send, std::span<const mamba::Incoming> receive) override {
    for (const mamba::Outgoing& message : send) mailbox_.put(rank(), message.to, message.bytes);
    for (const mamba::Incoming& message : receive) mailbox_.take(message.from, rank(), message.bytes);
  }
  void post(int to, std::string text) override { mailbox_.post(rank(), to, std::move(text)); }
  std::optional<Letter> take_letter() override { return mailbox_.take_letter(rank()); }

 private:
  Mailbox& mailbox_;
};

// f(group) in `size` threads; returns what each threw, by rank. Catch2 may not be asked anything in them.
template <class F>
std::vector<std::exception_ptr> in_threads(int size, F&& f) {
  Mailbox mailbox;
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      ThreadGroup group(mailbox, rank, size);
      try {
        f(group);
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  mamba::require(mailbox.is_empty(), "messages are left that nobody has taken");
  return thrown;
}

// The words of an exception; none where there is none.
inline std::string words_of(const std::exception_ptr& thrown) {
  if (!thrown) return "";
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace support
