#include "metrics/mlflow_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <random>

#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "base/http.h"
#include "base/number.h"
#include "metrics/scalars.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kTrash = ".trash";
constexpr uint64_t kMostMeta = 1 << 16, kMostText = 1 << 20;
constexpr const char* kOfDevice = "throughput/tflops/device";
constexpr const char* kOfDeviceHere = "throughput/tflops_per_device";

std::string quoted(const std::string& text) {
  YAML::Emitter out;
  out << YAML::DoubleQuoted << text;
  return out.c_str();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) machine_error("cannot create {}: {}", path.string(), error.message());
}

// Others may look for the same experiment at this moment. Where a file system has no locks there is
// none.
class StoreLock {
 public:
  explicit StoreLock(const fs::path& store)
      : fd_(::open(store.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ >= 0) ::flock(fd_, LOCK_EX);
  }
  ~StoreLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  StoreLock(const StoreLock&) = delete;
  StoreLock& operator=(const StoreLock&) = delete;

 private:
  int fd_;
};

using Meta = std::map<std::string, std::optional<std::string>>;

// The keys of a meta.yaml; none where the file is missing or is no YAML: such a folder is passed
// over, as MLflow does.
Meta read_meta(const fs::path& path) {
  Meta meta;
  if (!is_there(path)) return meta;
  try {
    const std::string text = read_text(path, kMostMeta);
    for (Assignment& each : flatten_yaml(load_yaml(text, path.string()), path.string())) {
      meta[each.key] = std::move(each.value);
    }
  } catch (const UserError&) {
    meta.clear();
  }
  return meta;
}

std::optional<std::string> value_of(const Meta& meta, const std::string& key) {
  const auto found = meta.find(key);
  return found == meta.end() ? std::nullopt : found->second;
}

std::optional<int64_t> number_of(const Meta& meta, const std::string& key) {
  const auto text = value_of(meta, key);
  int64_t number = 0;
  if (!text || !number_problem(*text, number).empty()) return std::nullopt;
  return number;
}

std::optional<fs::path> find_experiment(const fs::path& parent, const std::string& name) {
  std::error_code error;
  for (const auto& each : fs::directory_iterator(parent, error)) {
    if (!each.is_directory(error)) continue;
    if (value_of(read_meta(each.path() / kMlflowMeta), "name") == name) return each.path();
  }
  return std::nullopt;
}

// MLflow's are of 18 digits.
std::string random_experiment_id() {
  std::random_device random;
  std::uniform_int_distribution<int64_t> number(100'000'000'000'000'000, 999'999'999'999'999'999);
  return std::to_string(number(random));
}

fs::path make_experiment(const fs::path& store, const std::string& id, const std::string& name) {
  const fs::path folder = store / id;
  make_directories(folder);
  const int64_t now = mlflow_time();
  write_text(folder / kMlflowMeta,
             fmt::format("artifact_location: {}\ncreation_time: {}\nexperiment_id: '{}'\n"
                         "last_update_time: {}\nlifecycle_stage: active\nname: {}\n",
                         quoted(mlflow_uri(folder)), now, id, now, quoted(name)));
  return folder;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    uint8_t byte = 0;
    const char* end = text.data() + std::min(i + 3, text.size());
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, end, byte, 16).ptr == end) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// As MLflow begins a run that does not say it.
MlflowMeta::Status status_of(std::optional<int64_t> number) {
  if (!number || *number < MlflowMeta::kRunning || *number > MlflowMeta::kKilled) {
    return MlflowMeta::kRunning;
  }
  return static_cast<MlflowMeta::Status>(*number);
}

}  // namespace

std::optional<std::string> mlflow_name_problem(std::string_view name) {
  const auto is_allowed = [](char c) {
    return static_cast<uint8_t>(c) >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || std::string_view("_-. :/").find(c) != std::string_view::npos;
  };
  if (name.empty()) return "it is empty";
  if (!std::ranges::all_of(name, is_allowed)) {
    return "a name has letters, digits, spaces and _ - . : / only";
  }
  if (name.size() > kMlflowKey) return fmt::format("a name has {} bytes at most", kMlflowKey);
  const fs::path path(name);
  if (path.is_absolute() || path.lexically_normal().native() != name || !path.has_filename() ||
      *path.begin() == "." || *path.begin() == "..") {
    return "a name is a path below the run, without . and ..";
  }
  return std::nullopt;
}

fs::path mlflow_folder(const std::string& uri, std::string_view key) {
  constexpr std::string_view kFile = "file:";
  if (!uri.starts_with(kFile)) {
    const size_t colon = uri.find(':');
    const bool has_scheme = colon != std::string::npos && uri.find('/') > colon;
    if (!has_scheme && uri != "databricks" && uri != "uc") return uri;
    user_error(
        "{}={}: nothing is sent while a run trains; name a folder or a file: URI, which mlflow "
        "migrate-filestore copies into a database",
        key, uri);
  }
  std::string_view rest = std::string_view(uri).substr(kFile.size());
  if (rest.starts_with("//")) {
    rest.remove_prefix(2);
    const std::string_view host = rest.substr(0, rest.find('/'));
    if (!host.empty() && host != "localhost") {
      user_error("{}={}: is on another machine; name a folder of this one", key, uri);
    }
    rest.remove_prefix(host.size());
  }
  if (rest.empty()) user_error("{}={}: names no folder", key, uri);
  return percent_decoded(rest);
}

int64_t mlflow_time() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

std::string mlflow_uri(const fs::path& folder) {
  return "file://" + percent_encoded(fs::absolute(folder).lexically_normal().string(),
                                     /*keep_slashes=*/true);
}

fs::path mlflow_experiment(const fs::path& store, const std::string& name) {
  const bool is_new = !is_there(store);
  make_directories(store);
  const StoreLock lock(store);
  // MLflow looks for its experiment 0, which it makes with the store.
  if (is_new && !is_there(store / "0")) make_experiment(store, "0", "Default");
  if (const auto found = find_experiment(store, name)) {
    if (value_of(read_meta(*found / kMlflowMeta), "lifecycle_stage") == "active") return *found;
  } else if (!find_experiment(store / kTrash, name)) {
    return make_experiment(store, random_experiment_id(), name);
  }
  user_error(
      "logger.mlflow_experiment={}: the experiment of that name in {} was deleted; restore it, or "
      "choose another name",
      name, store.string());
}

std::string MlflowMeta::yaml() const {
  const std::string deleted =
      deleted_time ? fmt::format("deleted_time: {}\n", *deleted_time) : std::string();
  // Versions before 3 know the run by run_uuid. source_type 4: a local file.
  return fmt::format(
      "artifact_uri: {}\n{}end_time: {}\nentry_point_name: ''\nexperiment_id: '{}'\n"
      "lifecycle_stage: {}\nrun_id: {}\nrun_name: {}\nrun_uuid: {}\nsource_name: ''\n"
      "source_type: 4\nsource_version: ''\nstart_time: {}\nstatus: {}\ntags: []\nuser_id: {}\n",
      quoted(artifact_uri), deleted, end_time ? std::to_string(*end_time) : "null", experiment_id,
      lifecycle_stage, quoted(run_id), quoted(run_name), quoted(run_id), start_time,
      static_cast<int>(status), quoted(user_id));
}

std::optional<MlflowMeta> MlflowMeta::read(const fs::path& path) {
  const Meta meta = read_meta(path);
  const auto id = value_of(meta, "run_id");
  if (!id) return std::nullopt;
  const auto text = [&](const char* key) { return value_of(meta, key).value_or(""); };
  // As MLflow reads one that does not say it.
  const bool is_active = value_of(meta, "lifecycle_stage").value_or("active") == "active";
  return MlflowMeta{.experiment_id = text("experiment_id"),
                    .run_id = *id,
                    .run_name = text("run_name"),
                    .user_id = text("user_id"),
                    .artifact_uri = text("artifact_uri"),
                    .status = status_of(number_of(meta, "status")),
                    .start_time = number_of(meta, "start_time").value_or(mlflow_time()),
                    .end_time = number_of(meta, "end_time"),
                    .lifecycle_stage = is_active ? "active" : "deleted",
                    .deleted_time = number_of(meta, "deleted_time")};
}

std::optional<fs::path> mlflow_run_folder(const fs::path& store, const std::string& run_id) {
  std::error_code error;
  for (const fs::path& parent : {store, store / kTrash}) {
    for (const auto& each : fs::directory_iterator(parent, error)) {
      if (is_there(each.path() / run_id / kMlflowMeta)) return each.path() / run_id;
    }
  }
  return std::nullopt;
}

std::optional<std::string> mlflow_experiment_of(const fs::path& store, const std::string& run_id) {
  const auto run = mlflow_run_folder(store, run_id);
  if (!run) return std::nullopt;
  const fs::path experiment = run->parent_path();
  return value_of(read_meta(experiment / kMlflowMeta), "name")
      .value_or(experiment.filename().string());
}

std::optional<std::string> mlflow_text(const fs::path& path) {
  try {
    return is_there(path) ? std::optional(read_text(path, kMostText)) : std::nullopt;
  } catch (const UserError&) {
    return std::nullopt;
  }
}

std::string mlflow_metric_name(const std::string& scalar) {
  return scalar == kOfDevice ? kOfDeviceHere : scalar;
}

bool is_mlflow_metric_of_runs(const std::string& name) {
  return is_scalar_of_runs(name == kOfDeviceHere ? kOfDevice : name);
}

}  // namespace trestle
