// A group of MPI's processes. Not included by the front doors: it needs MPI (CMake's target mamba::mpi).
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <list>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/parallel/group.hpp>

namespace mamba {

struct MpiGroupOptions {
  // How long a process waits, with nothing coming through, before it gives the group up: longer than any of them works
  // by itself, as the first one does when it writes a checkpoint.
  double patience_seconds = 50;
};

// The processes of a communicator, or of all that were started together. MPI must have been initialised, with
// MPI_THREAD_FUNNELED at least where the program has threads, and all calls come from MPI's thread. A process that is
// gone is noticed by nothing but its silence, unless MPI or who started the processes ends them all. After an
// Error(group_failed) the program makes no more calls of MPI and ends (std::_Exit, or MPI_Abort).
class MpiGroup final : public Group {
 public:
  // All processes of the communicator make it, and let go of it, at the same time. Throws Error(group_failed) where MPI
  // is not at work.
  explicit MpiGroup(MPI_Comm communicator = MPI_COMM_WORLD, const MpiGroupOptions& options = {})
      : MpiGroup(Own(communicator, options), options) {}
  ~MpiGroup() override {
    // Others are waited for there, and letters.
    int ended = 0;
    if (!failed_)
      for (Posted& posted : posted_) MPI_Wait(&posted.request, MPI_STATUS_IGNORE);
    if (!failed_ && MPI_Finalized(&ended) == MPI_SUCCESS && ended == 0) MPI_Comm_free(&communicator_);
  }

  // Whether a call has thrown, or give_up() was called: then MPI_Finalize() would wait for ever.
  bool failed() const { return failed_; }
  // One of the processes is known to be gone.
  void give_up() { failed_ = true; }
  // Takes leave of all processes: whether all have come to do so, within the patience; else the group has failed.
  bool leave() {
    if (failed_) return false;
    MPI_Request request = MPI_REQUEST_NULL;
    failed_ = MPI_Ibarrier(communicator_, &request) != MPI_SUCCESS;
    Silence silence(patience_);
    for (int come = 0; !failed_ && come == 0;)
      failed_ = MPI_Test(&request, &come, MPI_STATUS_IGNORE) != MPI_SUCCESS || (come == 0 && silence.goes_on());
    return !failed_;
  }

  void transfer(std::span<const Outgoing> send, std::span<const Incoming> receive) override {
    require_working();
    requests_.clear(), ranks_.clear();
    for (const Incoming& message : receive)
      in_pieces(message.bytes, message.from, [&](std::span<std::byte> bytes, MPI_Request* request) {
        return MPI_Irecv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, message.from, tag, communicator_,
                         request);
      });
    for (const Outgoing& message : send)
      in_pieces(message.bytes, message.to, [&](std::span<const std::byte> bytes, MPI_Request* request) {
        return MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, message.to, tag, communicator_,
                         request);
      });
    wait();
  }

  void post(int to, std::string text) override {
    // Those that are through.
    std::erase_if(posted_, [](Posted& posted) {
      int through = 0;
      return MPI_Test(&posted.request, &through, MPI_STATUS_IGNORE) != MPI_SUCCESS || through != 0;
    });
    posted_.push_back({std::move(text), MPI_REQUEST_NULL});
    Posted& own = posted_.back();
    if (MPI_Isend(own.text.data(), static_cast<int>(own.text.size()), MPI_BYTE, to, letter_tag, communicator_,
                  &own.request) != MPI_SUCCESS)
      posted_.pop_back();  // to a process that is gone
  }
  std::optional<Letter> take_letter() override { return take(letter_tag); }

 private:
  // A letter on its way; it does not move.
  struct Posted {
    std::string text;
    MPI_Request request;
  };

  // A communicator of the group's own: messages of others do not meet its, and errors come back as codes.
  struct Own {
    Own(MPI_Comm of, const MpiGroupOptions& options) {
      require(is_finite(options.patience_seconds) && options.patience_seconds > 0,
              "a process's patience must be a positive number of seconds; given ", options.patience_seconds);
      int initialized = 0;
      MPI_Initialized(&initialized);
      if (initialized == 0) fail(ErrorKind::group_failed, "MPI has not been initialised");
      check(MPI_Comm_dup(of, &communicator), "MPI_Comm_dup");
      check(MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
      check(MPI_Comm_rank(communicator, &rank), "MPI_Comm_rank");
      check(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
    }
    MPI_Comm communicator{};
    int rank = 0, size = 1;
  };

  MpiGroup(const Own& own, const MpiGroupOptions& options)
      : Group(own.rank, own.size), communicator_(own.communicator), patience_(options.patience_seconds) {}

  static constexpr int tag = 0, letter_tag = 1, farewell_tag = 2;
  static constexpr std::size_t most_bytes = std::size_t{1} << 28;  // of one message: MPI counts in int

  static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char words[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, words, &length);
    fail(ErrorKind::group_failed, call, ": ", words);
  }
  void require_working() const {
    if (failed_) fail(ErrorKind::group_failed, "the group of processes has failed before");
  }

  template <class Bytes, class Begin>
  void in_pieces(Bytes bytes, int rank, Begin&& begin) {
    for (std::size_t at = 0; at < bytes.size(); at += most_bytes) {
      requests_.emplace_back();
      ranks_.push_back(rank);
      const int code = begin(bytes.subspan(at, (std::min)(most_bytes, bytes.size() - at)), &requests_.back());
      if (code != MPI_SUCCESS) {
        failed_ = true;
        check(code, "a transfer");
      }
    }
  }

  std::optional<Letter> take(int of_tag) {
    int there = 0, size = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, of_tag, communicator_, &there, &status) != MPI_SUCCESS || there == 0)
      return std::nullopt;
    MPI_Get_count(&status, MPI_BYTE, &size);
    Letter letter{status.MPI_SOURCE, std::string(static_cast<std::size_t>(size), '\0')};
    if (MPI_Recv(letter.text.data(), size, MPI_BYTE, letter.from, of_tag, communicator_, MPI_STATUS_IGNORE) !=
        MPI_SUCCESS)
      return std::nullopt;
    return letter;
  }

  // How long nothing has come through, by looks at it. A process that has slept itself has not listened meanwhile: what
  // lies between two looks counts as a second at most.
  class Silence {
   public:
    explicit Silence(double patience) : patience_(patience) {}
    void hear() { seconds_ = 0, looks_ = 0, last_ = Clock::now(); }
    // After a look that found nothing: lets others run, for processes may be more than processors. Whether it has
    // lasted too long.
    bool goes_on() {
      constexpr int looks_in_a_row = 1000;
      if (looks_ < looks_in_a_row) {
        ++looks_;
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      const auto now = Clock::now();
      seconds_ += (std::min)(1.0, std::chrono::duration<double>(now - last_).count());
      last_ = now;
      return seconds_ > patience_;
    }

   private:
    using Clock = std::chrono::steady_clock;
    double patience_, seconds_ = 0;
    int looks_ = 0;
    Clock::time_point last_ = Clock::now();
  };

  void wait() {
    Silence silence(patience_);
    finished_.resize(requests_.size());
    std::size_t left = requests_.size();
    while (left > 0) {
      int finished = 0;
      const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &finished, finished_.data(),
                                    MPI_STATUSES_IGNORE);
      if (code != MPI_SUCCESS) {
        failed_ = true;
        fail(ErrorKind::group_failed, "the connection to process ", missing(), " of ", size(), " is lost");
      }
      if (finished > 0) {
        left -= static_cast<std::size_t>(finished);
        silence.hear();
      } else if (const auto words = farewell()) {
        failed_ = true;
        fail(ErrorKind::group_failed, *words);
      } else if (silence.goes_on()) {
        give_up_waiting();
      }
    }
  }

  // In words that the others get, too. Who misses several may only wait for one that misses another itself, and whose
  // words are on their way.
  [[noreturn]] void give_up_waiting() {
    failed_ = true;
    const std::vector<int> ranks = missing_ranks();
    Silence grace(1);
    for (bool over = ranks.size() < 2; !over; over = grace.goes_on())
      if (const auto words = farewell()) fail(ErrorKind::group_failed, *words);
    const std::string words =
        joined({"process ", missing(), " of ", size(), " has not come for ", patience_, " seconds"});
    std::vector<MPI_Request> sent;
    for (int other = 0; other < size(); ++other)
      if (other != rank() && std::find(ranks.begin(), ranks.end(), other) == ranks.end())
        MPI_Isend(words.data(), static_cast<int>(words.size()), MPI_BYTE, other, farewell_tag, communicator_,
                  &sent.emplace_back(MPI_REQUEST_NULL));
    Silence departure(0.2);
    for (int through = 0; through == 0 && !departure.goes_on();)
      if (MPI_Testall(static_cast<int>(sent.size()), sent.data(), &through, MPI_STATUSES_IGNORE) != MPI_SUCCESS) break;
    fail(ErrorKind::group_failed, words);
  }
  // The words of one that has given up.
  std::optional<std::string> farewell() {
    if (auto letter = take(farewell_tag)) return std::move(letter->text);
    return std::nullopt;
  }

  // Who has not come, and in words.
  std::vector<int> missing_ranks() const {
    std::set<int> ranks;
    for (std::size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL) ranks.insert(ranks_[i]);
    return {ranks.begin(), ranks.end()};
  }
  std::string missing() const {
    std::string words;
    for (const int rank : missing_ranks()) words += (words.empty() ? "" : ", ") + std::to_string(rank);
    return words;
  }

  MPI_Comm communicator_;
  double patience_;
  bool failed_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<int> ranks_, finished_;
  std::list<Posted> posted_;
};

}  // namespace mamba
