#include "run/saved_agreement.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fields.h"
#include "run/run_directory.h"

namespace trestle {

namespace {

const Json* find(const Json* object, const char* key) {
  if (object == nullptr || !object->is_object()) return nullptr;
  const auto found = object->find(key);
  return found == object->end() ? nullptr : &*found;
}

// JSON has no NaN, and a file of torch's may.
std::string shown(const Json& value) {
  return value.is_number_float() ? format_value(value.get<double>()) : excerpt(value);
}

[[noreturn]] void refuse(std::string_view what, const std::string& place, const std::string& found,
                         const std::string& other, const std::string& wanted) {
  user_error(
      "checkpoint.load={}: {} says {}, but {} says {}; one of them is damaged: go on from another "
      "of the run's checkpoints",
      what, place, found, other, wanted);
}

// Of the keys whose values a run keeps, as text.
std::optional<std::string> kept(const Json& own, const char* key) {
  const Json* value = find(find(find(&own, "identity"), "values"), key);
  return value != nullptr && value->is_string() ? std::optional(value->get<std::string>())
                                                : std::nullopt;
}

std::optional<int64_t> batch_of(const Json& own) {
  const auto text = kept(own, "train.global_batch_size");
  int64_t batch = 0;
  if (!text) return std::nullopt;
  const char* end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, batch);
  return error == std::errc() && stop == end ? std::optional(batch) : std::nullopt;
}

// Taken before the schedule began. Checkpoints of before December 2026 do not say it, and have it
// in batches of the size that their run had then.
std::optional<int64_t> samples_before_schedule(const Json& own, const RunProgress& progress) {
  if (progress.schedule_start == 0 || find(&own, "schedule_samples") != nullptr) {
    return progress.schedule_samples;
  }
  const auto batch = batch_of(own);
  int64_t samples = 0;
  if (!batch || __builtin_mul_overflow(progress.schedule_start, *batch, &samples)) return {};
  return samples;
}

class Options {
 public:
  Options(const Json& own, std::string_view what) : own_(own), what_(what) {}

  void require(const std::string& place, const Json* said, const std::string& wanted,
               const std::string& other) const {
    if (said != nullptr && shown(*said) != wanted)
      refuse(what_, place, shown(*said), other, wanted);
  }
  // What the run was made with.
  void require_kept(const std::string& place, const Json* said, const char* key) const {
    const auto value = kept(own_, key);
    if (!value || said == nullptr) return;
    const std::string found = said->is_number() ? format_value(said->get<double>()) : shown(*said);
    if (found != *value) refuse(what_, place, found, key, *value);
  }

 private:
  const Json& own_;
  std::string_view what_;
};

}  // namespace

void require_one_step(const MegatronCheckpoint& checkpoint, std::string_view what) {
  struct Saying {
    std::string place;
    Json step;
  };
  std::vector<Saying> all;
  const std::string name = checkpoint.directory().filename().string();
  if (const auto step = iteration_of(name)) all.push_back({"the directory's name " + name, *step});
  const auto add = [&](const char* place, const Json* step) {
    if (step != nullptr) all.push_back({place, *step});
  };
  const Json state = checkpoint.train_state();
  add("step in train_state.pt", find(&state, "step"));
  add("trestle.step in run_config.yaml", find(find(&checkpoint.run_config(), "trestle"), "step"));
  add("iteration in common.pt", find(&checkpoint.common_state(), "iteration"));
  for (const Saying& each : all) {
    if (each.step == all.front().step) continue;
    refuse(what, each.place, shown(each.step), all.front().place, shown(all.front().step));
  }
}

void require_same_optimizer(const MegatronCheckpoint& checkpoint, const RunProgress& progress,
                            const Json& own, std::string_view what) {
  if (find(&own, "identity") == nullptr) return;
  const Options options(own, what);
  const Json& common = checkpoint.common_state();
  if (const auto before = samples_before_schedule(own, progress)) {
    options.require("num_steps of opt_param_scheduler in common.pt",
                    find(find(&common, "opt_param_scheduler"), "num_steps"),
                    std::to_string(progress.consumed_samples - *before),
                    "consumed_train_samples behind the schedule's start");
  }
  const Json* groups = find(find(find(&common, "optimizer"), "optimizer"), "param_groups");
  if (groups == nullptr || !groups->is_array()) return;
  for (size_t i = 0; i < groups->size(); ++i) {
    const Json& group = (*groups)[i];
    const auto place = [&](std::string_view key) {
      return fmt::format("{} of the optimizer's param_groups[{}] in common.pt", key, i);
    };
    options.require(place("step"), find(&group, "step"), std::to_string(progress.updates()),
                    "trestle.progress");
    options.require_kept(place("eps"), find(&group, "eps"), "optimizer.adam_eps");
    const Json* betas = find(&group, "betas");
    if (betas == nullptr) continue;
    if (!betas->is_array() || betas->size() != 2) {
      refuse(what, place("betas"), shown(*betas), "AdamW", "two");
    }
    options.require_kept(place("betas[0]"), &(*betas)[0], "optimizer.adam_beta1");
    options.require_kept(place("betas[1]"), &(*betas)[1], "optimizer.adam_beta2");
  }
}

}  // namespace trestle
