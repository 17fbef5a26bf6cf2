#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "base/heap.h"
#include "base/paths.h"
#include "batches/levelling.h"
#include "bridge/load_quantized.h"
#include "checkpoint/save_record.h"
#include "data/overlong.h"
#include "hub/hub.h"
#include "megatron/integrity.h"
#include "metrics/mlflow.h"
#include "metrics/wandb.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "parallel/world.h"
#include "peft/lora.h"
#include "peft/pissa.h"
#include "recipes/effects.h"
#include "recipes/schedule.h"
#include "run/saved_progress.h"
#include "train/model_part.h"
#include "train/resumed_data.h"
#include "train/training_data.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

const World& only_rank() {
  static const World world;
  return world;
}

TrainConfig validated(TrainConfig config) {
  config.validate();
  // Before anything is read: what cannot be written to needs no model.
  const auto require_place = [](std::string_view key, const std::string& path) {
    if (!path.empty()) require_output_folder(path, key);
  };
  require_place("checkpoint.save", config.checkpoint.save);
  require_place("logger.tensorboard_dir", config.logger.tensorboard_dir);
  WandbRun::check(config);
  MlflowRun::check(config);
  settle_run_directory(config);
  return config;
}

// checkpoint.verify_integrity: of what is in Megatron's form. One rank reads all files for all.
fs::path with_integrity(fs::path path, const TrainConfig& config, const Group& world) {
  together(world, [&] {
    if (config.checkpoint.verify_integrity && is_megatron_checkpoint(path) && world.rank() == 0) {
      require_integrity(megatron_directory(path));
    }
  });
  return path;
}

// A key that compares nothing. A job that is queued again (`is_auto`) will find something by then.
void require_verified(const TrainConfig& config, const OpenCheckpoint& base, bool is_auto) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  if (!checkpoint.verify_integrity || !checkpoint.load.empty() || base.is_megatron() ||
      is_megatron_checkpoint(config.peft.adapter_path)) {
    return;
  }
  constexpr std::string_view kWhy =
      "it compares checkpoints in Megatron's form, and the run begins from none";
  if (!is_auto) {
    user_error("checkpoint.verify_integrity=true has no effect: {}; leave it out", kWhy);
  }
  fmt::print(stderr, "checkpoint.verify_integrity=true has no effect yet: {}\n", kWhy);
}

// Of validation.*: those that make no sense where there is nothing to validate on.
void refuse_validation_keys(const Asked& asked, const TrainConfig& config) {
  for (const std::string& key : asked.keys) {
    if (!key.starts_with("validation.") || !config.validation.is_on()) continue;
    user_error(
        "{} has no effect: {} has no validation split; name validation.path_or_dataset or "
        "validation.sets",
        key, name_of_training_data(config));
  }
}

// As many steps as Megatron Bridge counts. Rows go on across the border of an epoch, so the step
// that ends one also takes the first of the next. Behind steps of another batch, those that take
// what is left.
void settle_length(TrainConfig& config, const Dataset& dataset, const Asked& asked,
                   const RunProgress& progress) {
  TrainOptions& train = config.train;
  if (!train.num_epochs && !train.train_samples) return;
  const int64_t batch = train.global_batch_size;
  const auto up = [batch](int64_t samples) { return (samples + batch - 1) / batch; };
  const auto rows = static_cast<double>(dataset.size());
  const auto [step, samples] = progress.began;
  if (train.train_samples) {
    train.train_iters = step + std::max<int64_t>(*train.train_samples - samples, 0) / batch;
  } else if (step == 0) {
    train.train_iters = static_cast<int64_t>(
        std::ceil(*train.num_epochs * static_cast<double>(up(dataset.size()))));
  } else {
    train.train_iters =
        step + up(std::max<int64_t>(std::llround(*train.num_epochs * rows) - samples, 0));
  }
  check_schedule(config, true);
  refuse_behind_the_end(config, asked.keys);
}

// Keys that speak of pictures, of a model that takes none.
void refuse_keys_of_vision(const TrainConfig& config, const ModelConfig& model) {
  if (model.vision) return;
  const auto refuse = [](const char* key, bool given, const std::string& value) {
    if (given) {
      user_error("{}={} has no effect: the model is of text only; leave it out", key, value);
    }
  };
  refuse("model.freeze_vision_model", config.model.freeze_vision_model, "true");
  refuse("model.freeze_vision_projection", config.model.freeze_vision_projection, "true");
  const auto refuse_bound = [&](const char* key, int64_t bound) {
    refuse(key, bound != 0, std::to_string(bound));
  };
  refuse_bound("dataset.image_max_edge", config.dataset.image_max_edge);
  refuse_bound("dataset.image_max_tokens", config.dataset.image_max_tokens);
}

// What a file of adapters says of all of them, of which a stage has some: in dtype and values as
// the whole model would have them, which lacks its own.
std::shared_ptr<Ministral3> whole_adapters(const std::shared_ptr<Ministral3>& model,
                                           const fs::path& path) {
  if (!model->build().stage) return model;
  auto whole = std::make_shared<Ministral3>(model->config(), model->build().shapes_of_whole());
  load_adapter(*whole, path);
  for (const auto& entry : whole->named_parameters()) {
    at::Tensor parameter = entry.value();
    if (parameter.is_meta()) continue;
    parameter.set_data(parameter.detach().to(model->build().dtype));
  }
  return whole;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, Asked asked)
    : Trainer(config, std::move(asked), only_rank()) {}

Trainer::Trainer(const TrainConfig& config, Asked asked, const World& world)
    : config_(validated(config)),
      world_(world),
      device_(chosen_device(device_of_rank(config_.train.device, world),
                            "train.device=" + config_.train.device)),
      found_(state_of(config_.checkpoint.save)),
      ranks_(world, topology_of(config_, world.size()), device_),
      asked_(std::move(asked)),
      base_(with_integrity(resolve_model(config_.checkpoint.pretrained_checkpoint,
                                         "checkpoint.pretrained_checkpoint"),
                           config_, ranks_.grid.world)),
      processor_(base_.assets(),
                 {config_.dataset.image_max_edge, config_.dataset.image_max_tokens}),
      dataset_(make_training_data(config_)) {
  refuse_keys_of_vision(config_, base_.config());
  require_verified(config_, base_, config.checkpoint.load == kAuto);
  const CheckpointOptions& checkpoint = config_.checkpoint;
  const bool resumes = !checkpoint.load.empty() && !checkpoint.finetune;
  if (!resumes) settle_length(config_, *dataset_, asked_, progress_);
  settle_device();
  std::optional<SavedRun> saved;
  if (!checkpoint.load.empty()) {
    saved.emplace(checkpoint.load, checkpoint.verify_integrity,
                  ranks_.plan(config_.optimizer.use_distributed_optimizer), ranks_.grid.world);
  }
  settle_base(saved);
  const auto before = resumes ? saved->identity() : std::nullopt;
  if (before) keep_order_and_weights(config_, *dataset_, *before);
  auto contents = content_of_training_data(*dataset_);
  contents["checkpoint.pretrained_checkpoint"] = content_of(base_);
  identity_ = identity_of(config_, std::move(contents));
  if (before) name_data_as(config_, *dataset_, *before, identity_);
  // Before the weights are read, where the config alone says what the run is.
  const bool known = config_.peft.adapter_path.empty();
  if (resumes && known) saved->require_same(identity_, asked_.may_change);
  huggingface_ = huggingface_folder(config_, base_);
  try {
    open_weights(saved, resumes);
  } catch (const c10::Error& error) {
    const auto asked_memory = memory_asked(error.what_without_backtrace());
    if (!asked_memory) throw;
    machine_error("while weights and optimizer were opened: {}",
                  opening_out_of_memory_line(*asked_memory, memory_held(), config_));
  }
  if (resumes && (!before || !takes_same_batches(*before, identity_))) {
    progress_.began = {progress_.step, progress_.consumed_samples};
  }
  if (resumes) settle_length(config_, *dataset_, asked_, progress_);
  if (before) {
    ResumedOrder order = resumed_order(config_, *dataset_, *before, identity_, progress_);
    for (const std::string& note : order.notes) fmt::print(stderr, "{}\n", note);
    progress_.blend_start = std::move(order.start);
  } else {
    progress_.blend_start = {};  // of a checkpoint that does not say which sets it counts
  }
  // Under another directory it is a branch of its own, whose checkpoints are nobody else's.
  if (progress_.lineage.empty() || !is_in_place(checkpoint)) progress_.lineage = new_lineage();
  // Behind the load, so that a resumed run takes out what the broken one did, to the bit.
  if (config_.trains_adapters()) take_initial_from_base(*model_);
  if (config_.logger.log_params_norm) {
    params_norm_ = std::make_unique<ParamsNorm>(*model_, *optimizer_, ranks_.grid,
                                                config_.optimizer.use_distributed_optimizer);
  }
  open_data();
  validations_ = Validation::make_all(config_, processor_, asked_.keys);
  if (validations_.empty()) refuse_validation_keys(asked_, config_);
  const std::optional<BestStep> best = progress_.best;
  for (const auto& each : validations_) progress_.best = each->comparable(progress_.best);
  if (best && !progress_.best) progress_.former_best.push_back(best->step);
  tell_of_idle_keys();
  settle_ranks();
}

void Trainer::open_data() {
  // With a cache only for pictures that are new. The first stage alone has one, and all level
  // alike.
  const bool runs_tower = ranks_.grid.pipeline.max(features_ ? 1 : 0) == 0;
  stream_ = std::make_unique<SampleStream>(
      *dataset_, processor_,
      StreamOptions{.seed = static_cast<uint64_t>(config_.rng.seed),
                    .shuffle = config_.dataset.shuffle,
                    .max_length = config_.model.seq_length,
                    .overlong = *overlong_of_name(config_.dataset.overlong),
                    .workers = sample_workers(config_, !device_.is_cpu(),
                                              std::thread::hardware_concurrency()),
                    .rank = ranks_.grid.data.rank(),
                    .ranks = ranks_.grid.data.size(),
                    .start = progress_.consumed_samples,
                    .blend_start = progress_.blend_start,
                    .name = name_of_training_data(config_)});
  batches_ = std::make_unique<GlobalBatches>(
      *stream_,
      GlobalBatches::Options{.ranks = ranks_.grid.data,
                             .names = ranks_.sample_ranks,
                             .check = [this](const auto& taken) { require_ids_of_model(taken); },
                             .cost =
                                 [this, runs_tower](const Sample& sample) {
                                   return cost_of(sample, base_.config(), runs_tower);
                                 }});
}

void Trainer::settle_ranks() {
  if (ranks_.is_one()) return;
  progress_.lineage = ranks_.grid.world.gather(progress_.lineage).front();
  const auto steps = ranks_.grid.world.gather(fmt::format("step {}", progress_.step));
  for (size_t rank = 0; rank < steps.size(); ++rank) {
    if (steps[rank] == steps.front()) continue;
    throw AgreedError(fmt::format(
        "rank {} would go on from {} and rank 0 from {}: checkpoint.save={} must be one directory "
        "that all ranks see",
        rank, steps[rank], steps.front(), config_.checkpoint.save));
  }
}

void Trainer::open_weights(const std::optional<SavedRun>& saved, bool resumes) {
  at::manual_seed(static_cast<uint64_t>(config_.rng.seed));
  const auto costs = [this] {
    return costs_on_first_rows(config_, base_.config(), processor_, *dataset_);
  };
  model_ = load_model(base_, build_of_rank(config_, base_.config(), ranks_.grid, device_, costs));
  model_->train();
  if (!config_.trains_adapters()) {
    freeze(*model_, config_.model);
  } else if (config_.peft.adapter_path.empty()) {
    attach_lora(*model_, config_.peft, static_cast<uint64_t>(config_.rng.seed));
  } else {
    start_from_adapter();
    if (resumes) saved->require_same(identity_, asked_.may_change);
  }
  if (saved && !resumes && config_.trains_adapters()) {
    saved->require_same_adapters(identity_, asked_.may_change);
  }
  if (saved) saved->load_weights(*model_);
  model_->set_recompute(config_.recompute());
  if (ranks_.grid.is_first_stage()) features_ = FeatureCache::make(*model_, config_.dataset);
  AdamW::NamedTensors trained;
  for (const auto& entry : model_->named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  if (ranks_.grid.world.sum(std::ssize(trained)) == 0) {
    user_error(
        "nothing is trained: model.freeze_language_model, model.freeze_vision_model and "
        "model.freeze_vision_projection freeze all that checkpoint.pretrained_checkpoint={} has",
        config_.checkpoint.pretrained_checkpoint);
  }
  const AdamWOptions options{.beta1 = config_.optimizer.adam_beta1,
                             .beta2 = config_.optimizer.adam_beta2,
                             .eps = config_.optimizer.adam_eps,
                             .lora_plus_ratio = config_.peft.lora_plus_ratio,
                             .clip_grad = config_.optimizer.clip_grad};
  if (ranks_.is_one()) {
    optimizer_ = std::make_unique<AdamW>(trained, options);
  } else {
    gradients_ = std::make_unique<GradientSync>(trained, ranks_.grid, device_,
                                                config_.optimizer.use_distributed_optimizer);
    optimizer_ = std::make_unique<AdamW>(gradients_->parts(), options);
  }
  pipeline_ = std::make_unique<Pipeline>(*model_, ranks_.grid);
  flops_ = std::make_unique<ModelFlops>(*model_, pipeline_->inflow());
  if (resumes) {
    progress_ = saved->load_state(*optimizer_, {.optimizer = config_.checkpoint.load_optim,
                                                .random_state = config_.checkpoint.load_rng,
                                                .device = device_});
    if (gradients_) gradients_->share_updates();
  }
}

MemoryUse Trainer::memory_held() const {
  if (model_) return memory_use(*model_, optimizer_ ? optimizer_->state() : AdamW::NamedTensors{});
  const auto card = card_memory(device_);
  return {.weights = card ? card->allocated : 0};
}

void Trainer::tell_of_idle_keys() const {
  TrainConfig made = config_;
  if (validations_.empty()) made.validation.eval_interval = 0;  // that is told
  const bool has_checkpoints = found_.newest.has_value();
  for (const std::string& line : idle_keys(made, asked_.keys, progress_.step, has_checkpoints)) {
    fmt::print(stderr, "{}\n", line);
  }
}

void Trainer::settle_device() {
  const std::string line = describe_device(device_, config_.train.device);
  if (!line.empty()) fmt::print(stderr, "on {}\n", line);
  if (!config_.train.deterministic) return;
  deterministic_.emplace();
  if (device_.is_cpu()) {
    fmt::print(stderr, "train.deterministic=true: on the CPU every sum has one order anyway\n");
  }
}

void Trainer::settle_base(const std::optional<SavedRun>& saved) {
  std::string& bits = config_.peft.base_bits;
  const bool asked = bits != "auto";
  // A checkpoint that does not say what its run was is older than any base in FP8.
  const RunIdentity before = saved ? saved->identity().value_or(RunIdentity{}) : RunIdentity{};
  bits = settled_base_bits(config_.peft, base_, saved ? &before : nullptr);
  if (asked || bits != "fp8") return;
  fmt::print(stderr,
             "the base's FP8 projections stay FP8 in memory (peft.base_bits=fp8); "
             "peft.base_bits=16 widens them to {}\n",
             config_.model.params_dtype);
}

void Trainer::start_from_adapter() {
  const fs::path path = with_integrity(
      resolve_model(config_.peft.adapter_path, "peft.adapter_path"), config_, ranks_.grid.world);
  load_adapter(*model_, path);
  const std::shared_ptr<Ministral3> whole = whole_adapters(model_, path);
  const LoraConfig held = lora_config_of(*whole);
  LoraConfig& config = config_.peft;
  const auto require = [&](const char* key, const std::string& value, const std::string& theirs) {
    if (value == theirs || !asked_.keys.contains(fmt::format("peft.{}", key))) return;
    user_error("peft.adapter_path={} has peft.{}={} but {} was asked for; leave it out",
               config.adapter_path, key, theirs, value);
  };
  if (held.scheme != config.scheme) {
    user_error("peft.adapter_path={} is a {} adapter but peft.scheme={}; set the one to the other",
               config.adapter_path, held.scheme, config.scheme);
  }
  require("dim", format_value(config.dim), format_value(held.dim));
  // The scale is what both of them come to.
  if (config.scaling_alpha() != held.alpha) {
    require("alpha", format_value(config.alpha), format_value(held.alpha));
    require("use_rslora", format_value(config.use_rslora), format_value(held.use_rslora));
  }
  require("dropout", format_value(config.dropout), format_value(held.dropout));
  require("target_modules", format_value(config.target_modules), format_value(held.target_modules));
  config.dim = held.dim;
  config.alpha = held.alpha;
  config.dropout = held.dropout;
  config.use_rslora = held.use_rslora;
  config.target_modules = held.target_modules;
  if (!config_.draws() && asked_.keys.contains("rng.seed")) {
    user_error("rng.seed={} has no effect: {}; leave it out", config_.rng.seed, kNothingDrawn);
  }
  identity_ = identity_of(config_, std::move(identity_.contents));
  identity_.contents["peft.adapter_path"] = content_of_adapters(*whole);
}

}  // namespace trestle
