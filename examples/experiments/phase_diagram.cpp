// Layers x gamma x seeds on the composite function task: which solution is preferred where (the paper's phase diagram).
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"
#include "hand_out.hpp"
#include "phase_report.hpp"
#include "sweep.hpp"

namespace {

namespace fs = std::filesystem;
using Options = runs::Options<runs::Composite>;
using mamba::io::Json;
using sweep::Cell, sweep::Row, sweep::Table;

// What all runs of a diagram share, as settings.json records it: a run's options but for what the grid varies.
Json settings_of(const Options& o) {
  const Json all = runs::recorded(o);
  Json::Members members;
  for (const auto& [name, value] : all.members())
    if (name != "n_layers" && name != "gamma" && name != "seed") members.emplace_back(name, value);
  return members;
}

// The folder of a diagram. Every run has its own in it; what has ended is in runs.csv and curves.csv, which with the
// figures are replaced as wholes.
class Diagram {
 public:
  // Continues what is there. Throws Error where that had other settings.
  Diagram(fs::path folder, const Options& options)
      : folder_(std::move(folder)), settings_(settings_of(options)), variant_(options.variant) {
    read();
    own_.emplace(folder_);
    if (!read())
      mamba::io::write_file(folder_ / "settings.json", settings_.dump(2) + "\n");  // as it is now that it is ours alone
  }

  const Table& table() const { return table_; }

  // Takes over another diagram's runs.
  void merge(const Table& theirs) {
    table_.add(theirs);
    write();
  }

  void add(const Row& row) {
    table_.add(row);
    write();
  }

  void write() const {
    using namespace phase_report;
    mamba::io::write_file(folder_ / "curves.csv", table_.curves_csv());  // first: a curve without its run is no harm
    mamba::io::write_file(folder_ / "runs.csv", table_.csv());
    if (table_.rows().empty()) return;
    const std::string title = "Phase diagram: " + runs::title_of(variant_);
    mamba::io::write_file(folder_ / "phase_composite.svg",
                          heatmap(table_, title + ", composite label", &Row::composite));
    mamba::io::write_file(folder_ / "phase_symmetric.svg",
                          heatmap(table_, title + ", symmetric label", &Row::symmetric));
    const runs::Variant standard{.mixer = variant_.mixer, .head = variant_.head, .vocab_size = variant_.vocab_size};
    mamba::io::write_file(folder_ / "report.html", html(table_, title, settings_, variant_ == standard));
  }

 private:
  // Whether a diagram is there.
  bool read() {
    const bool there = fs::exists(folder_ / "settings.json");
    if (there) runs::check_record(folder_ / "settings.json", settings_, folder_.string());
    if (fs::exists(folder_ / "runs.csv")) table_ = Table::read(folder_);
    return there;
  }

  fs::path folder_;
  Json settings_;
  runs::Variant variant_;
  std::optional<support::OwnFolder> own_;
  Table table_;
};

Row row_of(const Cell& cell, const runs::Outcome& outcome) {
  Row row{cell};
  row.seconds = outcome.seconds;
  if (!outcome.metrics) {
    row.diverged = true;
    return row;
  }
  const auto value = [&](const char* key) { return outcome.metrics->at(key).number(); };
  row.composite = value("composite_acc"), row.symmetric = value("symmetric_acc"),
  row.best_composite = value("best_composite_acc");
  row.train_loss = value("train_loss");
  return row;
}

// Runs what is left of the cells. The diagram is the first process's.
int run_all(std::optional<Diagram>& diagram, const fs::path& run_folder, const std::vector<Cell>& cells,
            const Options& o, const runs::Built<runs::Composite>& built, const std::vector<int>& places,
            support::Processes& processes) {
  return runs::work_through(
      cells, places, processes, [&](const Cell& cell) { return diagram->table().find(cell) != nullptr; },
      [&](const Cell& cell, int place) {
        Options own = o;
        own.gpu = std::max(place, 0);
        own.layers = cell.layers, own.gamma = cell.gamma, own.seed = cell.seed;
        own.out = run_folder / cell.name();
        return runs::run_or_continue(built, own);
      },
      [&](const Cell& cell, const runs::Outcome& outcome) {
        Row row = row_of(cell, outcome);
        if (const fs::path log = run_folder / cell.name() / "training_log.csv"; fs::exists(log))
          row.log = support::NumberTable::read(log, runs::log_columns<runs::Composite>()).rows;
        diagram->add(row);
        if (row.diverged) return std::string("diverged");
        return "composite " + mamba::fixed_text(row.composite, 3) + ", symmetric " +
               mamba::fixed_text(row.symmetric, 3);
      });
}

int run(int argc, char** argv, support::Processes& processes) {
  std::string preset = support::early_option(argc, argv, "--preset", "paper"), device = "auto", shard = "1/1";
  const bool small = preset == "small";
  Options o = runs::preset<runs::Composite>(small ? "quick" : preset);
  if (small || preset == "protocol") o.variant.mixer = "mamba2";
  std::vector<int> layers{2, 3, 5, 4, 6, 7};
  std::vector<double> gammas{.1, .2, .3, .4, .5, .6, .7, .8, .9, 1.0, 1.5, 2.0};
  std::uint64_t seeds = 3;
  if (small) layers = {2}, gammas = {0.5, 1.0, 1.5}, seeds = 1;
  fs::path out = "runs/phase_diagram";
  std::vector<fs::path> merged;

  support::CommandLine app{
      "Trains the composite function task's models for every number of layers, gamma and seed, and draws which "
      "solution they prefer\n"
      "(arXiv 2509.17514, the phase diagram). Without options: the paper's 216 runs. A run that has ended is never run "
      "again: the same\n"
      "command goes on after a stop. Processes that mpirun or srun starts together share out the runs; shards of "
      "machines that\n"
      "know nothing of each other are put together by --merge."};
  app.add_option("--preset", preset,
                 "paper, protocol, achilles: the paper's grid, each run as train_composite's; small: 2 layers, gamma "
                 "0.5, 1, 1.5, one seed, short runs")
      ->check(CLI::IsMember({"paper", "protocol", "achilles", "small"}));
  app.add_option("--layers", layers, "numbers of layers, in the order in which they run")->check(runs::is_depth);
  app.add_option("--gammas", gammas, "of the initialisation")->check(CLI::NonNegativeNumber);
  app.add_option("--seeds", seeds, "how many, from 0 on")->check(CLI::Range(1, 1000));
  runs::add_variant_options(app, o.variant);
  runs::RunOptions<runs::Composite> run_options(app, o, {"--seed"});
  app.add_option("--device", device, "auto, cpu, cuda, cuda:N, or all GPUs at once: all");
  app.add_option("--threads", o.threads, "of the CPU; 0: all cores")->check(CLI::NonNegativeNumber);
  [[maybe_unused]] support::TogetherOptions together_options(app);
  app.add_option("--out", out, "folder of the diagram");
  auto* const shard_option =
      app.add_option("--shard", shard, "I/N: only the I-th of N shares of the runs, in a folder of its own");
  app.add_option("--merge", merged, "folders of other shards: takes their runs over instead of running any")
      ->excludes(shard_option);
  if (const auto ends = support::parse(app, argc, argv, [&] { run_options.finish(); })) return *ends;

  const auto share = sweep::Shard::parse(shard);
  std::vector<Cell> cells;
  std::size_t number = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed)  // a whole diagram first, then its repetitions
    for (const int l : support::distinct(layers))
      for (const double gamma : support::distinct(gammas)) {
        Options of_cell = o;
        of_cell.layers = l, of_cell.gamma = gamma;
        runs::check(of_cell, 0);
        if (share.has(number++)) cells.push_back({l, gamma, seed});
      }
  mamba::Group& group = processes.group();
  // All that may be refused is, before anything is written.
  int code = support::done;
  std::optional<Diagram> diagram;
  if (merged.empty()) {
    const auto places = runs::places_of(device, processes);
    const runs::Built<runs::Composite>* built = nullptr;
    mamba::together(
        group, [&] { built = &find_variant(runs::variants_of(runs::Composite{}, runs::on_gpu(places)), o.variant); });
    mamba::in_first(group, [&] { diagram.emplace(out, o); });
    code = run_all(diagram, out / "runs", cells, o, *built, places, processes);
    if (!diagram) return code;
    diagram->write();
  } else {
    mamba::require(group.size() == 1, "diagrams are merged by one process; these are ", group.size());
    std::vector<Table> theirs;
    for (const fs::path& other : merged) {
      runs::check_record(other / "settings.json", settings_of(o), other.string());
      theirs.push_back(Table::read(other));
    }
    diagram.emplace(out, o);
    for (const Table& table : theirs) diagram->merge(table);
  }
  const std::size_t count = diagram->table().rows().size();
  std::printf("%zu runs in %s: runs.csv, curves.csv%s\n", count, out.string().c_str(),
              count > 0 ? ", phase_composite.svg, phase_symmetric.svg, report.html"
                        : "; no figures, for there is nothing to draw");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  return support::guarded_together("phase_diagram", argc, argv,
                                   [&](support::Processes& processes) { return run(argc, argv, processes); });
}
