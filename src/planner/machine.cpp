#include "planner/machine.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>

#include "base/error.h"
#include "base/number.h"
#include "kernels/matrix_product.h"

namespace trestle {

namespace {

constexpr std::array<std::pair<char, double>, 5> kUnits = {
    {{'P', 1e15}, {'T', 1e12}, {'G', 1e9}, {'M', 1e6}, {'K', 1e3}}};

// Calls of `action` a second, over a quarter of one.
template <class Action>
double calls_a_second(const Action& action) {
  using Clock = std::chrono::steady_clock;
  constexpr double kSeconds = 0.25;
  action();  // pages come in, and libraries make their plans
  int64_t calls = 0;
  const Clock::time_point begin = Clock::now();
  double passed = 0;
  while (passed < kSeconds) {
    action();
    ++calls;
    passed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(calls) / passed;
}

double measured_flops(at::ScalarType dtype) {
  constexpr int64_t kSide = 512;
  const at::NoGradGuard no_grad;
  const at::Tensor a = at::full({kSide, kSide}, 0.5, dtype),
                   b = at::full({kSide, kSide}, 0.5, dtype);
  return calls_a_second([&] { times_transposed(a, b); }) * 2 * kSide * kSide * kSide;
}

// Larger than a cache.
double measured_bandwidth() {
  constexpr int64_t kBytes = 64 << 20;
  const at::Tensor from = at::ones({kBytes}, at::kByte), to = at::empty_like(from);
  return calls_a_second([&] { to.copy_(from); }) * 2 * kBytes;
}

// Of the machine, or less where a control group says so.
int64_t memory_here() {
  int64_t bytes = ::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE);
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  int64_t most = 0;
  if (limit >> most && most > 0) bytes = std::min(bytes, most);
  return bytes;
}

}  // namespace

Machine usual_cards(int64_t ranks) {
  return {.on_card = true,
          .ranks = ranks,
          .ranks_per_node = std::min<int64_t>(ranks, 8),
          .memory_bytes = 80'000'000'000,
          .flops = {600e12},
          .bandwidth = {3e12},
          .link = {450e9},
          .network = {50e9}};
}

Machine this_machine(int64_t ranks, at::ScalarType dtype) {
  const auto share = static_cast<double>(ranks);
  const Rate bandwidth{measured_bandwidth() / share, Origin::kMeasured};
  // From memory to memory: what one reads another writes.
  const Rate link{bandwidth.value / 2, Origin::kMeasured};
  return {.ranks = ranks,
          .ranks_per_node = ranks,
          .memory_bytes = memory_here() / ranks,
          .memory_origin = Origin::kMeasured,
          .flops = {measured_flops(dtype) / share, Origin::kMeasured},
          .bandwidth = bandwidth,
          .link = link,
          .network = link};
}

std::string to_string(Origin origin) {
  switch (origin) {
    case Origin::kGiven:
      return "given";
    case Origin::kMeasured:
      return "measured";
    case Origin::kAssumed:
      return "assumed";
  }
  TORCH_CHECK(false, "unknown origin");
}

double parse_rate(std::string_view flag, std::string_view text) {
  std::string_view rest = text;
  for (const std::string_view end : {"/s", "B", "FLOP", "FLOPS"}) {
    if (rest.ends_with(end)) rest.remove_suffix(end.size());
  }
  double unit = 1;
  for (const auto& [letter, value] : kUnits) {
    if (rest.empty() || rest.back() != letter) continue;
    unit = value;
    rest.remove_suffix(1);
    break;
  }
  double number = 0;
  const std::string problem = number_problem(rest, number);
  if (!problem.empty() || !(number * unit > 0) || number * unit > 1e20) {
    user_error("{} {}: it is a number a second over 0, such as 600T or 450GB/s", flag, text);
  }
  return number * unit;
}

std::string rate_text(double rate) {
  for (const auto& [letter, value] : kUnits) {
    if (rate >= value) return fmt::format("{:.3g} {}", rate / value, letter);
  }
  return fmt::format("{:.3g} ", rate);
}

}  // namespace trestle
