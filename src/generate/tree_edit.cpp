#include "generate/tree_edit.h"

#include <algorithm>
#include <map>

namespace trestle {

namespace {

class Table {
 public:
  Table(size_t rows, size_t columns) : columns_(columns), values_(rows * columns) {}
  int64_t& operator()(size_t row, size_t column) { return values_[row * columns_ + column]; }

 private:
  size_t columns_;
  std::vector<int64_t> values_;
};

int64_t change_cost(const PostOrder::Node& a, const PostOrder::Node& b) {
  if (a.is_leaf && b.is_leaf) return edit_distance(a.label, b.label);
  if (a.is_leaf) return 1 + a.cost();
  if (b.is_leaf) return 1 + b.cost();
  return a.label == b.label ? 0 : 1;
}

class Distance {
 public:
  Distance(const PostOrder& a, const PostOrder& b)
      : a_(a),
        b_(b),
        changes_(a.size(), b.size()),
        trees_(a.size(), b.size()),
        forests_(a.size() + 1, b.size() + 1) {
    for (size_t i = 0; i < a.size(); ++i) {
      for (size_t j = 0; j < b.size(); ++j) changes_(i, j) = change_cost(a[i], b[j]);
    }
  }

  int64_t whole() {
    for (const size_t i : a_.key_roots()) {
      for (const size_t j : b_.key_roots()) subtrees(i, j);
    }
    return trees_(a_.size() - 1, b_.size() - 1);
  }

 private:
  // Fills trees_ for i and j and what lies on the paths from them to their leftmost nodes.
  // forests_(x, y): between the first x nodes of i's subtree and the first y of j's.
  void subtrees(size_t i, size_t j) {
    const size_t first_a = a_[i].leftmost, first_b = b_[j].leftmost;
    const size_t rows = i - first_a + 1, columns = j - first_b + 1;
    forests_(0, 0) = 0;
    for (size_t x = 1; x <= rows; ++x) {
      forests_(x, 0) = forests_(x - 1, 0) + a_[first_a + x - 1].cost();
    }
    for (size_t y = 1; y <= columns; ++y) {
      forests_(0, y) = forests_(0, y - 1) + b_[first_b + y - 1].cost();
    }
    for (size_t x = 1; x <= rows; ++x) {
      const size_t node_a = first_a + x - 1;
      for (size_t y = 1; y <= columns; ++y) {
        const size_t node_b = first_b + y - 1;
        const int64_t without = std::min(forests_(x - 1, y) + a_[node_a].cost(),
                                         forests_(x, y - 1) + b_[node_b].cost());
        if (a_[node_a].leftmost == first_a && b_[node_b].leftmost == first_b) {
          const int64_t changed = forests_(x - 1, y - 1) + changes_(node_a, node_b);
          trees_(node_a, node_b) = forests_(x, y) = std::min(without, changed);
        } else {
          const int64_t matched =
              forests_(a_[node_a].leftmost - first_a, b_[node_b].leftmost - first_b) +
              trees_(node_a, node_b);
          forests_(x, y) = std::min(without, matched);
        }
      }
    }
  }

  const PostOrder &a_, &b_;
  Table changes_, trees_, forests_;
};

}  // namespace

PostOrder::PostOrder(const LabelledTree& root) { add(root); }

size_t PostOrder::add(const LabelledTree& tree) {
  size_t leftmost = nodes_.size();
  for (const LabelledTree& child : tree.children) leftmost = std::min(leftmost, add(child));
  nodes_.push_back({tree.label, tree.is_leaf, leftmost});
  return leftmost;
}

std::vector<size_t> PostOrder::key_roots() const {
  // Of the nodes with one leftmost node the last, which is the highest.
  std::map<size_t, size_t> highest;
  for (size_t i = 0; i < nodes_.size(); ++i) highest[nodes_[i].leftmost] = i;
  std::vector<size_t> roots;
  for (const auto& [leftmost, node] : highest) roots.push_back(node);
  std::ranges::sort(roots);
  return roots;
}

int64_t PostOrder::insertion_cost() const {
  int64_t cost = 0;
  for (size_t i = 0; i + 1 < nodes_.size(); ++i) cost += nodes_[i].cost();
  return cost;
}

int64_t tree_edit_distance(const PostOrder& from, const PostOrder& to) {
  return Distance(from, to).whole();
}

}  // namespace trestle
