#include "train/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "data/overlong.h"
#include "model/host_input.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "run/identity.h"
#include "train/micro_batches.h"

namespace trestle {

namespace {

// Nothing acts differently in training and evaluation but adapters' dropout.
class EvaluationMode {
 public:
  explicit EvaluationMode(Ministral3& model) : model_(model) { model_.eval(); }
  ~EvaluationMode() { model_.train(); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Ministral3& model_;
  at::NoGradGuard no_grad_;
};

// For another rank. Answers may be cut within a character, which is no JSON text: as numbers.
Json json_of(const ScoredAnswer& each) {
  const auto bytes = [](const std::string& text) {
    return std::vector<int>(text.begin(), text.end());
  };
  return {each.row,           bytes(each.answer), bytes(each.wanted), each.truth,
          bytes(each.prompt), each.pictures,      each.right,         each.total};
}

ScoredAnswer answer_of(const Json& json) {
  const auto text = [](const Json& bytes) {
    const auto numbers = bytes.get<std::vector<int>>();
    return std::string(numbers.begin(), numbers.end());
  };
  return {.row = json[0],
          .answer = text(json[1]),
          .wanted = text(json[2]),
          .truth = json[3],
          .prompt = text(json[4]),
          .pictures = json[5],
          .right = json[6],
          .total = json[7]};
}

}  // namespace

std::vector<Validation::Source> Validation::sources(const TrainConfig& config) {
  const ValidationOptions& options = config.validation;
  const std::string& maker = config.dataset.maker_name;
  std::vector<Source> sources;
  for (const auto& [name, data] : options.sets) {
    sources.push_back({name,
                       data.maker_name.value_or(maker),
                       {.path = data.path,
                        .split = data.split.value_or(options.split),
                        .subset = data.subset,
                        .key = "validation.sets"}});
  }
  if (!sources.empty()) return sources;
  DataName data{.path = options.path_or_dataset,
                .split = options.split,
                .subset = options.subset,
                .key = "validation.path_or_dataset"};
  if (!data.path.empty()) return {{"", maker, data}};
  if (!config.dataset.blend.empty()) {
    fmt::print(stderr,
               "no validation: no set of dataset.blend is measured by itself; name "
               "validation.path_or_dataset or validation.sets\n");
    return {};
  }
  data.path = config.dataset.path_or_dataset;
  data.key = "dataset.path_or_dataset";
  if (data.subset.empty()) data.subset = config.dataset.subset;
  if (const auto why = why_no_split(maker, data)) {
    fmt::print(stderr,
               "no validation: {} has no file of split '{}', {}; name "
               "validation.path_or_dataset\n",
               data.path, data.split, *why);
    return {};
  }
  return {{"", maker, data}};
}

std::vector<std::unique_ptr<Validation>> Validation::make_all(const TrainConfig& config,
                                                              const Processor& processor,
                                                              const std::set<std::string>& asked) {
  std::vector<std::unique_ptr<Validation>> all;
  if (!config.validation.is_on()) return all;
  for (const Source& source : sources(config)) {
    std::unique_ptr<Validation> validation(new Validation(config, processor, source));
    fmt::print(stderr, "validation data {}{}\n", source.set.empty() ? "" : source.set + ": ",
               describe_files(*validation->dataset_, source.data.path));
    validation->tell_of_missing_rows(asked);
    validation->check_best_metric();
    validation->measured_on_ = validation->describe_measure();
    all.push_back(std::move(validation));
  }
  return all;
}

Validation::Validation(const TrainConfig& config, const Processor& processor, const Source& source)
    : config_(config),
      processor_(processor),
      source_(source),
      dataset_(make_dataset(source.maker, source.data)) {
  const auto [metric, set] = config.validation.best_metric_and_set();
  if (set == source.set) metric_ = metric;
}

void Validation::tell_of_missing_rows(const std::set<std::string>& asked) const {
  const ValidationOptions& options = config_.validation;
  const int64_t rows = dataset_->size(), batch = config_.train.global_batch_size;
  if (options.answers > rows && asked.contains("validation.answers")) {
    fmt::print(stderr, "validation.answers={}: {} has {} rows, all of which are answered\n",
               options.answers, source_.data.path, rows);
  }
  if (options.eval_iters > (rows + batch - 1) / batch && asked.contains("validation.eval_iters")) {
    fmt::print(stderr,
               "validation.eval_iters={}: {} has {} rows, which are {} global batches of {}: the "
               "loss is that of all of them\n",
               options.eval_iters, source_.data.path, rows, (rows + batch - 1) / batch, batch);
  }
}

void Validation::check_best_metric() const {
  if (metric_.empty() || metric_ == kValidLoss) return;
  // Which scores there are is settled by the truths, so that it need not wait for answers.
  Evaluation evaluation;
  for (int64_t row = 0; row < std::min(config_.validation.answers, dataset_->size()); ++row) {
    const Conversation conversation = dataset_->row(row);
    std::string wanted;
    for (const Part& part : conversation.messages.back().parts) wanted += part.text;
    evaluation.answers.push_back(score_answer(wanted, wanted, dataset_->ground_truth(row)));
  }
  std::vector<std::string> names;
  for (const auto& [name, score] : evaluation.scores()) names.push_back(name);
  if (std::ranges::find(names, metric_) == names.end()) {
    user_error("validation.best_metric={} does not apply to {}; it has {} and {}",
               config_.validation.best_metric, source_.data.path, fmt::join(names, ", "),
               kValidLoss);
  }
}

int64_t Validation::rows_of_loss() const {
  return std::min(dataset_->size(),
                  config_.validation.eval_iters * config_.train.global_batch_size);
}

std::string Validation::describe_measure() const {
  constexpr size_t kDigits = 16;
  const ValidationOptions& options = config_.validation;
  if (metric_.empty()) return {};
  std::set<std::string> keys = {"dataset.maker_name", "dataset.image_max_edge",
                                "dataset.image_max_tokens"};
  const bool by_loss = metric_ == kValidLoss;
  if (by_loss) {
    keys.insert({"model.seq_length", "dataset.overlong"});
  } else {
    keys.insert("validation.max_new_tokens");
  }
  std::string text =
      fmt::format("{} rows of SHA-256 {}",
                  by_loss ? rows_of_loss() : std::min(options.answers, dataset_->size()),
                  content_of(dataset_->files()).substr(0, kDigits));
  for (const FieldText& field : list_fields(config_)) {
    if (!keys.contains(field.path)) continue;
    const bool is_maker = field.path == "dataset.maker_name";
    text += fmt::format(", {}={}", field.path, is_maker ? source_.maker : field.value);
  }
  return text;
}

bool Validation::is_comparable(const BestStep& best) const {
  return best.metric == config_.validation.best_metric && best.measured_on == measured_on_;
}

std::optional<BestStep> Validation::comparable(const std::optional<BestStep>& best) const {
  const std::string& name = config_.validation.best_metric;
  if (!best || metric_.empty() || is_comparable(*best)) return best;
  fmt::print(
      stderr,
      "the best so far, {} {:.4f} of step {}, was measured on {}; this run measures {} on "
      "{}: its best starts anew\n",
      best->metric, best->value, best->step,
      best->measured_on.empty() ? "data that the checkpoint does not name" : best->measured_on,
      name, measured_on_);
  return std::nullopt;
}

bool Validation::is_due(int64_t step) const {
  if (step < config_.validation.start_eval_at_iter.value_or(0)) return false;
  return step % config_.validation.eval_interval == 0 || step == config_.train.train_iters;
}

std::vector<Sample> Validation::samples(int64_t first, int64_t last, const Group& data) const {
  std::vector<Sample> samples;
  for (int64_t row = first; row < last; ++row) {
    if (row % data.size() != data.rank()) continue;
    auto sample = fit(processor_, dataset_->row(row), config_.model.seq_length,
                      *overlong_of_name(config_.dataset.overlong),
                      dataset_->row_name(row, source_.data.path));
    if (sample) samples.push_back(std::move(*sample));
  }
  return samples;
}

Validation::LossSum Validation::loss_sum(Pipeline& pipeline, FeatureCache* features,
                                         const Grid& grid) const {
  const int64_t batch = config_.train.global_batch_size;
  const int64_t rows = rows_of_loss();
  std::vector<at::Tensor> sums;  // read at the end, so that no micro-batch waits for the device
  int64_t targets = 0;
  for (int64_t first = 0; first < rows; first += batch) {
    std::vector<Sample> mine;
    together(grid.world, [&] { mine = samples(first, std::min(rows, first + batch), grid.data); });
    const std::vector<std::vector<size_t>> groups = micro_batches(config_, mine);
    Batch collated;
    sums.push_back(pipeline.evaluate(std::ssize(groups), [&](int64_t i) {
      collated = collate(take(mine, groups[static_cast<size_t>(i)]));
      if (features != nullptr) features->fill(collated.input);
      targets += Targets::of(collated.labels_T).count();
      return PipelineBatch{&collated.input, &collated.labels_T};
    }));
  }
  if (sums.empty()) return {};
  const at::Tensor all = at::cat(sums).to(at::kCPU, at::kDouble);  // in the order of the rows
  const auto* value = all.const_data_ptr<double>();
  return {std::accumulate(value, value + all.numel(), 0.0), targets};
}

double Validation::loss(Pipeline& pipeline, FeatureCache* features, const Grid& grid) const {
  const LossSum mine = loss_sum(pipeline, features, grid);
  at::Tensor sums = at::tensor({mine.sum, static_cast<double>(mine.targets)}, at::kDouble);
  grid.data.all_reduce(sums);
  const auto* sum = sums.const_data_ptr<double>();
  if (sum[1] == 0) {
    together(grid.world, [&] {
      user_error("the first {} rows of {} have no target to validate", rows_of_loss(),
                 source_.data.path);
    });
  }
  return sum[0] / sum[1];
}

std::vector<ScoredAnswer> Validation::answers(const Ministral3& model, const Grid& grid) const {
  EvaluationOptions options;
  options.rows = config_.validation.answers;
  options.max_new_tokens = config_.validation.max_new_tokens;
  // Ranks that gather layers from each other make every token together, and so the same ones.
  const bool is_shared_out = model.language_model().base() == nullptr;
  options.rank = is_shared_out ? grid.data.rank() : 0;
  options.ranks = is_shared_out ? grid.data.size() : 1;
  std::vector<ScoredAnswer> mine;
  together(grid.world, [&] {
    mine = evaluate({model, grid.pipeline}, processor_, *dataset_, options).answers;
  });
  if (options.ranks == 1) return mine;
  Json list = Json::array();
  for (const ScoredAnswer& each : mine) list.push_back(json_of(each));
  std::vector<ScoredAnswer> all;
  for (const std::string& text : grid.data.gather(list.dump())) {
    for (const Json& each : Json::parse(text)) all.push_back(answer_of(each));
  }
  std::ranges::sort(all, {}, &ScoredAnswer::row);
  return all;
}

ValidationMetrics Validation::run(Ministral3& model, Pipeline& pipeline, FeatureCache* features,
                                  int64_t step, const Grid& grid) const {
  const auto start = std::chrono::steady_clock::now();
  const EvaluationMode mode(model);
  ValidationMetrics metrics;
  metrics.step = step;
  metrics.set = source_.set;
  metrics.loss = loss(pipeline, features, grid);
  if (config_.validation.answers > 0) {
    Evaluation evaluation;
    evaluation.answers = answers(model, grid);
    metrics.scores = evaluation.scores();
    metrics.answers = std::move(evaluation.answers);
  }
  metrics.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return metrics;
}

std::optional<BestStep> Validation::better(const ValidationMetrics& metrics,
                                           const std::optional<BestStep>& before) const {
  if (metric_.empty()) return std::nullopt;
  const bool by_loss = metric_ == kValidLoss;
  const double value = by_loss ? metrics.loss : metrics.scores.at(metric_);
  if (!std::isfinite(value)) return std::nullopt;
  if (before && is_comparable(*before)) {
    if (by_loss ? value >= before->value : value <= before->value) return std::nullopt;
  }
  return BestStep{metrics.step, config_.validation.best_metric, value, measured_on_};
}

}  // namespace trestle
