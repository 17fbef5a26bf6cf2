// Curves as SVG for the program's pages (base/html.h has their colours). Called by the reports of
// the demo and of finetune.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle {

struct Curve {
  std::string name;
  /// x (a step) rising, and y; points whose y is no finite number are left out.
  std::vector<std::pair<double, double>> points;
};

enum class ValueAxis { kLinear, kLog };

/// A chart of one or two curves over the same steps, each drawn by about a thousand of its points
/// at most; names are shown where there is more than one. Empty where nothing can be drawn. On a
/// logarithmic axis values under 1e-6 are drawn at 1e-6.
std::string line_chart(std::string_view label, const std::vector<Curve>& curves, ValueAxis axis);

}  // namespace trestle
