// What holds for the training samples of both composite function tasks.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <utility>

#include <mamba/task/anchored.hpp>

namespace support {

// Every rule of the specification's section A.1 on 100,000 samples of a task with its default ranges; lowest, highest:
// its anchors.
template <class Task>
void check_training_samples(const Task& task, int lowest, int highest) {
  constexpr int count = 100'000, trained_pairs = Task::pair_count - 1;
  std::map<std::pair<int, int>, int> pairs;
  std::map<int, int> positions, keys, fillers;
  std::int32_t ids[8];
  for (int i = 0; i < count; ++i) {
    const auto label = task.train_sample(i, ids);
    // Neither key nor filler is an anchor, so that the two anchors tell where they are.
    int position = 0;
    while (position < 6 && ids[position + 1] > highest) ++position;
    REQUIRE(position < 6);
    const mamba::task::AnchorPair pair{ids[position + 1], ids[position + 2]};
    for (const int anchor : {pair.first, pair.second}) REQUIRE((anchor >= lowest && anchor <= highest));
    REQUIRE(!(pair == Task::held_out));
    REQUIRE(Task::pair(Task::number_of(pair)) == pair);
    REQUIRE(ids[position] % 8 != position);
    REQUIRE(label == Task::label(ids[position], pair));
    for (int t = 0; t < 8; ++t) {
      if (t == position + 1 || t == position + 2) continue;
      REQUIRE((ids[t] >= 20 && ids[t] <= 99));
      ++(t == position ? keys : fillers)[ids[t]];
    }
    ++pairs[{pair.first, pair.second}];
    ++positions[position];
  }
  CHECK(pairs.size() == trained_pairs);
  for (const auto& [pair, n] : pairs) CHECK(std::abs(n - count / static_cast<double>(trained_pairs)) <= 1);
  for (const auto& [position, n] : positions) CHECK(std::abs(n - count / 6.0) < 5 * std::sqrt(count / 6.0));
  CHECK(keys.size() == 80);
  // At a position 70 of the 80 keys train; a key whose residue is a position's is left out at one of the six.
  for (const auto& [key, n] : keys) {
    const double expected = (key % 8 < 6 ? 5.0 / 6 : 1.0) * count / 70;
    CHECK(std::abs(n - expected) < 6 * std::sqrt(expected));
  }
  CHECK(fillers.size() == 80);
  for (const auto& [filler, n] : fillers) CHECK(std::abs(n - 5 * count / 80.0) < 6 * std::sqrt(5 * count / 80.0));
}

}  // namespace support
