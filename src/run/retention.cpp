#include "run/retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/save_record.h"
#include "megatron/integrity.h"
#include "run/run_directory.h"
#include "run/save_contents.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// What is being removed is ".iter_0000040.removed": no reader takes that for a checkpoint, and no
// other program's iter_* finds it.
constexpr std::string_view kRemoved = ".removed";

fs::path removed_name(const fs::path& iteration) {
  return iteration.parent_path() / fmt::format(".{}{}", iteration.filename().string(), kRemoved);
}

constexpr const char* kOfNobody = "it does not say which run made it";

// Why it is left, or nothing. Whatever else is wrong with it is no reason to end the run.
std::string why_kept(const fs::path& iteration, int64_t step, const std::string& lineage) {
  try {
    if (fs::is_symlink(iteration) || !fs::is_directory(iteration)) return "it is no directory";
    const auto record = save_record(iteration);
    if (!record) return kOfNobody;
    if (record->lineage != lineage) return "another run made it";
    if (record->step != step) return fmt::format("it is a copy of step {}", record->step);
    if (!is_there(iteration / kIntegrity)) {
      return fmt::format("it has no {}, which says what its save wrote", kIntegrity);
    }
    if (const fs::path entry = foreign_entry(iteration); !entry.empty()) {
      return fmt::format("its save did not write {}", entry.string());
    }
    // Somebody's notes in a run_config.yaml, or weights of their own; those are not read as a whole
    // for it.
    fs::path file = changed_file(iteration, 1 << 20);
    if (file.empty()) file = changed_content(iteration);
    if (!file.empty()) return fmt::format("somebody changed {}", file.string());
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

void remove_iteration(const fs::path& iteration) {
  const fs::path to = removed_name(iteration);
  std::error_code ignored, error;
  if (fs::exists(fs::symlink_status(to, ignored))) remove_save(to);
  fs::rename(iteration, to, error);
  if (error) machine_error("cannot remove {}: {}", iteration.string(), error.message());
  remove_save(to);
}

}  // namespace

Retention retention_of(const CheckpointOptions& options) {
  Retention retention{.newest = std::nullopt, .interval = options.save_retain_interval};
  if (options.most_recent_k > 0) {
    retention.newest = options.most_recent_k;
  } else if (retention.interval) {
    retention.newest = 1;
  }
  return retention;
}

std::vector<std::string> remove_old_checkpoints(const Saved& saved, const Retention& retention) {
  std::vector<std::string> lines;
  if (!retention.newest) return lines;
  // A later one is a remainder that the run will make anew.
  std::vector<int64_t> steps = iterations_of(saved.run);
  std::erase_if(steps, [&](int64_t step) { return step > saved.step; });
  int64_t kept = 0;
  bool has_old = false;
  for (size_t i = steps.size(); i-- > 0;) {
    const int64_t step = steps[i];
    const fs::path iteration = iteration_directory(saved.run, step);
    if (!is_there(iteration)) continue;  // iter_40
    // The tracker names what was saved last.
    const bool stays = step == saved.step ||
                       std::ranges::find(saved.best, step) != saved.best.end() ||
                       (retention.interval && step % *retention.interval == 0);
    const std::string why = stays ? "" : why_kept(iteration, step, saved.lineage);
    if (why == kOfNobody) {
      if (std::exchange(has_old, true)) continue;
      lines.push_back(
          fmt::format("{} is kept, and so is every other that does not say which run "
                      "made it, as those of before 2026-12 do not",
                      iteration.string()));
      continue;
    }
    if (!why.empty()) {
      lines.push_back(fmt::format("{} is kept: {}", iteration.string(), why));
      continue;
    }
    if (kept++ < *retention.newest || stays) continue;
    try {
      remove_iteration(iteration);
    } catch (const std::runtime_error& error) {
      lines.emplace_back(error.what());
    }
  }
  return lines;
}

std::vector<std::string> remove_remains(const fs::path& run) {
  std::error_code ignored;
  std::vector<std::string> lines;
  std::vector<fs::path> remains;
  std::set<std::string> unwritten;
  for (const auto& each : fs::directory_iterator(run, ignored)) {
    const std::string name = each.path().filename().string();
    if (!name.starts_with(".iter_")) continue;
    if (const size_t end = name.find(".tmp-"); end != std::string::npos)
      unwritten.insert(name.substr(1, end - 1));
    if (!name.ends_with(kRemoved)) continue;
    const std::string inside = name.substr(1, name.size() - 1 - kRemoved.size());
    if (iteration_of(inside) && !each.is_symlink() && each.is_directory()) {
      remains.push_back(each.path());
    }
  }
  for (const fs::path& each : remains) {
    try {
      remove_save(each);
    } catch (const UserError& error) {
      lines.push_back(fmt::format("{} is kept: {}", each.string(), error.what()));
    }
  }
  for (const std::string& name : unwritten) remove_leftovers(run / name);
  return lines;
}

}  // namespace trestle
