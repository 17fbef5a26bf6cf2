#include "metrics/progress_log.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kTime = "%Y-%m-%d %H:%M:%S";
constexpr const char* kStarting = "Starting job";
constexpr uint64_t kMostBytes = 1 << 26;

std::string text_of(std::time_t time) {
  std::tm parts{};
  localtime_r(&time, &parts);
  char text[32] = {};
  std::strftime(text, sizeof text, kTime, &parts);
  return text;
}

// When the first session of one process began; nothing where the file tells of none.
std::optional<std::time_t> first_start(const fs::path& path) {
  if (!is_there(path)) return std::nullopt;
  std::istringstream lines(read_text(path, kMostBytes));
  for (std::string line; std::getline(lines, line);) {
    if (!line.ends_with(fmt::format("\t# GPUs: 1\t{}", kStarting))) continue;
    std::tm parts{};
    parts.tm_isdst = -1;
    if (::strptime(line.c_str(), kTime, &parts) != nullptr) return std::mktime(&parts);
  }
  return std::nullopt;
}

}  // namespace

ProgressLog::ProgressLog(const fs::path& run, const Totals& before)
    : path_(run / "progress.txt"), before_(before.flops) {
  const auto first = first_start(path_);
  first_start_ = first.value_or(std::time(nullptr));
  // Steps of before the file was begun are none of its sessions'.
  first_flops_ = first ? 0 : before.flops;
  append(kStarting);
}

void ProgressLog::saved(int64_t step, const Totals& now) const {
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double all = std::max(std::difftime(std::time(nullptr), first_start_), seconds);
  append(fmt::format(
      "Saved checkpoint\tIteration: {}\tJob throughput: {:.1f} MODEL_TFLOP/s/GPU\t"
      "Cumulative throughput: {:.1f} MODEL_TFLOP/s/GPU\t"
      "Floating-point operations: {:.2e}\tTokens (in billions): {:.2f}",
      step, (now.flops - before_) / seconds / 1e12, (now.flops - first_flops_) / all / 1e12,
      now.flops, static_cast<double>(now.tokens) / 1e9));
}

void ProgressLog::append(std::string_view text) const {
  const char* job = std::getenv("SLURM_JOB_ID");
  std::ofstream file(path_, std::ios::app);
  file << fmt::format("{}\tJob ID: {}\t# GPUs: 1\t{}\n", text_of(std::time(nullptr)),
                      one_line(job == nullptr ? "" : job), text)
       << std::flush;
  if (!file) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
}

}  // namespace trestle
