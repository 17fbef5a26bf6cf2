#include "metrics/mlflow_resume.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "metrics/copied_run.h"
#include "metrics/scalars.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMostHistory = 1ull << 32;

bool is_run_id(std::string_view text) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == 32 && std::ranges::all_of(text, is_hex);
}

// The run directory that the one of `id_file` was copied from.
std::optional<fs::path> copied_from(const fs::path& id_file, const fs::path& run) {
  return original_of(id_file.parent_path(),
                     mlflow_text(run / "tags" / kMlflowDirectory).value_or(""),
                     id_file.filename().string());
}

// When a run wrote a metric last, in milliseconds since 1970.
int64_t last_written(const fs::path& run) {
  int64_t last = 0;
  std::error_code error;
  for (const auto& each : fs::recursive_directory_iterator(run / "metrics", error)) {
    struct stat found {};
    if (::stat(each.path().c_str(), &found) != 0) continue;
    last = std::max<int64_t>(last, found.st_mtim.tv_sec * 1000 + found.st_mtim.tv_nsec / 1'000'000);
  }
  return last;
}

// A line of a metric's file is "time value step"; one that a kill cut short has no step.
std::optional<int64_t> step_of(std::string_view line) {
  const size_t space = line.rfind(' ');
  if (space == std::string_view::npos || std::ranges::count(line, ' ') != 2) return std::nullopt;
  int64_t step = 0;
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data() + space + 1, end, step);
  if (error != std::errc() || stop != end) return std::nullopt;
  return step;
}

}  // namespace

std::optional<KnownMlflowRun> known_mlflow_run(const TrainConfig& config, const fs::path& id_file,
                                               const fs::path& experiment) {
  const std::string id = kept_id(id_file);
  if (!is_there(id_file)) return std::nullopt;
  if (!is_run_id(id)) {
    user_error("{}: '{}' is no MLflow run id; remove the file to begin a run of its own",
               id_file.string(), one_line(id.substr(0, 64)));
  }
  const auto begin_another = [&](const std::string& why) -> std::optional<KnownMlflowRun> {
    fmt::print(stderr, "MLflow: run {} {}; another run begins\n", id, one_line(why));
    return std::nullopt;
  };
  const std::string& name = config.logger.mlflow_experiment;
  const fs::path folder = experiment / id;
  if (!is_there(folder / kMlflowMeta)) {
    const auto other = mlflow_experiment_of(experiment.parent_path(), id);
    return begin_another(
        other ? fmt::format("is in the experiment {} and logger.mlflow_experiment={}", *other, name)
              : fmt::format("is not in {}", experiment.parent_path().string()));
  }
  const auto meta = MlflowMeta::read(folder / kMlflowMeta);
  if (!meta) return begin_another(fmt::format("has no {} that can be read", kMlflowMeta));
  if (meta->lifecycle_stage != "active") {
    return begin_another(fmt::format("was deleted from the experiment {}", name));
  }
  if (const auto original = copied_from(id_file, folder)) {
    return begin_another(fmt::format("is that of {}, which checkpoint.save={} is a copy of",
                                     original->string(), config.checkpoint.save));
  }
  return KnownMlflowRun{folder, *meta};
}

void end_killed_run(const fs::path& id_file, const fs::path& store) {
  const std::string id = kept_id(id_file);
  const auto folder = is_run_id(id) ? mlflow_run_folder(store, id) : std::nullopt;
  if (!folder || copied_from(id_file, *folder)) return;
  auto meta = MlflowMeta::read(*folder / kMlflowMeta);
  // What somebody deleted stays as they deleted it.
  if (!meta || meta->status != MlflowMeta::kRunning || meta->lifecycle_stage != "active") return;
  meta->experiment_id = folder->parent_path().filename().string();
  meta->status = MlflowMeta::kKilled;
  meta->end_time = std::max(meta->start_time, last_written(*folder));
  write_text(*folder / kMlflowMeta, meta->yaml());
  fmt::print(stderr,
             "MLflow: run {} was begun here and killed: it is KILLED there now, as another one "
             "begins\n",
             id);
}

void drop_later_steps(const fs::path& metrics, int64_t last) {
  std::error_code error;
  std::vector<fs::path> files;  // first, as each is written anew beside itself
  for (const auto& each : fs::recursive_directory_iterator(metrics, error)) {
    const std::string name = each.path().lexically_relative(metrics).string();
    if (each.is_regular_file(error) && is_mlflow_metric_of_runs(name)) files.push_back(each.path());
  }
  for (const fs::path& file : files) {
    const std::string all = read_text(file, kMostHistory);
    std::istringstream lines(all);
    std::string kept;
    for (std::string line; std::getline(lines, line);) {
      const auto step = step_of(line);
      if (step && *step <= last) kept += line + "\n";
    }
    if (kept == all) continue;
    // MLflow reads no run that has a metric without a value.
    if (kept.empty()) {
      fs::remove(file, error);
    } else {
      write_text(file, kept);
    }
  }
}

std::string settled_text(const TextInStore& text) {
  // A parameter, which says how it began, is of one line.
  if (!text.there || one_line(*text.there) == text.began || text.there == text.wanted) {
    return text.wanted;
  }
  fmt::print(stderr, "MLflow: {} is '{}' there, and not '{}': it stays\n", text.what,
             one_line(*text.there), one_line(text.wanted));
  return *text.there;
}

std::map<std::string, std::string> mlflow_tags(const std::vector<std::string>& tags) {
  std::map<std::string, std::string> out;
  for (const std::string& tag : tags) {
    const size_t equals = tag.find('=');
    if (equals == std::string::npos) {
      user_error("logger.mlflow_tags: '{}' is no name=value", tag);
    }
    out[tag.substr(0, equals)] = tag.substr(equals + 1);
  }
  return out;
}

void remove_mlflow_leftovers(const fs::path& id_file, const fs::path& experiment) {
  const std::string id = kept_id(id_file);
  if (!is_run_id(id)) return;
  remove_leftovers(experiment / id);
  std::error_code error;
  std::set<fs::path> targets;
  for (const auto& each : fs::recursive_directory_iterator(experiment / id, error)) {
    const std::string name = each.path().filename().string();
    const size_t end = name.rfind(".tmp-");
    if (!name.starts_with('.') || end == std::string::npos || end == 0) continue;
    targets.insert(each.path().parent_path() / name.substr(1, end - 1));
  }
  for (const fs::path& target : targets) remove_leftovers(target);
}

}  // namespace trestle
