// Many runs, on all places of all processes at once: the first process hands them out as places become free.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mamba/io/json.hpp>
#include <mamba/parallel/group.hpp>

#include "letters.hpp"
#include "support/interrupt.hpp"
#include "support/processes.hpp"
#include "support/progress.hpp"
#include "workers.hpp"

namespace runs {

namespace detail {

// The first process: it has the list of what is left, and places of its own.
template <class Job, class Run, class Record>
class Leader {
 public:
  Leader(const std::vector<Job>& jobs, const std::vector<std::size_t>& left, const std::vector<int>& places,
         support::Processes& processes, Run& run, Record& record)
      : jobs_(jobs),
        left_(left.begin(), left.end()),
        to_do_(left.size()),
        processes_(processes),
        group_(processes.group()),
        record_(record),
        ended_(jobs.size()),
        not_before_(jobs.size()),
        give_up_at_(jobs.size()),
        running_(static_cast<std::size_t>(group_.size())),
        idle_(static_cast<std::size_t>(group_.size())),
        lost_(static_cast<std::size_t>(group_.size())),
        signs_(processes),
        workers_(places, run) {
    idle_[0] = workers_.count();
  }

  // Returns the exit code. An interrupt lets the runs in hand write their checkpoints; so does the error of one of
  // them, which is thrown at the end by all processes.
  int lead() {
    const std::size_t before = jobs_.size() - to_do_;
    std::fprintf(stderr, "%zu runs, %zu of them done\n", jobs_.size(), before);
    while (true) {
      if (support::interrupted()) stop();
      hand_out();
      if (nobody_runs() && (stopping_ || left_.empty())) break;
      // With nobody else nothing happens but what the own places tell, and an interrupt, of which they hear, too.
      if (auto news = workers_.next(std::chrono::milliseconds(group_.size() > 1 ? 10 : 1000))) take(*news);
      while (const auto letter = group_.take_letter()) take(*letter);
      signs_.look();
      look_for_lost();
      if (signs_.is_due()) tell_all({{"says", "here"}});
    }
    return end(before);
  }

 private:
  static std::size_t at(int rank) { return static_cast<std::size_t>(rank); }
  void tell_all(const Json::Members& words) {
    for (int rank = 1; rank < group_.size(); ++rank) group_.post(rank, Json(words).dump());
  }
  void stop() {
    if (stopping_) return;
    stopping_ = true;
    was_interrupted_ = support::interrupted();
    support::interrupt();
    tell_all({{"says", "stop"}});
  }

  int end(std::size_t before) {
    const bool any_lost = std::find(lost_.begin(), lost_.end(), true) != lost_.end();
    // Where nobody has interrupted it, what is not done is what a lost process still holds.
    const int code = done_ == to_do_    ? support::done
                     : was_interrupted_ ? support::interrupted_run
                                        : support::group_failed;
    Json::Members words{{"says", "end"}, {"code", code}, {"lost", any_lost}};
    if (failure_)
      for (auto& member : written(failure_)) words.push_back(std::move(member));
    tell_all(words);
    if (any_lost) {
      // Nobody will wait for the others to have read that.
      for (const double begin = support::seconds_now(); support::seconds_now() - begin < 1; group_.take_letter())
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      processes_.lose_one();
    }
    if (failure_) std::rethrow_exception(failure_);
    if (code != support::done)
      std::fprintf(stderr, "%s after %zu of %zu runs. The same command goes on.\n",
                   was_interrupted_ ? "Interrupted" : "Ended", before + done_, jobs_.size());
    return code;
  }

  bool is_running(std::size_t job) const {
    for (int rank = 0; rank < group_.size(); ++rank)
      if (!lost_[at(rank)] && has(rank, job)) return true;
    return false;
  }
  bool has(int rank, std::size_t job) const {
    const auto& jobs = running_[at(rank)];
    return std::find(jobs.begin(), jobs.end(), job) != jobs.end();
  }
  bool nobody_runs() const {
    for (int rank = 0; rank < group_.size(); ++rank)
      if (!lost_[at(rank)] && !running_[at(rank)].empty()) return false;
    return true;
  }

  void hand_out() {
    for (int rank = 0; rank < group_.size() && !stopping_; ++rank)
      while (!lost_[at(rank)] && idle_[at(rank)] > 0 && !left_.empty()) {
        const std::size_t job = left_.front();
        if (support::seconds_now() < not_before_[job]) return;  // it is behind all others
        left_.pop_front();
        --idle_[at(rank)];
        running_[at(rank)].push_back(job);
        if (rank == 0) workers_.give(job);
        else group_.post(rank, Json(Json::Members{{"says", "run"}, {"job", std::uint64_t{job}}}).dump());
      }
  }

  // What became of the own places' runs, and of others'.
  void take(const Workers::News& news) {
    release(0, news.job);
    if (is_in_use(news.error)) busy(news.job, news.error);
    else if (news.error) failed(news.job, news.error);
    else if (news.outcome) done(news.job, *news.outcome);
    else stop();
  }
  void take(const mamba::Group::Letter& letter) {
    const Json words = Json::parse(letter.text);
    const std::string& says = words.at("says").string();
    signs_.hear_of(letter.from);
    if (lost_[at(letter.from)]) return_of(letter.from);
    if (says == "here") return;
    if (says == "idle") {
      ++idle_[at(letter.from)];
      return;
    }
    if (says == "interrupted" && !words.find("job")) {
      support::interrupt();
      return;
    }
    const auto job = words.at("job").template integer<std::size_t>();
    release(letter.from, job);
    if (says == "busy") {
      busy(job, read_error(words));
    } else if (says == "failed") {
      failed(job, read_error(words));
    } else if (says == "done") {
      Outcome outcome{{}, words.at("seconds").number()};
      if (const Json& metrics = words.at("metrics"); !metrics.is_null()) outcome.metrics = metrics;
      done(job, outcome);
    } else if (!stopping_) {
      support::interrupt();
    }
  }

  void release(int rank, std::size_t job) {
    std::erase(running_[at(rank)], job);
    ++idle_[at(rank)];
  }
  void done(std::size_t job, const Outcome& outcome) {
    if (ended_[job]) return;
    ended_[job] = true;
    std::erase(left_, job);
    std::string told;
    try {
      told = record_(jobs_[job], outcome);
    } catch (...) {
      failed(job, std::current_exception());
      return;
    }
    ++done_;
    const double left =
        (support::seconds_now() - start_) / static_cast<double>(done_) * static_cast<double>(to_do_ - done_);
    std::fprintf(stderr, "[%zu/%zu] %s: %s (%s); %s left\n", jobs_.size() - to_do_ + done_, jobs_.size(),
                 jobs_[job].title().c_str(), told.c_str(), support::duration_text(outcome.seconds).c_str(),
                 support::duration_text(left).c_str());
  }
  // Somebody has the run's folder. One who is lost may not be dead: its run is tried again, for as long as the patience
  // lasts.
  void busy(std::size_t job, const std::exception_ptr& error) {
    if (ended_[job] || is_running(job)) return;
    const double now = support::seconds_now();
    if (now < give_up_at_[job]) {
      not_before_[job] = now + 1;
      left_.push_back(job);
    } else if (give_up_at_[job] > 0) {
      ended_[job] = true;
      std::fprintf(stderr, "%s is left as it is: %s\n", jobs_[job].title().c_str(),
                   mamba::Failure::of(error).words.c_str());
    } else {
      failed(job, error);
    }
  }
  void failed(std::size_t job, const std::exception_ptr& error) {
    std::fprintf(stderr, "%s failed%s\n", jobs_[job].title().c_str(),
                 workers_.count() > 1 || group_.size() > 1 ? "; the others that run now write their checkpoints" : "");
    if (!failure_) failure_ = error;
    stop();
  }

  // The runs of a process that says nothing any more are the others'; unless it comes back.
  void look_for_lost() {
    for (int rank = 1; rank < group_.size(); ++rank) {
      if (lost_[at(rank)] || !signs_.is_lost(rank)) continue;
      lost_[at(rank)] = true;
      std::fprintf(stderr, "Process %d of %d has not been heard of for %s seconds; %zu of its runs %s\n", rank,
                   group_.size(), mamba::general_text(processes_.patience()).c_str(), running_[at(rank)].size(),
                   stopping_ ? "have stopped with it" : "are the others'");
      for (const std::size_t job : running_[at(rank)]) {
        if (ended_[job] || is_running(job)) continue;
        give_up_at_[job] = support::seconds_now() + std::max(processes_.patience(), 10.0);
        left_.push_front(job);
      }
    }
  }
  void return_of(int rank) {
    lost_[at(rank)] = false;
    std::fprintf(stderr, "Process %d of %d is back\n", rank, group_.size());
    for (const std::size_t job : running_[at(rank)]) std::erase(left_, job);
  }

  const std::vector<Job>& jobs_;
  std::deque<std::size_t> left_;
  std::size_t to_do_, done_ = 0;
  support::Processes& processes_;
  mamba::Group& group_;
  Record& record_;
  std::vector<bool> ended_;                      // of each job, as the next two
  std::vector<double> not_before_, give_up_at_;  // when one that is busy is tried again, and how long; 0: at once, not
  std::vector<std::vector<std::size_t>> running_;  // of each process, as the next two
  std::vector<std::size_t> idle_;
  std::vector<bool> lost_;
  Signs signs_;
  bool stopping_ = false, was_interrupted_ = false;
  std::exception_ptr failure_;
  const double start_ = support::seconds_now();
  Workers workers_;  // ends first
};

// The others: they do what they are told. Returns the exit code, or throws what all throw.
template <class Run>
int follow(const std::vector<int>& places, support::Processes& processes, Run& run) {
  mamba::Group& group = processes.group();
  const auto tell = [&](const Json::Members& words) { group.post(0, Json(words).dump()); };
  Signs signs(processes);
  Workers workers(places, run);
  for (std::size_t place = 0; place < workers.count(); ++place) tell({{"says", "idle"}});
  bool told_of_interrupt = false;
  while (true) {
    if (const auto news = workers.next(std::chrono::milliseconds(10))) {
      const char* says = is_in_use(news->error) ? "busy"
                         : news->error          ? "failed"
                         : news->outcome        ? "done"
                                                : "interrupted";
      Json::Members words{{"says", says}, {"job", std::uint64_t{news->job}}};
      if (news->error)
        for (auto& member : written(news->error)) words.push_back(std::move(member));
      if (news->outcome) {
        words.emplace_back("seconds", news->outcome->seconds);
        words.emplace_back("metrics", news->outcome->metrics.value_or(Json()));
      }
      tell(words);
    }
    if (support::interrupted() && !std::exchange(told_of_interrupt, true)) tell({{"says", "interrupted"}});
    while (const auto letter = group.take_letter()) {
      const Json words = Json::parse(letter->text);
      const std::string& says = words.at("says").string();
      signs.hear_of(letter->from);
      if (says == "run") workers.give(words.at("job").template integer<std::size_t>());
      if (says == "stop") support::interrupt(), told_of_interrupt = true;
      if (says != "end") continue;
      support::interrupt();  // who was thought lost may run something still
      if (words.at("lost").boolean()) processes.lose_one();
      if (words.find("failure")) std::rethrow_exception(read_error(words));
      return words.at("code").template integer<int>();
    }
    signs.look();
    if (signs.is_due()) tell({{"says", "here"}});
    if (!signs.is_lost(0)) continue;
    processes.lose_one();
    mamba::fail(mamba::ErrorKind::group_failed, "process 0 of ", group.size(), " has not been heard of for ",
                processes.patience(), " seconds");
  }
}

}  // namespace detail

// All jobs of which is_done(job) does not hold; each has a title(). run(job, place) -> std::optional<Outcome> is called
// at the same time as others; record(job, outcome) -> what to tell of it, by the first process alone and one at a time,
// as is_done is. All processes have the same jobs. Returns the exit code. A process that is silent for longer than the
// others' patience loses its runs to them, which go on from their checkpoints.
template <class Job, class IsDone, class Run, class Record>
int work_through(const std::vector<Job>& jobs, const std::vector<int>& places, support::Processes& processes,
                 IsDone&& is_done, Run&& run, Record&& record) {
  const auto run_job = [&](std::size_t job, int place) { return run(jobs[job], place); };
  support::catch_interrupts();
  std::vector<std::size_t> left;
  mamba::in_first(processes.group(), [&] {
    for (std::size_t job = 0; job < jobs.size(); ++job)
      if (!is_done(jobs[job])) left.push_back(job);
  });
  if (!processes.group().is_first()) return detail::follow(places, processes, run_job);
  return detail::Leader(jobs, left, places, processes, run_job, record).lead();
}

}  // namespace runs
