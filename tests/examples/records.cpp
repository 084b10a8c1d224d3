// Records of runs, as they come back from files: what a run cannot have written is refused.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "history.hpp"
#include "options.hpp"
#include "phase_report.hpp"
#include "sweep.hpp"

namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using runs::Json;
using History = runs::History<runs::Composite>;
using Options = runs::Options<runs::Composite>;

// 10 steps, 4 an epoch, evaluated after 4, 8 and 10.
constexpr runs::RunPlace at_step(long steps) { return {steps, 10, 4, 4}; }
History whole_history() {
  History h;
  h.add({1, 3.5, {.25, .5}, 1e-3});
  h.add({2, 2.5, {.75, .125}, 5e-4});
  h.add({2.5, 1.5, {.5, 0}, 1e-4});
  return h;
}

void refused(const Json& json, const runs::RunPlace& place) {
  INFO(json.dump());
  try {
    History::from(json, place);
    FAIL_CHECK("not refused");
  } catch (const mamba::Error& error) {
    CHECK(error.kind() == mamba::ErrorKind::bad_file);
  }
}
// The history's text with another piece in the place of one.
Json changed(const std::string& piece, const std::string& by) {
  std::string text = whole_history().json().dump();
  const auto at = text.find(piece);
  REQUIRE(at != std::string::npos);
  return Json::parse(text.replace(at, piece.size(), by));
}

// The options' record with another value.
Json with(const std::string& key, const Json& value) {
  Json::Members members = runs::recorded(Options{}).members();
  for (auto& [name, old] : members)
    if (name == key) old = value;
  return members;
}

}  // namespace

TEST_CASE("examples: a history comes back as it was") {
  const History h = History::from(whole_history().json(), at_step(10));
  CHECK(h.csv() == whole_history().csv());
  CHECK(h.best == .75);
  CHECK(h.best_epoch == 2);
  CHECK(History::from(History{}.json(), at_step(3)).rows.empty());
}

TEST_CASE("examples: a history that is not its run's is refused") {
  refused(History{}.json(), at_step(10));  // a finished run, an empty log
  for (const long steps : {0, 3, 4, 8, 9}) refused(whole_history().json(), at_step(steps));
  refused(changed("[2, 2.5", "[1, 2.5"), at_step(10));  // epochs that do not rise
  refused(changed("[2, 2.5", "[1e300, 2.5"), at_step(10));
  refused(changed("[2, 2.5, ", "[2, "), at_step(10));
  refused(changed("2.5, 0.75", "null, 0.75"), at_step(10));
  refused(changed("0.125", "1.125"), at_step(10));
  refused(changed("0.125", "-0.125"), at_step(10));
  refused(changed("0.125", "1e400"), at_step(10));
  refused(changed("0.125", "\"many\""), at_step(10));
  refused(changed("0.125", "0.125, 0.125"), at_step(10));
  refused(changed("0.001]", "-0.001]"), at_step(10));
  refused(changed("\"best\": 0.75", "\"best\": 1e300"), at_step(10));
  refused(changed("\"best_epoch\": 2", "\"best_epoch\": 1"), at_step(10));
  refused(changed("\"log\"", "\"lot\""), at_step(10));
  refused(Json::Elements{}, at_step(10));
}

TEST_CASE("examples: a record of options comes back, and out of range is refused by its file's name") {
  Options o;
  o.layers = 7, o.gamma.reset(), o.seed = 18446744073709551615U, o.task.keys = {30, 60};
  Options back;
  restore(back, recorded(o), "config.json");
  CHECK(recorded(back).dump() == recorded(o).dump());
  o.variant.head = "untied", o.gamma = 1.0, o.gamma_except = {.projection = true, .head = true};
  restore(back, recorded(o), "config.json");
  CHECK(recorded(back).dump() == recorded(o).dump());
  CHECK(back.model().gamma_except == o.gamma_except);
  o.task.labels = mamba::task::Labels::sum, o.variant.vocab_size = 201;
  o.training.rate_changes = mamba::RateChanges::each_step;
  o.products = mamba::Products::tf32, o.scope = mamba::Scope::grid, o.training.shards = 6;
  restore(back, recorded(o), "config.json");
  CHECK(recorded(back).dump() == recorded(o).dump());
  CHECK(back.variant == o.variant);
  CHECK(back.model().products == mamba::Products::tf32);
  CHECK(back.model().scope == mamba::Scope::grid);
  CHECK(back.task.labels == o.task.labels);
  CHECK(back.training.rate_changes == o.training.rate_changes);
  CHECK(back.training.shards == 6);
  // Of a time when all heads were tied, all labels modulo 100, rates changed once an epoch, products were exact, the
  // scope followed from the sizes, and batches were whole.
  Json::Members older = recorded(o).members();
  std::erase_if(older, [](const auto& member) {
    return member.first == "head" || member.first == "gamma_except" || member.first == "labels" ||
           member.first == "rate_changes" || member.first == "products" || member.first == "scope" ||
           member.first == "shards";
  });
  restore(back, older, "config.json");
  CHECK(back.variant.head == "tied");
  CHECK(back.gamma_except == mamba::GammaExcept{});
  CHECK(back.task.labels == mamba::task::Labels::modulo);
  CHECK(back.training.rate_changes == mamba::RateChanges::each_epoch);
  CHECK(back.products == mamba::Products::exact);
  CHECK(back.scope == mamba::Scope::by_sizes);
  CHECK(back.training.shards == 1);

  const std::vector<std::pair<std::string, Json>> wrong{{"n_layers", 0},
                                                        {"n_layers", 1'000'001},
                                                        {"n_layers", 1e300},
                                                        {"gamma", -1},
                                                        {"gamma", "much"},
                                                        {"gamma_fan", "both"},
                                                        {"gamma_except", "head"},
                                                        {"gamma_except", Json::Elements{"tail"}},
                                                        {"gamma_biases", 0},
                                                        {"labels", "both"},
                                                        {"labels", 1},
                                                        {"labels", "sum"},  // the vocabulary has no room
                                                        {"rate_changes", "never"},
                                                        {"products", "half"},
                                                        {"scope", "warp"},
                                                        {"vocab_size", 0},
                                                        {"vocab_size", -5},
                                                        {"vocab_size", 99},
                                                        {"embedding_std", -1},
                                                        {"schedule_unit", "years"},
                                                        {"total", 0},
                                                        {"total", std::int64_t{9'000'000'000'000'000'000}},
                                                        {"seed", -1},
                                                        {"batch_size", 0},
                                                        {"lr", -1},
                                                        {"warmup", 500},
                                                        {"clip", 0},
                                                        {"eval_every", 0},
                                                        {"train_samples", 0},
                                                        {"eval_samples", 0},
                                                        {"eval_samples", 2'000'000'000},  // 64 GB of test sets
                                                        {"filler", Json::Elements{0, 1000}},
                                                        {"keys", Json::Elements{20, 21}},
                                                        {"keys", Json::Elements{20}},
                                                        {"task", "another"}};
  for (const auto& [key, value] : wrong) {
    INFO(key << " " << value.dump());
    try {
      restore(back, with(key, value), "folder/config.json");
      FAIL_CHECK("not refused");
    } catch (const mamba::Error& error) {
      CHECK(error.kind() == mamba::ErrorKind::bad_file);
      CHECK_THAT(error.what(), ContainsSubstring("folder/config.json"));
    }
  }
}

TEST_CASE("examples: tables of a sweep hold runs, or are refused") {
  const fs::path folder = fs::temp_directory_path() / "mamba-examples-sweep";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string header = std::string(sweep::Table::header) + "\n",
                    curves_header = std::string(sweep::Table::curves_header) + "\n";
  const auto read = [&](const std::string& rows, const std::string& curves) {
    mamba::io::write_file(folder / "runs.csv", header + rows);
    mamba::io::write_file(folder / "curves.csv", curves_header + curves);
    return sweep::Table::read(folder);
  };
  const std::string good = "2,0.5,1,0.25,0,0.5,1.5,0,12.5\n", curve = "2,0.5,1,10,2.5,0.25,0,1e-04\n";
  const auto table =
      read("2,1,0,nan,nan,nan,nan,1,3\n" + good + good, curve + "2,0.5,1,20,1.5,0.5,0,1e-04\n3,1,0,10,1,0,0,0\n");
  CHECK(table.csv() == header + good + "2,1,0,nan,nan,nan,nan,1,3.0\n");
  CHECK(table.curves_csv() == curves_header + curve + "2,0.5,1,20,1.5,0.5,0,1e-04\n");
  CHECK(table.of(2, 0.5).size() == 1);
  CHECK(table.of(2, 0.7).empty());
  for (const char* row :
       {"1e300,0.5,1,0.25,0,0.5,1.5,0,1", "0,0.5,1,0.25,0,0.5,1.5,0,1",   "2.5,0.5,1,0.25,0,0.5,1.5,0,1",
        "2,-0.5,1,0.25,0,0.5,1.5,0,1",    "2,inf,1,0.25,0,0.5,1.5,0,1",   "2,nan,1,0.25,0,0.5,1.5,0,1",
        "2,0.5,1e300,0.25,0,0.5,1.5,0,1", "2,0.5,-1,0.25,0,0.5,1.5,0,1",  "2,0.5,0.5,0.25,0,0.5,1.5,0,1",
        "2,0.5,1,1.25,0,0.5,1.5,0,1",     "2,0.5,1,0.25,-1,0.5,1.5,0,1",  "2,0.5,1,0.25,0,2,1.5,0,1",
        "2,0.5,1,0.25,0,0.5,inf,0,1",     "2,0.5,1,0.25,0,0.5,1.5,2,1",   "2,0.5,1,0.25,0,0.5,1.5,1e300,1",
        "2,0.5,1,0.25,0,0.5,1.5,0,-1",    "2,0.5,1,0.25,0,0.5,1.5,0,nan", "2,0.5,1,0.25,0,0.5,1.5,1,1",
        "2,0.5,1,nan,0,0.5,1.5,0,1",      "2,0.5,1,nan,nan,nan,nan,0,1"}) {
    INFO(row);
    CHECK_THROWS_MATCHES(read(row + std::string("\n"), ""), mamba::Error,
                         MessageMatches(ContainsSubstring("runs.csv")));
  }
  for (const char* row :
       {"2,0.5,1,1e400,1.5,0.5,0,0", "2,0.5,1,-1,1.5,0.5,0,0", "2,0.5,1,20,nan,0.5,0,0", "2,0.5,1,20,1.5,1.5,0,0",
        "2,0.5,1,20,1.5,0.5,0,-1", "2,0.5,1,10,1.5,0.5,0,0", "2,0.5,1,5,1.5,0.5,0,0", "1e300,0.5,1,20,1.5,0.5,0,0"}) {
    INFO(row);
    CHECK_THROWS_MATCHES(read(good, curve + row + "\n"), mamba::Error, MessageMatches(ContainsSubstring("curves.csv")));
  }
}

TEST_CASE("examples: sweeps are merged, what is there stays") {
  sweep::Table a, b;
  a.add({{2, .5, 0}, .1, .1, .1, 1, 1}), a.add({{3, .5, 0}, .1, .1, .1, 1, 1});
  b.add({{2, .5, 0}, .9, .9, .9, 1, 1}), b.add({{2, .7, 0}, .2, .2, .2, 1, 1});
  a.add(b);
  REQUIRE(a.rows().size() == 3);
  CHECK(a.find({2, .5, 0})->composite == .1);
  CHECK(a.find({2, .7, 0})->composite == .2);
}

TEST_CASE("examples: how near diagrams are to the published cells and to each other") {
  sweep::Table table;
  const double gammas[] = {.1, .8, 1.0, 2.0};
  for (const double gamma : gammas) {
    const double there = phase_report::published(4, gamma).value();
    table.add({{4, gamma, 0}, there, 0, 0, 1, 1});
    table.add({{4, gamma, 1}, 1 - there, 0, 0, 1, 1});
    table.add({{4, gamma, 7}, .25, 0, 0, 1, 1});
  }
  table.add({{4, .9, 0}, NAN, NAN, NAN, NAN, 1, true});  // diverged: no number
  table.add({{4, .95, 0}, .5, 0, 0, 1, 1});              // not in the paper
  const auto rows = phase_report::beside_published(table);
  REQUIRE(rows.size() == 7);
  const auto check = [&](std::size_t i, const char* name, std::size_t cells, double correlation, double distance) {
    INFO(name);
    CHECK(rows[i].first == name);
    CHECK(rows[i].second.cells == cells);
    CHECK((std::isnan(correlation) ? std::isnan(rows[i].second.correlation)
                                   : std::abs(rows[i].second.correlation - correlation) < 1e-12));
    CHECK(std::abs(rows[i].second.distance - distance) < 1e-12);
  };
  // Published .08 .34 .92 .94: 1 - x is |1 - 2 x| away from x, .25 from x as far as that is.
  const double of_reverse = (.84 + .32 + .84 + .88) / 4, of_constant = (.17 + .09 + .67 + .69) / 4,
               of_mean = (std::abs(1.25 / 3 - .08) + std::abs(1.25 / 3 - .34) + std::abs(1.25 / 3 - .92) +
                          std::abs(1.25 / 3 - .94)) /
                         4;
  check(0, "means, published", 4, NAN, of_mean);
  check(1, "seed 0, published", 4, 1, 0);
  check(2, "seed 1, published", 4, -1, of_reverse);
  check(3, "seed 7, published", 4, NAN, of_constant);
  check(4, "seed 0, seed 1", 4, -1, of_reverse);
  check(5, "seed 0, seed 7", 4, NAN, of_constant);
}

TEST_CASE("examples: a diagram says which of its cells have fewer seeds") {
  sweep::Table table;
  const auto add = [&](int layers, double gamma, std::uint64_t seed, double accuracy, bool diverged = false) {
    table.add({{layers, gamma, seed}, accuracy, 0, accuracy, 1, 0, diverged});
  };
  const auto count = [&](const std::string& words) {
    const std::string figure = phase_report::heatmap(table, "title", &sweep::Row::composite);
    std::size_t found = 0;
    for (auto at = figure.find(words); at != figure.npos; at = figure.find(words, at + 1)) ++found;
    return found;
  };
  add(2, 0.5, 0, 0.25), add(3, 0.5, 0, 0.5);
  CHECK(count(">one seed<") == 1);
  CHECK(count("fewer") == 0);
  add(2, 0.5, 1, 0.75);
  CHECK(count(">mean over 2 seeds, of fewer where a cell says so, or is empty<") == 1);
  CHECK(count(">1 seed<") == 1);
  add(3, 0.5, 1, NAN, true);
  CHECK(count(">1 seed<") == 1);
  CHECK(count(">0.50<") == 2);
  add(3, 0.5, 2, 1);
  CHECK(count(">mean over 2 seeds<") == 1);
  CHECK(count(">1 seed<") == 0);
  CHECK(count(">0.75<") == 1);
}

TEST_CASE("examples: shards are numbered from 1") {
  CHECK(sweep::Shard::parse("2/8").has(1));
  for (const char* text : {"", "/", "1", "0/2", "3/2", "1/2/2", "1/-1", " 1/2", "1/99999999999999999999999",
                           "99999999999999999999999/99999999999999999999999"})
    CHECK_THROWS_AS(sweep::Shard::parse(text), mamba::Error);
}

TEST_CASE("examples: differences are told with their sign") {
  CHECK(phase_report::difference_text(.25) == "+0.25");
  CHECK(phase_report::difference_text(-.25) == "-0.25");
  CHECK(phase_report::difference_text(-.001) == "-0.00");
  CHECK(phase_report::difference_text(-0.0) == "+0.00");
}
