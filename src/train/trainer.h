// The one training loop: full fine-tuning, LoRA, DoRA and frozen parts differ in which parameters
// ask for gradients. Called by `trestle finetune` and the demo.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "batches/global_batch.h"
#include "batches/sample_stream.h"
#include "bridge/load.h"
#include "data/datasets.h"
#include "kernels/device.h"
#include "kernels/optimizer.h"
#include "metrics/flops.h"
#include "metrics/out_of_memory.h"
#include "metrics/values.h"
#include "recipes/config.h"
#include "recipes/settle.h"
#include "run/checkpoint.h"
#include "run/huggingface_folder.h"
#include "run/identity.h"
#include "run/run_directory.h"
#include "train/feature_cache.h"
#include "train/gradient_sync.h"
#include "train/params_norm.h"
#include "train/pipeline.h"
#include "train/ranks.h"
#include "train/validation.h"

namespace trestle {

class Ministral3;

class CheckpointSaver;
class Journal;
class MetricsLog;
class World;

class Trainer {
 public:
  /// Opens the base model and the data, attaches adapters, resumes where checkpoint.load says.
  /// Throws UserError for whatever the user can mend, before anything is written: a run directory
  /// that holds another run, a checkpoint of another run, or a key of `asked` without effect.
  explicit Trainer(const TrainConfig& config, Asked asked = {});
  /// A rank of `world`, which must live as long; all of them make one of the same config, and call
  /// run() or step() alike. The first of them alone writes and tells.
  Trainer(const TrainConfig& config, Asked asked, const World& world);

  using OnStep = std::function<void(const StepMetrics&)>;
  /// Trains to train.train_iters, saving every save_interval steps and at the end. Writes
  /// resolved_config.yaml and what MetricsLog tells under checkpoint.save, and progress lines to
  /// stderr. SIGTERM and SIGINT save and end it behind the step that runs; returns the signal, or
  /// 0. Throws UserError for a step whose loss or gradient is no number, naming rows and tensor,
  /// and MachineError where memory does not suffice.
  int run(const OnStep& on_step = {});

  /// One optimizer step on the next samples; its metrics are of all ranks.
  StepMetrics step();

  Ministral3& model() { return *model_; }
  /// As it was settled: with what is `auto` and peft.adapter_path resolved.
  const TrainConfig& config() const { return config_; }
  /// Null where it is off.
  const FeatureCache* features() const { return features_.get(); }
  const RunProgress& progress() const { return progress_; }
  const Dataset& dataset() const { return *dataset_; }
  const AdamW& optimizer() const { return *optimizer_; }
  const Ranks& ranks() const { return ranks_; }

 private:
  void require_ids_of_model(const SampleStream::Taken& taken) const;
  /// Dropout draws by the step and the rank's rows, on several ranks, so that a run that goes on
  /// needs no random state but its own seed.
  void seed_dropout() const;
  /// Samples that shared a forward, and their part of the step's loss, which nobody has read yet.
  struct MicroBatch {
    std::vector<int64_t> rows;
    Batch batch;
    at::Tensor loss;
  };
  /// Samples `group` of the batch, whose work is counted.
  MicroBatch collated(GlobalBatch& batch, const std::vector<size_t>& group, StepMetrics& metrics);
  /// Gradients of this rank's samples. Reads nothing from the device, which goes on while the host
  /// prepares what is next.
  std::vector<MicroBatch> make_gradients(GlobalBatch& batch, StepMetrics& metrics);
  /// The step's one read from the device: losses and gradient norm. Returns what is wrong with the
  /// losses of this rank, or nothing.
  std::string read(const std::vector<MicroBatch>& micro_batches, StepMetrics& metrics) const;
  /// Of this rank's numbers those of all.
  void add_ranks(StepMetrics& metrics) const;
  /// The gradients' norm.
  at::Tensor norm() const;
  std::string first_bad_gradient() const;
  /// What is wrong with the step, or nothing; gradients are there.
  std::string fault(const StepMetrics& metrics) const;
  /// Stops the run or, with train.on_nan=skip, undoes the step.
  void refuse(StepMetrics& metrics, const std::string& why);
  /// UserError, on all ranks in the same words.
  template <class... Args>
  [[noreturn]] void fail_together(fmt::format_string<Args...> format, Args&&... args) const;
  /// Tells where the model will be, and takes deterministic kernels where they are asked for.
  void settle_device();
  void open_data();
  /// What peft.base_bits=auto means here; a line on stderr where that is FP8.
  void settle_base(const std::optional<SavedRun>& saved);
  /// The model with its adapters, the optimizer, and what a resumed run goes on with.
  void open_weights(const std::optional<SavedRun>& saved, bool resumes);
  /// What weights and optimizer hold; while weights are read, what a card holds so far.
  MemoryUse memory_held() const;
  void tell_of_idle_keys() const;
  /// The adapter says scheme, rank, alpha, dropout and targets, and the config then too.
  void start_from_adapter();
  /// Ranks that resume go on from one step, and save as one run.
  void settle_ranks();
  /// What the first rank alone has of a run: the directory, and what writes into it.
  struct Output;
  int run_steps(const OnStep& on_step);
  /// Of the first rank, `output`; null of others.
  int make_steps(const OnStep& on_step, Output* output);
  /// Behind a step, on all ranks the same: the signal that stops the run or 0, and whether the time
  /// or the step is one to stop at.
  struct Stop {
    int signal = 0;
    bool exit = false;
  };
  Stop agreed_stop(int signal, bool exit) const;
  /// Where a validation is due: tells the log, and returns whether it was the best so far.
  bool validate(Output* output);
  /// `best`: best.json is to name it.
  void save(CheckpointSaver& saver, Output* output, bool best) const;
  static void tell_of_saved(CheckpointSaver& saver, Output* output);

  TrainConfig config_;
  const World& world_;
  at::Device device_;
  /// With train.deterministic.
  std::optional<DeterministicKernels> deterministic_;
  RunState found_;  // in checkpoint.save, when this was made and behind each run()
  /// Met here for the first time: behind it ranks know that all have looked at the directory.
  Ranks ranks_;
  Asked asked_;
  RunIdentity identity_;
  OpenCheckpoint base_;
  Processor processor_;
  std::unique_ptr<Dataset> dataset_;
  std::shared_ptr<Ministral3> model_;
  std::unique_ptr<FeatureCache> features_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Pipeline> pipeline_;
  std::unique_ptr<ModelFlops> flops_;
  /// Null where it is not asked for.
  std::unique_ptr<ParamsNorm> params_norm_;
  RunProgress progress_;
  std::optional<HuggingFaceFolder> huggingface_;
  /// Null of one rank.
  std::unique_ptr<GradientSync> gradients_;
  std::unique_ptr<SampleStream> stream_;
  std::unique_ptr<GlobalBatches> batches_;
  std::vector<std::unique_ptr<Validation>> validations_;
};

}  // namespace trestle
