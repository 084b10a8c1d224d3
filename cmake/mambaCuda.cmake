# mamba::cuda: all that a source for NVIDIA GPUs needs beside the headers. Defined where the project has CUDA enabled and the toolkit with
# cuBLAS is found.
if(CMAKE_CUDA_COMPILER AND NOT TARGET mamba::cuda)
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cublas)
    add_library(mamba::cuda INTERFACE IMPORTED GLOBAL)
    # Grid scope multiplies by cuBLAS. By its file: the toolkit's target is not known above the folder that asked for it.
    target_link_libraries(mamba::cuda INTERFACE mamba::mamba ${CUDA_cublas_LIBRARY})
    target_compile_definitions(mamba::cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:EIGEN_NO_CUDA>)
    target_compile_options(mamba::cuda INTERFACE
      # CMake 3.25 has no C++20 flag for CUDA.
      $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>
      # A call from device code to a host function is only a warning, and garbage at run time.
      "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror cross-execution-space-call>")
  endif()
endif()
