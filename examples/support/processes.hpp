// The processes that mpirun or srun has started together with this one. Programs' own sources need no MPI: it is
// processes.cpp's, where there is one.
#pragma once

#include <memory>
#include <optional>

#include <mamba/core/finite.hpp>
#include <mamba/parallel/group.hpp>

#include "arguments.hpp"
#include "exit_codes.hpp"

namespace support {

// This process as one of a group, or by itself. Of several the first one alone writes to standard output.
class Processes {
 public:
  static constexpr double default_patience = 50;  // seconds that processes wait for one that does not come

  // alone: whoever was started beside it. Throws Error where there are others, but no way to them.
  Processes(double patience, bool alone);
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes();

  // How many were started together, and which of them on this machine this one is; 1 and 0 by itself.
  int count() const { return count_; }
  int number_on_machine() const { return number_on_machine_; }
  double patience() const { return patience_; }
  // The group; with the first call it is made, for which all of them must come. Throws Error(group_failed).
  mamba::Group& group();
  // A process is known to be gone: at the end nobody waits for it.
  void lose_one();

  // What a program does last: takes leave of the others and returns the exit code. Where not all of them come the
  // process ends here.
  int end(int code);

 private:
  double patience_;
  int count_ = 1, number_on_machine_ = 0;
  std::unique_ptr<mamba::Group> group_;
};

// The options --patience and --alone of a program whose processes may work together. They are read before the others.
class TogetherOptions {
 public:
  explicit TogetherOptions(CLI::App& app) {
    app.add_option("--patience", patience_,
                   "seconds that processes started together wait for one that does not come, before they end")
        ->check(CLI::Range(0.1, 1e9));
    app.add_flag("--alone", alone_, "do not work together with processes that were started beside this one");
  }

 private:
  double patience_ = Processes::default_patience;
  bool alone_ = false;
};

// As guarded(), for programs whose processes may work together: f(processes).
template <class F>
int guarded_together(const char* program, int argc, char** argv, F&& f) {
  std::optional<Processes> processes;
  const int code = guarded(program, [&] {
    // What is no number the command line is refused for.
    const auto patience = number(early_option(argc, argv, "--patience", ""));
    const bool valid = patience && mamba::is_finite(*patience) && *patience > 0;
    processes.emplace(valid ? *patience : Processes::default_patience, has_flag(argc, argv, "--alone"));
    return f(*processes);
  });
  return processes ? processes->end(code) : code;
}

}  // namespace support
