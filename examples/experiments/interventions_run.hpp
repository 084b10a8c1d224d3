// Looks and reaches inside a trained model of the composite function task: blocking, substitution, information flow,
// convolution taps (the paper's section on mechanisms; the specification's sections 10 and 11).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/core/text.hpp>
#include <mamba/io/figure/heatmap.hpp>

#include "support/number_table.hpp"
#include "support/numbers.hpp"
#include "variants.hpp"

namespace runs {

using Task = Composite::Task;

struct InterventionOptions {
  std::filesystem::path model;
  std::filesystem::path out;  // empty: a new one in runs/
  int layers = 2;
  int sequences = 480;  // for each of the 16 pairs
  std::uint64_t seed = 42;
  std::vector<int> in_layers;      // of blocking and substitution; empty: all
  std::uint64_t initial_seed = 0;  // of the initial weights, for the taps' cosines
  std::optional<double> gamma = 1.0;
  mamba::Fan gamma_fan = mamba::Fan::out;
  mamba::GammaExcept gamma_except{};
  Composite::TaskOptions task{};  // the run's, whose test sets the logit lens looks at
  int threads = 0;
  bool json = false;
};

namespace detail {

// Sequences of one pair as the origin draws them (specification, section 11): any key position, keys 20..99,
// filler 5..99, so that no anchor stands among the filler.
struct PairSequences {
  std::vector<std::int32_t> ids, key_positions;
};
inline PairSequences draw_pair(const InterventionOptions& o, int pair_number) {
  const mamba::task::AnchorPair pair = Task::pair(pair_number);
  PairSequences drawn;
  for (int i = 0; i < o.sequences; ++i) {
    std::uint32_t words[8];
    for (std::uint32_t block = 0; block < 2; ++block) {
      const auto r = mamba::random_words(o.seed, mamba::RandomPurpose::task,
                                         0x1000U + 2 * static_cast<std::uint32_t>(pair_number) + block,
                                         static_cast<std::uint64_t>(i));
      std::copy_n(r.word, 4, words + 4 * block);
    }
    const int key_position = static_cast<int>(mamba::random_below(words[0], Task::positions));
    int used = 1;
    for (int t = 0; t < Task::length; ++t) {
      if (t == key_position + 1) drawn.ids.push_back(pair.first);
      else if (t == key_position + 2) drawn.ids.push_back(pair.second);
      else if (t == key_position) drawn.ids.push_back(20 + static_cast<int>(mamba::random_below(words[used++], 80)));
      else drawn.ids.push_back(5 + static_cast<int>(mamba::random_below(words[used++], 95)));
    }
    drawn.key_positions.push_back(key_position);
  }
  return drawn;
}

// The share of hits among the sequences whose key stands at one position, or elsewhere.
struct Share {
  int hits = 0, count = 0;
  void add(bool hit) { hits += hit, ++count; }
  double value() const { return count ? static_cast<double>(hits) / count : NAN; }
};

}  // namespace detail

// One pair's rates. "Strict" is the origin's reading, "downstream" that of the paper's figures (specification, 11.1 and
// 11.2): blocking only rows from key + 3 on; substituting only from key + 3 on. With the key at 5 there is no such row,
// so those sequences count apart.
struct PairRates {
  detail::Share blocked_strict, blocked_downstream;  // same answer as unblocked
  detail::Share blocked_strict_at_5;
  detail::Share substituted_strict, substituted_downstream;  // same answer as with (4,3)
  detail::Share substituted_strict_at_5;
};

template <class Model>
PairRates intervene_pair(Model& model, const InterventionOptions& o, int pair_number) {
  using mamba::predictions;
  const auto drawn = detail::draw_pair(o, pair_number);
  const auto size = drawn.ids.size();
  std::vector<std::uint8_t> anchors(size), from_anchor(size), from_behind(size);
  auto reference = drawn.ids;
  for (std::size_t i = 0; i < size; ++i) {
    const int from_key = static_cast<int>(i) % Task::length - drawn.key_positions[i / Task::length];
    anchors[i] = from_key >= 0 && from_key <= 2;
    from_anchor[i] = from_key >= 1;
    from_behind[i] = from_key >= 3;
    if (from_key == 1) reference[i] = Task::held_out.first;
    if (from_key == 2) reference[i] = Task::held_out.second;
  }
  const auto plain = predictions(model(drawn.ids, o.sequences)), collapsed = predictions(model(reference, o.sequences));
  const auto blocked = predictions(model.blocked(drawn.ids, o.sequences, anchors, o.in_layers));
  const auto cut = predictions(model.blocked(drawn.ids, o.sequences, anchors, o.in_layers, mamba::Reading::downstream));
  const auto strict = predictions(model.substituted(drawn.ids, reference, o.sequences, from_anchor, o.in_layers));
  const auto behind = predictions(model.substituted(drawn.ids, reference, o.sequences, from_behind, o.in_layers));
  PairRates rates;
  for (std::size_t s = 0; s < plain.size(); ++s) {
    const bool at_5 = drawn.key_positions[s] == 5;
    (at_5 ? rates.blocked_strict_at_5 : rates.blocked_strict).add(blocked[s] == plain[s]);
    (at_5 ? rates.substituted_strict_at_5 : rates.substituted_strict).add(strict[s] == collapsed[s]);
    if (at_5) continue;
    rates.blocked_downstream.add(cut[s] == plain[s]);
    rates.substituted_downstream.add(behind[s] == collapsed[s]);
  }
  return rates;
}

// |S| of one sequence of the pair (4,3), a map for each layer: the mean over Mamba-1's channels or the others' heads,
// the state-space model's input weighed in (Mamba-2's S is multiplied by delta).
template <class Model>
std::vector<mamba::io::Heatmap> information_flow(Model& model, const InterventionOptions& o) {
  const auto drawn = detail::draw_pair(o, Task::number_of(Task::held_out));
  std::size_t first = 0;  // a sequence with the key at position 2, in the middle of the figure
  while (first + 1 < drawn.key_positions.size() && drawn.key_positions[first] != 2) ++first;
  const std::vector<std::int32_t> ids(drawn.ids.begin() + static_cast<std::ptrdiff_t>(first) * Task::length,
                                      drawn.ids.begin() + static_cast<std::ptrdiff_t>(first + 1) * Task::length);
  std::vector<std::string> names;
  for (const std::int32_t id : ids) names.push_back(std::to_string(id));
  std::vector<mamba::io::Heatmap> maps;
  for (int layer = 0; layer < model.n_layers(); ++layer) {
    const auto matrices = mamba::ssm_matrices(model, ids, layer);
    const auto delta = model.activations(mamba::Point::delta, ids, 1)[static_cast<std::size_t>(layer)];
    mamba::io::Heatmap map{"layer " + std::to_string(layer), "to the row of token", "from token", names, names, {}};
    map.values.assign(Task::length, std::vector<double>(Task::length));
    for (std::size_t m = 0; m < matrices.size(); ++m)
      for (int i = 0; i < Task::length; ++i)
        for (int j = 0; j <= i; ++j) {
          const double step = Model::Architecture::Mixer::name == std::string_view("mamba2")
                                  ? static_cast<double>(delta(j, static_cast<std::ptrdiff_t>(m)))
                                  : 1;
          map.values[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] +=
              std::abs(matrices[m](i, j)) * step / static_cast<double>(matrices.size());
        }
    maps.push_back(std::move(map));
  }
  return maps;
}

// What the model would answer if it ended before layer 0, 1, .. (the logit lens), on its run's test sets: accuracies by
// the number of layers, by the task's label over all pairs that training shows, and by both labels of (4,3).
struct Lens {
  std::vector<double> label, composite, symmetric;

  std::string csv() const {
    std::string table = "layers,label_acc,composite_acc,symmetric_acc\n";
    for (std::size_t l = 0; l < label.size(); ++l)
      table += std::to_string(l) + "," + support::row_text(std::vector{label[l], composite[l], symmetric[l]}) + "\n";
    return table;
  }
  std::string svg() const {
    mamba::io::LineChart chart{"What the model answers after each layer", "layers", {{"accuracy", {}, 0, 1}}};
    const auto add = [&](const char* name, const std::vector<double>& values) {
      mamba::io::Series series{name, {}, true};
      for (std::size_t l = 0; l < values.size(); ++l) series.points.emplace_back(static_cast<double>(l), values[l]);
      chart.panels[0].series.push_back(std::move(series));
    };
    add("label, pairs of training", label), add("(4,3): composite", composite), add("(4,3): symmetric", symmetric);
    return chart.svg();
  }
};

template <class Model>
Lens look_through_layers(Model& model, const Task& task) {
  const auto ends = static_cast<std::size_t>(model.n_layers()) + 1;
  Lens lens{std::vector<double>(ends), std::vector<double>(ends), std::vector<double>(ends)};
  for (int p = 0; p < Task::pair_count; ++p) {
    const auto set = task.test_set(p);
    const auto logits = mamba::logit_lens(model, set.ids, set.size());
    for (std::size_t l = 0; l < ends; ++l) {
      const mamba::PairAccuracy answers = mamba::pair_accuracy(mamba::predictions(logits[l]), set);
      if (set.pair == Task::held_out) lens.composite[l] = answers.composite, lens.symmetric[l] = answers.symmetric;
      else lens.label[l] += answers.label / (Task::pair_count - 1);
    }
  }
  return lens;
}

// None of a mixer without a convolution.
template <class Model>
std::vector<mamba::io::Heatmap> tap_cosines([[maybe_unused]] const Model& model, [[maybe_unused]] const char* when) {
  std::vector<mamba::io::Heatmap> maps;
  if constexpr (mamba::network::MixerOf<typename Model::Architecture>::conv_channels > 0)
    for (int layer = 0; layer < model.n_layers(); ++layer) {
      const auto cosines = mamba::conv_tap_cosines(model, layer);
      mamba::io::Heatmap map{"layer " + std::to_string(layer) + ", " + when, "tap", "tap", {}, {}, {}};
      for (std::ptrdiff_t k = 0; k < cosines.rows(); ++k) {
        map.row_names.push_back(std::to_string(k)), map.column_names.push_back(std::to_string(k));
        map.values.emplace_back(cosines.row(k).begin(), cosines.row(k).end());
      }
      maps.push_back(std::move(map));
    }
  return maps;
}

// What interventions writes and tells: a table, and two figures of it.
struct RateTable {
  static constexpr const char* keys[] = {"blocked_strict",     "blocked_downstream",     "blocked_strict_key_at_5",
                                         "substituted_strict", "substituted_downstream", "substituted_strict_key_at_5"};
  mamba::io::BarChart blocking{"Blocking key and anchors: share of unchanged answers",
                               "match rate",
                               {},
                               {"strict", "downstream", "strict, key at 5"},
                               {}};
  mamba::io::BarChart substitution{"Substituting the activations of (4,3): share of its answers",
                                   "collapse rate",
                                   {},
                                   {"from the first anchor", "from key + 3", "from the first anchor, key at 5"},
                                   {}};
  Json::Elements rows;
  std::string csv =
      "pair,blocked_strict,blocked_downstream,blocked_strict_key_at_5,substituted_strict,substituted_downstream,"
      "substituted_strict_key_at_5,sequences,key_at_5\n";
  double sums[6] = {};
  int counts[6] = {};

  void add(const std::string& pair, const PairRates& r, int sequences) {
    const std::vector<double> values{r.blocked_strict.value(),         r.blocked_downstream.value(),
                                     r.blocked_strict_at_5.value(),    r.substituted_strict.value(),
                                     r.substituted_downstream.value(), r.substituted_strict_at_5.value()};
    csv += pair + "," + support::row_text(values) + "," + std::to_string(sequences) + "," +
           std::to_string(r.blocked_strict_at_5.count) + "\n";
    Json::Members row{{"pair", pair}};
    for (std::size_t k = 0; k < values.size(); ++k) {
      row.emplace_back(keys[k], values[k]);
      if (std::isfinite(values[k])) sums[k] += values[k], ++counts[k];
    }
    rows.push_back(std::move(row));
    blocking.group_names.push_back(pair), substitution.group_names.push_back(pair);
    blocking.values.push_back({values[0], values[1], values[2]}),
        substitution.values.push_back({values[3], values[4], values[5]});
  }

  void print() const {
    std::printf(
        "       blocking: same answer                substitution: answer of (4,3)\n"
        "pair   strict  downstream  key at 5        from a1  from key+3  key at 5\n");
    const auto line = [](const std::string& name, const auto& value) {
      const auto cell = [&](std::size_t k, std::size_t width) {
        return support::at_right(mamba::fixed_text(value(k), 3), width);
      };
      std::printf("%-4s   %s  %s  %s        %s  %s  %s\n", name.c_str(), cell(0, 6).c_str(), cell(1, 10).c_str(),
                  cell(2, 8).c_str(), cell(3, 7).c_str(), cell(4, 10).c_str(), cell(5, 8).c_str());
    };
    for (std::size_t p = 0; p < blocking.values.size(); ++p)
      line(blocking.group_names[p],
           [&](std::size_t k) { return k < 3 ? blocking.values[p][k] : substitution.values[p][k - 3]; });
    line("mean", [&](std::size_t k) { return counts[k] ? sums[k] / counts[k] : NAN; });
  }
};

// Throws Error where a training run is there: its config.json would be lost.
inline void take_folder(std::optional<support::OwnFolder>& out, const std::filesystem::path& path) {
  out.emplace(path);
  const auto record = *out / "config.json";
  if (std::filesystem::exists(record) &&
      support::from_file(record, [&] { return support::read_json(record).find("schedule_unit") != nullptr; }))
    mamba::fail(mamba::ErrorKind::invalid_argument, path.string(), " holds a training run: name another folder");
}

// Everything is computed before anything is written: of a model whose answers are not numbers there are no tables.
// Throws Error.
template <class Model>
int intervene(const InterventionOptions& o, const mamba::io::SafetensorsFile& file) {
  check_layers<Model>(file, o.model, o.layers);
  for (const int l : o.in_layers) mamba::require(l >= 0 && l < o.layers, "layer ", l, " is not in 0..", o.layers - 1);
  Model model({.n_layers = o.layers,
               .gamma = o.gamma,
               .gamma_fan = o.gamma_fan,
               .gamma_except = o.gamma_except,
               .seed = o.initial_seed,
               .threads = o.threads});
  auto taps = tap_cosines(model, "initial");
  mamba::load(model, o.model);
  std::optional<support::OwnFolder> out;
  if (!o.out.empty()) take_folder(out, o.out);

  RateTable table;
  {
    support::Progress progress(Task::pair_count, 0);
    for (int p = 0; p < Task::pair_count; ++p) {
      const std::string name = name_of(Task::pair(p));
      table.add(name, intervene_pair(model, o, p), o.sequences);
      progress.show(p + 1, "pair " + name);
    }
  }
  const auto flow = information_flow(model, o);
  const Lens lens = look_through_layers(model, Task(o.task));
  for (auto& map : tap_cosines(model, "now")) taps.push_back(std::move(map));

  if (!out) take_folder(out, support::create_fresh_folder("runs/interventions"));
  Json::Elements layers;
  for (const int l : o.in_layers) layers.emplace_back(l);
  mamba::io::write_file(*out / "config.json",
                        Json(Json::Members{{"model", o.model.string()},
                                           {"sequences", o.sequences},
                                           {"seed", o.seed},
                                           {"in_layers", o.in_layers.empty() ? Json() : Json(std::move(layers))},
                                           {"initial_seed", o.initial_seed}})
                                .dump(2) +
                            "\n");
  mamba::io::write_file(*out / "interventions.csv", table.csv);
  mamba::io::write_file(*out / "blocking.svg", table.blocking.svg());
  mamba::io::write_file(*out / "substitution.svg", table.substitution.svg());
  mamba::io::write_file(*out / "information_flow.svg",
                        mamba::io::heatmaps_svg("Information flow |S| in a sequence with (4,3)", flow));
  mamba::io::write_file(*out / "logit_lens.csv", lens.csv());
  mamba::io::write_file(*out / "logit_lens.svg", lens.svg());
  const int in_a_row = std::min(model.n_layers(), 8);  // what has become of a layer stands below its beginning
  if (!taps.empty())
    mamba::io::write_file(*out / "conv_taps.svg",
                          mamba::io::heatmaps_svg("Cosines between the convolution's taps", taps, in_a_row));

  if (o.json) {
    std::cout << Json(Json::Members{{"pairs", std::move(table.rows)}}).dump(2) << "\n";
    return support::done;
  }
  table.print();
  std::printf(
      "\n%d sequences a pair. With the key at position 5 nothing follows the anchors: those sequences count apart, and "
      "have no downstream reading.\n",
      o.sequences);
  if (Model::Architecture::Mixer::name == std::string_view("mamba1"))
    std::printf(
        "For Mamba-1, substitution from the first anchor on gives (4,3)'s answers for any weights when the key is "
        "before 5: read the other column.\n");
  std::printf(
      "In %s: blocking.svg, substitution.svg, information_flow.svg, %slogit_lens.svg, and the numbers: "
      "interventions.csv, logit_lens.csv.\n",
      out->string().c_str(), taps.empty() ? "" : "conv_taps.svg, ");
  return support::done;
}

// A variant that this program was built with.
struct BuiltIntervention {
  Variant variant;
  int (*run)(const InterventionOptions&, const mamba::io::SafetensorsFile&);
};
template <class Model>
BuiltIntervention built_intervention() {
  return {built_variant<Composite, Model>(), intervene<Model>};
}
const std::vector<BuiltIntervention>& all_interventions();

}  // namespace runs
