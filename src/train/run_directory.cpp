#include "train/run_directory.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "checkpoint/megatron.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kAuto = "auto";

// The number of an iter_0000012; nothing for other names.
std::optional<int64_t> iteration_of(const std::string& name) {
  constexpr std::string_view kPrefix = "iter_";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

std::optional<int64_t> newest_iteration(const fs::path& run) {
  std::optional<int64_t> newest;
  std::error_code ignored;
  for (const auto& each : fs::directory_iterator(run, ignored)) {
    if (const auto number = iteration_of(each.path().filename().string())) {
      newest = std::max(newest.value_or(0), *number);
    }
  }
  return newest;
}

// Steps that were made, even where no checkpoint was reached.
bool has_metrics(const fs::path& run) {
  std::error_code error;
  const auto size = fs::file_size(run / "metrics.jsonl", error);
  return !error && size > 0;
}

bool has_checkpoint(const fs::path& run) {
  return is_megatron_checkpoint(run) && newest_iteration(run).has_value();
}

fs::path resolved(const fs::path& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(path, error);
  if (error) result = fs::absolute(path, error);
  // "run/" is "run".
  return result.has_filename() ? result : result.parent_path();
}

bool is_within(const fs::path& inner, const fs::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

void require_apart(const fs::path& save, std::string_view key, const std::string& source) {
  std::error_code ignored;
  if (source.empty() || !fs::exists(source, ignored)) return;  // of the Hub
  const fs::path from = resolved(source), to = resolved(save);
  // Below a Megatron directory a run would stand among iterations or within one.
  if (!is_within(from, to) && !(is_within(to, from) && is_megatron_checkpoint(from))) return;
  user_error(
      "checkpoint.save={} is where {}={} lies, which a run there would damage; name another "
      "directory",
      save.string(), key, source);
}

}  // namespace

void settle_run_directory(CheckpointOptions& checkpoint, const std::string& adapter_path) {
  const fs::path save = checkpoint.save;
  require_apart(save, "checkpoint.pretrained_checkpoint", checkpoint.pretrained_checkpoint);
  require_apart(save, "peft.adapter_path", adapter_path);
  if (checkpoint.load == kAuto) {
    checkpoint.load = has_checkpoint(save) ? checkpoint.save : std::string();
    // Without a checkpoint there is nothing to lose in the lines of steps that are made again.
    if (checkpoint.load.empty() && !newest_iteration(save)) return;
  }
  const std::optional<int64_t> newest = newest_iteration(save);
  if (checkpoint.load.empty()) {
    if (!newest && !has_metrics(save)) return;
    user_error(
        "checkpoint.save={} holds a run{}; go on with it by checkpoint.load={} (or auto), or name "
        "another directory",
        save.string(), newest ? fmt::format(" of {} steps", *newest) : std::string(),
        save.string());
  }
  const fs::path from = resolved(checkpoint.load), to = resolved(save);
  if (from == to) return;
  const bool iteration_of_save = from.parent_path() == to;
  if (!iteration_of_save && (newest || has_metrics(save))) {
    user_error(
        "checkpoint.save={} holds another run than checkpoint.load={}; go on in the same "
        "directory, or name a new one",
        save.string(), checkpoint.load);
  }
  if (!iteration_of_save) return;
  const auto loaded = iteration_of(from.filename().string());
  if (loaded && newest && *newest > *loaded) {
    user_error(
        "checkpoint.save={} holds steps up to {}, which a run from checkpoint.load={} would mix "
        "with its own; name a new directory to save in",
        save.string(), *newest, checkpoint.load);
  }
}

}  // namespace trestle
