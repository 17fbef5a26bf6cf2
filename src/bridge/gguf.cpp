#include "bridge/gguf.h"

#include <ATen/ATen.h>

#include <memory>
#include <span>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/file.h"
#include "bridge/copy.h"
#include "bridge/gguf_metadata.h"
#include "bridge/gguf_names.h"
#include "bridge/views.h"
#include "checkpoint/mistral_names.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kUuidKey = "general.uuid";
constexpr const char* kNoUuid = "00000000-0000-0000-0000-000000000000";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

// A UUID of version 8, which RFC 9562 leaves to the application, of a SHA-256.
std::string uuid_of(const std::string& hex) {
  return fmt::format("{}-{}-8{}-8{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(13, 3),
                     hex.substr(17, 3), hex.substr(20, 12));
}

int64_t file_type(GgmlType type) {  // llama.cpp's LLAMA_FTYPE_MOSTLY_*
  if (type == GgmlType::kF16) return 1;
  return type == GgmlType::kQ8_0 ? 7 : 32;
}

GgufMetadata general(const char* architecture, const char* kind, const GgufOptions& options) {
  GgufMetadata keys;
  keys.set_text("general.architecture", architecture);
  keys.set_text("general.type", kind);
  keys.set_text("general.name", options.name);
  keys.set_text(kUuidKey, kNoUuid);
  keys.set_uint32("general.file_type", file_type(options.type));
  keys.set_uint32("general.quantization_version", 2);
  return keys;
}

// Both files, filled side by side.
class GgufPair {
 public:
  GgufPair(const TensorSource& source, const ModelConfig& config, const GgufAssets& assets,
           const GgufOptions& options)
      : source_(source), config_(config) {
    language_keys_ = general("mistral3", "model", options);
    language_keys_.append(gguf_language_metadata(config.text));
    language_keys_.append(assets.tokenizer);
    if (assets.tokenizer.empty()) language_keys_.set_text("tokenizer.ggml.model", "none");
    if (!config.vision) return;
    vision_keys_ = general("clip", "mmproj", options);
    vision_keys_.append(gguf_vision_metadata(config, assets));
  }

  void list(const TensorList& tensors, GgmlType type) {
    for (const auto& [hf, info] : tensors) {
      if (!gguf_uses(hf, config_)) continue;
      const std::string name = gguf_name(hf);
      (is_gguf_vision(hf) ? vision_tensors_ : language_tensors_)
          .push_back({name, info.shape, gguf_stored_type(name, info.shape, type)});
    }
    if (config_.vision) {
      vision_tensors_.push_back({kGgufRowBreak, {config_.text.hidden_size}, GgmlType::kF32});
    }
  }
  uint64_t bytes() const { return gguf_bytes(language_tensors_) + gguf_bytes(vision_tensors_); }

  void open(const GgufFiles& files, const GgufAssets& assets) {
    language_ = std::make_unique<GgufWriter>(files.language, language_keys_, language_tensors_);
    if (!files.mmproj) return;
    vision_ = std::make_unique<GgufWriter>(*files.mmproj, vision_keys_, vision_tensors_);
    vision_->write(kGgufRowBreak, read_range(source_, kEmbedding, {*assets.image_break_id, 1})[0]);
  }

  void write_rows(const std::string& hf, std::span<const std::byte> rows) {
    fingerprint_.update({reinterpret_cast<const char*>(rows.data()), rows.size()});
    if (!gguf_uses(hf, config_)) return;
    (is_gguf_vision(hf) ? *vision_ : *language_)
        .write_rows(gguf_name(hf), source_.tensors().at(hf).dtype, rows);
  }

  // The files at their temporary places.
  GgufFiles finish() {
    const std::string uuid = uuid_of(fingerprint_.hex());
    language_->replace_text(kUuidKey, uuid);
    if (vision_) vision_->replace_text(kUuidKey, uuid);
    return {.language = language_->finish(),
            .mmproj = vision_ ? std::optional(vision_->finish()) : std::nullopt,
            .uuid = uuid,
            .done = {}};
  }
  void commit() {
    if (vision_) vision_->commit();
    language_->commit();
  }

 private:
  const TensorSource& source_;
  const ModelConfig& config_;
  GgufMetadata language_keys_, vision_keys_;
  std::vector<GgufTensor> language_tensors_, vision_tensors_;
  std::unique_ptr<GgufWriter> language_, vision_;
  // Of the weights as the source has them.
  Digest fingerprint_{Digest::Kind::kSha256};
};

}  // namespace

GgufFiles export_gguf(const TensorSource& megatron, const ModelConfig& config,
                      const GgufAssets& assets, const fs::path& directory,
                      const GgufOptions& options, const ConvertOptions& convert) {
  const MegatronAsHf view(megatron, config);
  // llama.cpp's rotation turns neighbouring rows of a head, as Mistral's own files have them.
  const MistralRows source(view, config);
  TensorList list;
  for (const std::string& hf : view.order()) list.emplace_back(hf, view.tensors().at(hf));
  GgufPair pair(source, config, assets, options);
  pair.list(list, options.type);

  const std::string file = fmt::format("{}-{}.gguf", options.name, ggml_layout(options.type).name);
  GgufFiles result{.language = directory / file, .mmproj = {}, .uuid = {}, .done = {}};
  if (config.vision) result.mmproj = directory / ("mmproj-" + file);
  for (const fs::path& each : {result.language, result.mmproj.value_or(result.language)}) {
    if (is_there(each)) {
      user_error("{} exists; remove it or name another directory", each.string());
    }
  }
  const auto open = [&] {
    pair.open(result, assets);
    return &pair;
  };
  result.done = copy_all(source, list, directory, convert, open, pair.bytes()).done;
  const GgufFiles finished = pair.finish();
  result.uuid = finished.uuid;
  if (options.verify) options.verify(finished);
  pair.commit();
  return result;
}

}  // namespace trestle
