// Many runs, one after another on every place (a GPU, or the CPU), all places at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "record.hpp"
#include "support/device.hpp"
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
  try {
    if (built.train(o, folder, "") == support::interrupted_run) return std::nullopt;
    outcome.metrics = support::read_json(folder / "metrics.json");
  } catch (const mamba::Error& error) {
    if (error.kind() != mamba::ErrorKind::diverged) throw;
    mamba::io::write_file(folder / "diverged.txt", std::string(error.what()) + "\n");
  }
  outcome.seconds = support::seconds_now() - start;
  return outcome;
}

// The places of --device: indices of GPUs, or -1, the CPU, alone. "all": every GPU of the machine that can, those that
// cannot being told of.
inline std::vector<int> places_of(const std::string& device) {
  if (device != "all") {
    const auto choice = mamba::DeviceChoice::parse(device);
    return {support::use_gpu(choice, gpu_problem) ? choice.index : -1};
  }
  std::vector<int> gpus;
  for (int gpu = 0; gpu < gpu_count(); ++gpu) {
    if (const std::string problem = gpu_problem(gpu); problem.empty()) gpus.push_back(gpu);
    else std::fprintf(stderr, "Without GPU %d: %s\n", gpu, problem.c_str());
  }
  if (gpus.empty()) mamba::fail(mamba::ErrorKind::device_failed, gpu_problem(0));
  return gpus;
}
inline bool on_gpu(const std::vector<int>& places) { return places[0] >= 0; }

// run(job, place) -> std::optional<Outcome>, at the same time as others, for every job, which has a title();
// record(job, outcome) -> what to tell of it, one at a time. `all`: how many there are with those done before. Returns
// the exit code. An interrupt lets the runs in hand write their checkpoints; so does the error of one of them, which is
// thrown again at the end.
template <class Job, class Run, class Record>
int work_through(const std::vector<Job>& jobs, std::size_t all, const std::vector<int>& places, Run&& run,
                 Record&& record) {
  const std::size_t before = all - jobs.size();
  std::fprintf(stderr, "%zu runs, %zu of them done\n", all, before);
  support::catch_interrupts();
  const double start = support::seconds_now();
  std::atomic<std::size_t> next{0};
  std::size_t done = 0;
  std::mutex lock;
  std::exception_ptr failure;
  const auto work = [&](int place) {
    std::size_t i = 0;
    try {
      for (i = next++; i < jobs.size() && !support::interrupted(); i = next++) {
        const std::optional<Outcome> outcome = run(jobs[i], place);
        const std::lock_guard hold(lock);
        if (!outcome) return;
        const std::string told = record(jobs[i], *outcome);
        ++done;
        const double left =
            (support::seconds_now() - start) / static_cast<double>(done) * static_cast<double>(jobs.size() - done);
        std::fprintf(stderr, "[%zu/%zu] %s: %s (%s); %s left\n", before + done, all, jobs[i].title().c_str(),
                     told.c_str(), support::duration_text(outcome->seconds).c_str(),
                     support::duration_text(left).c_str());
      }
    } catch (...) {
      const std::lock_guard hold(lock);
      std::fprintf(stderr, "%s failed%s\n", jobs[i].title().c_str(),
                   places.size() > 1 ? "; the others that run now write their checkpoints" : "");
      if (!failure) failure = std::current_exception();
      support::interrupt();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t p = 1; p < places.size(); ++p) threads.emplace_back(work, places[p]);
  work(places[0]);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  if (done == jobs.size()) return support::done;
  std::fprintf(stderr, "Interrupted after %zu of %zu runs. The same command goes on.\n", before + done, all);
  return support::interrupted_run;
}

}  // namespace runs
