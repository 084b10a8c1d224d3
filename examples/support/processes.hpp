// The processes that mpirun or srun has started together with this one. Programs' own sources need no MPI: it is
// processes.cpp's, where there is one.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include <mamba/parallel/group.hpp>

#include "arguments.hpp"
#include "exit_codes.hpp"

namespace support {

// This process as one of a group, or by itself. Of several the first one alone writes to standard output.
class Processes {
 public:
  static constexpr double default_patience = 50;  // seconds that processes wait for one that does not come

  // Throws Error where there are others and the program was built without MPI, or the patience is none.
  explicit Processes(double patience);
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes();

  mamba::Group& group() const { return *group_; }
  // By mpirun or srun, though it may be the only one.
  bool started_together() const { return started_together_; }
  // Among those that run on this machine; 0 where nobody says.
  int number_on_machine() const;
  double patience() const { return patience_; }
  // A process is known to be gone: at the end nobody waits for it.
  void lose_one();

  // What a program does last: takes leave of the others and returns the exit code. Where the group has failed nobody
  // can be waited for, and the process ends here.
  int end(int code);

 private:
  double patience_;
  std::unique_ptr<mamba::Group> group_;
  bool started_together_ = false;
};

// What programs say of their --patience.
inline constexpr const char* patience_help =
    "seconds that processes started together wait for one that does not come, before they end";

// As guarded(), for programs whose processes may work together: f(processes).
template <class F>
int guarded_together(const char* program, int argc, char** argv, F&& f) {
  std::optional<Processes> processes;
  const int code = guarded(program, [&] {
    // What is no number the command line is refused for.
    const auto patience = number(early_option(argc, argv, "--patience", ""));
    processes.emplace(patience && *patience > 0 ? *patience : Processes::default_patience);
    return f(*processes);
  });
  return processes ? processes->end(code) : code;
}

}  // namespace support
