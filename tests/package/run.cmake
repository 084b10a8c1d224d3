# Builds and runs the consumer in WAY: against an installation of this build tree, or with the source tree inside.
file(REMOVE_RECURSE ${WORK})
function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(result)
    message(FATAL_ERROR "failed: ${ARGN}")
  endif()
endfunction()
if(WAY STREQUAL find_package)
  step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
endif()
step(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${WORK}/build -DCMAKE_CXX_COMPILER=${COMPILER} "-DCMAKE_CXX_FLAGS=${FLAGS}"
     "-DCUDA_COMPILER=${CUDA_COMPILER}" "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" "-DCMAKE_CUDA_HOST_COMPILER=${CUDA_HOST_COMPILER}"
     -DWAY=${WAY} -DMPI=${MPI} -DMAMBA_SOURCE=${SOURCE} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
step(${CMAKE_COMMAND} --build ${WORK}/build)
step(${WORK}/build/consumer)
