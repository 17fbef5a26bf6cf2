#include "checkpoint/hf_checkpoint.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "checkpoint/mistral_names.h"
#include "formats/fp8.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kScaleSuffix = "_scale_inv";

// Static quantization's scales of activations and of the cache, and rope tables that old files
// carry: transformers drops them too.
bool is_ignored(std::string_view name) {
  if (name.find("fake_quantizer") != std::string_view::npos) return true;
  for (const std::string_view suffix :
       {".activation_scale", ".input_scale", ".qscale_act", ".rotary_emb.inv_freq",
        ".patch_positional_embedding.inv_freq"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

bool is_read_as_weight(const TensorInfo& info) {
  const bool is_float8 = c10::elementSize(info.dtype) == 1;
  return at::isFloatingType(info.dtype) && !is_float8;
}

std::string place(const SafetensorsFile& file, const std::string& name) {
  return fmt::format("{}: tensor {}", file.path().string(), name);
}

bool equal_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

}  // namespace

HfCheckpoint::HfCheckpoint(const fs::path& directory) : directory_(directory) {
  require_directory(directory_, "Hugging Face model");
  config_json_ = read_json(directory_ / hf_file_names(spelling_).config);
  open();
}

HfCheckpoint::HfCheckpoint(const fs::path& directory, HfSpelling spelling, Json config_json)
    : directory_(directory), config_json_(std::move(config_json)), spelling_(spelling) {
  open();
}

void HfCheckpoint::open() {
  side_files(directory_);  // what cannot be carried on is refused before the weights are
  const std::string config_path = (directory_ / hf_file_names(spelling_).config).string();
  config_ = parse_hf_config(config_json_, config_path);
  fp8_block_ = stated_fp8_block(config_json_, config_path);
  open_shards();
  collect_tensors();
  settle_tie();
}

void HfCheckpoint::open_shards() {
  const HfFileNames names = hf_file_names(spelling_);
  if (is_there(directory_ / names.single())) {
    files_.push_back(std::make_unique<SafetensorsFile>(directory_ / names.single()));
    return;
  }
  const fs::path index_path = directory_ / names.index();
  if (!is_there(index_path)) {
    user_error("{} holds neither {} nor {}; is the download complete?", directory_.string(),
               names.single(), names.index());
  }
  const std::map<std::string, std::string> shard_of = read_weight_map(index_path);
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [name, shard] : shard_of) {
    if (opened.contains(shard)) continue;
    if (!is_there(directory_ / shard)) {
      user_error("{}: tensor {} should lie in {}, which does not exist", index_path.string(), name,
                 shard);
    }
    files_.push_back(std::make_unique<SafetensorsFile>(directory_ / shard));
    opened.emplace(shard, files_.back().get());
  }
  for (const auto& [name, shard] : shard_of) {
    if (!opened.at(shard)->tensors().contains(name)) {
      user_error("{}: tensor {} should lie in {}, which does not hold it", index_path.string(),
                 name, shard);
    }
  }
  for (const auto& [shard, file] : opened) {
    for (const auto& [name, info] : file->tensors()) {
      const auto found = shard_of.find(name);
      if (found == shard_of.end() || found->second != shard) {
        user_error("{}: {} holds tensor {}, which the index {}", index_path.string(), shard, name,
                   found == shard_of.end() ? "does not name" : "places in " + found->second);
      }
    }
  }
}

void HfCheckpoint::require_weights() const {
  if (not_weights_.empty()) return;
  const HfStored& first = not_weights_.front();
  throw NoWeights(fmt::format(
      "{} is {}, a type that no weight is read of; take a checkpoint in F8_E4M3, BF16, F16 or F32",
      place(*first.file, first.name), describe(first.info)));
}

void HfCheckpoint::collect_tensors() {
  const bool mistral = spelling_ == HfSpelling::kMistral;
  std::map<std::string, HfStored> scales;  // by the canonical name of their weight
  for (const auto& file : files_) {
    for (const auto& [name, info] : file->tensors()) {
      if (is_ignored(name)) continue;
      const auto native = mistral ? canonical_of_mistral(name) : std::nullopt;
      if (mistral && !native) {
        user_error("{} has no place in Mistral's form", place(*file, name));
      }
      std::string canonical = native ? *native : canonical_name(name);
      if (!mistral && name.starts_with("language_model.")) {
        spelling_ = HfSpelling::kLanguageModelFirst;
      }
      if (!mistral && name.starts_with("model.language_model.")) {
        spelling_ = HfSpelling::kModelFirst;
      }
      const bool is_scale = canonical.ends_with(kScaleSuffix);
      if (is_scale) canonical.resize(canonical.size() - kScaleSuffix.size());
      auto& target = is_scale ? scales : stored_;
      const auto [other, added] = target.emplace(canonical, HfStored{file.get(), name, info});
      if (!added) {
        user_error("{} is the same tensor as {} in {}; keep one of them", place(*file, name),
                   other->second.name, other->second.file->path().string());
      }
    }
  }
  settle_scales(std::move(scales));
}

void HfCheckpoint::settle_scales(std::map<std::string, HfStored> scales) {
  std::map<std::string, HfStored> plain;  // scales of what is not read as a weight
  for (auto& [canonical, stored] : stored_) {
    TensorInfo shown = stored.info;
    const auto scale = scales.extract(canonical);
    const bool fp8 = stored.info.dtype == at::kFloat8_e4m3fn;
    if (fp8 && (scale.empty() || scale.mapped().info.packed == nullptr)) {
      if (scale.empty()) {
        user_error("{} is FP8 but has no {}; without its scale the weight is meaningless",
                   place(*stored.file, stored.name),
                   spelled_name(canonical + std::string(kScaleSuffix), spelling_));
      }
      stored.scale_file = scale.mapped().file;
      stored.scale_name = scale.mapped().name;
      fp8_block(stored.info.shape, scale.mapped().info.shape, fp8_block_,
                place(*stored.file, stored.name));
      shown.dtype = at::kBFloat16;
    } else if (!is_read_as_weight(stored.info)) {
      if (!fp8) not_weights_.push_back(stored);  // else its scale is none
      if (!scale.empty()) plain.emplace(canonical + std::string(kScaleSuffix), scale.mapped());
    } else if (!scale.empty()) {
      user_error("{} is {} but has a scale, {}; only FP8 weights are scaled",
                 place(*stored.file, stored.name), describe(stored.info), scale.mapped().name);
    }
    tensors_.emplace(canonical, std::move(shown));
  }
  if (!scales.empty()) {
    const HfStored& scale = scales.begin()->second;
    user_error("{} is the scale of a weight that is not there", place(*scale.file, scale.name));
  }
  for (const auto& [canonical, scale] : plain) {
    if (!is_read_as_weight(scale.info)) not_weights_.push_back(scale);
    stored_.emplace(canonical, scale);
    tensors_.emplace(canonical, scale.info);
  }
}

namespace {

// In words, and not by a default: transformers writes true at the top for whatever had no flag
// there, and false below it.
bool says_tied(const Json& config) {
  const auto says = [](const Json& level, bool value) {
    const auto found = level.find("tie_word_embeddings");
    return found != level.end() && *found == value;
  };
  const auto text = config.find("text_config");
  if (text == config.end()) return says(config, true);
  return says(*text, true) || (says(config, true) && !says(*text, false));
}

}  // namespace

void HfCheckpoint::settle_tie() {
  if (!not_weights_.empty()) return;  // it is no model, whatever its embeddings are
  const std::optional<bool> stated = stated_tie(config_json_);
  const bool has_head = stored_.contains(kHead);
  const bool mistral = spelling_ == HfSpelling::kMistral;
  const std::string flag =
      fmt::format("{}: {}", (directory_ / hf_file_names(spelling_).config).string(),
                  mistral ? "tied_embeddings" : "tie_word_embeddings");
  if (stated == false && !has_head) {
    user_error("{}=false but {} holds no {}; set it to true or add the tensor", flag,
               directory_.string(), mistral ? spelled_name(kHead, spelling_) : kHead);
  }
  bool tied = !has_head;
  if (has_head && stated == true && stored_.contains(kEmbedding)) {
    // A head equal to the embedding is only a copy of it.
    tied = equal_bytes(read(kHead), read(kEmbedding));
    const HfStored& head = stored_.at(kHead);
    const std::string& embedding = stored_.at(kEmbedding).name;
    if (!tied && mistral) {
      user_error("{}=true but {} differs from {}; set it to false", flag,
                 place(*head.file, head.name), embedding);
    }
    if (!tied && says_tied(config_json_)) {
      fmt::print(stderr, "{}=true but {} differs from {}: taken as untied, as transformers does\n",
                 flag, place(*head.file, head.name), embedding);
    }
  }
  config_.text.tie_word_embeddings = tied;
  if (tied) tensors_.erase(kHead);
}

const HfStored& HfCheckpoint::stored(const std::string& name) const {
  const auto found = stored_.find(name);
  if (found == stored_.end()) user_error("{} has no tensor {}", directory_.string(), name);
  return found->second;
}

at::Tensor HfCheckpoint::read(const std::string& name) const {
  const HfStored& entry = stored(name);
  at::Tensor tensor = entry.file->read(entry.name);
  if (entry.scale_file == nullptr) return tensor;
  return dequantize_fp8(tensor, entry.scale_file->read(entry.scale_name), fp8_block_,
                        place(*entry.file, entry.name));
}

void HfCheckpoint::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const HfStored& entry = stored(name);
  if (entry.scale_file == nullptr) {
    entry.file->read_rows(entry.name, range, out);
    return;
  }
  // Kept between calls: fresh pages for every block cost more than the arithmetic.
  thread_local std::vector<std::byte> codes;
  codes.resize(entry.info.row_bytes() * static_cast<uint64_t>(range.count));
  entry.file->read_rows(entry.name, range, codes.data());
  // Not through the map: a page of each scale would be counted as held, with what lies around it.
  const at::Tensor scale = read_all_rows(*entry.scale_file, entry.scale_name);
  dequantize_fp8_rows(codes.data(), range, entry.info.shape, scale, fp8_block_,
                      place(*entry.file, entry.name), reinterpret_cast<at::BFloat16*>(out));
}

std::optional<Fp8Scales> HfCheckpoint::fp8_scales(const std::string& name) const {
  const HfStored& entry = stored(name);
  if (entry.scale_file == nullptr || entry.info.shape.size() != 2) return {};
  return fp8_scales_of(entry.info.shape, read_all_rows(*entry.scale_file, entry.scale_name),
                       fp8_block_, place(*entry.file, entry.name));
}

void HfCheckpoint::read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const {
  const HfStored& entry = stored(name);
  entry.file->read_rows(entry.name, range, out);
}

}  // namespace trestle
