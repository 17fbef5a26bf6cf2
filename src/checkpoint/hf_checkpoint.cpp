#include "checkpoint/hf_checkpoint.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "checkpoint/mistral_names.h"
#include "formats/fp8.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kParamsFile = "params.json";
constexpr const char* kTekkenFile = "tekken.json";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kScaleSuffix = "_scale_inv";

constexpr std::array kSideFiles = {
    "tokenizer.json",
    "tokenizer_config.json",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "SYSTEM_PROMPT.txt",
    "CHAT_SYSTEM_PROMPT.txt",
};

// The files of a directory, by how they are spelled.
struct FileNames {
  const char* config;
  const char* stem;
  std::string single() const { return fmt::format("{}.safetensors", stem); }
  std::string index() const { return fmt::format("{}.safetensors.index.json", stem); }
};

FileNames file_names(HfSpelling spelling) {
  return spelling == HfSpelling::kMistral ? FileNames{kParamsFile, "consolidated"}
                                          : FileNames{"config.json", "model"};
}

// Mistral's readers know tekken.json and the prompts; Hugging Face's all but params.json.
bool belongs(const fs::path& file, HfSpelling spelling) {
  const std::string name = file.filename().string();
  if (spelling != HfSpelling::kMistral) return name != kParamsFile;
  return name == kTekkenFile || name.ends_with("SYSTEM_PROMPT.txt");
}

// Replaces the prefix in place; false where it is another.
bool swap_prefix(std::string& name, std::string_view from, std::string_view to) {
  if (!name.starts_with(from)) return false;
  name.replace(0, from.size(), to);
  return true;
}

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

bool is_float8(at::ScalarType dtype) {
  return c10::elementSize(dtype) == 1 && at::isFloatingType(dtype);
}

std::string place(const SafetensorsFile& file, const std::string& name) {
  return fmt::format("{}: tensor {}", file.path().string(), name);
}

bool equal_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

}  // namespace

std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  const MappedFile file(path);
  const nlohmann::json index = parse_tensor_json(file.text(), path.string());
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    user_error("{}: weight_map is missing or empty", path.string());
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string())
      user_error("{}: tensor {}: its file is not a string", path.string(), name);
    const auto shard_name = shard.get<std::string>();
    if (shard_name != fs::path(shard_name).filename() || shard_name == ".." || shard_name == "." ||
        shard_name.empty()) {
      user_error("{}: tensor {}: file '{}' is not a plain name in the same directory",
                 path.string(), name, shard_name);
    }
    shard_of.emplace(name, shard_name);
  }
  return shard_of;
}

std::string canonical_name(std::string_view name) {
  std::string result(name);
  swap_prefix(result, "language_model.model.", "model.") ||
      swap_prefix(result, "language_model.lm_head.", "lm_head.") ||
      swap_prefix(result, "model.language_model.", "model.") ||
      swap_prefix(result, "model.vision_tower.", "vision_tower.") ||
      swap_prefix(result, "model.multi_modal_projector.", "multi_modal_projector.");
  return result;
}

std::string spelled_name(const std::string& canonical, HfSpelling spelling) {
  std::string result = canonical;
  switch (spelling) {
    case HfSpelling::kLanguageModelFirst:
      swap_prefix(result, "model.", "language_model.model.") ||
          swap_prefix(result, "lm_head.", "language_model.lm_head.");
      break;
    case HfSpelling::kModelFirst:
      swap_prefix(result, "model.", "model.language_model.") ||
          swap_prefix(result, "vision_tower.", "model.vision_tower.") ||
          swap_prefix(result, "multi_modal_projector.", "model.multi_modal_projector.");
      break;
    case HfSpelling::kTextOnly:
      break;
    case HfSpelling::kMistral:
      if (const auto name = mistral_of_canonical(canonical)) return *name;
      break;
  }
  return result;
}

HfCheckpoint::HfCheckpoint(const fs::path& directory) : directory_(directory) {
  require_directory(directory_, "Hugging Face model");
  config_json_ = read_json(directory_ / file_names(spelling_).config);
  open();
}

HfCheckpoint::HfCheckpoint(const fs::path& directory, HfSpelling spelling, Json config_json)
    : directory_(directory), config_json_(std::move(config_json)), spelling_(spelling) {
  open();
}

void HfCheckpoint::open() {
  side_files(directory_);  // what cannot be carried on is refused before the weights are
  const std::string config_path = (directory_ / file_names(spelling_).config).string();
  config_ = parse_hf_config(config_json_, config_path);
  fp8_block_ = stated_fp8_block(config_json_, config_path);
  open_shards();
  collect_tensors();
  settle_tie();
}

void HfCheckpoint::open_shards() {
  const FileNames names = file_names(spelling_);
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
  for (auto& [canonical, stored] : stored_) {
    TensorInfo shown = stored.info;
    const auto scale = scales.extract(canonical);
    if (stored.info.dtype == at::kFloat8_e4m3fn) {
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
    } else if (is_float8(stored.info.dtype)) {
      user_error("{} is {}; of the FP8 types only F8_E4M3 is read",
                 place(*stored.file, stored.name), describe(stored.info));
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
}

void HfCheckpoint::settle_tie() {
  const std::optional<bool> stated = stated_tie(config_json_);
  const bool has_head = stored_.contains(kHead);
  const bool mistral = spelling_ == HfSpelling::kMistral;
  const std::string flag =
      fmt::format("{}: {}", (directory_ / file_names(spelling_).config).string(),
                  mistral ? "tied_embeddings" : "tie_word_embeddings");
  if (stated == false && !has_head) {
    user_error("{}=false but {} holds no {}; set it to true or add the tensor", flag,
               directory_.string(), mistral ? spelled_name(kHead, spelling_) : kHead);
  }
  bool tied = stated.value_or(!has_head);
  // Where the flags leave it open, or say tied, a head equal to the embedding is only a copy of it.
  if (stated != false && has_head && stored_.contains(kEmbedding)) {
    tied = equal_bytes(read(kHead), read(kEmbedding));
    if (stated == true && !tied) {
      const HfStored& head = stored_.at(kHead);
      user_error("{}=true but {} differs from {}; set it to false{}", flag,
                 place(*head.file, head.name), stored_.at(kEmbedding).name,
                 mistral ? "" : " at both levels");
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

bool is_side_file(std::string_view name) {
  return std::ranges::find(kSideFiles, name) != kSideFiles.end();
}

std::vector<fs::path> side_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const char* name : kSideFiles) {
    if (has_file(directory / name)) files.push_back(directory / name);
  }
  const fs::path params = directory / kParamsFile;
  if (has_file(params) && !has_file(directory / "config.json")) files.push_back(params);
  return files;
}

HfWriter::HfWriter(const fs::path& directory, const TensorList& tensors, const Json& config,
                   const std::vector<fs::path>& side_files, Options options)
    : options_(options), output_(directory, options.replace) {
  const bool mistral = options_.spelling == HfSpelling::kMistral;
  if (mistral && std::ranges::none_of(side_files, [](const fs::path& file) {
        return file.filename() == kTekkenFile;
      })) {
    user_error(
        "{}: Mistral's form needs the vocabulary as tekken.json, and the source has none; give a "
        "source that does",
        directory.string());
  }
  write_json(output_.path() / file_names(options_.spelling).config, config);
  for (const fs::path& source : side_files) {
    if (!belongs(source, options_.spelling)) continue;
    const MappedFile file(source);
    write_text(output_.path() / source.filename(), file.text());
  }
  plan_shards(tensors);
}

void HfWriter::plan_shards(const TensorList& tensors) {
  uint64_t shard_bytes = 0;
  for (const auto& [canonical, info] : tensors) {
    const auto bytes = byte_size(info);
    TORCH_CHECK(bytes, canonical, ": ", describe(info), " has no size");
    if (shards_.empty() || (shard_bytes > 0 && shard_bytes + *bytes > options_.max_shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    const std::string name = spelled_name(canonical, options_.spelling);
    TORCH_CHECK(shard_of_.emplace(name, shards_.size() - 1).second, name, " is listed twice");
    shards_.back().tensors.emplace_back(name, info);
    ++shards_.back().unwritten;
    shard_bytes += *bytes;
    total_bytes_ += *bytes;
  }
  const FileNames names = file_names(options_.spelling);
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].path =
        output_.path() / (shards_.size() == 1 ? names.single()
                                              : fmt::format("{}-{:05}-of-{:05}.safetensors",
                                                            names.stem, i + 1, shards_.size()));
  }
}

HfWriter::Shard& HfWriter::open_shard(const std::string& spelled) {
  const auto found = shard_of_.find(spelled);
  TORCH_CHECK(found != shard_of_.end(), spelled, " is not in the list");
  Shard& shard = shards_[found->second];
  TORCH_CHECK(shard.unwritten > 0, spelled, " was written before");
  if (!shard.writer) shard.writer = std::make_unique<SafetensorsWriter>(shard.path, shard.tensors);
  return shard;
}

void HfWriter::close_if_full(Shard& shard) {
  if (--shard.unwritten > 0) return;
  shard.writer->commit();
  shard.writer.reset();
}

void HfWriter::write(const std::string& canonical, const at::Tensor& tensor) {
  const std::string name = spelled_name(canonical, options_.spelling);
  Shard& shard = open_shard(name);
  shard.writer->write(name, tensor);
  close_if_full(shard);
}

void HfWriter::write_rows(const std::string& canonical, std::span<const std::byte> rows) {
  const std::string name = spelled_name(canonical, options_.spelling);
  Shard& shard = open_shard(name);
  if (shard.writer->write_rows(name, rows)) close_if_full(shard);
}

void HfWriter::write_index() const {
  nlohmann::json index;
  index["metadata"]["total_size"] = total_bytes_;
  for (const auto& [name, shard] : shard_of_) {
    index["weight_map"][name] = shards_[shard].path.filename().string();
  }
  write_text(output_.path() / file_names(options_.spelling).index(), index.dump(2) + "\n");
}

fs::path HfWriter::finish() {
  for (const Shard& shard : shards_) {
    TORCH_CHECK(shard.unwritten == 0, shard.unwritten, " tensors of ",
                shard.path.filename().string(), " were not written");
  }
  if (shards_.size() > 1) write_index();
  return output_.path();
}

void HfWriter::commit() {
  finish();
  output_.commit();
}

}  // namespace trestle
