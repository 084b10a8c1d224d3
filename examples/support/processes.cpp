#include "processes.hpp"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>

#include "numbers.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

#ifdef MAMBA_WITH_MPI
#include <mamba/parallel/mpi.hpp>
#endif

namespace support {
namespace {

// The first of these variables that is set. Empty: none is.
std::string variable(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return value;
  return "";
}

// Whether Open MPI, MPICH's relatives, or Slurm by PMI has started this process.
bool is_launched() { return !variable({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}).empty(); }

#ifdef MAMBA_WITH_MPI
void silence_standard_output() {
#if defined(__unix__) || defined(__APPLE__)
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere < 0) return;
  ::dup2(nowhere, 1);
  ::close(nowhere);
#endif
}
#else
// How many processes it has started, where it says so.
int launched_processes() {
  return whole<int>(variable({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})).value_or(1);
}
#endif

}  // namespace

#ifdef MAMBA_WITH_MPI

Processes::Processes(double patience) : patience_(patience), started_together_(is_launched()) {
  if (!started_together_) {
    group_ = std::make_unique<mamba::Alone>();
    return;
  }
  int given = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
  if (given < MPI_THREAD_FUNNELED)
    mamba::fail(mamba::ErrorKind::group_failed, "this MPI is not for programs with threads");
  group_ = std::make_unique<mamba::MpiGroup>(MPI_COMM_WORLD, mamba::MpiGroupOptions{.patience_seconds = patience});
  if (!group_->is_first()) silence_standard_output();  // what comes out is told by the first one
}

void Processes::lose_one() {
  if (auto* const of_mpi = dynamic_cast<mamba::MpiGroup*>(group_.get())) of_mpi->give_up();
}

int Processes::end(int code) {
  if (const auto* of_mpi = dynamic_cast<const mamba::MpiGroup*>(group_.get())) {
    if (of_mpi->failed()) {
      std::fflush(nullptr);
      std::_Exit(code);
    }
    group_ = std::make_unique<mamba::Alone>();
    MPI_Finalize();
  }
  return code;
}

#else

Processes::Processes(double patience)
    : patience_(patience), group_(std::make_unique<mamba::Alone>()), started_together_(is_launched()) {
  if (const int processes = launched_processes(); started_together_ && processes > 1)
    mamba::fail(mamba::ErrorKind::invalid_argument, processes,
                " processes were started together, but this program was built without MPI (MAMBA_WITH_MPI)");
}

void Processes::lose_one() {}

int Processes::end(int code) { return code; }

#endif

int Processes::number_on_machine() const {
  return whole<int>(variable({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})).value_or(0);
}

Processes::~Processes() = default;

}  // namespace support
