// `trestle logits`: one forward over given ids and pixels, for parity checks against other
// implementations.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/ranges.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/paths.h"
#include "cli/commands.h"
#include "cli/tensor_output.h"
#include "flags/model_flags.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

constexpr int64_t kIgnored = -100;
constexpr TensorOutput kOutput{"logits"};

struct LogitsFlags {
  ModelFlags model;
  std::string inputs, output;
};

struct LogitsInputs {
  at::Tensor ids_BS;
  std::vector<at::Tensor> images_CHW;
  /// Not shifted, as transformers takes them: labels[b][s] is for the token at s. Undefined where
  /// there are none.
  at::Tensor labels_BS;
};

/// The inputs' file, each tensor checked before it is used; errors name file and tensor.
class InputsFile {
 public:
  InputsFile(const std::string& path, const ModelConfig& config) : file_(path), config_(config) {}

  LogitsInputs read() const {
    require_known();
    LogitsInputs inputs;
    inputs.ids_BS = integers("input_ids", 2);
    if (inputs.ids_BS.numel() == 0) refuse("input_ids", "it is empty");
    if (inputs.ids_BS.size(1) > config_.text.max_position_embeddings) {
      refuse("input_ids", fmt::format("sequences have {} tokens, the model's context is {}",
                                      inputs.ids_BS.size(1), config_.text.max_position_embeddings));
    }
    check_ids("input_ids", inputs.ids_BS);
    if (has("attention_mask") &&
        !file_.read("attention_mask").to(at::kLong).eq(1).all().item<bool>()) {
      refuse("attention_mask", "it masks tokens; give sequences of one length and no mask");
    }
    inputs.images_CHW = images();
    if (has("labels")) inputs.labels_BS = labels(inputs.ids_BS);
    return inputs;
  }

 private:
  void require_known() const {
    static const std::set<std::string> known = {"input_ids", "attention_mask", "pixel_values",
                                                "image_sizes", "labels"};
    for (const auto& [name, info] : file_.tensors()) {
      if (!known.contains(name)) {
        refuse(name, fmt::format("nobody reads it; there are {}", fmt::join(known, ", ")));
      }
    }
  }

  bool has(const std::string& name) const { return file_.tensors().contains(name); }

  [[noreturn]] void refuse(const std::string& name, std::string_view why) const {
    user_error("{}: {}: {}", file_.path().string(), name, why);
  }

  at::Tensor integers(const std::string& name, int64_t dimensions) const {
    if (!has(name)) refuse(name, "the tensor is missing");
    const TensorInfo& info = file_.tensors().at(name);
    if (static_cast<int64_t>(info.shape.size()) != dimensions ||
        (info.dtype != at::kLong && info.dtype != at::kInt)) {
      refuse(name, fmt::format("it is {}, but must be I64 or I32 of {} dimensions", describe(info),
                               dimensions));
    }
    return file_.read(name).to(at::kLong);
  }

  void check_ids(const std::string& name, const at::Tensor& ids) const {
    const int64_t vocabulary = config_.text.vocab_size;
    const at::Tensor wrong = ids.masked_select(ids.lt(0).logical_or(ids.ge(vocabulary)));
    if (wrong.numel() == 0) return;
    refuse(name, fmt::format("id {} is outside the model's vocabulary, 0 to {}",
                             wrong[0].item<int64_t>(), vocabulary - 1));
  }

  at::Tensor labels(const at::Tensor& ids_BS) const {
    const at::Tensor labels_BS = integers("labels", 2);
    if (labels_BS.sizes() != ids_BS.sizes()) {
      refuse("labels",
             fmt::format("its shape is [{}], but input_ids has [{}]",
                         fmt::join(labels_BS.sizes(), ", "), fmt::join(ids_BS.sizes(), ", ")));
    }
    const at::Tensor targets = labels_BS.narrow(1, 1, labels_BS.size(1) - 1);
    if (targets.eq(kIgnored).all().item<bool>()) {
      refuse("labels", "no position after the first of a sequence has a target; all are -100");
    }
    check_ids("labels", labels_BS.masked_select(labels_BS.ne(kIgnored)));
    return labels_BS;
  }

  std::vector<at::Tensor> images() const {
    if (!has("pixel_values")) {
      if (has("image_sizes")) refuse("image_sizes", "there are no pixel_values");
      return {};
    }
    if (!config_.vision) refuse("pixel_values", "this model has no vision tower");
    const TensorInfo& info = file_.tensors().at("pixel_values");
    if (info.shape.size() != 4 || info.shape[1] != config_.vision->num_channels ||
        !at::isFloatingType(info.dtype)) {
      refuse("pixel_values", fmt::format("it is {}, but must be floating-point [images, {}, H, W]",
                                         describe(info), config_.vision->num_channels));
    }
    const int64_t count = info.shape[0];
    const at::Tensor sizes =
        has("image_sizes")
            ? integers("image_sizes", 2)
            : at::tensor({info.shape[2], info.shape[3]}, at::kLong).expand({count, 2});
    if (sizes.size(0) != count || sizes.size(1) != 2) {
      refuse("image_sizes", fmt::format("its shape is [{}], but pixel_values asks for [{}, 2]",
                                        fmt::join(sizes.sizes(), ", "), count));
    }
    const at::Tensor pixels = file_.read("pixel_values");
    std::vector<at::Tensor> images;
    for (int64_t i = 0; i < count; ++i) {
      const auto height = sizes[i][0].item<int64_t>(), width = sizes[i][1].item<int64_t>();
      check_size(i, height, width, info);
      images.push_back(pixels[i].narrow(1, 0, height).narrow(2, 0, width).contiguous());
    }
    return images;
  }

  void check_size(int64_t image, int64_t height, int64_t width, const TensorInfo& pixels) const {
    const int64_t side = config_.vision->patch_size * config_.projector.spatial_merge_size;
    const auto fits = [&](int64_t size, int64_t room) {
      return size > 0 && size <= room && size % side == 0;
    };
    if (fits(height, pixels.shape[2]) && fits(width, pixels.shape[3])) return;
    refuse("image_sizes",
           fmt::format("image {} is {} x {} pixels; sides must be multiples of {} within {} x {}",
                       image, height, width, side, pixels.shape[2], pixels.shape[3]));
  }

  SafetensorsFile file_;
  const ModelConfig& config_;
};

// As transformers' loss: the logits of each token against the label of the next, mean over the
// targets of the batch.
at::Tensor shifted_loss(const at::Tensor& logits_BSV, const at::Tensor& labels_BS) {
  const int64_t S = labels_BS.size(1);
  return at::cross_entropy_loss(logits_BSV.narrow(1, 0, S - 1).flatten(0, 1),
                                labels_BS.narrow(1, 1, S - 1).flatten(), /*weight=*/{},
                                at::Reduction::Mean, kIgnored);
}

void logits(const LogitsFlags& flags) {
  require_output_file(flags.output, "--output", kOutput.kind(),
                      {flags.inputs, flags.model.hf_model_path, flags.model.megatron_model_path,
                       flags.model.adapter_path});
  const OpenCheckpoint checkpoint = flags.model.open();
  const LogitsInputs inputs = InputsFile(flags.inputs, checkpoint.config()).read();
  const int64_t B = inputs.ids_BS.size(0), S = inputs.ids_BS.size(1);
  TensorList outputs = {{"logits", {at::kFloat, {B, S, checkpoint.config().text.vocab_size}}}};
  if (inputs.labels_BS.defined()) outputs.push_back({"loss", {at::kFloat, {}}});
  SafetensorsWriter writer(flags.output, outputs, kOutput.metadata());

  const std::shared_ptr<Ministral3> model = flags.model.load(checkpoint);
  const c10::InferenceMode inference;
  const std::vector<int64_t> lengths(static_cast<size_t>(B), S);
  const at::Tensor logits_BSV =
      model->logits(ModelInput::make(inputs.ids_BS.flatten(), lengths, inputs.images_CHW))
          .to(at::kFloat)
          .unflatten(0, {B, S});
  writer.write("logits", logits_BSV);
  if (inputs.labels_BS.defined()) {
    writer.write("loss", shifted_loss(logits_BSV, inputs.labels_BS.to(logits_BSV.device())));
  }
  writer.commit();
}

}  // namespace

void add_logits(Command app) {
  Command command = app.add_command("logits", "one forward over given ids, for parity checks");
  auto flags = std::make_shared<LogitsFlags>();
  flags->model.add_to(command);
  command
      .add("--inputs", flags->inputs,
           "safetensors file: input_ids [B, S]; pixel_values [N, 3, H, W], image_sizes [N, 2] "
           "and unshifted labels [B, S] if there are any")
      .required();
  command
      .add("--output", flags->output,
           "safetensors file to write: logits [B, S, V] in fp32, and with labels the loss")
      .required();
  command.on_run([flags] { logits(*flags); });
}

}  // namespace trestle
