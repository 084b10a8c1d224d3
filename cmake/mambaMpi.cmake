# mamba::mpi: what <mamba/parallel/mpi.hpp> needs beside the headers, an MPI. Defined where one is found.
if(NOT TARGET mamba::mpi)
  set(MPI_CXX_SKIP_MPICXX ON)  # the interface is C's
  find_package(MPI QUIET COMPONENTS CXX)
  if(TARGET MPI::MPI_CXX)
    add_library(mamba::mpi INTERFACE IMPORTED GLOBAL)
    target_link_libraries(mamba::mpi INTERFACE mamba::mamba MPI::MPI_CXX)
    target_compile_definitions(mamba::mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  endif()
endif()
