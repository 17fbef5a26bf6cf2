// The tree edit distance of Zhang and Shasha (1989, "Simple fast algorithms for the editing
// distance between trees and related problems"), with the costs that Donut's cal_acc gives it.
// Called by scores.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// Each maximal invalid part of the bytes is U+FFFD.
std::u32string code_points(std::string_view text);
int64_t edit_distance(const std::u32string& a, const std::u32string& b);

struct LabelledTree {
  std::u32string label;
  /// A value, and not a key or a list's item.
  bool is_leaf = false;
  std::vector<LabelledTree> children;
};

/// A tree's nodes, children before their parent.
class PostOrder {
 public:
  explicit PostOrder(const LabelledTree& root);

  struct Node {
    std::u32string label;
    bool is_leaf = false;
    /// The first node of its subtree, which is the subtree's leftmost.
    size_t leftmost = 0;
    /// To insert or remove it: a value's length, 1 for any other node.
    int64_t cost() const { return is_leaf ? static_cast<int64_t>(label.size()) : 1; }
  };
  size_t size() const { return nodes_.size(); }
  const Node& operator[](size_t i) const { return nodes_[i]; }
  /// Nodes that are the root or have a sibling to their left, in order.
  std::vector<size_t> key_roots() const;
  /// Of all nodes but the root.
  int64_t insertion_cost() const;

 private:
  size_t add(const LabelledTree& tree);
  std::vector<Node> nodes_;
};

/// To change a value into another costs their edit distance, a value into a node of another kind or
/// back its length and one, other nodes 1 where they differ.
int64_t tree_edit_distance(const PostOrder& from, const PostOrder& to);

}  // namespace trestle
