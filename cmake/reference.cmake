# The target `reference`: an API reference of the public names as HTML, by Doxygen, without a warning.
find_package(Doxygen QUIET)
if(DOXYGEN_FOUND)
  set(reference ${CMAKE_CURRENT_BINARY_DIR}/reference)
  # What a program uses; the floors below are for who reads the code.
  set(public composite.hpp language_model.hpp core/config.hpp core/error.hpp core/host_tensor.hpp core/policies.hpp core/storage.hpp
      core/views.hpp engine/probes.hpp engine/state.hpp network/head_loss.hpp network/probe.hpp model task train io/figure io/file.hpp
      io/json.hpp io/load_options.hpp io/safetensors.hpp)
  list(TRANSFORM public PREPEND ${PROJECT_SOURCE_DIR}/include/mamba/)
  list(JOIN public "\" \"" input)
  file(WRITE ${reference}/Doxyfile "
PROJECT_NAME = mamba
PROJECT_NUMBER = ${PROJECT_VERSION}
PROJECT_BRIEF = \"Mamba models in header-only C++20\"
OUTPUT_DIRECTORY = \"${reference}\"
INPUT = \"${input}\"
RECURSIVE = YES
STRIP_FROM_PATH = \"${PROJECT_SOURCE_DIR}/include\"
FULL_PATH_NAMES = YES
# The sources' comments are plain ones.
INPUT_FILTER = \"${CMAKE_CURRENT_LIST_DIR}/reference_filter.sh\"
FILTER_SOURCE_FILES = NO
MARKDOWN_SUPPORT = NO
AUTOLINK_SUPPORT = NO
EXTRACT_ALL = YES
EXCLUDE_SYMBOLS = *detail* mamba::network::* mamba::cuda::* mamba::eigen::*
MACRO_EXPANSION = YES
EXPAND_ONLY_PREDEF = YES
PREDEFINED = DOXYGEN MAMBA_INSTRUCTION_SET=here MAMBA_HOST_DEVICE= MAMBA_COMPOSITION= MAMBA_INLINE=inline
GENERATE_LATEX = NO
HAVE_DOT = NO
CLASS_GRAPH = NO
QUIET = YES
WARN_AS_ERROR = FAIL_ON_WARNINGS
")
  add_custom_target(reference COMMAND Doxygen::doxygen ${reference}/Doxyfile WORKING_DIRECTORY ${reference}
    COMMENT "Reference of the public names: ${reference}/html/index.html")
endif()
