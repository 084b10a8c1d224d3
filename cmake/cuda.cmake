# CUDA for our own programs: mamba_cuda says whether there is any (a compiler that an earlier configuration found stays in the cache). A
# consumer of the headers decides for itself.
set(mamba_cuda OFF)
if(NOT MAMBA_WITH_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  if(MAMBA_WITH_CUDA STREQUAL "AUTO")
    check_language(CUDA)
  endif()
  if(CMAKE_CUDA_COMPILER OR NOT MAMBA_WITH_CUDA STREQUAL "AUTO")
    # What the environment says counts anew each time.
    if(DEFINED ENV{CUDAARCHS})
      set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS} CACHE STRING "Generations of GPUs to compile for" FORCE)
    elseif(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "Generations of GPUs to compile for")
    endif()
    enable_language(CUDA)
    add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
    # GCC notes that a template argument such as __m512 has an attribute; that is all a packet type is.
    add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -Wno-ignored-attributes>")
  endif()
  message(STATUS "mamba: CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
  if(CMAKE_CUDA_COMPILER)
    set(mamba_cuda ON)
  endif()
  # Grid scope multiplies by cuBLAS; so does every consumer whose models run there.
  if(CMAKE_CUDA_COMPILER)
    find_package(CUDAToolkit REQUIRED)
    if(NOT TARGET CUDA::cublas)
      message(FATAL_ERROR "mamba: the CUDA compiler is there, but not cuBLAS. Install it with its headers (libcublas-dev-<version> of "
                          "CUDA's packages, or nvidia-cublas of PyPI), or configure with -DMAMBA_WITH_CUDA=OFF")
    endif()
  endif()
endif()
