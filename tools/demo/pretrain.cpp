// Pre-trains the demo's tiny model from scratch on rendered receipts (tools/demo/README.md). A tool
// for the makers of assets/demo, not part of the program: it adds to Trestle's model an auxiliary
// character loss and the Muon optimizer, which only pre-training needs.
//
//   trestle_pretrain --model assets/demo/model --data build/demo --output build/demo/base --minutes
//   45

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <future>
#include <random>

#include "base/error.h"
#include "bridge/load.h"
#include "chat/chat.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_writer.h"
#include "formats/parquet.h"
#include "image/pixels.h"
#include "kernels/optimizer.h"
#include "tokenizer/tokenizer.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kBatch = 32;
constexpr int64_t kCharacters = 95;  // none, and the printable ones
constexpr int64_t kSlots = 8;        // a merged token covers 2 x 4 slots of 14 x 7 pixels

struct Batch {
  ModelInput input;
  at::Tensor labels_T;
  at::Tensor characters;  // [tokens, kSlots]
};

// Prompt and answer of one row as ids and labels.
void append_sample(const ChatEncoder& encoder, const ImageRef& image, std::string_view prompt,
                   std::string_view target, std::vector<int64_t>& ids, std::vector<int64_t>& labels,
                   std::vector<int64_t>& lengths) {
  Message user = text_message(Role::kUser, std::string(prompt));
  if (image.rows > 0)
    user.parts.insert(user.parts.begin(), {.kind = Part::Kind::kImage, .image = image});
  const EncodedChat chat = encoder.encode(
      {{user, text_message(Role::kAssistant, std::string(target))}, {}}, Ending::kSample);
  const std::vector<int64_t> next = next_token_labels(chat);
  ids.insert(ids.end(), chat.ids.begin(), chat.ids.end());
  labels.insert(labels.end(), next.begin(), next.end());
  lengths.push_back(static_cast<int64_t>(chat.ids.size()));
}

class Receipts {
 public:
  Receipts(const fs::path& path, const ChatEncoder& encoder, const ImageProcessorConfig& images)
      : file_(path, {"pixels", "height", "width", "grid_rows", "grid_cols", "characters",
                     "read_prompt", "read_target", "format_prompt", "format_target"}),
        encoder_(encoder),
        images_(images) {}

  int64_t batches() const { return file_.rows() / kBatch; }

  Batch batch(int64_t index, bool structured) const {
    std::vector<int64_t> ids, labels, lengths;
    std::vector<at::Tensor> pictures, characters;
    for (int64_t row = index * kBatch; row < (index + 1) * kBatch; ++row) {
      const int64_t height = file_.integer(1, row);
      const int64_t width = file_.integer(2, row);
      const int64_t rows = file_.integer(3, row);
      const int64_t cols = file_.integer(4, row);
      const std::string_view grey = *file_.bytes(0, row);
      TORCH_CHECK(static_cast<int64_t>(grey.size()) == height * width, "odd pixels in row ", row);
      const at::Tensor picture =
          at::from_blob(const_cast<char*>(grey.data()), {1, height, width}, at::kByte);
      pictures.push_back(image_pixels(picture.expand({3, -1, -1}).contiguous(), images_));
      const std::string_view slots = *file_.bytes(5, row);
      characters.push_back(
          at::from_blob(const_cast<char*>(slots.data()), {rows, 2, cols, 4}, at::kByte)
              .permute({0, 2, 1, 3})
              .reshape({rows * cols, kSlots})
              .to(at::kLong));
      append_sample(encoder_,
                    {.source = "", .height = height, .width = width, .rows = rows, .cols = cols},
                    *file_.bytes(structured ? 8 : 6, row), *file_.bytes(structured ? 9 : 7, row),
                    ids, labels, lengths);
    }
    return {ModelInput::make(at::tensor(ids), lengths, std::move(pictures)), at::tensor(labels),
            at::cat(characters)};
  }

 private:
  ParquetFile file_;
  const ChatEncoder& encoder_;
  const ImageProcessorConfig& images_;
};

// Text only: repeat random ordinary tokens. Trains every embedding row, those of tokens no receipt
// uses too.
Batch copy_batch(const Tokenizer& tokenizer, std::mt19937_64& random) {
  std::vector<int64_t> ordinary;
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) ordinary.push_back(id);
  }
  std::vector<int64_t> ids, labels, lengths;
  const size_t length = 12 + random() % 29;
  for (int64_t i = 0; i < kBatch; ++i) {
    std::vector<int64_t> text(length);
    for (int64_t& id : text) id = ordinary[random() % ordinary.size()];
    std::vector<int64_t> row = {tokenizer.special("<s>"), tokenizer.special("[INST]")};
    row.insert(row.end(), text.begin(), text.end());
    row.push_back(tokenizer.special("[/INST]"));
    const size_t start = row.size();
    row.insert(row.end(), text.begin(), text.end());
    row.push_back(tokenizer.special("</s>"));
    for (size_t t = 0; t < row.size(); ++t) {
      labels.push_back(t + 1 >= start && t + 1 < row.size() ? row[t + 1] : -100);
    }
    ids.insert(ids.end(), row.begin(), row.end());
    lengths.push_back(static_cast<int64_t>(row.size()));
  }
  return {ModelInput::make(at::tensor(ids), lengths), at::tensor(labels), {}};
}

// Muon (Jordan 2024): momentum, then the nearest orthogonal matrix by Newton-Schulz steps; scaled
// to AdamW's update size (Liu et al. 2025, 0.2 sqrt(max(rows, cols))). Parts of a fused projection
// are matrices of their own.
class Muon {
 public:
  void add(const at::Tensor& weight, const FusedLayout& layout) {
    slots_.push_back({weight, at::zeros_like(weight), layout});
  }

  void step(double rate) {
    const at::NoGradGuard no_grad;
    for (Slot& slot : slots_) {
      const at::Tensor gradient = slot.weight.grad();
      if (!gradient.defined()) continue;
      slot.momentum.lerp_(gradient, 1 - kMomentum);
      const at::Tensor update = at::lerp(gradient, slot.momentum, kMomentum);
      at::Tensor change;
      if (slot.layout.kind == FusedLayout::Kind::kPlain) {
        change = orthogonal(update);
      } else {
        auto parts = slot.layout.split(update, 0);
        for (at::Tensor& part : parts) part = orthogonal(part);
        change = slot.layout.fuse(parts, 0);
      }
      slot.weight.mul_(1 - rate * kDecay).add_(change, -rate);
    }
  }

 private:
  static constexpr double kMomentum = 0.95;
  static constexpr double kDecay = 0.01;
  struct Slot {
    at::Tensor weight, momentum;
    FusedLayout layout;
  };

  static at::Tensor orthogonal(const at::Tensor& matrix) {
    const bool tall = matrix.size(0) > matrix.size(1);
    at::Tensor x = tall ? matrix.t() : matrix;
    x = x / (x.norm() + 1e-7);
    for (int i = 0; i < 5; ++i) {
      const at::Tensor gram = at::mm(x, x.t());
      x = 3.4445 * x + at::mm(-4.7750 * gram + 2.0315 * at::mm(gram, gram), x);
    }
    const double scale =
        0.2 * std::sqrt(static_cast<double>(std::max(matrix.size(0), matrix.size(1))));
    return (tall ? x.t() : x) * scale;
  }

  std::vector<Slot> slots_;
};

struct Options {
  std::string model, data, output, start;
  double minutes = 45;
  double rate = 2e-3;
  int64_t first_structured_shard = 2;
  int64_t first_shard = 0;
};

class Pretraining {
 public:
  explicit Pretraining(const Options& options)
      : options_(options),
        tokenizer_(Tokenizer::open(options.model)),
        encoder_(tokenizer_),
        images_(read_image_processor_config(options.model)),
        model_(std::make_shared<Ministral3>(read_hf_config(options.model))) {
    if (options.start.empty()) {
      initialize();
    } else {
      load_weights(*model_, OpenCheckpoint(options.start).weights());
    }
    const int64_t hidden = model_->config().text.hidden_size;
    head_ =
        at::randn({kSlots * kCharacters, hidden}) * (1 / std::sqrt(static_cast<double>(hidden)));
    head_.requires_grad_();
    class_weights_ = at::ones({kCharacters});
    class_weights_[0] = 0.1;  // most slots are empty

    std::map<void*, FusedLayout> linear;
    for (const auto& module : model_->modules(false)) {
      if (const auto* each = dynamic_cast<const Linear*>(module.get())) {
        linear[each->weight.unsafeGetTensorImpl()] = each->layout();
      }
    }
    AdamW::NamedTensors rest = {{"characters", head_}};
    for (const auto& entry : model_->named_parameters()) {
      const auto found = linear.find(entry.value().unsafeGetTensorImpl());
      if (found != linear.end()) {
        muon_.add(entry.value(), found->second);
      } else {
        rest.emplace_back(entry.key(), entry.value());
      }
      all_.emplace_back(entry.key(), entry.value());
    }
    all_.emplace_back("characters", head_);
    adamw_ = std::make_unique<AdamW>(rest, AdamWOptions{.beta2 = 0.98, .weight_decay = 0.01});
  }

  void run() {
    start_ = Clock::now();
    std::vector<fs::path> shards;
    for (const auto& entry : fs::directory_iterator(options_.data)) {
      if (entry.path().extension() == ".parquet") shards.push_back(entry.path());
    }
    std::sort(shards.begin(), shards.end());
    if (shards.empty()) user_error("{} holds no .parquet file", options_.data);
    for (auto shard = static_cast<size_t>(options_.first_shard); fraction() < 1; ++shard) {
      // After the first pass the easy shards are not worth repeating.
      const size_t hard = std::min<size_t>(5, shards.size() - 1);
      const size_t index =
          shard < shards.size() ? shard : hard + (shard - shards.size()) % (shards.size() - hard);
      run_shard(Receipts(shards[index], encoder_, images_),
                static_cast<int64_t>(shard) >= options_.first_structured_shard);
      save();
    }
  }

 private:
  // As the trial of this model had it: fan-in scaled, output projections at half.
  void initialize() {
    model_->initialize(1);
    const at::NoGradGuard no_grad;
    for (const auto& entry : model_->named_parameters()) {
      at::Tensor weight = entry.value();
      if (weight.dim() < 2 || entry.key().ends_with("word_embeddings.weight")) continue;
      const bool output =
          entry.key().ends_with("o_proj.weight") || entry.key().ends_with("down_proj.weight") ||
          entry.key().ends_with("linear_proj.weight") || entry.key().ends_with("linear_fc2.weight");
      weight.copy_(at::randn_like(weight) *
                   ((output ? 0.5 : 1.0) / std::sqrt(static_cast<double>(weight[0].numel()))));
    }
  }

  double minutes() const {
    return std::chrono::duration<double>(Clock::now() - start_).count() / 60;
  }
  double fraction() const { return minutes() / options_.minutes; }

  void run_shard(const Receipts& receipts, bool with_structured) {
    std::vector<int64_t> order(static_cast<size_t>(receipts.batches()));
    std::iota(order.begin(), order.end(), 0);
    // Within a row group only, so that each group is decompressed once.
    for (size_t i = 0; i < order.size(); i += 32) {
      std::shuffle(order.begin() + static_cast<std::ptrdiff_t>(i),
                   order.begin() + static_cast<std::ptrdiff_t>(std::min(i + 32, order.size())),
                   random_);
    }
    const auto load = [&](size_t i) {
      return receipts.batch(order[i], with_structured && (i % 2 == 1));
    };
    std::future<Batch> next = std::async(std::launch::async, load, 0);
    for (size_t i = 0; i < order.size() && fraction() < 1; ++i) {
      const Batch batch = next.get();
      if (i + 1 < order.size()) next = std::async(std::launch::async, load, i + 1);
      step(batch);
    }
    if (next.valid()) next.wait();
  }

  void step(const Batch& batch) {
    const at::Tensor features = model_->image_features(batch.input.images_CHW);
    at::Tensor x_TD = model_->hidden_from(model_->embed(batch.input.ids_T, features), batch.input);
    const auto [loss, correct] = text_loss(x_TD, batch.labels_T);
    const at::Tensor characters =
        at::cross_entropy_loss(at::linear(features, head_).view({-1, kCharacters}),
                               batch.characters.flatten(), class_weights_);
    at::Tensor total = loss + characters;
    if (steps_ % 5 == 0) {
      const Batch copy = copy_batch(tokenizer_, random_);
      total = total + 0.5 * text_loss(model_->hidden(copy.input), copy.labels_T).first;
    }
    total.backward();
    clip_gradients(all_, grad_norm(all_).item<double>(), 1.0);
    const double rate = options_.rate * std::min(1.0, static_cast<double>(steps_ + 1) / 100) *
                        std::clamp((1 - fraction()) / 0.4, 0.01, 1.0);
    muon_.step(rate);
    adamw_->step(rate);
    for (auto& [name, parameter] : all_) parameter.mutable_grad() = at::Tensor();
    ++steps_;
    sums_ += at::tensor({loss.item<double>(), characters.item<double>(), correct}, at::kDouble);
    if (steps_ % 100 == 0) {
      const at::Tensor mean = sums_ / 100;
      fmt::print(stderr,
                 "step {} receipts {} minutes {:.1f} loss {:.4f} characters {:.4f} token accuracy "
                 "{:.4f}\n",
                 steps_, steps_ * kBatch, minutes(), mean[0].item<double>(), mean[1].item<double>(),
                 mean[2].item<double>());
      sums_.zero_();
    }
  }

  std::pair<at::Tensor, double> text_loss(const at::Tensor& x_TD,
                                          const at::Tensor& labels_T) const {
    const at::Tensor rows = labels_T.ne(-100).nonzero().view({-1});
    const at::Tensor targets = labels_T.index_select(0, rows);
    const at::Tensor logits = model_->language_model().head(x_TD.index_select(0, rows));
    return {at::cross_entropy_loss(logits, targets),
            logits.argmax(-1).eq(targets).to(at::kDouble).mean().item<double>()};
  }

  void save() const {
    const ModelTensors tensors(*model_, at::kBFloat16);
    const MegatronAsHf hf(tensors, model_->config());
    TensorList list;
    for (const std::string& name : hf.order()) list.emplace_back(name, hf.tensors().at(name));
    HfWriter writer(options_.output, list,
                    export_config(read_json(fs::path(options_.model) / "config.json"),
                                  model_->config().text.tie_word_embeddings, at::kBFloat16),
                    side_files(options_.model), {.replace = true});
    for (const auto& [name, info] : list) writer.write(name, hf.read(name));
    writer.commit();
  }

  Options options_;
  Tokenizer tokenizer_;
  ChatEncoder encoder_;
  ImageProcessorConfig images_;
  std::shared_ptr<Ministral3> model_;
  at::Tensor head_, class_weights_;
  AdamW::NamedTensors all_;
  Muon muon_;
  std::unique_ptr<AdamW> adamw_;
  std::mt19937_64 random_{1};
  Clock::time_point start_;
  int64_t steps_ = 0;
  at::Tensor sums_ = at::zeros({3}, at::kDouble);
};

}  // namespace
}  // namespace trestle

int main(int argc, char** argv) {
  CLI::App app("pre-trains the demo's model");
  trestle::Options options;
  app.add_option("--model", options.model, "directory with config.json and tokenizer")->required();
  app.add_option("--data", options.data, "directory with the receipts' shards")->required();
  app.add_option("--output", options.output, "HF directory to write")->required();
  app.add_option("--start", options.start, "HF directory to start from");
  app.add_option("--minutes", options.minutes, "how long to train");
  app.add_option("--rate", options.rate, "peak learning rate");
  app.add_option("--first-shard", options.first_shard, "shard to start with");
  app.add_option("--first-structured-shard", options.first_structured_shard,
                 "from which shard on half of the batches have structured answers");
  CLI11_PARSE(app, argc, argv);
  try {
    at::manual_seed(1);
    trestle::Pretraining(options).run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "trestle_pretrain: {}\n", error.what());
    return 1;
  }
}
