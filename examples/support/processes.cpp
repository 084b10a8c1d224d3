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

// What Open MPI, MPICH and its relatives, or Slurm say of the processes that they start.
struct Launch {
  int count, rank, number_on_machine;
  bool can_meet;  // they were given a way to each other
};
Launch launch() {
  const auto number_in = [](std::initializer_list<const char*> names, int otherwise) {
    return whole<int>(variable(names)).value_or(otherwise);
  };
  return {number_in({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1),
          number_in({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"}, 0),
          number_in({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, 0),
          !variable({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}).empty()};
}

// The others' results are the first one's.
void silence_standard_output() {
#if defined(__unix__) || defined(__APPLE__)
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere < 0) return;
  ::dup2(nowhere, 1);
  ::close(nowhere);
#endif
}

}  // namespace

Processes::Processes(double patience, bool alone) : patience_(patience) {
  const Launch own = launch();
  if (alone || own.count <= 1) return;
#ifdef MAMBA_WITH_MPI
  mamba::require(own.can_meet, own.count,
                 " processes were started together, but with no way to each other: srun has --mpi=pmix; with --alone "
                 "each works by itself");
#else
  mamba::fail(mamba::ErrorKind::invalid_argument, own.count,
              " processes were started together, but this program was built without MPI (MAMBA_WITH_MPI); with --alone "
              "each works by itself");
#endif
  count_ = own.count, number_on_machine_ = own.number_on_machine;
  if (own.rank > 0) silence_standard_output();
}

Processes::~Processes() = default;

#ifdef MAMBA_WITH_MPI

mamba::Group& Processes::group() {
  if (group_) return *group_;
  if (count_ == 1) {
    group_ = std::make_unique<mamba::Alone>();
  } else {
    int given = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
    if (given < MPI_THREAD_FUNNELED)
      mamba::fail(mamba::ErrorKind::group_failed, "this MPI is not for programs with threads");
    group_ = std::make_unique<mamba::MpiGroup>(MPI_COMM_WORLD, mamba::MpiGroupOptions{.patience_seconds = patience_});
  }
  return *group_;
}

void Processes::lose_one() {
  if (auto* const of_mpi = dynamic_cast<mamba::MpiGroup*>(group_.get())) of_mpi->give_up();
}

int Processes::end(int code) {
  if (auto* const of_mpi = dynamic_cast<mamba::MpiGroup*>(group_.get())) {
    if (!of_mpi->leave()) {
      std::fflush(nullptr);
      std::_Exit(code);
    }
    group_ = std::make_unique<mamba::Alone>();
    MPI_Finalize();
  }
  return code;
}

#else

mamba::Group& Processes::group() {
  if (!group_) group_ = std::make_unique<mamba::Alone>();
  return *group_;
}
void Processes::lose_one() {}
int Processes::end(int code) { return code; }

#endif

}  // namespace support
