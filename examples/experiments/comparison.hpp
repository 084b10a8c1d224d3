// Comparisons of variants: a figure of training curves, a line for each variant (its mean over seeds, with their extent
// as a band).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/text.hpp>
#include <mamba/io/figure/figure.hpp>

#include "factorial.hpp"
#include "hand_out.hpp"

namespace comparison {

namespace fs = std::filesystem;
using mamba::io::Json;

// What the command line decides for all comparisons.
struct Settings {
  std::string mixer = "mamba2";
  std::uint64_t seeds = 3;
  std::string preset = "paper";                   // small: the programs' "quick"
  long epochs = 0, steps = 0, train_samples = 0;  // 0: the comparison's own
  int layers = 0, batch_size = 0, eval_samples = 0;
  std::optional<double> gamma{}, lr{};
  int threads = 0;
  fs::path out;
};

// One run: a line's, with one seed, in a folder of its own.
struct Job {
  std::string name;
  fs::path folder;
  std::function<std::optional<runs::Outcome>(int place)> run;
  std::function<std::string(const runs::Outcome&)> told;

  std::string title() const { return name; }
  bool is_done() const { return fs::exists(folder / "metrics.json") || fs::exists(folder / "diverged.txt"); }
};

// What a program needs to know of a comparison, whatever its task.
class Comparison {
 public:
  virtual ~Comparison() = default;
  // Its runs. Throws Error, and writes nothing, for what cannot be run, or where other runs are in the folder.
  virtual std::vector<Job> jobs(const Settings& settings, bool gpu) const = 0;
  // Writes the figure and the tables, and prints the final accuracies.
  virtual void report(const Settings& settings) const = 0;

  // Whether it is a factorial design.
  virtual bool is_design() const = 0;
  // Whether models of this mixer can differ in what it compares: without a convolution some cannot.
  virtual bool applies_to(const Settings& settings) const = 0;

  const std::string name, question;

 protected:
  Comparison(std::string name_, std::string question_) : name(std::move(name_)), question(std::move(question_)) {}
};

using Curve = std::vector<std::pair<double, double>>;  // (epoch, value)

// The value at every epoch over the runs that have one: their mean, the smallest, the largest.
inline mamba::io::Series series_of(const std::string& name, const std::vector<Curve>& curves) {
  mamba::io::Series series{name, {}};
  for (const auto& curve : curves)
    for (const auto& [x, unused] : curve) {
      const auto at =
          std::lower_bound(series.points.begin(), series.points.end(), std::pair<double, double>(x, -INFINITY));
      if (at == series.points.end() || at->first != x) series.points.insert(at, {x, 0});
    }
  for (auto& [x, mean] : series.points) {
    int count = 0;
    double low = INFINITY, high = -INFINITY;
    for (const auto& curve : curves)
      for (const auto& [at, value] : curve)
        if (at == x) mean += value, low = std::min(low, value), high = std::max(high, value), ++count;
    mean /= count;
    series.band.push_back({x, low, high});
  }
  return series;
}

// "Learning rate 0.001" -> "learning-rate-0.001"
inline std::string slug(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.')
      out += upper ? static_cast<char>(c - 'A' + 'a') : c;
    else if (!out.empty() && out.back() != '-') out += '-';
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

// A line of the figure: what it changes of the options that all share.
template <class Experiment>
struct Line {
  std::string name;
  std::function<void(runs::Options<Experiment>&)> change;
};

// The lines of a factorial design over factors_of_design factors, line i with levels_of(i).
template <class Experiment>
std::vector<Line<Experiment>> lines_of(const std::vector<Factor<Experiment>>& factors) {
  std::vector<Line<Experiment>> lines;
  for (std::size_t i = 0; i < lines_of_design; ++i) {
    Line<Experiment> line{"", nullptr};
    const std::vector<bool> high = levels_of(i);
    std::vector<typename Factor<Experiment>::Change> changes;
    for (std::size_t f = 0; f < factors_of_design; ++f) {
      const Factor<Experiment>& factor = factors.at(f);
      line.name += (f ? ", " : "") + (high[f] ? factor.names.high : factor.names.low);
      changes.push_back(high[f] ? factor.high : factor.low);
    }
    line.change = [changes](runs::Options<Experiment>& o) {
      for (const auto& change : changes) change(o);
    };
    lines.push_back(std::move(line));
  }
  return lines;
}

template <class Experiment>
class ComparisonOf : public Comparison {
 public:
  using Options = runs::Options<Experiment>;
  ComparisonOf(std::string name_, std::string question_, std::function<void(Options&)> common,
               std::vector<Line<Experiment>> lines)
      : Comparison(std::move(name_), std::move(question_)), common_(std::move(common)), lines_(std::move(lines)) {}
  // A factorial design.
  ComparisonOf(std::string name_, std::string question_, std::function<void(Options&)> common,
               const std::vector<Factor<Experiment>>& factors)
      : ComparisonOf(std::move(name_), std::move(question_), std::move(common), lines_of(factors)) {
    for (const Factor<Experiment>& factor : factors) factors_.push_back(factor.names);
  }

  bool is_design() const override { return !factors_.empty(); }

  bool applies_to(const Settings& settings) const override {
    return settings.mixer != "mamba3" || (!is_design() && lines_of_mixer(settings).size() > 1);
  }

  std::vector<Job> jobs(const Settings& settings, bool gpu) const override {
    std::vector<Job> all;
    const std::vector<Line<Experiment>> lines = lines_of_mixer(settings);
    for (std::uint64_t seed = 0; seed < settings.seeds; ++seed)
      for (const Line<Experiment>& line : lines) {
        const Options o = options(settings, line, seed);
        const auto* built = &find_variant(runs::variants_of(Experiment{}, gpu), o.variant);
        check(o, built->longest);
        mamba::require(
            !is_design() || !o.training.schedule_in_steps, name,
            " asks whether the rate changes within an epoch: its runs are counted in epochs; --epochs says how "
            "many");
        if (fs::exists(o.out / "config.json")) runs::check_record(o.out / "config.json", recorded(o), o.out.string());
        all.push_back({name + ", " + line.name + ", seed " + std::to_string(seed), o.out,
                       [o, built](int place) {
                         Options own = o;
                         own.gpu = std::max(place, 0);
                         return run_or_continue(*built, own);
                       },
                       [](const runs::Outcome& outcome) {
                         if (!outcome.metrics) return std::string("diverged");
                         std::string text;
                         for (std::size_t c = 0; c < Experiment::columns.size(); ++c)
                           text += (c ? ", " : "") + std::string(Experiment::brief[c]) + " " +
                                   runs::share_text(outcome.metrics->at(Experiment::columns[c]));
                         return text;
                       }});
      }
    return all;
  }

  void report(const Settings& settings) const override {
    const std::vector<Line<Experiment>> lines = lines_of_mixer(settings);
    const Options first = options(settings, lines[0], 0);
    mamba::io::LineChart chart = empty_chart(settings, first);
    std::string table = "variant,seed,diverged," + column_names() + ",best_" +
                        Experiment::columns[Experiment::tracked] + ",train_loss\n";
    std::string curves = "variant,seed,epoch,train_loss," + column_names() + ",lr\n";
    const std::string means = "at the end, mean over seeds";
    auto width = static_cast<int>(means.size());
    for (const Line<Experiment>& line : lines) width = std::max(width, static_cast<int>(line.name.size()));
    std::printf("\n%s (%s)\n%-*s", question.c_str(), settings.mixer.c_str(), width, means.c_str());
    for (const char* column : Experiment::columns) std::printf("  %13s", column);
    std::printf("  best %s\n", Experiment::columns[Experiment::tracked]);
    std::vector<DesignedRun> designed;
    for (const Line<Experiment>& line : lines) {
      std::array<std::vector<Curve>, columns> of_seeds;
      std::array<double, columns + 1> sums{};
      int finished = 0;
      for (std::uint64_t seed = 0; seed < settings.seeds; ++seed) {
        const Options o = options(settings, line, seed);
        const auto log = log_of(o.out);
        const std::string begin = slug(line.name) + "," + std::to_string(seed) + ",";
        if (fs::exists(o.out / "diverged.txt")) {  // has no place in a mean
          table += begin + "1," + support::row_text(std::vector<double>(columns + 2, NAN)) + "\n";
          continue;
        }
        for (const std::vector<double>& row : log) {
          for (std::size_t c = 0; c < columns; ++c) {
            of_seeds[c].resize(seed + 1);
            of_seeds[c].back().emplace_back(row[0], row[2 + c]);
          }
          curves += begin + support::row_text(row) + "\n";
        }
        if (const auto values = result_of(o.out)) {
          table += begin + "0," + support::row_text(*values) + "\n";
          for (std::size_t c = 0; c <= columns; ++c) sums[c] += (*values)[c];
          ++finished;
          if (is_design() && !log.empty()) {
            const auto number = static_cast<std::size_t>(&line - lines.data());
            designed.push_back({levels_of(number), number, observed<Experiment>(log, o.out), seed});
          }
        }
      }
      for (std::size_t c = 0; c < columns; ++c) chart.panels[c].series.push_back(series_of(line.name, of_seeds[c]));
      std::printf("%-*s", width, line.name.c_str());
      for (const double sum : sums)
        std::printf("  %13s", finished ? mamba::fixed_text(sum / finished, 3).c_str() : "-");
      std::printf("  (%d of %llu runs)\n", finished, static_cast<unsigned long long>(settings.seeds));
    }
    const std::string stem = folder_name(settings);
    mamba::io::write_file(settings.out / (stem + ".csv"), table);
    mamba::io::write_file(settings.out / (stem + "-curves.csv"), curves);
    mamba::io::write_file(settings.out / (stem + ".svg"), chart.svg());
    if (is_design())
      report_effects(settings.out / (stem + "-effects"), chart.title, designed, settings.seeds * lines.size());
  }

 private:
  static constexpr std::size_t columns = Experiment::columns.size();

  // Those that models of the mixer can be.
  std::vector<Line<Experiment>> lines_of_mixer(const Settings& settings) const {
    std::vector<Line<Experiment>> lines;
    std::copy_if(lines_.begin(), lines_.end(), std::back_inserter(lines), [&](const Line<Experiment>& line) {
      const runs::Variant variant = options(settings, line, 0).variant;
      return variant.mixer != "mamba3" || (variant.conv == "learned" && variant.residual == "none");
    });
    return lines;
  }

  // Tables and figures of a factorial design.
  void report_effects(const fs::path& stem, const std::string& title, const std::vector<DesignedRun>& designed,
                      std::size_t runs) const {
    const auto names = observables<Experiment>();
    const Effects effects = effects_of(designed, factors_.size(), names.size());
    std::string observed = "variant,seed";
    for (const std::string& what : names) observed += "," + what;
    for (const DesignedRun& run : designed)
      observed +=
          "\n" + slug(lines_[run.line].name) + "," + std::to_string(run.seed) + "," + support::row_text(run.observed);
    mamba::io::write_file(stem.string() + "-of-runs.csv", observed + "\n");
    mamba::io::write_file(stem.string() + ".csv", effects_csv(factors_, names, effects));
    mamba::io::write_file(stem.string() + ".svg",
                          effects_svg(title,
                                      std::to_string(designed.size()) + " of " + std::to_string(runs) +
                                          " runs; effects of each detail's second reading, and two standard errors; "
                                          "orange: larger than those",
                                      factors_, names, effects));
    std::printf("\nWhat each detail does (a standard error)\n");
    for (std::size_t f = 0; f < factors_.size(); ++f) {
      std::printf("%s: %s to %s\n", factors_[f].name.c_str(), factors_[f].low.c_str(), factors_[f].high.c_str());
      for (std::size_t o = 0; o < names.size(); ++o)
        std::printf("  %-28s %9s (%s)\n", names[o].c_str(), mamba::fixed_text(effects[o][f].value, 3).c_str(),
                    std::isfinite(effects[o][f].error) ? mamba::fixed_text(effects[o][f].error, 3).c_str() : "-");
    }
  }

  static std::string column_names() {
    std::string names;
    for (const char* column : Experiment::columns) names.append(names.empty() ? "" : ",").append(column);
    return names;
  }

  mamba::io::LineChart empty_chart(const Settings& settings, const Options& first) const {
    mamba::io::LineChart chart;
    chart.title = question + " " + settings.mixer + ", " + std::to_string(first.layers) + " layers";
    if (same_gamma(settings)) chart.title += ", gamma " + Json(*first.gamma).dump();
    chart.x_label = "epoch";
    chart.columns = static_cast<int>(columns);
    chart.note = settings.seeds > 1 ? "mean of up to " + std::to_string(settings.seeds) +
                                          " seeds that are there and did not diverge; from the smallest to the largest"
                                    : "one seed";
    for (const char* column : Experiment::lines) chart.panels.push_back({column, {}, 0, 1});
    return chart;
  }

  // The rows of a run's training_log.csv, as far as it has come.
  static std::vector<std::vector<double>> log_of(const fs::path& run) {
    if (!fs::exists(run / "training_log.csv")) return {};
    return support::NumberTable::read(run / "training_log.csv", runs::log_columns<Experiment>()).rows;
  }

  // A finished run's accuracies, the best of the tracked one, the training loss.
  static std::optional<std::vector<double>> result_of(const fs::path& run) {
    if (!fs::exists(run / "metrics.json")) return std::nullopt;
    const fs::path path = run / "metrics.json";
    const Json metrics = support::read_json(path);
    std::vector<double> values;
    const auto add = [&](const std::string& key, const support::Column& column) {
      values.push_back(support::from_file(path, [&] { return metrics.at(key).number(); }));
      if (!fits(column, values.back()))
        mamba::fail(mamba::ErrorKind::bad_file, path.string(), ": ", key, " is ", expectation(column), "; given ",
                    values.back());
    };
    for (const char* column : Experiment::columns) add(column, support::share_column(column));
    add(std::string("best_") + Experiment::columns[Experiment::tracked], support::share_column("best"));
    add("train_loss", {"train_loss"});
    return values;
  }

  std::string folder_name(const Settings& s) const { return name + "-" + s.mixer; }

  bool same_gamma(const Settings& s) const {
    const auto gamma = options(s, lines_[0], 0).gamma;
    return gamma && std::all_of(lines_.begin(), lines_.end(),
                                [&](const Line<Experiment>& line) { return options(s, line, 0).gamma == gamma; });
  }

  Options options(const Settings& s, const Line<Experiment>& line, std::uint64_t seed) const {
    Options o = runs::preset<Experiment>(s.preset == "small" ? "quick" : s.preset);
    common_(o);
    o.variant.mixer = s.mixer;
    if (s.layers) o.layers = s.layers;
    if (s.gamma) o.gamma = *s.gamma;
    if (s.lr) o.training.schedule.lr = *s.lr;
    line.change(o);
    settle_gamma_except(o);
    if (s.batch_size) o.training.batch_size = s.batch_size;
    if (s.train_samples) o.task.train_samples = s.train_samples;
    if (s.eval_samples) set_eval_samples(o.task, s.eval_samples);
    if (s.epochs || s.steps) set_length(o, s.steps ? s.steps : s.epochs, s.steps > 0);
    o.seed = seed, o.threads = s.threads;
    o.out = s.out / folder_name(s) / (slug(line.name) + "-seed" + std::to_string(seed));
    return o;
  }

  template <class TaskOptions>
  static void set_eval_samples(TaskOptions& task, int count) {
    if constexpr (requires { task.eval_samples; }) task.eval_samples = count;
    else task.test_samples = task.out_of_distribution_samples = count;
  }

  std::function<void(Options&)> common_;
  std::vector<Line<Experiment>> lines_;
  std::vector<FactorNames> factors_;  // of a factorial design
};

}  // namespace comparison
