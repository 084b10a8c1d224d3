// What a training of a language model has been found to be, evaluation by evaluation.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/text.hpp>
#include <mamba/io/figure/figure.hpp>
#include <mamba/io/json.hpp>

#include "support/number_table.hpp"

namespace language {

using mamba::io::Json;

// Losses are bits a byte of text; the training's is the mean since the evaluation before.
struct Evaluation {
  long step;
  double training, held_out, lr;
  std::string sample;  // what the model writes by then
};

struct History {
  std::vector<Evaluation> rows;

  Json json() const {
    Json::Elements lines;
    for (const Evaluation& r : rows)
      lines.emplace_back(Json::Elements{static_cast<std::int64_t>(r.step), r.training, r.held_out, r.lr, r.sample});
    return lines;
  }
  // Throws Error(bad_file) on what is not the history of a run that has come to this step, an evaluation every `every`
  // steps and one at the end; where it has just come to one, that may be due.
  static History from(const Json& json, long steps, long every, long total) {
    History h;
    for (const Json& line : json.elements()) {
      const auto& v = line.elements();
      if (v.size() != 5) mamba::fail(mamba::ErrorKind::bad_file, "a line of the history has 5 members");
      h.rows.push_back({v[0].integer<long>(), v[1].number(), v[2].number(), v[3].number(), v[4].string()});
      const Evaluation& r = h.rows.back();
      const auto number = static_cast<long>(h.rows.size());
      const long expected = number * every < total ? number * every : total;
      if (r.step != expected || r.step > steps || !(r.training >= 0) || !(r.held_out >= 0) || !(r.lr >= 0))
        mamba::fail(mamba::ErrorKind::bad_file, "line ", number, " of the history is none of an evaluation after step ",
                    expected);
    }
    const auto expected = static_cast<std::size_t>(steps / every + (steps == total && steps % every != 0));
    const bool comes_to_one = steps > 0 && (steps % every == 0 || steps == total);
    if (h.rows.size() != expected && !(comes_to_one && h.rows.size() + 1 == expected))
      mamba::fail(mamba::ErrorKind::bad_file, "after step ", steps, " a run has been evaluated ", expected,
                  " times; its history has ", h.rows.size(), " lines");
    return h;
  }

  std::string csv() const {
    std::string text = "step,train_bits_per_byte,heldout_bits_per_byte,lr\n";
    for (const Evaluation& r : rows)
      text += support::row_text({static_cast<double>(r.step), r.training, r.held_out, r.lr}) + "\n";
    return text;
  }

  std::string svg(const std::string& title) const {
    mamba::io::Series training{"training text", {}}, held_out{"held-out text", {}}, rate{"learning rate", {}};
    held_out.marked = true;
    for (const Evaluation& r : rows) {
      const auto step = static_cast<double>(r.step);
      training.points.emplace_back(step, r.training), held_out.points.emplace_back(step, r.held_out);
      rate.points.emplace_back(step, r.lr);
    }
    return mamba::io::LineChart{title, "step", {{"bits a byte", {training, held_out}}, {"learning rate", {rate}}}}
        .svg();
  }

  // What the model wrote along the way.
  std::string samples() const {
    std::string text;
    for (const Evaluation& r : rows)
      text += "--- step " + std::to_string(r.step) + ": " + mamba::fixed_text(r.held_out, 3) +
              " bits a byte on held-out text\n" + r.sample + "\n\n";
    return text;
  }
};

}  // namespace language
