#include "base/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/html.h"

namespace trestle {

namespace {

constexpr double kWidth = 720, kHeight = 220, kLeft = 56, kRight = 8, kTop = 10, kBottom = 28;
constexpr double kLeast = 1e-6;  // on a logarithmic axis
constexpr size_t kPoints = 1000;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  double share(double value) const { return high > low ? (value - low) / (high - low) : 0; }
};

// The grid's values, powers of ten on a logarithmic axis; widens `range` to them.
std::vector<double> ticks(Range& range, ValueAxis axis) {
  double step = 1;
  if (axis == ValueAxis::kLinear) {
    if (range.low == range.high) range.high += std::max(std::abs(range.high), kLeast);
    const double rough = (range.high - range.low) / 4;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    const double digit = rough / power;
    step = power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
  }
  const double first = std::floor(range.low / step);
  const double last = std::max(first + 1, std::ceil(range.high / step));
  std::vector<double> out;
  const auto count = static_cast<int64_t>(last - first);
  for (int64_t i = 0; i <= count; ++i) out.push_back((first + static_cast<double>(i)) * step);
  range = {out.front(), out.back()};
  return out;
}

}  // namespace

std::string line_chart(std::string_view label, const std::vector<Curve>& curves, ValueAxis axis) {
  const bool log = axis == ValueAxis::kLog;
  const auto measure = [&](double value) {
    return log ? std::log10(std::max(value, kLeast)) : value;
  };
  Range steps, values;
  for (const Curve& curve : curves) {
    for (const auto& [step, value] : curve.points) {
      if (!std::isfinite(value)) continue;
      steps.take(step);
      values.take(measure(value));
    }
  }
  if (values.empty()) return "";
  const std::vector<double> grid = ticks(values, axis);
  const auto x = [&](double step) { return kLeft + (kWidth - kLeft - kRight) * steps.share(step); };
  const auto y = [&](double value) {
    return kTop + (kHeight - kTop - kBottom) * (1 - values.share(value));
  };
  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
                                kWidth, kHeight, escaped(label));
  for (const double tick : grid) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>",
        kLeft, kWidth - kRight, y(tick), kLeft - 6, y(tick) + 4, log ? std::pow(10, tick) : tick);
  }
  for (size_t i = 0; i < curves.size(); ++i) {
    const auto& points = curves[i].points;
    const size_t stride = points.size() / kPoints + 1;
    std::string line;
    for (size_t k = 0; k < points.size(); ++k) {
      const bool wanted = k % stride == 0 || k + 1 == points.size();
      if (!wanted || !std::isfinite(points[k].second)) continue;
      const double at_x = x(points[k].first), at_y = y(measure(points[k].second));
      line += fmt::format("{:.1f},{:.1f} ", at_x, at_y);
      // A line of one point is invisible.
      if (points.size() == 1) line += fmt::format("{:.1f},{:.1f} ", at_x + 3, at_y);
    }
    svg += fmt::format("<polyline class=\"curve c{}\" points=\"{}\"/>", i, line);
    if (curves.size() > 1) {
      svg += fmt::format("<text class=\"c{}\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", i,
                         kWidth - kRight - 4, kTop + 12 + 14 * static_cast<double>(i),
                         escaped(curves[i].name));
    }
  }
  return svg + fmt::format(
                   "<text x=\"{}\" y=\"{}\">step {}</text><text x=\"{}\" y=\"{}\" "
                   "text-anchor=\"end\">step {}</text></svg>",
                   kLeft, kHeight - 8, steps.low, kWidth - kRight, kHeight - 8, steps.high);
}

}  // namespace trestle
