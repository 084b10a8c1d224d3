// A run of many: where it goes on, what comes of it, and the places that there are for runs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "record.hpp"
#include "support/device.hpp"
#include "support/processes.hpp"
#include "support/text_file.hpp"
#include "variants.hpp"

namespace runs {

// What came of a run of many: its metrics.json, or that it diverged. seconds: of one that was stopped, since it went
// on.
struct Outcome {
  std::optional<Json> metrics;
  double seconds = 0;
};

// Throws Error where a record differs from what is to be run, naming what. what: whose record it is. An option that the
// record does not mention counts as unmentioned().
inline void check_record(const std::filesystem::path& record, const Json& expected, const std::string& what) {
  const Json there = support::from_file(record, [&] {
    Json json = support::read_json(record);
    json.members();  // an object, or refused
    return json;
  });
  for (const auto& [name, value] : expected.members()) {
    const Json* const other = there.find(name);
    if (const std::string text = (other ? *other : unmentioned(name)).dump(); text != value.dump())
      mamba::fail(mamba::ErrorKind::invalid_argument, what, " holds runs of ", name, " ", text, ", not ", value.dump());
  }
}

// A run in its folder o.out, which is nobody else's meanwhile, or the rest of one that was stopped there. Nothing if it
// was interrupted. Throws Error for all but a divergence, of which diverged.txt tells.
template <class Experiment>
std::optional<Outcome> run_or_continue(const Built<Experiment>& built, Options<Experiment> o) {
  const support::OwnFolder folder(o.out);
  o.quiet = true;
  o.resume = std::filesystem::exists(folder / "checkpoint.safetensors");
  if (o.resume) check_record(folder / "config.json", recorded(o), o.out.string());
  const double start = support::seconds_now();
  Outcome outcome;
  mamba::Alone alone;
  try {
    if (built.train(o, folder, alone, "") == support::interrupted_run) return std::nullopt;
    outcome.metrics = support::read_json(folder / "metrics.json");
  } catch (const mamba::Error& error) {
    if (error.kind() != mamba::ErrorKind::diverged) throw;
    mamba::io::write_file(folder / "diverged.txt", std::string(error.what()) + "\n");
  }
  outcome.seconds = support::seconds_now() - start;
  return outcome;
}

namespace detail {

// The GPUs of this machine that can, those that cannot being told of. Throws Error(device_failed) where none can.
inline std::vector<int> usable_gpus() {
  std::vector<int> gpus;
  for (int gpu = 0; gpu < gpu_count(); ++gpu) {
    if (const std::string problem = gpu_problem(gpu); problem.empty()) gpus.push_back(gpu);
    else std::fprintf(stderr, "Without GPU %d: %s\n", gpu, problem.c_str());
  }
  if (gpus.empty()) mamba::fail(mamba::ErrorKind::device_failed, gpu_problem(0));
  return gpus;
}

}  // namespace detail

// The places of --device: indices of GPUs, or -1, the CPU, alone. "all": every GPU of the machine. Of processes that
// were started together on a machine each has one GPU, unless one is named. Throws Error where some have GPUs and
// others none.
inline std::vector<int> places_of(const std::string& device, support::Processes& processes) {
  std::vector<int> places;
  mamba::together(processes.group(), [&] {
    const bool share_out =
        processes.count() > 1 && (device == "cuda" || device == "all" || (device == "auto" && gpu_count() > 0));
    if (share_out) {
      const std::vector<int> gpus = detail::usable_gpus();
      places = {gpus[static_cast<std::size_t>(processes.number_on_machine()) % gpus.size()]};
    } else if (device == "all") {
      places = detail::usable_gpus();
    } else {
      const auto choice = mamba::DeviceChoice::parse(device);
      places = {support::use_gpu(choice, gpu_problem) ? choice.index : -1};
    }
  });
  const std::vector<int> all = mamba::gather(processes.group(), places[0]);
  const auto [least, most] = std::minmax_element(all.begin(), all.end());
  mamba::require((*least < 0) == (*most < 0), "process ", least - all.begin(), " has no GPU, and process ",
                 most - all.begin(), " has; --device cpu is for all of them");
  return places;
}
inline bool on_gpu(const std::vector<int>& places) { return places[0] >= 0; }

}  // namespace runs
