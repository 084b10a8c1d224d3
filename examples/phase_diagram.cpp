// Layers x gamma x seeds on the composite function task: which solution is preferred where (the paper's phase diagram).
#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "composite_run.hpp"
#include "composite_variants.hpp"
#include "phase_report.hpp"
#include "sweep.hpp"

namespace {

namespace fs = std::filesystem;
using composite_run::Options;
using mamba::io::Json;
using sweep::Cell, sweep::Row, sweep::Table;

// What all runs of a diagram share, as settings.json records it: a run's options but for what the grid varies.
Json settings_of(const Options& o) {
  const Json all = composite_run::recorded(o);
  Json::Members members;
  for (const auto& [name, value] : all.members())
    if (name != "n_layers" && name != "gamma" && name != "seed") members.emplace_back(name, value);
  return members;
}

// Refuses a folder whose runs had other settings.
void check_settings(const fs::path& folder, const Json& settings) {
  const Json there = Json::parse(sweep::text_of(folder / "settings.json"));
  for (const auto& [name, value] : settings.members())
    if (const Json* other = there.find(name); !other || other->dump() != value.dump())
      mamba::fail(mamba::ErrorKind::invalid_argument, folder.string(), " holds runs of ", name, " ", other ? other->dump() : "unknown", ", not ", value.dump());
}

// The folder of a diagram. Every run has its own in it; runs.csv and the figures are replaced as wholes.
class Diagram {
 public:
  // Continues what is there. Throws Error where that had other settings.
  Diagram(fs::path folder, const Options& options) : folder_(std::move(folder)), settings_(settings_of(options)), variant_(options.variant) {
    const bool continues = fs::exists(folder_ / "settings.json");
    if (continues) check_settings(folder_, settings_);
    std::error_code error;
    fs::create_directories(runs(), error);
    if (error) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", runs().string(), ": ", error.message());
    if (!continues) mamba::io::write_file(folder_ / "settings.json", settings_.dump(2) + "\n");
    if (fs::exists(folder_ / "runs.csv")) table_ = Table::read(folder_ / "runs.csv");
  }

  fs::path runs() const { return folder_ / "runs"; }
  const Table& table() const { return table_; }

  // Takes over the runs of another folder, of which this one needs nothing more. theirs: its table.
  void merge(const fs::path& other, const Table& theirs) {
    for (const Row& row : theirs.rows()) {
      if (table_.find(row.cell)) continue;
      const fs::path from = other / "runs" / row.cell.name(), to = runs() / row.cell.name();
      std::error_code error;
      fs::create_directories(to, error);
      for (const char* file : {"config.json", "training_log.csv", "metrics.json"})
        if (fs::exists(from / file)) mamba::io::write_file(to / file, sweep::text_of(from / file));
      table_.add(row);
    }
    write();
  }

  void add(const Row& row) {
    table_.add(row);
    write();
  }

  void write() const {
    using namespace phase_report;
    mamba::io::write_file(folder_ / "runs.csv", table_.csv());
    if (table_.rows().empty()) return;
    const std::string title = "Phase diagram: " + composite_run::title_of(variant_);
    mamba::io::write_file(folder_ / "phase_composite.svg", heatmap(table_, title + ", composite label", &Row::composite));
    mamba::io::write_file(folder_ / "phase_symmetric.svg", heatmap(table_, title + ", symmetric label", &Row::symmetric));
    const composite_run::Variant standard{variant_.mixer, "learned", "none", "none"};
    mamba::io::write_file(folder_ / "report.html", html(table_, runs(), title, settings_, variant_ == standard));
  }

 private:
  fs::path folder_;
  Json settings_;
  composite_run::Variant variant_;
  Table table_;
};

// One run, or the rest of one that was stopped. Returns nothing if it was interrupted.
std::optional<Row> run_cell(const composite_run::Built& built, Options o, const Cell& cell, const fs::path& runs) {
  o.layers = cell.layers, o.gamma = cell.gamma, o.seed = o.training.seed = o.task.seed = cell.seed;
  o.out = runs / cell.name(), o.quiet = true;
  o.resume = fs::exists(o.out / "checkpoint.safetensors");
  Row row{cell};
  const double start = support::seconds_now();
  try {
    if (built.train(o) == support::interrupted_run) return std::nullopt;
    const Json metrics = Json::parse(sweep::text_of(o.out / "metrics.json"));
    row.composite = metrics.at("composite_acc").number(), row.symmetric = metrics.at("symmetric_acc").number();
    row.best_composite = metrics.at("best_composite_acc").number(), row.train_loss = metrics.at("train_loss").number();
  } catch (const mamba::Error& error) {
    if (error.kind() != mamba::ErrorKind::diverged) throw;
    row.diverged = true;
    mamba::io::write_file(o.out / "diverged.txt", std::string(error.what()) + "\n");
  }
  row.seconds = support::seconds_now() - start;
  return row;
}

// The GPUs that can be used, or -1, the CPU, alone.
std::vector<int> places_of(const std::string& device) {
  if (device != "all") {
    const auto choice = mamba::DeviceChoice::parse(device);
    return {choice.use_gpu(composite_run::gpu_problem(choice.index)) ? choice.index : -1};
  }
  std::vector<int> gpus;
  while (composite_run::gpu_problem(static_cast<int>(gpus.size())).empty()) gpus.push_back(static_cast<int>(gpus.size()));
  if (gpus.empty()) mamba::fail(mamba::ErrorKind::device_failed, composite_run::gpu_problem(0));
  return gpus;
}

// Runs what is left of the cells, one after another on every place.
int run_all(Diagram& diagram, const std::vector<Cell>& cells, const Options& o, const composite_run::Built& built, const std::vector<int>& places) {
  std::vector<Cell> left;
  for (const Cell& cell : cells)
    if (!diagram.table().find(cell)) left.push_back(cell);
  std::fprintf(stderr, "%zu runs, %zu of them done\n", cells.size(), cells.size() - left.size());
  support::catch_interrupts();
  const double start = support::seconds_now();
  std::atomic<std::size_t> next{0};
  std::size_t done = 0;
  std::mutex lock;
  std::exception_ptr failure;
  const auto work = [&](int place) {
    try {
      Options own = o;
      own.gpu = std::max(place, 0);
      for (std::size_t i = next++; i < left.size() && !support::interrupted(); i = next++) {
        const auto row = run_cell(built, own, left[i], diagram.runs());
        const std::lock_guard hold(lock);
        if (!row) return;
        diagram.add(*row);
        ++done;
        const double seconds = support::seconds_now() - start;
        std::fprintf(stderr, "[%zu/%zu] %d layers, gamma %s, seed %llu: ", cells.size() - left.size() + done, cells.size(), row->cell.layers,
                     Json(row->cell.gamma).dump().c_str(), static_cast<unsigned long long>(row->cell.seed));
        if (row->diverged) std::fprintf(stderr, "diverged");
        else std::fprintf(stderr, "composite %.3f, symmetric %.3f", row->composite, row->symmetric);
        std::fprintf(stderr, " (%s); %s left\n", support::duration_text(row->seconds).c_str(),
                     support::duration_text(seconds / static_cast<double>(done) * static_cast<double>(left.size() - done)).c_str());
      }
    } catch (...) {
      const std::lock_guard hold(lock);
      if (!failure) failure = std::current_exception();
      next = left.size();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t p = 1; p < places.size(); ++p) threads.emplace_back(work, places[p]);
  work(places[0]);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  if (done == left.size()) return support::done;
  std::fprintf(stderr, "Interrupted after %zu of %zu runs. The same command goes on.\n", cells.size() - left.size() + done, cells.size());
  return support::interrupted_run;
}

int run(int argc, char** argv) {
  std::string preset = "paper", device = "auto", shard = "1/1";
  Options given;
  std::vector<int> layers{2, 3, 5, 4, 6, 7};
  std::vector<double> gammas{.1, .2, .3, .4, .5, .6, .7, .8, .9, 1.0, 1.5, 2.0};
  std::uint64_t seeds = 3;
  long epochs = 0, steps = 0;
  fs::path out = "runs/phase_diagram";
  std::vector<fs::path> merged;
  given.variant.mixer = "mamba2";

  CLI::App app{
      "Trains the composite function task's models for every number of layers, gamma and seed, and draws which solution they prefer\n"
      "(arXiv 2509.17514, the phase diagram). Without options: the paper's 216 runs. A run that has ended is never run again: the same\n"
      "command goes on after a stop; shards of several machines are put together by --merge."};
  app.footer(support::exit_code_help);
  app.set_version_flag("--version", MAMBA_VERSION);
  app.option_defaults()->always_capture_default();
  app.add_option("--preset", preset, "paper: its grid and protocol; small: 2 layers, gamma 0.5, 1, 1.5, one seed, short runs")
      ->check(CLI::IsMember({"paper", "small"}));
  auto* const layers_option = app.add_option("--layers", layers, "numbers of layers, in the order in which they run")->check(CLI::Range(1, 1000));
  auto* const gammas_option = app.add_option("--gammas", gammas, "of the initialisation")->check(CLI::NonNegativeNumber);
  auto* const seeds_option = app.add_option("--seeds", seeds, "how many, from 0 on")->check(CLI::Range(1, 1000));
  app.add_option("--mixer", given.variant.mixer, "mamba2, which the paper's Mamba is, or mamba1")->check(CLI::IsMember({"mamba1", "mamba2"}));
  app.add_option("--conv", given.variant.conv, "the convolution's kernel")->check(CLI::IsMember({"learned", "ones", "ones-frozen"}));
  app.add_option("--position", given.variant.position, "what is added to the embedding")->check(CLI::IsMember({"none", "learned", "sinusoidal"}));
  app.add_option("--residual", given.variant.residual, "what bypasses the convolution")->check(CLI::IsMember({"none", "identity", "gate", "linear"}));
  auto* const epochs_option = app.add_option("--epochs", epochs, "length of each run; unless given, the preset's")->check(CLI::PositiveNumber)->default_str("");
  auto* const steps_option =
      app.add_option("--steps", steps, "the same in steps; the rate changes every step")->check(CLI::PositiveNumber)->excludes(epochs_option)->default_str("");
  auto* const batch_option =
      app.add_option("--batch-size", given.training.batch_size, "sequences a step; unless given, the preset's")->check(CLI::PositiveNumber)->default_str("");
  auto* const lr_option = app.add_option("--lr", given.training.schedule.lr, "learning rate after the warm-up; unless given, the preset's")->default_str("");
  app.add_option("--train-samples", given.task.train_samples, "size of the training set");
  app.add_option("--eval-samples", given.task.eval_samples, "size of each pair's test set");
  app.add_option("--device", device, "auto, cpu, cuda, cuda:N, or all GPUs at once: all");
  app.add_option("--threads", given.threads, "of the CPU; 0: all cores")->check(CLI::NonNegativeNumber);
  app.add_option("--out", out, "folder of the diagram");
  app.add_option("--shard", shard, "I/N: only the I-th of N shares of the runs");
  app.add_option("--merge", merged, "folders of other shards: takes their runs over instead of running any");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? support::done : support::usage;
  }
  try {
    Options o = composite_run::preset(preset == "small" ? "quick" : "paper");
    o.variant = given.variant, o.task = given.task, o.threads = given.threads;
    if (*batch_option) o.training.batch_size = given.training.batch_size;
    if (*lr_option) o.training.schedule.lr = given.training.schedule.lr;
    if (preset == "small") {
      if (!*layers_option) layers = {2};
      if (!*gammas_option) gammas = {0.5, 1.0, 1.5};
      if (!*seeds_option) seeds = 1;
    }
    if (*steps_option || *epochs_option) {
      o.training.schedule_in_steps = static_cast<bool>(*steps_option);
      o.training.schedule.total = *steps_option ? steps : epochs;
      o.training.schedule.warmup = std::min(o.training.schedule.warmup, o.training.schedule.total / 10);
      o.eval_every = *steps_option ? std::max(1L, steps / 20) : std::max(1L, epochs / 20);
    }
    o.training.schedule.check();
    const auto share = sweep::Shard::parse(shard);
    std::vector<Cell> cells;
    std::size_t number = 0;
    for (std::uint64_t seed = 0; seed < seeds; ++seed)  // a whole diagram first, then its repetitions
      for (const int l : layers)
        for (const double gamma : gammas)
          if (share.has(number++)) cells.push_back({l, gamma, seed});
    // All that may be refused is, before anything is written.
    int code = support::done;
    std::size_t count = 0;
    if (merged.empty()) {
      const auto places = places_of(device);
      const auto& built = find_variant(places[0] < 0 ? composite_run::all_built() : composite_run::all_built_for_gpus(), o.variant);
      Diagram diagram(out, o);
      code = run_all(diagram, cells, o, built, places);
      diagram.write();
      count = diagram.table().rows().size();
    } else {
      std::vector<Table> theirs;
      for (const fs::path& other : merged) check_settings(other, settings_of(o)), theirs.push_back(Table::read(other / "runs.csv"));
      Diagram diagram(out, o);
      for (std::size_t i = 0; i < merged.size(); ++i) diagram.merge(merged[i], theirs[i]);
      count = diagram.table().rows().size();
    }
    std::printf("%zu runs in %s: runs.csv, phase_composite.svg, phase_symmetric.svg, report.html\n", count, out.c_str());
    return code;
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "phase_diagram: %s\n", error.what());
    return support::exit_code(error);
  }
}

}  // namespace

int main(int argc, char** argv) { return run(argc, argv); }
