// What the processes of a sweep write to each other, and how they know of each other's silence.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>
#include <mamba/parallel/group.hpp>

#include "record.hpp"
#include "support/folder.hpp"
#include "support/processes.hpp"
#include "support/progress.hpp"

namespace runs::detail {

// Letters are objects, {"says": ..., ...}:
//   to the first      idle (a place), done (job, seconds, metrics), interrupted (job, if one was), busy (job: somebody
//                     has its folder), failed (job, an error's words), here
//   from the first    run (job), stop, end (code, lost, an error's words), here
// "here" says that a process is there, once a second.
inline constexpr double seconds_between_signs = 1;

// An error as a letter has it, and back.
inline Json::Members written(const std::exception_ptr& error) {
  const auto failure = mamba::Failure::of(error);
  return {{"failure", int{failure.kind}}, {"error", static_cast<int>(failure.error_kind)}, {"words", failure.words}};
}
inline std::exception_ptr read_error(const Json& letter) {
  const mamba::Failure failure{static_cast<mamba::Failure::Kind>(letter.at("failure").integer<int>()),
                               static_cast<mamba::ErrorKind>(letter.at("error").integer<int>()),
                               letter.at("words").string()};
  try {
    failure.raise();
  } catch (...) {
    return std::current_exception();
  }
}

// Whether a run could not begin because somebody else has its folder.
inline bool is_in_use(const std::exception_ptr& error) {
  if (!error) return false;
  try {
    std::rethrow_exception(error);
  } catch (const support::FolderInUse&) {
    return true;
  } catch (...) {
    return false;
  }
}

// For how long others have not been heard of, and when this process is to give a sign. One that has slept itself has
// not listened meanwhile: what lies between two looks counts as a second at most.
class Signs {
 public:
  explicit Signs(support::Processes& processes)
      : patience_(processes.patience()), silent_(static_cast<std::size_t>(processes.group().size())) {}
  // To be called between two looks at letters.
  void look() {
    const double now = support::seconds_now(), passed = std::min(now - last_, 1.0);
    for (double& seconds : silent_) seconds += passed;
    last_ = now;
  }
  void hear_of(int rank) { silent_[static_cast<std::size_t>(rank)] = 0; }
  bool is_lost(int rank) const { return silent_[static_cast<std::size_t>(rank)] > patience_; }
  bool is_due() {
    if (last_ - given_ < seconds_between_signs) return false;
    given_ = last_;
    return true;
  }

 private:
  double patience_;
  std::vector<double> silent_;
  double last_ = support::seconds_now(), given_ = 0;
};

}  // namespace runs::detail
