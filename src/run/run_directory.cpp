#include "run/run_directory.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "base/suggestion.h"
#include "checkpoint/save_record.h"
#include "formats/yaml.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "metrics/mlflow_store.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 6> kFiles = {"best.json",        "report.html",
                                                    "metrics.jsonl",    "progress.txt",
                                                    "wandb_run_id.txt", "mlflow_run_id.txt"};
constexpr std::array<std::string_view, 2> kTrackers = {kTracker, kTrackerState};
constexpr std::array<std::string_view, 4> kFolders = {"tensorboard", "wandb", "mlruns",
                                                      "torch_profile"};

std::optional<int64_t> newest_iteration(const fs::path& run) {
  const std::vector<int64_t> all = iterations_of(run);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

// Of the lines of steps that were made, even where no checkpoint was reached.
uint64_t metrics_bytes(const fs::path& run) {
  std::error_code error;
  const auto size = fs::file_size(run / "metrics.jsonl", error);
  return error ? 0 : size;
}

bool has_metrics(const fs::path& run) { return metrics_bytes(run) > 0; }

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

// A run is not found again where it stands among another's iterations, or within one.
void require_own_place(const fs::path& save) {
  for (fs::path above = resolved(save).parent_path(); above.has_relative_path();
       above = above.parent_path()) {
    if (!is_megatron_checkpoint(above)) continue;
    user_error(
        "checkpoint.save={} lies in {}, which is a run or a checkpoint; name a directory of "
        "its own",
        save.string(), above.string());
  }
}

// Data and other outputs may lie in the run's directory, but not under a name that the run writes.
void require_no_output(const fs::path& save, std::string_view key, const std::string& source) {
  const fs::path from = resolved(source), run = resolved(save);
  if (source.empty() || from == run || !is_within(from, run)) return;
  const std::string name = from.lexically_relative(run).begin()->string();
  const auto is_of = [&](const auto& names) {
    return std::ranges::find(names, name) != names.end();
  };
  if (name != kResolvedConfig && !is_of(kFiles) && !is_of(kTrackers) && !iteration_of(name)) return;
  user_error("{}={} has a name that a run in checkpoint.save={} writes itself; name another place",
             key, source, save.string());
}

// A file of the run's own: what a link leads to is somebody else's.
void require_own_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_symlink(path, ignored)) {
    user_error("{} is a link, where a run writes a file of its own; remove it", path.string());
  }
  require_replaceable_file(path);
}

// A link or a directory under a name that the run writes would be found after the first step, or
// by the first checkpoint.
void require_writable(const fs::path& save) {
  require_own_file(save / kResolvedConfig);
  for (const std::string_view name : kFiles) require_own_file(save / name);
  for (const std::string_view name : kTrackers) require_own_file(save / name);
  for (const std::string_view name : kFolders) {
    require_output_folder(save / name, "checkpoint.save: ");
  }
}

// Whoever made them, a run that begins would write over them.
void require_no_strangers(const fs::path& save) {
  const auto refuse = [&](std::string_view name) {
    user_error(
        "checkpoint.save={} has a {} that no run made, and a run would write over it; name "
        "another directory",
        save.string(), name);
  };
  if (is_there(save / kResolvedConfig)) {
    const MappedFile config(save / kResolvedConfig);
    if (!config.text().starts_with(kResolvedConfigMark)) refuse(kResolvedConfig);
    return;
  }
  for (const std::string_view name : kFiles) {
    if (is_there(save / name)) refuse(name);
  }
}

// A checkpoint that steps made again will replace: the run's own, whole. `start`: what the
// checkpoint gone on from says.
void require_own_checkpoint(const fs::path& iteration, const std::optional<SaveRecord>& start) {
  std::error_code error;
  if (fs::is_symlink(iteration, error) || kind_of(iteration) != "a directory") {
    user_error("{} is no directory, where the run will save a checkpoint; remove it",
               iteration.string());
  }
  const auto refuse = [](const fs::path& foreign) {
    user_error("{} is of no checkpoint, and the run will save one in its place; move it",
               foreign.string());
  };
  for (const auto& each : fs::directory_iterator(iteration, error)) {
    if (!is_of_iteration(each.path().filename())) refuse(each.path());
  }
  const auto record = save_record(iteration);
  if (!record || !is_there(iteration / kIntegrity)) return;
  if (start && start->lineage != record->lineage) {
    user_error("{} is of another run, and the run will save a checkpoint in its place; move it",
               iteration.string());
  }
  if (const fs::path foreign = foreign_entry(iteration); !foreign.empty()) refuse(foreign);
}

// What lies behind the step that a run goes on from, in its own directory.
void require_ahead(const fs::path& save, const std::string& load) {
  const fs::path loaded = megatron_directory(load);
  const auto start = iteration_of(loaded.filename().string());
  const std::optional<SaveRecord> record = save_record(loaded);
  std::vector<int64_t> ahead;
  std::error_code ignored;
  for (const auto& each : fs::directory_iterator(save, ignored)) {
    const auto number = iteration_of(each.path().filename().string());
    if (!number || (start && *number <= *start)) continue;
    ahead.push_back(*number);
    require_own_checkpoint(each.path(), record);
  }
  if (ahead.size() > 1) {
    user_error(
        "checkpoint.load={} goes on from step {}, but {} checkpoints up to step {} are there too, "
        "which the run would mix with its own; remove them, or name a new directory to save in",
        load, start.value_or(0), ahead.size(), std::ranges::max(ahead));
  }
}

// A run or an iteration of one: nothing else can be gone on with.
void require_run(const std::string& load) {
  if (!is_there(load)) {
    user_error("checkpoint.load={} does not exist; name a run, or auto{}", load,
               or_meant(load, {kAuto}));
  }
  if (is_megatron_checkpoint(load)) return;
  const auto refuse = [&](std::string_view form, std::string_view key) {
    user_error(
        "checkpoint.load={} is a {}, and a run goes on from a Megatron checkpoint alone; to start "
        "from its weights name it as {}",
        load, form, key);
  };
  if (is_there(fs::path(load) / "adapter_config.json")) refuse("PEFT folder", "peft.adapter_path");
  for (const char* name : {"config.json", "params.json"}) {
    if (!is_there(fs::path(load) / name)) continue;
    refuse(name == std::string_view("config.json") ? "Hugging Face folder" : "folder of Mistral's",
           "checkpoint.pretrained_checkpoint");
  }
}

// checkpoint.ckpt_step chooses among the iterations of checkpoint.load, which then names it.
void settle_step(CheckpointOptions& checkpoint) {
  if (!checkpoint.ckpt_step) return;
  const int64_t step = *checkpoint.ckpt_step;
  const std::string& load = checkpoint.load;
  if (load.empty()) {
    user_error("checkpoint.ckpt_step={} has no effect without checkpoint.load; name the run", step);
  }
  if (load == kAuto) {
    user_error(
        "checkpoint.ckpt_step={} and checkpoint.load=auto, which takes the newest, exclude each "
        "other; name the run",
        step);
  }
  require_run(load);
  if (is_there(fs::path(load) / "metadata.json")) {
    const auto number = iteration_of(resolved(load).filename().string());
    if (number && *number != step) {
      user_error("checkpoint.load={} is the checkpoint of step {}, but checkpoint.ckpt_step={}",
                 load, *number, step);
    }
  } else {
    const fs::path chosen = iteration_directory(load, step);
    if (!is_there(chosen)) {
      user_error("checkpoint.load={} has no checkpoint of checkpoint.ckpt_step={}; it has {}", load,
                 step, fmt::join(iterations_of(load), ", "));
    }
    checkpoint.load = chosen.string();
  }
  checkpoint.ckpt_step.reset();
}

// What a run was begun from, as its resolved_config.yaml says; by default the base.
struct Beginning {
  std::string load = {};
  bool finetune = false;

  bool operator==(const Beginning& other) const {
    return finetune == other.finetune && load.empty() == other.load.empty() &&
           (load.empty() || resolved(load) == resolved(other.load));
  }
  std::string keys() const {
    if (load.empty()) return "checkpoint.load=auto";
    return fmt::format("checkpoint.load={}{}", load, finetune ? " checkpoint.finetune=true" : "");
  }
};

// Of a run that reached no checkpoint. One that went on from its own has lost them since.
Beginning beginning_of(const fs::path& save) {
  Beginning found;
  if (!is_there(save / kResolvedConfig)) return found;
  const Json config = read_yaml(save / kResolvedConfig);
  const Json checkpoint = config.is_object() ? config.value("checkpoint", Json()) : Json();
  if (!checkpoint.is_object()) return found;
  const Json load = checkpoint.value("load", Json());
  const std::string from = load.is_string() ? load.get<std::string>() : "";
  if (from.empty() || is_within(resolved(from), resolved(save))) return found;
  return {from, checkpoint.value("finetune", Json()) == true};
}

[[noreturn]] void refuse_to_begin(const fs::path& save, const Beginning& begun) {
  user_error(
      "checkpoint.save={} holds a run that reached no checkpoint; begin it again by {}, or name "
      "another directory",
      save.string(), begun.keys());
}

// Begun as before, a run without a checkpoint loses nothing but lines of steps that are made again.
void require_same_beginning(const CheckpointOptions& checkpoint) {
  const Beginning begun = beginning_of(checkpoint.save);
  if (has_metrics(checkpoint.save) && begun != Beginning{checkpoint.load, checkpoint.finetune}) {
    refuse_to_begin(checkpoint.save, begun);
  }
}

// checkpoint.finetune begins a run: what stands in checkpoint.save would be lost.
void require_place_to_begin(const CheckpointOptions& checkpoint) {
  const fs::path save = checkpoint.save;
  if (checkpoint.load == kAuto) {
    user_error(
        "checkpoint.finetune=true begins a run, and checkpoint.load=auto goes on with one; name "
        "the checkpoint whose weights are taken, or leave one of the two out");
  }
  require_run(checkpoint.load);
  const auto newest = newest_iteration(save);
  if (!newest) {
    require_same_beginning(checkpoint);
    return;
  }
  user_error(
      "checkpoint.save={} holds a run of {} steps, and checkpoint.finetune=true would begin "
      "another there; go on with it by checkpoint.load=auto and checkpoint.finetune=false, or name "
      "another directory",
      save.string(), *newest);
}

}  // namespace

std::optional<int64_t> iteration_of(const std::string& name) {
  constexpr std::string_view kPrefix = "iter_";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

fs::path iteration_directory(const fs::path& run, int64_t step) {
  return run / fmt::format("iter_{:07}", step);
}

std::vector<int64_t> iterations_of(const fs::path& run) {
  std::vector<int64_t> all;
  std::error_code ignored;
  for (const auto& each : fs::directory_iterator(run, ignored)) {
    if (const auto number = iteration_of(each.path().filename().string())) all.push_back(*number);
  }
  std::ranges::sort(all);
  return all;
}

RunLock::RunLock(const fs::path& run)
    : fd_(::open(run.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(fd_);
  user_error(
      "checkpoint.save={} is another process's, whose run still goes on; wait for its end, "
      "or name another directory",
      run.string());
}

RunLock::~RunLock() {
  if (fd_ >= 0) ::close(fd_);
}

bool is_in_place(const CheckpointOptions& checkpoint) {
  if (checkpoint.load.empty()) return false;
  const fs::path from = resolved(checkpoint.load), to = resolved(checkpoint.save);
  return from == to || from.parent_path() == to;
}

RunState state_of(const fs::path& run) { return {newest_iteration(run), metrics_bytes(run)}; }

void settle_run_directory(TrainConfig& config) {
  CheckpointOptions& checkpoint = config.checkpoint;
  const fs::path save = checkpoint.save;
  require_apart(save, "checkpoint.pretrained_checkpoint", checkpoint.pretrained_checkpoint);
  require_apart(save, "peft.adapter_path", config.peft.adapter_path);
  require_no_output(save, "dataset.path_or_dataset", config.dataset.path_or_dataset);
  require_no_output(save, "validation.path_or_dataset", config.validation.path_or_dataset);
  for (const BlendSource& each : config.dataset.blend) {
    require_no_output(save, "dataset.blend", each.data.path);
  }
  for (const ValidationSet& each : config.validation.sets) {
    require_no_output(save, "validation.sets", each.data.path);
  }
  require_no_output(save, "dataset.feature_cache", config.dataset.feature_cache);
  require_no_output(save, "logger.tensorboard_dir", config.logger.tensorboard_dir);
  require_no_output(save, "logger.wandb_save_dir", config.logger.wandb_save_dir.value_or(""));
  if (const auto& uri = config.logger.mlflow_tracking_uri; uri && !uri->empty()) {
    const char* key = "logger.mlflow_tracking_uri";
    require_no_output(save, key, mlflow_folder(*uri, key).string());
  }
  require_own_place(save);
  require_writable(save);
  if (!newest_iteration(save)) require_no_strangers(save);
  settle_step(checkpoint);
  if (checkpoint.finetune && !checkpoint.load.empty()) {
    require_place_to_begin(checkpoint);
    return;
  }
  if (checkpoint.load == kAuto) {
    checkpoint.load.clear();
    if (is_megatron_checkpoint(save)) {
      // Also where the iteration that it names is gone: that is refused, as one that is named is.
      checkpoint.load = checkpoint.save;
    } else if (const auto newest = newest_iteration(save)) {
      // Killed between the first checkpoint's name, behind which it is whole, and the tracker.
      checkpoint.load = iteration_directory(save, *newest).string();
    }
    // Without a checkpoint there is nothing to lose in the lines of steps that are made again, but
    // the base is not what every run was begun from.
    if (checkpoint.load.empty()) {
      if (const Beginning begun = beginning_of(save); !begun.load.empty()) {
        refuse_to_begin(save, begun);
      }
      return;
    }
  }
  const std::optional<int64_t> newest = newest_iteration(save);
  if (checkpoint.load.empty()) {
    if (!newest && !has_metrics(save)) return;
    if (!newest) refuse_to_begin(save, beginning_of(save));
    user_error(
        "checkpoint.save={} holds a run of {} steps; go on with it by checkpoint.load={} (or "
        "auto), or name another directory",
        save.string(), *newest, save.string());
  }
  require_run(checkpoint.load);
  const fs::path from = resolved(checkpoint.load), to = resolved(save);
  if (from == to) {
    if (!is_megatron_checkpoint(save) && is_there(save / kResolvedConfig)) {
      refuse_to_begin(save, beginning_of(save));
    }
    require_ahead(save, checkpoint.load);
    return;
  }
  const bool iteration_of_save = from.parent_path() == to;
  if (!iteration_of_save && !newest) require_same_beginning(checkpoint);
  if (!iteration_of_save && newest) {
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
