#include "metrics/mlflow.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "base/text.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kIdFile = "mlflow_run_id.txt";
constexpr const char* kMeta = "meta.yaml";
constexpr uint64_t kMostHistory = 1ull << 32;

struct Uri {
  std::string text;
  const char* from;
};

// The key goes before the variable, even where it is set to nothing.
Uri uri_of(const LoggerOptions& logger) {
  if (logger.mlflow_tracking_uri) {
    return {*logger.mlflow_tracking_uri, "logger.mlflow_tracking_uri"};
  }
  const char* value = std::getenv("MLFLOW_TRACKING_URI");
  return {value == nullptr ? "" : value, "MLFLOW_TRACKING_URI"};
}

fs::path store_of(const TrainConfig& config) {
  const Uri uri = uri_of(config.logger);
  if (uri.text.empty()) return fs::path(config.checkpoint.save) / "mlruns";
  return mlflow_folder(uri.text, uri.from);
}

// "run/" is "run".
std::string last_name(const fs::path& path) {
  const fs::path plain = fs::absolute(path).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).filename().string();
}

std::string user_name() {
  const passwd* entry = ::getpwuid(::geteuid());
  return entry == nullptr ? std::to_string(::geteuid()) : entry->pw_name;
}

std::string random_run_id() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += fmt::format("{:08x}", random());
  return id;
}

std::pair<std::string, std::string> split_tag(const std::string& tag) {
  const size_t equals = tag.find('=');
  if (equals == std::string::npos) {
    user_error("logger.mlflow_tags: '{}' is no name=value", tag);
  }
  return {tag.substr(0, equals), tag.substr(equals + 1)};
}

// MLflow cuts too, to as many characters.
std::string cut(std::string text, size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<uint8_t>(text[limit]) & 0xC0) == 0x80) --limit;
  text.resize(limit);
  return text;
}

void write_part(const fs::path& path, std::string_view text) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  if (!file) machine_error("cannot write {}: {}", path.string(), std::strerror(errno));
}

// Whatever is there of them stays: to MLflow a parameter has one value for ever.
void write_params(const fs::path& run, const TrainConfig& config) {
  for (const FieldText& each : list_fields(config)) {
    const fs::path path = run / "params" / each.path;
    if (!is_there(path)) write_part(path, cut(one_line(each.value), kMlflowParam));
  }
}

void write_tags(const fs::path& run, const TrainConfig& config, const MlflowMeta& meta) {
  const auto write = [&](const std::string& name, const std::string& value) {
    write_part(run / "tags" / name, value);
  };
  write("mlflow.runName", meta.run_name);
  write("mlflow.user", meta.user_id);
  write("mlflow.source.name", "trestle finetune");
  write("mlflow.source.type", "LOCAL");
  if (!config.logger.mlflow_description.empty()) {
    write("mlflow.note.content", config.logger.mlflow_description);
  }
  for (const std::string& tag : config.logger.mlflow_tags) {
    const auto [name, value] = split_tag(tag);
    write(name, value);
  }
  if (!config.checkpoint.load.empty()) {
    // As Megatron Bridge tells what was gone on from.
    write("last_loaded_checkpoint", fs::absolute(config.checkpoint.load).string());
  }
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

void drop_later_steps(const fs::path& metrics, int64_t last) {
  std::error_code error;
  std::vector<fs::path> files;  // first, as each is written anew beside itself
  for (const auto& each : fs::recursive_directory_iterator(metrics, error)) {
    if (each.is_regular_file(error)) files.push_back(each.path());
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

// The id of the run that this one goes on with, whose folder is there.
std::optional<std::string> kept_id(const fs::path& save, const fs::path& experiment) {
  const fs::path file = save / kIdFile;
  if (!is_there(file)) return std::nullopt;
  const std::string id(trimmed(read_text(file, 4096)));
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (id.size() != 32 || !std::ranges::all_of(id, is_hex)) {
    user_error("{}: '{}' is no MLflow run id; remove the file to begin a run of its own",
               file.string(), one_line(id.substr(0, 64)));
  }
  return is_there(experiment / id / kMeta) ? std::optional(id) : std::nullopt;
}

void link_or_copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (const auto& each : fs::recursive_directory_iterator(from)) {
    const fs::path target = to / each.path().lexically_relative(from);
    if (each.is_directory()) {
      fs::create_directories(target, error);
      continue;
    }
    fs::create_hard_link(each.path(), target, error);
    if (error) fs::copy_file(each.path(), target, error);
    if (error) machine_error("cannot write {}: {}", target.string(), error.message());
  }
}

// As Megatron Bridge calls what would be a file and a folder here.
std::string metric_name(const std::string& name) {
  return name == "throughput/tflops/device" ? "throughput/tflops_per_device" : name;
}

}  // namespace

void MlflowRun::check(const TrainConfig& config) {
  const LoggerOptions& logger = config.logger;
  if (logger.mlflow_experiment.empty()) return;
  const auto require_at_most = [](std::string_view key, const std::string& value, size_t limit) {
    if (value.size() <= limit) return;
    user_error("{} has {} bytes; MLflow takes {}", key, value.size(), limit);
  };
  require_at_most("logger.mlflow_experiment", logger.mlflow_experiment, kMlflowName);
  require_at_most("logger.mlflow_run_name", logger.mlflow_run_name, kMlflowKey);
  require_at_most("logger.mlflow_description", logger.mlflow_description, kMlflowTag);
  std::vector<std::string> names;
  for (const std::string& tag : logger.mlflow_tags) {
    const auto [name, value] = split_tag(tag);
    if (const auto problem = mlflow_name_problem(name)) {
      user_error("logger.mlflow_tags: {}: {}", tag, *problem);
    }
    if (name.starts_with("mlflow.")) {
      user_error("logger.mlflow_tags: {}: names that begin with mlflow. are MLflow's own", tag);
    }
    // A name is a path: one cannot be a file and a folder.
    for (const std::string& other : names) {
      if (name == other || name.starts_with(other + "/") || other.starts_with(name + "/")) {
        user_error("logger.mlflow_tags: {} and {} cannot both be; leave one out", other, name);
      }
    }
    require_at_most(fmt::format("logger.mlflow_tags: {}", name), value, kMlflowTag);
    names.push_back(name);
  }
  const fs::path store = store_of(config);
  if (!uri_of(logger).text.empty()) require_output_folder(store, uri_of(logger).from);
}

std::unique_ptr<MlflowRun> MlflowRun::start(const TrainConfig& config, int64_t first_step) {
  check(config);
  if (config.logger.mlflow_experiment.empty()) return nullptr;
  const fs::path save = config.checkpoint.save;
  fs::path store = store_of(config);
  const fs::path experiment = mlflow_experiment(store, config.logger.mlflow_experiment);
  const auto known = first_step > 0 ? kept_id(save, experiment) : std::nullopt;
  MlflowMeta meta;
  meta.experiment_id = experiment.filename().string();
  meta.run_id = known ? *known : random_run_id();
  const std::string& name = config.logger.mlflow_run_name;
  meta.run_name = cut(name.empty() ? last_name(save) : name, kMlflowKey);
  meta.user_id = user_name();
  fs::path folder = experiment / meta.run_id;
  meta.artifact_uri = mlflow_uri(folder / "artifacts");
  meta.start_time = mlflow_time();
  if (known) {
    meta.start_time = mlflow_start_time(folder / kMeta).value_or(meta.start_time);
    drop_later_steps(folder / "metrics", first_step);
    write_params(folder, config);
    write_tags(folder, config, meta);
    write_text(folder / kMeta, meta.yaml());
  } else {
    write_text(save / kIdFile, meta.run_id + "\n");
    OutputDirectory made(folder);  // no reader sees a part of it
    for (const char* part : {"metrics", "params", "tags", "artifacts"}) {
      fs::create_directories(made.path() / part);
    }
    write_params(made.path(), config);
    write_tags(made.path(), config, meta);
    write_part(made.path() / kMeta, meta.yaml());
    made.commit();
  }
  return std::unique_ptr<MlflowRun>(
      new MlflowRun(config, std::move(store), std::move(folder), std::move(meta)));
}

MlflowRun::MlflowRun(const TrainConfig& config, fs::path store, fs::path folder, MlflowMeta meta)
    : store_(std::move(store)),
      folder_(std::move(folder)),
      meta_(std::move(meta)),
      experiment_(config.logger.mlflow_experiment),
      checkpoints_(config.logger.mlflow_log_artifacts ? config.checkpoint.save : "") {}

std::ofstream& MlflowRun::file_of(const std::string& metric) {
  const auto [found, is_new] = files_.try_emplace(metric);
  if (is_new) {
    const fs::path path = folder_ / "metrics" / metric;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    found->second.open(path, std::ios::binary | std::ios::app);
  }
  return found->second;
}

void MlflowRun::write(int64_t step, const Scalars& scalars) {
  const int64_t now = mlflow_time();
  for (const auto& [name, value] : scalars) {
    const std::string metric = metric_name(name);
    std::ofstream& file = file_of(metric);
    file << fmt::format("{} {} {}\n", now, value, step) << std::flush;
    if (!file) {
      machine_error("cannot write {}: {}", (folder_ / "metrics" / metric).string(),
                    std::strerror(errno));
    }
  }
}

void MlflowRun::add_checkpoint(int64_t step) {
  if (checkpoints_.empty()) return;
  const std::string name = fmt::format("iter_{:07}", step);
  OutputDirectory made(folder_ / "artifacts" / last_name(checkpoints_) / name, /*replace=*/true);
  link_or_copy(checkpoints_ / name, made.path());
  made.commit();
}

void MlflowRun::finish(MlflowMeta::Status status) {
  meta_.status = status;
  meta_.end_time = mlflow_time();
  write_text(folder_ / kMeta, meta_.yaml());
  fmt::print(stderr,
             "MLflow: run {} of {} is in {}; look at it with: MLFLOW_ALLOW_FILE_STORE=true mlflow "
             "ui --backend-store-uri {}\n",
             one_line(meta_.run_name), one_line(experiment_), store_.string(), store_.string());
}

}  // namespace trestle
