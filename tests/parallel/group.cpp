// What processes say to each other, with threads in their place.
#include <catch2/catch_test_macros.hpp>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <mamba/parallel/group.hpp>
#include <mamba/parallel/sum_tree.hpp>

#include "support/thread_group.hpp"

using namespace mamba;
using support::in_threads, support::words_of;

TEST_CASE("every process has all parts of an array, empty ones too, and what the others have of their own") {
  for (const int size : {1, 2, 3, 5}) {
    INFO(size << " processes");
    // Parts of 0, 1, 2, ... elements.
    std::vector<std::size_t> bounds{0};
    for (int rank = 0; rank < size; ++rank) bounds.push_back(bounds.back() + static_cast<std::size_t>(rank));
    std::vector<std::vector<int>> arrays(static_cast<std::size_t>(size), std::vector<int>(bounds.back(), -1));
    std::vector<std::vector<int>> gathered(static_cast<std::size_t>(size));
    std::vector<std::string> texts(static_cast<std::size_t>(size));
    const auto thrown = in_threads(size, [&](Group& group) {
      const auto r = static_cast<std::size_t>(group.rank());
      for (std::size_t i = bounds[r]; i < bounds[r + 1]; ++i) arrays[r][i] = static_cast<int>(i);
      share(group, arrays[r].data(), bounds);
      gathered[r] = gather(group, 10 * group.rank());
      texts[r] = from_first(group, group.is_first() ? "a path" : "another, and longer one");
    });
    std::vector<int> all(bounds.back()), tens(static_cast<std::size_t>(size));
    std::iota(all.begin(), all.end(), 0);
    for (int rank = 0; rank < size; ++rank) tens[static_cast<std::size_t>(rank)] = 10 * rank;
    for (std::size_t r = 0; r < arrays.size(); ++r) {
      CHECK(words_of(thrown[r]).empty());
      CHECK(arrays[r] == all);
      CHECK(gathered[r] == tens);
      CHECK(texts[r] == "a path");
    }
  }
}

TEST_CASE("what one process throws all throw, the same") {
  const auto thrown_by = [](auto&& f) {
    return in_threads(3, [&](Group& group) {
      together(group, [&] {
        if (group.rank() > 0) f(group.rank());
      });
    });
  };
  for (const auto& error : thrown_by([](int rank) { fail(ErrorKind::bad_file, "file ", rank, " is none"); })) {
    CHECK(words_of(error) == "file 1 is none");  // that of the lowest rank
    try {
      std::rethrow_exception(error);
    } catch (const Error& caught) {
      CHECK(caught.kind() == ErrorKind::bad_file);
    }
  }
  for (const auto& error : thrown_by([](int) { throw std::bad_alloc(); }))
    CHECK_THROWS_AS(std::rethrow_exception(error), std::bad_alloc);
  for (const auto& error : thrown_by([](int) { throw std::runtime_error(std::string(5000, 'x')); }))
    CHECK((words_of(error).size() > 500 && words_of(error).find_first_not_of('x') == std::string::npos));
  for (const auto& error : thrown_by([](int) {})) CHECK(!error);
}

TEST_CASE("a tree's nodes hold each share once, and processes that are powers of two send one sum each") {
  for (const int shares : {1, 2, 3, 6, 8, 12, 24, 64})
    for (int processes = 1; processes <= shares; ++processes) {
      if (shares % processes != 0) continue;
      INFO(shares << " shares of " << processes << " processes");
      int next = 0;
      for (int rank = 0; rank < processes; ++rank) {
        std::vector<SumNode> nodes;
        append_nodes_within({0, shares}, shares / processes * rank, shares / processes * (rank + 1), nodes);
        for (const SumNode& node : nodes) {
          CHECK(node.first == next);
          CHECK(node.count() >= 1);
          next = node.last;
        }
        if ((shares & (shares - 1)) == 0) CHECK(nodes.size() == 1);
      }
      CHECK(next == shares);
    }
}
