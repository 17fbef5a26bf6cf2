#include "metrics/wandb.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/fields_json.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/text.h"
#include "metrics/child.h"
#include "metrics/copied_run.h"
#include "metrics/crc.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// wandb/proto/wandb_internal.proto
namespace record {
enum Field : uint32_t {
  kNum = 1,
  kHistory = 2,
  kSummary = 3,
  kRun = 17,
  kExit = 18,
  kHeader = 21,
  kEnvironment = 26,
  kInfo = 200
};
}
namespace run {
enum Field : uint32_t {
  kId = 1,
  kEntity = 2,
  kProject = 3,
  kConfig = 4,
  kDisplayName = 8,
  kHost = 13,
  kStartTime = 17,
  kResume = 24
};
}
namespace environment {
enum Field : uint32_t {
  kOs = 1,
  kStartedAt = 3,
  kProgram = 6,
  kHost = 12,
  kExecutable = 14,
  kCpuCountLogical = 17,
  kWriterId = 199
};
}
// The items of config, history and summary records; updates and items are field 1 of each.
enum ItemField : uint32_t { kItem = 1, kKey = 1, kNestedKey = 2, kValueJson = 16 };

constexpr uint64_t kBlock = 32768, kRecordHead = 7;
constexpr std::string_view kIdFile = "wandb_run_id.txt";
constexpr std::chrono::seconds kSyncLimit{300};

std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A key that is set goes before its variable, even where it is set to nothing.
std::string first_of(const std::optional<std::string>& key, const char* variable) {
  return key ? *key : from_environment(variable);
}

// "online", "offline" or "disabled".
std::string mode() {
  const std::string mode = from_environment("WANDB_MODE");
  if (mode.empty() || mode == "online") return "online";
  if (mode == "offline" || mode == "dryrun") return "offline";
  if (mode == "disabled") return "disabled";
  user_error("WANDB_MODE={}: use online, offline or disabled", mode);
}

std::string random_id() {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  std::uniform_int_distribution<size_t> letter(0, kLetters.size() - 1);
  std::string id;
  for (int i = 0; i < 8; ++i) id += kLetters[letter(random)];
  return id;
}

void require_valid_id(const std::string& id, std::string_view where) {
  const bool is_plain = std::ranges::all_of(id, [](char c) { return c > ' ' && c <= '~'; });
  if (id.empty() || id.size() > 128 || !is_plain || id.find_first_of("/\\#?%:") != id.npos) {
    user_error("{}: '{}' is no run id; use letters, digits, - and _", where, id);
  }
}

struct SettledId {
  std::string id;
  /// The run goes on with it.
  bool resumed = false;
};

// Behind the id; empty where a trestle of before 2026-12 wrote the file.
fs::path directory_in(const fs::path& file) {
  const std::string text = read_text(file, 16 << 10);
  const size_t end = text.find('\n');
  return end == std::string::npos ? fs::path() : fs::path(trimmed(text.substr(end)));
}

// A run that goes on keeps its id; it is in the run directory for that, with the directory, by
// which a copy is known: it would write into the run of its original.
SettledId settle_id(const fs::path& run, bool resumed) {
  const fs::path file = run / kIdFile;
  SettledId settled{from_environment("WANDB_RUN_ID"), resumed};
  if (settled.id.empty() && resumed && is_there(file)) {
    settled.id = kept_id(file);
    require_valid_id(settled.id, file.string());
    if (const auto original = original_of(run, directory_in(file), kIdFile)) {
      fmt::print(stderr,
                 "W&B: run {} is that of {}, which checkpoint.save={} is a copy of; another run "
                 "begins\n",
                 settled.id, one_line(original->string()), run.string());
      settled.id.clear();
    }
  }
  if (settled.id.empty()) settled = {random_id(), false};
  write_text(file,
             fmt::format("{}\n{}\n", settled.id, fs::absolute(run).lexically_normal().string()));
  return settled;
}

std::string local_time(std::time_t time) {
  std::tm parts{};
  localtime_r(&time, &parts);
  std::string text(15, '\0');
  std::strftime(text.data(), text.size() + 1, "%Y%m%d_%H%M%S", &parts);
  return text;
}

fs::path run_directory(const TrainConfig& config, const std::string& id) {
  const std::string named = first_of(config.logger.wandb_save_dir, "WANDB_DIR");
  const fs::path root = named.empty() ? fs::path(config.checkpoint.save) : fs::path(named);
  std::time_t time = std::time(nullptr);
  fs::path directory;
  do {  // resumed within a second: the next one
    directory = root / "wandb" / fmt::format("offline-run-{}-{}", local_time(time++), id);
  } while (fs::exists(directory));
  return directory;
}

// Seconds since 1970.
double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

ProtoMessage timestamp(std::chrono::system_clock::time_point time) {
  const auto nanos =
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  return ProtoMessage()
      .varint(1, static_cast<uint64_t>(nanos / 1'000'000'000))
      .varint(2, static_cast<uint64_t>(nanos % 1'000'000'000));
}

std::string dumped(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Numbers as wandb writes them: JSON, and NaN and Infinity as JavaScript names them.
std::string number_json(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return Json(value).dump();
}

std::string path_of_this_program() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).string();
}

}  // namespace

WandbRecords::WandbRecords(const fs::path& path) : path_(path), file_(path, std::ios::binary) {
  if (!file_) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
  const std::string head = ":W&B" + little_endian(0xbee1, 2) + little_endian(0, 1);
  file_ << head;
  offset_ = head.size();
}

void WandbRecords::append(std::string_view record) {
  enum Type : uint8_t { kFull = 1, kFirst = 2, kMiddle = 3, kLast = 4 };
  bool first = true, last = false;
  while (!last) {
    uint64_t left = kBlock - offset_ % kBlock;
    if (left < kRecordHead) {  // no room for a head: zeros to the block's end
      file_ << std::string(left, '\0');
      offset_ += left;
      left = kBlock;
    }
    const std::string_view part = record.substr(0, left - kRecordHead);
    record.remove_prefix(part.size());
    last = record.empty();
    const Type type = first ? (last ? kFull : kFirst) : (last ? kLast : kMiddle);
    const std::string checked = static_cast<char>(type) + std::string(part);
    file_ << little_endian(crc32(checked), 4) << little_endian(part.size(), 2) << checked;
    offset_ += kRecordHead + part.size();
    first = false;
  }
}

void WandbRecords::flush() {
  file_.flush();
  if (!file_) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
}

void WandbRun::check(const TrainConfig& config) {
  if (first_of(config.logger.wandb_project, "WANDB_PROJECT").empty() || mode() == "disabled")
    return;
  if (const std::string id = from_environment("WANDB_RUN_ID"); !id.empty()) {
    require_valid_id(id, "WANDB_RUN_ID");
  }
  const std::string folder = first_of(config.logger.wandb_save_dir, "WANDB_DIR");
  if (folder.empty()) return;
  require_output_folder(folder,
                        config.logger.wandb_save_dir ? "logger.wandb_save_dir" : "WANDB_DIR");
}

std::unique_ptr<WandbRun> WandbRun::start(const TrainConfig& config, int64_t first_step) {
  check(config);
  if (first_of(config.logger.wandb_project, "WANDB_PROJECT").empty()) return nullptr;
  const std::string settled = mode();
  if (settled == "disabled") {
    if (config.logger.wandb_project) {
      fmt::print(stderr, "W&B: WANDB_MODE={}, so logger.wandb_project={} is told nothing\n",
                 from_environment("WANDB_MODE"), *config.logger.wandb_project);
    }
    return nullptr;
  }
  const auto [id, resumed] = settle_id(config.checkpoint.save, first_step > 0);
  const fs::path directory = run_directory(config, id);
  std::error_code error;
  for (const char* part : {"files", "logs"}) {
    fs::create_directories(directory / part, error);
    if (error) machine_error("cannot create {}: {}", directory.string(), error.message());
  }
  const bool upload = settled == "online" && !from_environment("WANDB_API_KEY").empty();
  return std::unique_ptr<WandbRun>(new WandbRun(config, id, resumed, directory, upload));
}

WandbRun::WandbRun(const TrainConfig& config, const std::string& id, bool resumed,
                   const fs::path& directory, bool upload)
    : id_(id),
      directory_(directory),
      records_(directory / fmt::format("run-{}.wandb", id)),
      upload_(upload) {
  // The producer's version is free text; readers older than min_consumer refuse the file.
  append(ProtoMessage().message(
      record::kHeader,
      ProtoMessage().message(1, ProtoMessage().text(1, "trestle").text(2, "0.70.0"))));
  append_run(config, resumed);
  append_environment();
  records_.flush();
}

void WandbRun::append(ProtoMessage content) {
  ProtoMessage whole;
  whole.varint(record::kNum, static_cast<uint64_t>(++number_));
  const ProtoMessage info = ProtoMessage().text(1, id_);
  records_.append(whole.bytes() + content.message(record::kInfo, info).bytes());
}

void WandbRun::append_run(const TrainConfig& config, bool resumed) {
  ProtoMessage settings;
  const Json groups = json_of(config);
  for (const auto& [group, value] : groups.items()) {
    settings.message(kItem, ProtoMessage().text(kKey, group).text(kValueJson, dumped(value)));
  }
  utsname machine{};
  uname(&machine);
  ProtoMessage message;
  message.text(run::kId, id_);
  if (const auto entity = first_of(config.logger.wandb_entity, "WANDB_ENTITY"); !entity.empty()) {
    message.text(run::kEntity, entity);
  }
  const fs::path save = fs::path(config.checkpoint.save).lexically_normal();
  const fs::path named = save.has_filename() ? save.filename() : save.parent_path().filename();
  const std::string& key = config.logger.wandb_exp_name;
  const std::string name = key.empty() ? from_environment("WANDB_NAME") : key;
  message.text(run::kProject, first_of(config.logger.wandb_project, "WANDB_PROJECT"))
      .message(run::kConfig, settings)
      .text(run::kDisplayName, name.empty() ? named.string() : name)
      .text(run::kHost, machine.nodename)
      .message(run::kStartTime, timestamp(start_));
  if (resumed) message.varint(run::kResume, 1);
  append(ProtoMessage().message(record::kRun, message));
}

void WandbRun::append_environment() {
  utsname machine{};
  uname(&machine);
  append(ProtoMessage().message(
      record::kEnvironment,
      ProtoMessage()
          .text(environment::kOs,
                fmt::format("{}-{}-{}", machine.sysname, machine.release, machine.machine))
          .message(environment::kStartedAt, timestamp(start_))
          .text(environment::kProgram, "trestle finetune")
          .text(environment::kHost, machine.nodename)
          .text(environment::kExecutable, path_of_this_program())
          .varint(environment::kCpuCountLogical, std::thread::hardware_concurrency())
          .text(environment::kWriterId, random_id())));
}

double WandbRun::runtime() const {
  return std::chrono::duration<double>(std::chrono::system_clock::now() - start_).count();
}

void WandbRun::write(int64_t step, const Scalars& scalars) {
  if (step != step_) append_row();
  step_ = step;
  if (row_.empty()) row_ = {{"_timestamp", now()}, {"_runtime", runtime()}};
  row_.insert(row_.end(), scalars.begin(), scalars.end());
}

void WandbRun::append_row() {
  if (row_.empty()) return;
  ProtoMessage items;
  const auto add = [&](const std::string& name, const std::string& json) {
    items.message(kItem, ProtoMessage().text(kNestedKey, name).text(kValueJson, json));
  };
  for (const auto& [name, value] : row_) add(name, number_json(value));
  add("_step", std::to_string(step_));
  append(ProtoMessage().message(record::kSummary, items));
  items.message(2, ProtoMessage().varint(1, static_cast<uint64_t>(step_)));  // HistoryStep.num
  append(ProtoMessage().message(record::kHistory, items));
  records_.flush();
  row_.clear();
}

void WandbRun::finish(int exit_code, bool has_time) {
  append_row();
  append(ProtoMessage().message(record::kExit, ProtoMessage()
                                                   .varint(1, static_cast<uint64_t>(exit_code))
                                                   .varint(2, static_cast<uint64_t>(runtime()))));
  records_.flush();
  const std::string later = fmt::format("wandb sync {}", directory_.string());
  if (!upload_ || !has_time || !is_on_path("wandb")) {
    fmt::print(stderr, "W&B: kept in {}; upload it with: {}\n", directory_.string(), later);
    return;
  }
  const fs::path log = directory_ / "logs" / "sync.log";
  const int status = run_child({"wandb", "sync", directory_.string()}, log, kSyncLimit);
  if (status != 0) {
    fmt::print(stderr,
               "warning: W&B: wandb sync ended with status {} (see {}); upload it with: {}\n",
               status, log.string(), later);
  }
}

}  // namespace trestle
