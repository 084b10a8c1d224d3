// The order in which the shares of a sum are added up, whoever holds them.
#pragma once

#include <vector>

namespace mamba {

// Of the tree over shares 0 .. n - 1: those of a node, from `first` up to `last`. It is the sum of its left node, of
// the largest power of two that is smaller than it, and of the rest. So a process that holds shares of one node sends
// one sum, and all processes do where shares and processes are powers of two.
struct SumNode {
  int first, last;

  int count() const { return last - first; }
  bool is_share() const { return count() == 1; }
  SumNode left() const { return {first, middle()}; }
  SumNode right() const { return {middle(), last}; }
  bool operator==(const SumNode&) const = default;

 private:
  int middle() const {
    int left = 1;
    while (2 * left < count()) left *= 2;
    return first + left;
  }
};

// The fewest nodes below `node` that are shares [first, last) together, in their order.
inline void append_nodes_within(SumNode node, int first, int last, std::vector<SumNode>& nodes) {
  if (node.last <= first || last <= node.first) return;
  if (first <= node.first && node.last <= last) {
    nodes.push_back(node);
    return;
  }
  append_nodes_within(node.left(), first, last, nodes);
  append_nodes_within(node.right(), first, last, nodes);
}

}  // namespace mamba
