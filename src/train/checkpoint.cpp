#include "train/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <optional>

#include "base/error.h"
#include "megatron/writer.h"
#include "model/ministral3.h"
#include "parallel/plan.h"
#include "peft/megatron_adapter.h"
#include "recipes/schedule.h"

namespace trestle {

namespace {

constexpr const char* kRandomState = "trestle.rng_state";
constexpr const char* kProgress = "trestle.progress";

Json schedule_state(const TrainConfig& config, const Progress& progress) {
  return {{"max_lr", config.optimizer.lr},
          {"min_lr", config.optimizer.min_lr},
          {"lr_warmup_steps", std::llround(warmup_steps(config) *
                                           static_cast<double>(config.train.global_batch_size))},
          {"lr_decay_style", config.scheduler.lr_decay_style},
          {"lr_decay_steps", decay_steps(config) * config.train.global_batch_size},
          {"num_steps", progress.consumed_samples},
          {"start_wd", config.scheduler.start_weight_decay.value_or(config.optimizer.weight_decay)},
          {"end_wd", config.scheduler.end_weight_decay.value_or(config.optimizer.weight_decay)},
          {"wd_incr_style", config.scheduler.weight_decay_incr_style},
          {"wd_incr_steps", config.train.train_iters * config.train.global_batch_size}};
}

// One group per weight-decay class, as megatron-core writes them, and with LoRA+ per rate.
Json optimizer_state(const TrainConfig& config, const Progress& progress) {
  Json groups = Json::array();
  const double ratio = config.peft.lora_plus_ratio;
  const auto add = [&](double multiplier, double rate) {
    groups.push_back({{"is_expert_parallel", false},
                      {"default_config", true},
                      {"wd_mult", multiplier},
                      {"lr_mult", rate},
                      {"is_decoupled_lr", false},
                      {"max_lr", config.optimizer.lr * rate},
                      {"min_lr", config.optimizer.min_lr * rate},
                      {"lr", learning_rate(config, progress.step + 1) * rate},
                      {"bias_correction", true},
                      {"betas", {config.optimizer.adam_beta1, config.optimizer.adam_beta2}},
                      {"eps", config.optimizer.adam_eps},
                      {"weight_decay", weight_decay(config, progress.step + 1) * multiplier},
                      {"step", progress.step - progress.skipped}});
  };
  for (const double multiplier : {1.0, 0.0}) {
    add(multiplier, 1.0);
    if (ratio != 1) add(multiplier, ratio);
  }
  return {{"optimizer", {{"param_groups", groups}}},
          {"param_state_sharding_type", "fully_reshardable"}};
}

}  // namespace

void save_checkpoint(const std::filesystem::path& run, const Ministral3& model,
                     const AdamW& optimizer, const Progress& progress, const TrainConfig& config,
                     const RunIdentity& identity, const OpenCheckpoint& base) {
  TensorList list;
  std::map<std::string, at::Tensor> tensors;
  std::optional<LoraConfig> adapters;
  if (config.trains_adapters()) adapters = lora_config_of(model);
  const bool bridges_form = adapters && is_bridges_form(*adapters);
  const auto add = [&](const std::string& ours, const at::Tensor& tensor) {
    const std::string name = bridges_form ? bridge_adapter_name(ours) : ours;
    list.emplace_back(name, info_of(tensor));
    tensors[name] = tensor.detach().contiguous();
  };
  for (const auto& entry : model.named_parameters()) {
    if (!config.trains_adapters() || is_adapter_tensor(entry.key()))
      add(entry.key(), entry.value());
  }
  for (const auto& [name, tensor] : optimizer.state()) add("optimizer.state." + name, tensor);
  add(kRandomState, at::detail::getDefaultCPUGenerator().get_state());

  Json run_config = {
      {"checkpoint", {{"pretrained_checkpoint", config.checkpoint.pretrained_checkpoint}}}};
  if (adapters) run_config["peft"] = peft_run_config(*adapters);
  MegatronWriter writer({.run = run,
                         .iteration = progress.step,
                         .config = model.config(),
                         .hf_config = base.config_json(),
                         .tokenizer_files = base.side_files(),
                         .common_state = {{"opt_param_scheduler", schedule_state(config, progress)},
                                          {"optimizer", optimizer_state(config, progress)}},
                         .train_state = {{"step", progress.step},
                                         {"consumed_train_samples", progress.consumed_samples}},
                         .run_config = std::move(run_config),
                         .replace = true},
                        list);
  for (const auto& [name, info] : list) writer.write(name, tensors.at(name));
  Json state = {{"skipped", progress.skipped},
                {"skipped_on_end", progress.skipped_on_end},
                {"recent_losses", progress.recent_losses},
                {"identity", identity.to_json()}};
  if (progress.best) {
    state["best_step"] = progress.best->step;
    state["best_metric"] = progress.best->metric;
    state["best_value"] = progress.best->value;
    state["best_measured_on"] = progress.best->measured_on;
  }
  writer.add_object(kProgress, state);
  writer.commit();
}

SavedRun::SavedRun(const std::filesystem::path& path) : name_(path.string()), checkpoint_(path) {
  own_ = checkpoint_.object(kProgress).value_or(Json());
  if (!own_.is_object()) own_ = Json::object();
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

Progress SavedRun::load(Ministral3& model, AdamW& optimizer) const {
  const at::NoGradGuard no_grad;
  std::set<std::string> left_over;
  for (const auto* tensors : {&checkpoint_.tensors(), &checkpoint_.state()}) {
    for (const auto& [name, info] : *tensors) left_over.insert(name);
  }
  const auto copy_into = [&](const std::string& ours, const at::Tensor& target) {
    const std::string name = left_over.contains(ours) ? ours : bridge_adapter_name(ours);
    if (left_over.erase(name) == 0) {
      user_error("checkpoint.load={} has no {}; was it made with other adapters or frozen parts?",
                 name_, name);
    }
    const at::Tensor stored = checkpoint_.read(name);
    if (stored.sizes() != target.sizes()) {
      user_error("checkpoint.load={}: {} has shape [{}] but this run's has [{}]", name_, name,
                 fmt::join(stored.sizes(), ", "), fmt::join(target.sizes(), ", "));
    }
    target.copy_(stored);
  };
  for (const auto& entry : model.named_parameters()) {
    if (checkpoint_.is_adapter() && !is_adapter_tensor(entry.key())) continue;
    copy_into(entry.key(), entry.value());
  }
  for (const auto& [name, tensor] : optimizer.state()) copy_into("optimizer.state." + name, tensor);
  if (left_over.erase(kRandomState) != 0) {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    generator.set_state(checkpoint_.read(kRandomState).clone());
  }
  if (!left_over.empty()) {
    user_error(
        "checkpoint.load={} has {} tensors that this run has no place for, such as {}; was "
        "it made with other adapters or frozen parts?",
        name_, left_over.size(), *left_over.begin());
  }
  const Json state = checkpoint_.train_state();
  if (!state.contains("consumed_train_samples")) {
    user_error(
        "checkpoint.load={} does not say how many samples were taken; its train_state.pt is "
        "missing or not a run's",
        name_);
  }
  Progress progress{.step = checkpoint_.iteration(),
                    .consumed_samples = state["consumed_train_samples"].get<int64_t>()};
  progress.skipped = own_.value("skipped", int64_t{0});
  progress.skipped_on_end = own_.value("skipped_on_end", int64_t{0});
  progress.recent_losses = own_.value("recent_losses", std::vector<double>());
  if (own_.contains("best_step")) {
    progress.best =
        BestStep{own_.value("best_step", int64_t{0}), own_.value("best_metric", std::string()),
                 own_.value("best_value", 0.0), own_.value("best_measured_on", std::string())};
  }
  optimizer.set_steps(progress.step - progress.skipped);
  return progress;
}

}  // namespace trestle
