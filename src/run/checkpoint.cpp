#include "run/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <sstream>

#include "base/error.h"
#include "checkpoint/save_record.h"
#include "megatron/flat_state.h"
#include "megatron/integrity.h"
#include "megatron/names.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "parallel/by_all.h"
#include "peft/megatron_adapter.h"
#include "run/held_tensors.h"
#include "run/random_state.h"
#include "run/saved_agreement.h"
#include "run/saved_progress.h"

namespace trestle {

namespace {

bool is_of_optimizer(const std::string& name) {
  return name.starts_with(kOptimizerState) || is_flat_state(name);
}

Json own_of(const MegatronCheckpoint& checkpoint) {
  Json own = checkpoint.object(kProgress).value_or(Json());
  return own.is_object() ? own : Json::object();
}

}  // namespace

SavedRun::SavedRun(const std::filesystem::path& path, bool verified, const ShardPlan& plan,
                   Group ranks)
    : name_(path.string()),
      plan_(plan),
      ranks_(std::move(ranks)),
      checkpoint_(path),
      own_(own_of(checkpoint_)) {
  // One reads all files for all.
  together(ranks_, [&] {
    if (verified && ranks_.rank() == 0) require_integrity(checkpoint_.directory());
  });
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

void SavedRun::require_shape(const std::string& name, const std::vector<int64_t>& stored,
                             const std::vector<int64_t>& wanted) const {
  if (stored == wanted) return;
  user_error("checkpoint.load={}: {} has shape [{}] but this run's has [{}]", name_, name,
             fmt::join(stored, ", "), fmt::join(wanted, ", "));
}

SavedRun::Names SavedRun::take(const std::vector<HeldTensor>& held, const Names& names) const {
  const at::NoGradGuard no_grad;
  Names used;
  for (const HeldTensor& each : held) {
    Shard shard = each.shard;
    if (!names.contains(shard.name)) shard.name = bridge_adapter_name(shard.name);
    if (!names.contains(shard.name)) {
      user_error("checkpoint.load={} has no {}; was it made with other adapters or frozen parts?",
                 name_, shard.name);
    }
    require_shape(shard.name, checkpoint_.shape_for(shard), shard.whole.shape);
    each.data.copy_(checkpoint_.read(shard).view(each.data.sizes()));
    used.insert(shard.name);
  }
  return used;
}

std::string SavedRun::stored_name(const std::string& ours) const {
  return checkpoint_.tensors().contains(ours) ? ours : bridge_adapter_name(ours);
}

std::vector<std::string> SavedRun::trained_by_all(const AdamW& optimizer) const {
  std::string mine;
  for (const auto& [name, tensor] : optimizer.parameters()) mine += stored_name(name) + '\n';
  std::vector<std::string> all;
  for (const std::string& names : ranks_.gather(mine)) {
    std::istringstream lines(names);
    for (std::string name; std::getline(lines, name);) {
      if (std::ranges::find(all, name) == all.end()) all.push_back(name);
    }
  }
  return all;
}

void SavedRun::take_flat(const std::vector<HeldTensor>& held,
                         std::vector<std::string> trained) const {
  const at::NoGradGuard no_grad;
  const FlatState state(checkpoint_, std::move(trained));
  for (const HeldTensor& each : held) {
    Shard shard = each.shard;
    const std::string ours(parameter_of(shard.name)), name = stored_name(ours);
    require_shape(name, checkpoint_.tensors().at(name).shape, shard.whole.shape);
    shard.name.replace(shard.name.size() - ours.size(), ours.size(), name);
    each.data.copy_(state.read(shard).view(each.data.sizes()));
  }
}

SavedRun::Names SavedRun::unused(const Names& names, const std::function<Names()>& use) const {
  const std::vector<std::string> all = by_all(ranks_, [&] {
    const Names used = use();
    std::string flags;
    for (const std::string& name : names) flags += used.contains(name) ? 'x' : ' ';
    return flags;
  });
  Names left;
  size_t i = 0;
  for (const std::string& name : names) {
    if (std::ranges::none_of(all, [i](const std::string& flags) { return flags.at(i) == 'x'; })) {
      left.insert(name);
    }
    ++i;
  }
  return left;
}

void SavedRun::require_used(const Names& names) const {
  if (names.empty()) return;
  user_error(
      "checkpoint.load={} has {} tensors that this run has no place for, such as {}; was "
      "it made with other adapters or frozen parts?",
      name_, names.size(), *names.begin());
}

void SavedRun::load_weights(Ministral3& model) const {
  Names names;
  for (const auto& [name, info] : checkpoint_.tensors()) names.insert(name);
  require_used(unused(
      names, [&] { return take(held_weights(model, checkpoint_.is_adapter(), plan_), names); }));
}

void SavedRun::require_optimizer(const Names& names) const {
  if (std::ranges::none_of(names, is_of_optimizer)) {
    user_error(
        "checkpoint.load={} was saved without its optimizer (checkpoint.save_optim=false); go on "
        "with a new one by checkpoint.load_optim=false, or begin a run from its weights by "
        "checkpoint.finetune=true",
        name_);
  }
}

void SavedRun::load_random_states(const Names& names, const What& what) const {
  if (!what.random_state) return;
  const bool of_card = names.contains(kCardRandomState);
  if (!names.contains(kRandomState)) {
    fmt::print(stderr, "checkpoint.load={} has no random state: it begins anew at rng.seed\n",
               name_);
    return;
  }
  const auto load = [&](at::Generator generator, const char* name) {
    load_random_state(std::move(generator), checkpoint_, name, plan_);
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
    require_optimizer(names);
  } else {
    std::erase_if(names, is_of_optimizer);
  }
  const bool is_flat = what.optimizer && std::ranges::any_of(names, is_flat_state);
  const auto trained = is_flat ? trained_by_all(optimizer) : std::vector<std::string>();
  require_used(unused(names, [&] {
    Names used;
    if (is_flat) {
      take_flat(held_state(optimizer, plan_), trained);
      std::ranges::copy_if(names, std::inserter(used, used.end()), is_flat_state);
    } else if (what.optimizer) {
      used = take(held_state(optimizer, plan_), names);
    }
    load_random_states(names, what);
    used.insert({kRandomState, kCardRandomState});
    return used;
  }));
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
    progress.schedule_samples = progress.consumed_samples;
    progress.skipped_before = progress.skipped;
  }
  optimizer.set_steps(progress.updates());
  return progress;
}

}  // namespace trestle
