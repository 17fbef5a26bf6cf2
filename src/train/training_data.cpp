#include "train/training_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "base/digest.h"
#include "run/identity.h"

namespace trestle {

namespace {

// `identity`: of a set, a member of BlendedDataset::Source.
template <class Identity>
std::string sets_of_blend(const BlendedDataset& blend, const std::vector<BlendPart>& parts,
                          Identity identity) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    text += fmt::format("{} {};", parts[i].weight, std::invoke(identity, blend.sources()[i]));
  }
  return text;
}

std::string sha256(const std::string& text) {
  Digest digest(Digest::Kind::kSha256);
  digest.update(text);
  return digest.hex();
}

}  // namespace

std::unique_ptr<Dataset> make_training_data(const TrainConfig& config) {
  const DatasetOptions& options = config.dataset;
  if (options.blend.empty()) {
    return make_dataset(
        options.maker_name,
        {.path = options.path_or_dataset, .split = options.split, .subset = options.subset});
  }
  std::vector<BlendMember> members;
  for (const auto& [data, weight] : options.blend) {
    members.push_back({data.maker_name.value_or(options.maker_name),
                       {.path = data.path,
                        .split = data.split.value_or(options.split),
                        .subset = data.subset,
                        .key = "dataset.blend"},
                       weight});
  }
  return std::make_unique<BlendedDataset>(members);
}

std::map<std::string, std::string> content_of_training_data(const Dataset& dataset) {
  const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset);
  if (blend == nullptr)
    return {{"dataset.path_or_dataset", content_without_names(dataset.files())}};
  std::string sets = sets_of_blend(*blend, blend->parts(), &BlendedDataset::Source::identity);
  return {{"dataset.blend", sha256(sets)}, {kBlendSets, std::move(sets)}};
}

std::map<std::string, std::string> named_content_of_training_data(const Dataset& dataset) {
  const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset);
  if (blend == nullptr) return {{"dataset.path_or_dataset", content_of(dataset.files())}};
  return {{"dataset.blend", named_content_of_blend(*blend, blend->parts())}};
}

std::string named_content_of_blend(const BlendedDataset& blend,
                                   const std::vector<BlendPart>& parts) {
  return sha256(sets_of_blend(blend, parts, &BlendedDataset::Source::named_identity));
}

int64_t sample_workers(const TrainConfig& config, bool on_card, int64_t cores) {
  // Megatron Bridge's default, where there are cores for it.
  constexpr int64_t kMost = 8;
  if (config.dataset.num_workers) return *config.dataset.num_workers;
  return on_card ? std::clamp<int64_t>(cores - 1, 1, kMost) : 0;
}

std::string name_of_training_data(const TrainConfig& config) {
  return config.dataset.blend.empty() ? config.dataset.path_or_dataset : "dataset.blend";
}

std::vector<std::string> describe_training_data(const TrainConfig& config, const Dataset& dataset,
                                                const RunProgress& progress) {
  const auto* blend = dynamic_cast<const BlendedDataset*>(&dataset);
  if (blend == nullptr) return {describe_files(dataset, config.dataset.path_or_dataset)};
  const auto [step, samples] = progress.began;  // the steps before may have had another batch
  const int64_t left = std::max<int64_t>(config.train.train_iters - step, 0);
  return blend->describe(samples + left * config.train.global_batch_size, progress.blend_start);
}

std::string row_names(const Dataset& dataset, const std::vector<int64_t>& rows) {
  if (dataset.parts().size() == 1) return fmt::format("{}", fmt::join(rows, ", "));
  std::vector<std::string> names;
  for (const int64_t row : rows) names.push_back(dataset.row_name(row, ""));
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace trestle
