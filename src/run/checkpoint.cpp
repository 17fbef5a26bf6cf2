#include "run/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "checkpoint/save_record.h"
#include "megatron/integrity.h"
#include "model/ministral3.h"
#include "parallel/plan.h"
#include "peft/megatron_adapter.h"
#include "run/saved_agreement.h"
#include "run/saved_progress.h"

namespace trestle {

namespace {

constexpr std::string_view kOptimizer = "optimizer.state.";

Json own_of(const MegatronCheckpoint& checkpoint) {
  Json own = checkpoint.object(kProgress).value_or(Json());
  return own.is_object() ? own : Json::object();
}

}  // namespace

SavedRun::SavedRun(const std::filesystem::path& path, bool verified)
    : name_(path.string()), checkpoint_(path), own_(own_of(checkpoint_)) {
  if (verified) require_integrity(checkpoint_.directory());
  const std::string note = tracker_note(path);
  if (!note.empty()) fmt::print(stderr, "{}\n", note);
}

std::optional<RunIdentity> SavedRun::identity() const {
  const auto found = own_.find("identity");
  if (found == own_.end()) return {};
  return RunIdentity::from_json(*found, name_);
}

void SavedRun::require_same(const RunIdentity& now, const std::set<std::string>& may_change) const {
  if (const auto before = identity()) {
    // Told and not refused: a job that is started again has saved its difference the first time.
    for (const std::string& key : require_same_run(*before, now, may_change, name_)) {
      fmt::print(stderr, "--allow-change {} was not needed: checkpoint.load={} has the same\n", key,
                 name_);
    }
    return;
  }
  fmt::print(stderr,
             "warning: checkpoint.load={} does not say what it was trained with; nothing but its "
             "tensors can be checked\n",
             name_);
}

void SavedRun::require_same_adapters(const RunIdentity& now,
                                     const std::set<std::string>& may_change) const {
  RunIdentity adapters = now;
  adapters.contents.clear();
  const auto identity = own_.find("identity");
  if (identity != own_.end()) {
    for (const auto& [key, value] : RunIdentity::from_json(*identity, name_).values) {
      if (key.starts_with("peft.")) adapters.values[key] = value;
    }
  }
  require_same_run(adapters, now, may_change, name_);
}

void SavedRun::take(Names& names, const std::string& ours, const at::Tensor& target) const {
  const std::string name = names.contains(ours) ? ours : bridge_adapter_name(ours);
  if (names.erase(name) == 0) {
    user_error("checkpoint.load={} has no {}; was it made with other adapters or frozen parts?",
               name_, name);
  }
  at::Tensor stored = checkpoint_.read(name);
  // More rows are a padded vocabulary, as Megatron saves it.
  if (may_be_padded(name) && stored.dim() == target.dim() && stored.size(0) > target.size(0)) {
    stored = stored.narrow(0, 0, target.size(0));
  }
  if (stored.sizes() != target.sizes()) {
    user_error("checkpoint.load={}: {} has shape [{}] but this run's has [{}]", name_, name,
               fmt::join(stored.sizes(), ", "), fmt::join(target.sizes(), ", "));
  }
  target.copy_(stored);
}

void SavedRun::require_used(const Names& names) const {
  if (names.empty()) return;
  user_error(
      "checkpoint.load={} has {} tensors that this run has no place for, such as {}; was "
      "it made with other adapters or frozen parts?",
      name_, names.size(), *names.begin());
}

void SavedRun::load_weights(Ministral3& model) const {
  const at::NoGradGuard no_grad;
  Names names;
  for (const auto& [name, info] : checkpoint_.tensors()) names.insert(name);
  for (const auto& entry : model.named_parameters()) {
    if (checkpoint_.is_adapter() && !is_adapter_tensor(entry.key())) continue;
    take(names, entry.key(), entry.value());
  }
  require_used(names);
}

void SavedRun::load_optimizer(Names& names, AdamW& optimizer) const {
  const at::NoGradGuard no_grad;
  const auto is_of_optimizer = [](const std::string& name) { return name.starts_with(kOptimizer); };
  if (std::ranges::none_of(names, is_of_optimizer)) {
    user_error(
        "checkpoint.load={} was saved without its optimizer (checkpoint.save_optim=false); go on "
        "with a new one by checkpoint.load_optim=false, or begin a run from its weights by "
        "checkpoint.finetune=true",
        name_);
  }
  for (const auto& [name, tensor] : optimizer.state())
    take(names, std::string(kOptimizer) + name, tensor);
}

void SavedRun::load_random_state(Names& names, const What& what) const {
  const bool saved = names.erase(kRandomState) != 0;
  const bool of_card = names.erase(kCardRandomState) != 0;
  if (!what.random_state) return;
  if (!saved) {
    fmt::print(stderr, "checkpoint.load={} has no random state: it begins anew at rng.seed\n",
               name_);
    return;
  }
  const auto load = [&](at::Generator generator, const char* name) {
    generator.set_state(checkpoint_.read(name).clone());
  };
  load(at::detail::getDefaultCPUGenerator(), kRandomState);
  if (of_card && what.device.is_cuda()) {
    load(at::globalContext().defaultGenerator(what.device), kCardRandomState);
  } else if (of_card) {
    fmt::print(stderr,
               "checkpoint.load={} was saved on a card: here dropout draws from the CPU's random "
               "state\n",
               name_);
  } else if (what.device.is_cuda()) {
    fmt::print(stderr,
               "checkpoint.load={} was saved on the CPU: the card's random state begins anew at "
               "rng.seed\n",
               name_);
  }
}

RunProgress SavedRun::load_state(AdamW& optimizer, const What& what) const {
  require_one_step(checkpoint_, name_);
  Names names;
  for (const auto& [name, info] : checkpoint_.state()) names.insert(name);
  if (what.optimizer) {
    load_optimizer(names, optimizer);
  } else {
    std::erase_if(names, [](const std::string& name) { return name.starts_with(kOptimizer); });
  }
  load_random_state(names, what);
  require_used(names);
  return progress(optimizer, what);
}

RunProgress SavedRun::progress(AdamW& optimizer, const What& what) const {
  const Json state = checkpoint_.train_state();
  if (!state.is_object() || !state.contains("consumed_train_samples")) {
    user_error(
        "checkpoint.load={} does not say how many samples were taken; its train_state.pt is "
        "missing or not a run's",
        name_);
  }
  RunProgress progress = progress_in(own_, state, checkpoint_.iteration(), name_);
  if (const auto record = save_record(checkpoint_.run_config())) progress.lineage = record->lineage;
  if (what.optimizer) {
    require_same_optimizer(checkpoint_, progress, own_, name_);
  } else {
    progress.schedule_start = progress.step;
    progress.skipped_before = progress.skipped;
  }
  optimizer.set_steps(progress.updates());
  return progress;
}

}  // namespace trestle
