// `trestle compare`: two checkpoints of any forms against each other, tensor by tensor and by what
// they compute.
#include "pages/compare.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/html.h"
#include "base/paths.h"
#include "base/standard_streams.h"
#include "bridge/gguf_source.h"
#include "bridge/streamed.h"
#include "checkpoint/format.h"
#include "cli/commands.h"
#include "data/processor.h"
#include "flags/device_flag.h"
#include "flags/format_flag.h"
#include "flags/number_flag.h"
#include "formats/safetensors.h"
#include "generate/generator.h"
#include "generate/stop.h"
#include "hub/hub.h"
#include "kernels/device.h"
#include "model/ministral3.h"
#include "peft/merged.h"
#include "peft/peft_folder.h"
#include "recipes/config.h"
#include "tokenizer/utf8.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

struct CompareFlags {
  std::string a, b, hf_model, html, prompt = "Hello! Who are you?";
  FormatFlag format;
  DeviceFlag device;
  bool json = false, all = false, forward = true;
  int64_t max_new_tokens = 16;
  double max_error = -1;
};

ModelNames names_of(const std::string& given, const CompareFlags& flags) {
  const fs::path path = flags.format.resolve(given, "path");
  const auto base = [&] {
    return flags.hf_model.empty() ? fs::path() : flags.format.resolve(flags.hf_model, "--hf-model");
  };
  // Of adapters the base is what has forms.
  const auto asked = flags.format.asked();
  if (is_peft_folder(path)) return {.adapter = path, .hf_model = base(), .format = asked};
  require_directory(path, "checkpoint");
  if (has_adapter({.megatron = path})) {
    return {.megatron = path, .hf_model = base(), .format = asked};
  }
  const CheckpointFormat format = flags.format.settle(path);
  if (format != CheckpointFormat::kMegatron) return {.hf_model = path, .format = format};
  return {.megatron = path,
          .hf_model = flags.hf_model.empty()
                          ? fs::path()
                          : resolve_model(flags.hf_model, "--hf-model", HubFiles::kAssets),
          .format = format};
}

// One side, whatever its form.
class Opened {
 public:
  Opened(const std::string& given, const CompareFlags& flags) : name_(given) {
    if (is_gguf_model(given)) {
      gguf_ = std::make_unique<GgufSource>(GgufSource::open(given));
      view_ = std::make_unique<HfAsMegatron>(*gguf_, gguf_->config());
      form_ = "GGUF";
    } else {
      const ModelNames names = names_of(given, flags);
      takes_base_ = !names.adapter.empty() || !names.megatron.empty();
      open(names);
    }
    if (is_model()) {
      form_ += config().text.tie_word_embeddings ? ", tied" : ", untied";
      as_hf_ = std::make_unique<MegatronAsHf>(weights(), config());
    } else {
      form_ += ", as stored";
    }
  }

  /// Under Hugging Face's canonical names.
  const TensorSource& tensors() const {
    return is_model() ? static_cast<const TensorSource&>(*as_hf_) : *stored_;
  }
  /// Whether it has weights and config; else no_model() says why not.
  bool is_model() const { return !stored_; }
  const std::string& no_model() const { return no_model_; }
  const TensorSource& weights() const {
    return view_ ? static_cast<const TensorSource&>(*view_) : model_->weights();
  }
  const ModelConfig& config() const { return gguf_ ? gguf_->config() : model_->config(); }
  bool is_half() const { return model_ && model_->checkpoint().dtype() == at::kBFloat16; }
  /// Of tokenizer and processor.
  std::optional<fs::path> assets() const {
    if (!model_ || !Tokenizer::exists(model_->checkpoint().assets())) return std::nullopt;
    return model_->checkpoint().assets();
  }
  /// Whether --hf-model says something of it: a base, or config and tokenizer.
  bool takes_base() const { return takes_base_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  CompareReport::Side side() const { return {.name = name_, .form = form_, .text = {}}; }

 private:
  // A directory whose tensors are none of a model's is still there to be compared.
  void open(const ModelNames& names) {
    const bool is_directory = names.adapter.empty() && names.megatron.empty();
    form_ = names.format == CheckpointFormat::kMistral ? "Mistral" : "Hugging Face";
    try {
      model_ = std::make_unique<OpenModel>(names);
    } catch (const NoWeights& error) {
      if (!is_directory) throw;  // the base of adapters
      no_model_ = error.what();
      stored_ = open_model_directory(names.hf_model, *names.format);
      return;
    }
    if (model_->adapter()) {
      form_ = "adapter merged into its base";
    } else if (!is_directory) {
      form_ = "Megatron";
    }
  }

  std::string name_, form_, no_model_;
  bool takes_base_ = false;
  std::unique_ptr<OpenModel> model_;
  std::unique_ptr<GgufSource> gguf_;
  std::unique_ptr<HfAsMegatron> view_;
  std::unique_ptr<MegatronAsHf> as_hf_;
  std::unique_ptr<HfCheckpoint> stored_;
};

// Most of what is wrong with weights does not say whose they are, and whether a text names a path
// cannot be read from it: `model` is the beginning of every tensor's name.
Opened opened(std::string_view side, const std::string& given, const CompareFlags& flags) {
  try {
    return {given, flags};
  } catch (const UserError& error) {
    user_error("{} ({}): {}", side, given, error.what());
  }
}

// Why what both compute cannot be compared; empty where it can.
std::string incomparable(const Opened& a, const Opened& b) {
  for (const Opened* each : {&a, &b}) {
    if (!each->is_model()) return each->no_model();
  }
  return incomparable(a.config(), b.config());
}

uint64_t free_memory(at::Device device) {
  if (const auto card = card_memory(device)) return static_cast<uint64_t>(card->free);
  return static_cast<uint64_t>(::sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::string answer(const Opened& model, const Build& build, const Processor& processor,
                   const CompareFlags& flags) {
  Conversation conversation;
  conversation.messages.push_back({});
  conversation.messages.back().parts.push_back({.text = flags.prompt});
  const std::vector<Sample> prompts = {processor.process(conversation, Ending::kPrompt)};
  SamplingOptions options;
  options.max_new_tokens = flags.max_new_tokens;
  check_prompts(model.config(), prompts, options);
  Ministral3 loaded(model.config(), build);
  load_weights(loaded, model.weights());
  loaded.eval();
  const GenerationResult result =
      Generator(loaded, stop_ids(processor.tokenizer())).generate(prompts, options);
  return processor.tokenizer().decode(result.sequences.front().ids);
}

// Both answers, one model in memory at a time; or why there are none.
void compare_texts(const Opened& a, const Opened& b, const Build& build, const CompareFlags& flags,
                   CompareReport& report) {
  const auto assets = a.assets() ? a.assets() : b.assets();
  if (!assets) {
    report.no_text = "neither has a tokenizer";
    return;
  }
  uint64_t bytes = 0;
  for (const auto& [name, info] : a.weights().tensors()) bytes += byte_size(info).value_or(0);
  const uint64_t free = free_memory(build.device);
  if (bytes > free / 5 * 4) {
    report.no_text = fmt::format("a model takes {:.1f} GB of memory and {:.1f} GB are free",
                                 gigabytes(bytes), gigabytes(free));
    return;
  }
  const Processor processor(*assets);
  report.prompt = flags.prompt;
  report.a.text = answer(a, build, processor, flags);
  report.b.text = answer(b, build, processor, flags);
}

// What both compute; or why it is not compared.
void compare_forwards(const Opened& a, const Opened& b, const CompareFlags& flags,
                      CompareReport& report) {
  const at::ScalarType dtype = a.is_half() || b.is_half() ? at::kBFloat16 : at::kFloat;
  const Build build{dtype, flags.device.choose_and_tell()};
  const auto logits = [&, input = probe_input(a.config())](const Opened& model) {
    return streamed_logits(model.weights(), model.config(), dtype, input, build.device);
  };
  const at::Tensor ours = logits(a), theirs = logits(b);
  report.no_logits = report.failure = not_finite(ours, theirs);
  if (!report.failure.empty()) return;
  report.logits = compare_logits(ours, theirs);
  if (flags.max_new_tokens == 0) return;
  try {
    compare_texts(a, b, build, flags, report);
  } catch (const UserError& error) {  // of one that computes NaN for these ids
    report.failure = fmt::format("{}: {}", report.a.text ? "B" : "A", error.what());
    report.no_text = report.failure;
    report.a.text.reset();
  }
}

// What the flags alone say.
void refuse_unused(const Command& command, const CompareFlags& flags) {
  if (!flags.forward) {
    command.refuse_given({"--prompt", "--max-new-tokens"}, "--no-forward asks neither of them");
    command.refuse_given({"--device"}, "--no-forward computes nothing");
  }
  if (flags.max_new_tokens == 0) {
    command.refuse_given({"--prompt"}, "--max-new-tokens 0 leaves no answer");
  }
  if (flags.json) command.refuse_given({"--all"}, "--json has equal tensors anyway");
}

// What the two that are compared say.
void refuse_unused(const Command& command, const CompareFlags& flags, const Opened& a,
                   const Opened& b) {
  if (!a.takes_base() && !b.takes_base()) {
    command.refuse_given({"--hf-model"},
                         "neither is an adapter or a Megatron run, the others have all they need");
  }
  if (a.is_gguf() && b.is_gguf()) flags.format.refuse("both are GGUF");
  if (!flags.forward) return;
  const std::string unlike = incomparable(a, b);
  if (!unlike.empty()) {
    command.refuse_given({"--forward", "--prompt", "--max-new-tokens", "--device"},
                         "what they compute is not compared: " + unlike);
  }
  if (!a.assets() && !b.assets()) {
    command.refuse_given({"--prompt", "--max-new-tokens"}, "neither has a tokenizer");
  }
}

void compare(const Command& command, const CompareFlags& flags) {
  if (std::isnan(flags.max_error))
    user_error("--max-error nan: no error is within it; give a number");
  refuse_unused(command, flags);
  flags.device.choose();
  require_utf8(flags.prompt, "--prompt");
  if (!flags.html.empty()) {
    require_output_file(flags.html, "--html", page_kind(), {flags.a, flags.b, flags.hf_model});
  }
  const Opened a = opened("A", flags.a, flags), b = opened("B", flags.b, flags);
  refuse_unused(command, flags, a, b);
  CompareReport report;
  report.a = a.side();
  report.b = b.side();
  report.tensors = compare_tensors(a.tensors(), b.tensors(), true);
  report.no_logits = flags.forward ? incomparable(a, b) : "--no-forward";
  if (report.no_logits.empty()) compare_forwards(a, b, flags, report);
  if (!flags.html.empty()) write_text(flags.html, compare_html(report));
  const std::string shown =
      flags.json ? compare_json(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
                 : compare_table(report, flags.all);
  fmt::print("{}", shown);
  flush_output();
  if (flags.max_error >= 0 &&
      (report.unmatched() > 0 || !(report.max_error() <= flags.max_error))) {
    user_error("{} and {}: {}; --max-error {:g} allows no more", flags.a, flags.b, report.summary(),
               flags.max_error);
  }
  if (!report.failure.empty()) {
    user_error("{} and {}: {}; {}", flags.a, flags.b, report.summary(), report.failure);
  }
}

}  // namespace

void add_compare(Command app) {
  Command command = app.add_command(
      "compare", "two checkpoints of any forms: tensors, logits and text side by side");
  auto flags = std::make_shared<CompareFlags>();
  command
      .add("a", flags->a,
           "Hugging Face, Mistral or Megatron directory, GGUF file or directory, PEFT folder, run "
           "of adapters, or ORG/NAME[@REVISION]")
      .required();
  command.add("b", flags->b, "the other one").required();
  command.add("--hf-model,--hf_model", flags->hf_model,
              "base model of an adapter, and config and tokenizer of a Megatron run "
              "without its own");
  command
      .add_switch("--forward,!--no-forward", flags->forward,
                  "compare logits and text too; default: on")
      .show_default("");
  command.add("--prompt", flags->prompt, "what both are asked").show_default();
  add_number(command, "--max-new-tokens,--max_new_tokens", flags->max_new_tokens,
             between(0, kMostTokens), "of the greedy answers; 0: none");
  add_number(command, "--max-error,--max_error", flags->max_error, at_least(0),
             "exit 2 where a value differs by more, or a tensor has no counterpart");
  command.add_switch("--all", flags->all, "list equal tensors too");
  command.add_switch("--json", flags->json, "everything as JSON, hashes included");
  command.add("--html", flags->html, "a page to write as well");
  flags->format.add_to(command);
  flags->device.add_to(command);
  command.on_run([command, flags] { compare(command, *flags); });
}

}  // namespace trestle
