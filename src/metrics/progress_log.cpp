#include "metrics/progress_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kTime = "%Y-%m-%d %H:%M:%S";
constexpr std::string_view kRanks = "\t# GPUs: ";
constexpr std::string_view kStarting = "Starting job";
constexpr std::string_view kFlops = "Floating-point operations: ";
constexpr uint64_t kMostBytes = 1 << 26;

std::string text_of(std::time_t time) {
  std::tm parts{};
  localtime_r(&time, &parts);
  char text[32] = {};
  std::strftime(text, sizeof text, kTime, &parts);
  return text;
}

struct Session {
  std::time_t start = 0;
  /// Of the run before it.
  double flops = 0;
};

// The number behind `name`, or nothing.
std::optional<double> number_behind(const std::string& line, std::string_view name) {
  const size_t at = line.find(name);
  if (at == line.npos) return std::nullopt;
  return std::strtod(line.c_str() + at + name.size(), nullptr);
}

// The first session of `ranks` behind the last of another number, as Megatron looks for it; nothing
// where the file tells of none.
std::optional<Session> first_session(const fs::path& path, int64_t ranks) {
  if (!is_there(path)) return std::nullopt;
  std::optional<Session> first;
  double flops = 0;
  std::istringstream lines(read_text(path, kMostBytes));
  for (std::string line; std::getline(lines, line);) {
    const auto told = number_behind(line, kRanks);
    if (!told) continue;
    flops = number_behind(line, kFlops).value_or(flops);
    if (*told != static_cast<double>(ranks)) first.reset();
    std::tm parts{};
    parts.tm_isdst = -1;
    if (first || *told != static_cast<double>(ranks) || !line.ends_with(kStarting) ||
        ::strptime(line.c_str(), kTime, &parts) == nullptr) {
      continue;
    }
    first = {.start = std::mktime(&parts), .flops = flops};
  }
  return first;
}

}  // namespace

ProgressLog::ProgressLog(const fs::path& run, const Totals& before, int64_t ranks)
    : path_(run / "progress.txt"), ranks_(ranks), before_(before.flops) {
  const auto first = first_session(path_, ranks);
  first_start_ = first ? first->start : std::time(nullptr);
  // Steps of before the file was begun are none of its sessions'.
  first_flops_ = first ? std::min(first->flops, before.flops) : before.flops;
  append(kStarting);
}

void ProgressLog::taken(const Totals& now) {
  taken_ = now;
  session_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  all_s_ = std::max(std::difftime(std::time(nullptr), first_start_), session_s_);
}

void ProgressLog::saved(int64_t step) const {
  const double to_rates = 1e12 * static_cast<double>(ranks_);
  append(fmt::format(
      "Saved checkpoint\tIteration: {}\tJob throughput: {:.1f} MODEL_TFLOP/s/GPU\t"
      "Cumulative throughput: {:.1f} MODEL_TFLOP/s/GPU\t{}{:.2e}\tTokens (in billions): {:.2f}",
      step, (taken_.flops - before_) / session_s_ / to_rates,
      (taken_.flops - first_flops_) / all_s_ / to_rates, kFlops, taken_.flops,
      static_cast<double>(taken_.tokens) / 1e9));
}

void ProgressLog::append(std::string_view text) const {
  const char* job = std::getenv("SLURM_JOB_ID");
  std::ofstream file(path_, std::ios::app);
  file << fmt::format("{}\tJob ID: {}{}{}\t{}\n", text_of(std::time(nullptr)),
                      one_line(job == nullptr ? "" : job), kRanks, ranks_, text)
       << std::flush;
  if (!file) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
}

}  // namespace trestle
