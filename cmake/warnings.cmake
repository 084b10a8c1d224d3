# How our own programs are compiled; nothing of it reaches a consumer.
add_library(mamba_own_flags INTERFACE)
target_compile_options(mamba_own_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wshadow>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 takes an inlined "text" + std::string for a copy onto itself.
  target_compile_options(mamba_own_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()

# For programs of many models, each of which runs for a moment: building them is what takes time. Without two of its passes, and collecting
# garbage from a gigabyte on, g++ takes a sixth less, and what it makes is as fast.
add_library(mamba_quick_build INTERFACE)
set(quick_options -O1)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND quick_options -fno-tree-pta -fno-tree-dominator-opts "SHELL:--param ggc-min-heapsize=1000000")
endif()
target_compile_options(mamba_quick_build INTERFACE "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:${quick_options}>")

# What nearly every source of a target includes is read once. That headers stand alone is another test's matter.
function(mamba_read_once target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12 does not know of a precompiled header what in it is the system's, and warns of libstdc++'s own copies where they are inlined.
    # Programs without one (examples, benchmarks, fuzz targets, link tests) are still asked.
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-array-bounds;-Wno-stringop-overread;-Wno-stringop-overflow>)
  endif()
endfunction()

if(MAMBA_WERROR)
  target_compile_options(mamba_own_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(MAMBA_NATIVE)
  target_compile_options(mamba_own_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC's AVX-512 intrinsics begin from a register that is left undefined on purpose; GCC 12 warns of its own header.
    target_compile_options(mamba_own_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-uninitialized;-Wno-maybe-uninitialized>)
  endif()
endif()
