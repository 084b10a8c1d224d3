// Runs that stop and go on: what is refused, and what is said.
#pragma once

#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <string>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>

namespace support {

// Throws Error(invalid_argument) where a folder has a run, which a new one would write over; or another of the files
// that a run writes, whoever made it.
inline void check_no_run(const std::filesystem::path& folder, std::initializer_list<const char*> outputs = {}) {
  for (const char* file : {"checkpoint.safetensors", "metrics.json"})
    if (std::filesystem::exists(folder / file))
      mamba::fail(mamba::ErrorKind::invalid_argument, folder.string(),
                  " already holds a run: continue it with --resume, or name another folder");
  for (const char* file : outputs)
    if (std::filesystem::exists(std::filesystem::symlink_status(folder / file)))
      mamba::fail(mamba::ErrorKind::invalid_argument, folder.string(), " already holds a ", file,
                  ", which a run would write over: name another folder");
}

// Throws Error(invalid_argument) where the command line gives an option that the stopped run has otherwise.
inline void check_same_option(const std::string& option, const mamba::io::Json& asked, const mamba::io::Json& stopped) {
  if (asked.dump() != stopped.dump())
    mamba::fail(mamba::ErrorKind::invalid_argument, option, " ", asked.dump(), " differs from the stopped run's ",
                stopped.dump());
}

// How an interrupted run goes on. gpu: the index of the one it was on, below 0 for the CPU.
inline void advise_to_continue(const char* program, const std::string& folder, long steps, long total, int gpu) {
  std::fprintf(stderr, "Interrupted after step %ld of %ld. Continue with: %s --out %s --resume --device %s\n", steps,
               total, program, folder.c_str(), gpu < 0 ? "cpu" : ("cuda:" + std::to_string(gpu)).c_str());
}

}  // namespace support
