// `trestle demo`: the whole main job on the embedded model and data. No network, and no GPU needed;
// every number it prints is measured.
#include "pages/demo.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/html.h"
#include "base/paths.h"
#include "base/standard_streams.h"
#include "base/stop_signal.h"
#include "bridge/convert.h"
#include "cli/commands.h"
#include "flags/assets.h"
#include "flags/device_flag.h"
#include "flags/number_flag.h"
#include "generate/stop.h"
#include "kernels/device.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "recipes/recipes.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

struct DemoFlags {
  std::string assets, output = "out/demo", report = "demo_report.html";
  int64_t steps = 0;
  double min_field = 0, min_whole = 0, max_before = 1;
  DeviceFlag device;
};

// Written into --output before all else; without it nothing there is removed.
constexpr const char* kMark = ".trestle-demo";
constexpr const char* kMarkText =
    "trestle demo made this directory. Its next run replaces megatron, hf, run and receipt.png in "
    "it; other files stay.\n";
constexpr std::array kMade = {"megatron", "hf", "run", "receipt.png"};

// A directory with nothing of an earlier demo in it. Throws UserError where it holds anything and
// no demo has marked it: nothing is removed that no demo made.
void prepare(const fs::path& work) {
  std::error_code error;
  const fs::path mark = work / kMark;
  if (kind_of(mark) != "a regular file") {
    if (is_there(work) && (!fs::is_empty(work, error) || error)) {
      user_error(
          "--output {} is not empty and has no {}, the mark of an earlier demo; name a new or "
          "empty directory",
          work.string(), kMark);
    }
    write_text(mark, kMarkText);
  }
  for (const char* name : kMade) {
    fs::remove_all(work / name, error);
    if (error) machine_error("cannot replace {}: {}", (work / name).string(), error.message());
  }
}

class Demo {
 public:
  explicit Demo(const DemoFlags& flags)
      : flags_(flags),
        device_(flags.device.choose()),
        assets_(find_assets(flags.assets)),
        work_(flags.output),
        data_(assets_ / "data") {}

  void run() {
    require_output_folder(work_, "--output", {assets_});
    require_output_file(flags_.report, "--report", page_kind(), {assets_});
    prepare(work_);
    report_.machine = device_.is_cpu()
                          ? fmt::format("{} threads on {} cores, fp32", at::get_num_threads(),
                                        std::thread::hardware_concurrency())
                          : fmt::format("{}, fp32", device_name(device_));
    const std::time_t now = std::time(nullptr);
    char date[32];
    std::strftime(date, sizeof(date), "%Y-%m-%d %H:%M", std::localtime(&now));
    report_.date = date;

    const fs::path megatron = work_ / "megatron", hf = work_ / "hf";
    stage("import to Megatron", [&] { import_checkpoint(assets_ / "model", megatron); });
    const OpenCheckpoint base(megatron);
    const Processor processor(base.assets());
    const auto test = make_dataset("make_cord_v2_dataset", data_, "test");
    stage("evaluate before", [&] {
      const auto model = load_model(base, {at::kFloat, device_});
      model->eval();
      report_.before = score(*model, processor, *test);
    });
    stage("fine-tune with LoRA", [&] { finetune(megatron); });
    stage("evaluate after", [&] {
      trainer_->model().eval();
      report_.after = score(trainer_->model(), processor, *test);
    });
    stage("merge and export to HF", [&] {
      merge_adapters(trainer_->model());
      const ModelTensors tensors(trainer_->model(), at::kBFloat16);
      write_hf(tensors, base.config(), base.config_json(), base.side_files(), hf);
    });
    trainer_.reset();
    stage("generate from the export", [&] { generate(hf, *test); });
    choose_receipts(*test);
    write_demo_report(flags_.report, report_);
    fmt::print(
        "fields right {:.1f} % -> {:.1f} %, whole receipts {:.1f} % -> {:.1f} % of {}; see {}\n",
        100 * report_.before.field_accuracy(), 100 * report_.after.field_accuracy(),
        100 * report_.before.whole_accuracy(), 100 * report_.after.whole_accuracy(),
        report_.after.answers.size(), flags_.report);
    check();
  }

 private:
  template <class Action>
  void stage(const std::string& name, const Action& action) {
    fmt::print("== {}\n", name);
    flush_output();
    const auto start = std::chrono::steady_clock::now();
    action();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    fmt::print("   {:.1f} s\n", seconds);
    flush_output();
    report_.stages.push_back({name, seconds});
  }

  static Evaluation score(const Ministral3& model, const Processor& processor,
                          const Dataset& test) {
    const Evaluation result =
        evaluate(model, processor, test, {.batch_size = 40, .max_new_tokens = 320});
    fmt::print("   fields right {:.1f} %, whole receipts {:.1f} % of {}\n",
               100 * result.field_accuracy(), 100 * result.whole_accuracy(), result.answers.size());
    return result;
  }

  void finetune(const fs::path& base) {
    TrainConfig config = demo_config();
    config.checkpoint.pretrained_checkpoint = base.string();
    config.checkpoint.save = (work_ / "run").string();
    config.dataset.path_or_dataset = data_.string();
    config.logger.log_interval = 10;
    config.train.device = device_.str();
    if (flags_.steps > 0) {
      config.train.train_iters = flags_.steps;
      // A run of few steps has no room for the recipe's warm-up.
      config.scheduler.lr_warmup_iters =
          std::min(config.scheduler.lr_warmup_iters, flags_.steps - 1);
    }
    trainer_ = std::make_unique<Trainer>(config);
    for (const at::Tensor& parameter : trainer_->model().parameters()) {
      report_.total += parameter.numel();
      if (parameter.requires_grad()) report_.trainable += parameter.numel();
    }
    report_.train_rows = make_dataset("make_cord_v2_dataset", data_, "train")->size();
    const int stopped =
        trainer_->run([&](const StepMetrics& metrics) { report_.steps.push_back(metrics); });
    if (stopped != 0) end_by_signal(stopped);
  }

  static std::string picture(const Dataset& data, int64_t row) {
    const Conversation conversation = data.row(row);
    for (const Part& part : conversation.messages.front().parts) {
      if (part.image.bytes) return *part.image.bytes;
    }
    return {};
  }

  void generate(const fs::path& hf, const Dataset& test) {
    const int64_t row = test.size() - 1;
    report_.generated_for = picture(test, row);
    write_text(work_ / "receipt.png", report_.generated_for);
    const OpenCheckpoint checkpoint(hf);
    const Processor processor(checkpoint.assets());
    const auto model = load_model(checkpoint, {at::kFloat, device_});
    model->eval();
    Message user = text_message(Role::kUser, "Describe this image.");
    user.parts.insert(user.parts.begin(), Part{.kind = Part::Kind::kImage});
    user.parts.front().image.source = (work_ / "receipt.png").string();
    SamplingOptions sampling;
    sampling.max_new_tokens = 320;
    StreamingDecoder decoder(processor.tokenizer());
    fmt::print("   ");
    const Generator generator(*model, stop_ids(processor.tokenizer()));
    generator.generate({processor.process({{user}, nullptr}, Ending::kPrompt)}, sampling,
                       [&](size_t, int64_t id) {
                         const std::string text = decoder.push(id);
                         report_.generated += text;
                         fmt::print("{}", text);
                       });
    fmt::print("\n");
  }

  // All that are not wholly right, up to six, and as many that are.
  void choose_receipts(const Dataset& test) {
    for (const bool whole : {true, false}) {
      int taken = 0;
      for (size_t i = 0; i < report_.after.answers.size() && taken < 6; ++i) {
        const ScoredAnswer& after = report_.after.answers[i];
        if (after.whole() != whole) continue;
        report_.receipts.push_back({picture(test, after.row), test.ground_truth(after.row),
                                    report_.before.answers[i], after});
        ++taken;
      }
    }
  }

  void check() const {
    const auto require = [](bool holds, const char* what, double value, double bound) {
      if (!holds)
        throw std::runtime_error(
            fmt::format("demo: {} {:.3f}, expected {:.3f}", what, value, bound));
    };
    require(report_.before.field_accuracy() <= flags_.max_before, "fields right before",
            report_.before.field_accuracy(), flags_.max_before);
    require(report_.after.field_accuracy() >= flags_.min_field, "fields right after",
            report_.after.field_accuracy(), flags_.min_field);
    require(report_.after.whole_accuracy() >= flags_.min_whole, "whole receipts right after",
            report_.after.whole_accuracy(), flags_.min_whole);
  }

  DemoFlags flags_;
  at::Device device_;
  fs::path assets_, work_, data_;
  std::unique_ptr<Trainer> trainer_;
  DemoReport report_;
};

}  // namespace

void add_demo(Command app) {
  Command command = app.add_command("demo", "the whole main job on the embedded model and data");
  auto flags = std::make_shared<DemoFlags>();
  command.add("--assets", flags->assets,
              "directory with model/ and data/; default: that of the source tree");
  command
      .add("--output", flags->output,
           "where checkpoints go: new, empty, or an earlier demo's, which is replaced")
      .show_default();
  command.add("--report", flags->report, "HTML page to write").show_default();
  add_number(command, "--steps", flags->steps, between(0, kMostSteps),
             "fine-tuning steps; 0: the recipe's");
  const Range share = between(0, 1);
  add_number(command, "--min-field,--min_field", flags->min_field, share,
             "fail unless this share of fields is right after");
  add_number(command, "--min-whole,--min_whole", flags->min_whole, share,
             "fail unless this share of receipts is wholly right after");
  add_number(command, "--max-before,--max_before", flags->max_before, share,
             "fail if more fields than this share are right before");
  flags->device.add_to(command);
  command.on_run([flags] { Demo(*flags).run(); });
}

}  // namespace trestle
