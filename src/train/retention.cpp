#include "train/retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hf_layout.h"
#include "megatron/checkpoint.h"
#include "train/checkpoint.h"
#include "train/huggingface_folder.h"
#include "train/run_directory.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// What is being removed is ".iter_0000040.removed": no reader takes that for a checkpoint, and no
// other program's iter_* finds it.
constexpr std::string_view kRemoved = ".removed";

fs::path removed_name(const fs::path& iteration) {
  return iteration.parent_path() / fmt::format(".{}{}", iteration.filename().string(), kRemoved);
}

// Nothing, or the first entry below that no run writes.
fs::path foreign_entry(const fs::path& iteration) {
  const auto first = [](const fs::path& folder,
                        const std::function<bool(const fs::path&)>& is_own) {
    for (const auto& each : fs::directory_iterator(folder)) {
      if (each.is_symlink() || !is_own(each.path())) return each.path();
    }
    return fs::path();
  };
  fs::path found = first(iteration, [](const fs::path& path) {
    const std::string name = path.filename();
    const bool is_folder = name == "tokenizer" || name == kHuggingFaceFolder;
    return is_of_iteration(name) && fs::is_directory(path) == is_folder;
  });
  for (const char* folder : {"tokenizer", kHuggingFaceFolder}) {
    if (!found.empty() || !fs::is_directory(iteration / folder)) continue;
    found = first(iteration / folder, [&](const fs::path& path) {
      const std::string name = path.filename();
      const bool is_named =
          folder == std::string_view("tokenizer") ? is_side_file(name) : is_of_folder(name);
      return is_named && fs::is_regular_file(path);
    });
  }
  return found;
}

// Why it is left, or nothing. Whatever else is wrong with it is no reason to end the run.
std::string why_kept(const fs::path& iteration, const std::string& lineage) {
  try {
    if (fs::is_symlink(iteration) || !fs::is_directory(iteration)) return "it is no directory";
    if (const fs::path entry = foreign_entry(iteration); !entry.empty()) {
      return fmt::format("{} is nothing that a run writes", entry.string());
    }
    if (lineage_of(iteration) != lineage) return "another run made it";
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

// The name first, then what says that it is whole, then the rest.
void remove_marked(const fs::path& path) {
  std::error_code ignored, error;
  for (const char* name : {"metadata.json", ".metadata"}) fs::remove(path / name, ignored);
  fs::remove_all(path, error);
  if (error) machine_error("cannot remove {}: {}", path.string(), error.message());
}

void remove_iteration(const fs::path& iteration) {
  const fs::path to = removed_name(iteration);
  std::error_code ignored, error;
  if (fs::exists(fs::symlink_status(to, ignored))) remove_marked(to);
  fs::rename(iteration, to, error);
  if (error) machine_error("cannot remove {}: {}", iteration.string(), error.message());
  remove_marked(to);
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
  for (size_t i = steps.size(); i-- > 0;) {
    const int64_t step = steps[i];
    const fs::path iteration = iteration_directory(saved.run, step);
    if (!is_there(iteration)) continue;  // iter_40
    // The tracker names what was saved last.
    const bool stays = step == saved.step ||
                       std::ranges::find(saved.best, step) != saved.best.end() ||
                       (retention.interval && step % *retention.interval == 0);
    const std::string why = stays ? "" : why_kept(iteration, saved.lineage);
    if (!why.empty()) {
      lines.push_back(fmt::format("{} is kept: {}", iteration.string(), why));
      continue;
    }
    if (kept++ < *retention.newest || stays) continue;
    try {
      remove_iteration(iteration);
    } catch (const MachineError& error) {
      lines.emplace_back(error.what());
    }
  }
  return lines;
}

void remove_remains(const fs::path& run) {
  std::error_code ignored;
  std::vector<fs::path> remains;
  std::set<std::string> unwritten;
  for (const auto& each : fs::directory_iterator(run, ignored)) {
    const std::string name = each.path().filename().string();
    if (!name.starts_with(".iter_")) continue;
    if (const size_t end = name.find(".tmp-"); end != std::string::npos)
      unwritten.insert(name.substr(1, end - 1));
    if (!name.ends_with(kRemoved)) continue;
    const std::string inside = name.substr(1, name.size() - 1 - kRemoved.size());
    if (iteration_of(inside) && !each.is_symlink()) remains.push_back(each.path());
  }
  for (const fs::path& each : remains) remove_marked(each);
  for (const std::string& name : unwritten) remove_leftovers(run / name);
}

}  // namespace trestle
