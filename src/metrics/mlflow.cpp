#include "metrics/mlflow.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "base/text.h"
#include "metrics/mlflow_resume.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kIdFile = "mlflow_run_id.txt";

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

// What the run said of a key when it began, to the length to which a parameter is kept.
std::optional<std::string> began_as(const fs::path& run, const char* key) {
  return mlflow_text(run / "params" / key);
}

// Of a run that goes on, people may have named it otherwise.
std::string settled_name(const TrainConfig& config, const std::optional<KnownMlflowRun>& known) {
  const std::string& asked = config.logger.mlflow_run_name;
  std::string wanted = cut(asked.empty() ? last_name(config.checkpoint.save) : asked, kMlflowKey);
  if (!known) return wanted;
  if (asked.empty()) return known->meta.run_name;
  auto began = began_as(known->folder, "logger.mlflow_run_name");
  if (began == "") began = last_name(began_as(known->folder, "checkpoint.save").value_or(""));
  return settled_text(
      {.what = "the run's name", .there = known->meta.run_name, .began = began, .wanted = wanted});
}

void write_told_tags(const fs::path& run, const TrainConfig& config) {
  const auto write = [&](const std::string& name, const std::string& what,
                         const std::optional<std::string>& began, const std::string& wanted) {
    const fs::path path = run / "tags" / name;
    const auto there = mlflow_text(path);
    const std::string text = settled_text({what, there, began, wanted});
    if (text != there) write_part(path, text);
  };
  const LoggerOptions& logger = config.logger;
  if (!logger.mlflow_description.empty()) {
    write("mlflow.note.content", "the run's description",
          began_as(run, "logger.mlflow_description"), logger.mlflow_description);
  }
  std::vector<std::string> texts;
  parse_value("", began_as(run, "logger.mlflow_tags").value_or(""), texts);
  // A parameter may be cut short within a tag.
  std::erase_if(texts, [](const std::string& text) { return text.find('=') == text.npos; });
  const std::map<std::string, std::string> began = mlflow_tags(texts);
  for (const auto& [name, value] : mlflow_tags(logger.mlflow_tags)) {
    const auto before = began.find(name);
    write(name, "the run's tag " + name,
          before == began.end() ? std::nullopt : std::optional(before->second), value);
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
  write(kMlflowDirectory, fs::absolute(config.checkpoint.save).lexically_normal().string());
  write_told_tags(run, config);
  if (!config.checkpoint.load.empty()) {
    // As Megatron Bridge tells what was gone on from.
    write("last_loaded_checkpoint", fs::absolute(config.checkpoint.load).string());
  }
}

// Retention is of the run's directory; an artifact is there until somebody deletes it in MLflow.
void tell_of_kept_checkpoints(const TrainConfig& config, const fs::path& run) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  const bool by_number = checkpoint.most_recent_k > 0;
  if (!config.logger.mlflow_log_artifacts || (!by_number && !checkpoint.save_retain_interval)) {
    return;
  }
  fmt::print(stderr,
             "checkpoint.{}: what is removed of checkpoint.save stays in {}, as an artifact of "
             "MLflow; logger.mlflow_log_artifacts=false keeps none there\n",
             by_number ? fmt::format("most_recent_k={}", checkpoint.most_recent_k)
                       : fmt::format("save_retain_interval={}", *checkpoint.save_retain_interval),
             (run / "artifacts" / last_name(checkpoint.save)).string());
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
    const auto [name, value] = *mlflow_tags({tag}).begin();
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
  const fs::path id_file = save / kIdFile;
  remove_mlflow_leftovers(id_file, experiment);
  const auto known = first_step > 0 ? known_mlflow_run(config, id_file, experiment) : std::nullopt;
  if (!known) end_killed_run(id_file, store);
  MlflowMeta meta;
  if (known) {
    meta.user_id = known->meta.user_id;
    meta.start_time = known->meta.start_time;
  }
  meta.experiment_id = experiment.filename().string();
  meta.run_id = known ? known->folder.filename().string() : random_run_id();
  meta.run_name = settled_name(config, known);
  fs::path folder = experiment / meta.run_id;
  meta.artifact_uri = mlflow_uri(folder / "artifacts");
  if (known) {
    drop_later_steps(folder / "metrics", first_step);
    write_tags(folder, config, meta);
    write_params(folder, config);
    write_text(folder / kMlflowMeta, meta.yaml());
  } else {
    meta.user_id = user_name();
    meta.start_time = mlflow_time();
    write_text(id_file, meta.run_id + "\n");
    OutputDirectory made(folder);  // no reader sees a part of it
    for (const char* part : {"metrics", "params", "tags", "artifacts"}) {
      fs::create_directories(made.path() / part);
    }
    write_params(made.path(), config);
    write_tags(made.path(), config, meta);
    write_part(made.path() / kMlflowMeta, meta.yaml());
    made.commit();
  }
  tell_of_kept_checkpoints(config, folder);
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
    const std::string metric = mlflow_metric_name(name);
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
  // Somebody may have renamed or deleted it meanwhile.
  auto meta = MlflowMeta::read(folder_ / kMlflowMeta);
  if (!meta) {
    fmt::print(stderr, "MLflow: run {} was removed from {}; nothing is told there\n", meta_.run_id,
               store_.string());
    return;
  }
  meta->experiment_id = meta_.experiment_id;
  meta->status = status;
  meta->end_time = mlflow_time();
  write_text(folder_ / kMlflowMeta, meta->yaml());
  fmt::print(
      stderr,
      "MLflow: run {} of {} is in {}{}; look at it with: MLFLOW_ALLOW_FILE_STORE=true mlflow "
      "ui --backend-store-uri {}\n",
      one_line(meta->run_name), one_line(experiment_), store_.string(),
      meta->lifecycle_stage == "active" ? "" : ", where it was deleted meanwhile", store_.string());
}

}  // namespace trestle
