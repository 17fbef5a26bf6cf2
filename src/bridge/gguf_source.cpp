#include "bridge/gguf_source.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/paths.h"
#include "bridge/gguf_metadata.h"
#include "bridge/gguf_names.h"
#include "bridge/table.h"
#include "checkpoint/config_foreign.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/mistral_names.h"
#include "formats/safetensors.h"
#include "megatron/checkpoint.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// The keys of one file, refused by name.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}

  const GgufValue* find(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    return found == file_.metadata().end() ? nullptr : &found->second;
  }
  int64_t integer(const std::string& key) const { return of<int64_t>(key, &GgufValue::integer); }
  double number(const std::string& key) const { return of<double>(key, &GgufValue::number); }
  std::optional<double> number_if(const std::string& key) const {
    return find(key) ? std::optional(number(key)) : std::nullopt;
  }
  std::string text(const std::string& key) const {
    return std::string(of<std::string_view>(key, &GgufValue::text));
  }

 private:
  template <class T>
  T of(const std::string& key, std::optional<T> (GgufValue::*get)() const) const {
    const GgufValue* value = find(key);
    if (value == nullptr) user_error("{}: the key {} is missing", file_.path().string(), key);
    const std::optional<T> result = (value->*get)();
    if (!result) {
      user_error("{}: {}={} is of another kind", file_.path().string(), key, value->describe());
    }
    return *result;
  }
  const GgufFile& file_;
};

Json rope_of(const Keys& keys) {
  Json rope = {{"rope_theta", keys.number("mistral3.rope.freq_base")}, {"rope_type", "default"}};
  const std::string scaling = "mistral3.rope.scaling.";
  if (keys.find(scaling + "original_context_length")) {
    rope["original_max_position_embeddings"] = keys.integer(scaling + "original_context_length");
  }
  if (keys.find("mistral3.attention.temperature_scale")) {
    rope["llama_4_scaling_beta"] = keys.number("mistral3.attention.temperature_scale");
  }
  if (!keys.find(scaling + "type") || keys.text(scaling + "type") != "yarn") return rope;
  rope["rope_type"] = "yarn";
  rope["factor"] = keys.number(scaling + "factor");
  rope["beta_fast"] = keys.number_if(scaling + "yarn_beta_fast").value_or(32);
  rope["beta_slow"] = keys.number_if(scaling + "yarn_beta_slow").value_or(1);
  if (const auto stated = keys.number_if(scaling + "attn_factor")) {
    rope["attention_factor"] = *stated;
  } else if (const double all = keys.number_if(scaling + "yarn_log_multiplier").value_or(0);
             all != 0) {
    rope["mscale"] = 1.0;
    rope["mscale_all_dim"] = all;
  }
  return rope;
}

Json text_of(const Keys& keys, bool tied) {
  const std::string p = "mistral3.";
  Json rope = rope_of(keys);
  const char* type = rope.contains("llama_4_scaling_beta") ? "ministral3" : "mistral";
  return {{"model_type", type},
          {"vocab_size", keys.integer(p + "vocab_size")},
          {"max_position_embeddings", keys.integer(p + "context_length")},
          {"hidden_size", keys.integer(p + "embedding_length")},
          {"num_hidden_layers", keys.integer(p + "block_count")},
          {"intermediate_size", keys.integer(p + "feed_forward_length")},
          {"num_attention_heads", keys.integer(p + "attention.head_count")},
          {"num_key_value_heads", keys.integer(p + "attention.head_count_kv")},
          {"head_dim", keys.integer(p + "attention.key_length")},
          {"rms_norm_eps", keys.number(p + "attention.layer_norm_rms_epsilon")},
          {"tie_word_embeddings", tied},
          {"sliding_window", nullptr},
          {"rope_parameters", std::move(rope)}};
}

Json vision_of(const Keys& keys) {
  const std::string p = "clip.vision.";
  return {{"model_type", "pixtral"},
          {"hidden_size", keys.integer(p + "embedding_length")},
          {"intermediate_size", keys.integer(p + "feed_forward_length")},
          {"num_hidden_layers", keys.integer(p + "block_count")},
          {"num_attention_heads", keys.integer(p + "attention.head_count")},
          {"patch_size", keys.integer(p + "patch_size")},
          {"image_size", keys.integer(p + "image_size")},
          {"hidden_act", keys.find("clip.use_silu") ? "silu" : "gelu"},
          {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}}};
}

// The id of [IMG], which only the list of tokens tells.
int64_t image_token(const GgufFile& language) {
  constexpr int64_t kUsual = 10;
  const auto found = language.metadata().find("tokenizer.ggml.tokens");
  const auto tokens = found == language.metadata().end() ? std::nullopt : found->second.texts();
  if (!tokens) return kUsual;
  const auto image = std::ranges::find(*tokens, "[IMG]");
  return image == tokens->end() ? kUsual : image - tokens->begin();
}

// By the architecture's name, or by the key that llama.cpp's dense architectures have for them too.
void refuse_experts(const Keys& keys, const std::string& path, const std::string& architecture) {
  if (const auto name = mixture_of_experts(architecture)) {
    user_error(
        "{}: general.architecture={} is {}, a mixture of experts; only dense models are "
        "supported",
        path, architecture, *name);
  }
  const std::string key = architecture + ".expert_count";
  if (keys.find(key) && keys.integer(key) != 0) {
    user_error(
        "{}: {}={} makes it a mixture of experts, which is not supported; only dense models "
        "are",
        path, key, keys.integer(key));
  }
}

void require_architecture(const GgufFile& file, const char* wanted) {
  const std::string name = Keys(file).text("general.architecture");
  refuse_experts(Keys(file), file.path().string(), name);
  if (name != wanted) {
    user_error("{}: general.architecture is {}; this is read of {} only", file.path().string(),
               name, wanted);
  }
}

bool is_mmproj(const fs::path& path) { return path.filename().string().starts_with("mmproj"); }

std::vector<fs::path> gguf_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator each(directory, error), end; !error && each != end;
       each.increment(error)) {
    if (each->path().extension() == ".gguf") files.push_back(each->path());
  }
  return files;
}

}  // namespace

GgufSource::GgufSource(const fs::path& language, const std::optional<fs::path>& mmproj)
    : language_(std::make_unique<GgufFile>(language)) {
  require_architecture(*language_, "mistral3");
  const bool tied = !language_->tensors().contains("output.weight");
  Json config = text_of(Keys(*language_), tied);
  if (mmproj) {
    vision_ = std::make_unique<GgufFile>(*mmproj);
    require_architecture(*vision_, "clip");
    config = {{"model_type", "mistral3"},
              {"architectures", {"Mistral3ForConditionalGeneration"}},
              {"text_config", std::move(config)},
              {"vision_config", vision_of(Keys(*vision_))},
              {"spatial_merge_size", Keys(*vision_).integer("clip.vision.spatial_merge_size")},
              {"projector_hidden_act", "gelu"},
              {"multimodal_projector_bias", vision_->tensors().contains("mm.1.bias")},
              {"vision_feature_layer", -1},
              {"image_token_index", image_token(*language_)},
              {"tie_word_embeddings", tied}};
  } else {
    config["architectures"] = {"Ministral3ForCausalLM"};
  }
  config_ = parse_hf_config(config, language.string());
  for (const Mapping& mapping : mappings(config_)) {
    for (size_t part = 0; part < mapping.hf.size(); ++part) {
      const std::string& hf = mapping.hf[part];
      const GgufFile* file = is_gguf_vision(hf) ? vision_.get() : language_.get();
      const std::string name = gguf_name(hf);
      const auto found = file->tensors().find(name);
      if (found == file->tensors().end()) {
        user_error("{} has no tensor {}", file->path().string(), name);
      }
      if (found->second.shape != mapping.hf_shape(part)) {
        user_error("{}: tensor {} is {}, which is not what its keys say", file->path().string(),
                   name, describe(found->second));
      }
      places_[hf] = {file, name};
      tensors_[hf] = found->second;
    }
  }
  require_no_more(*language_);
  if (vision_) require_no_more(*vision_);
}

// As llama.cpp, which does not run a file with a tensor that it has no use for.
void GgufSource::require_no_more(const GgufFile& file) const {
  for (const auto& [name, info] : file.tensors()) {
    const bool used = std::ranges::any_of(places_, [&, &name = name](const auto& each) {
      return each.second.file == &file && each.second.name == name;
    });
    if (!used && name != kGgufRowBreak && name != "rope_freqs.weight") {
      user_error("{}: tensor {} {} has no place in the model that the keys describe",
                 file.path().string(), name, describe(info));
    }
  }
}

GgufSource GgufSource::open(const fs::path& path) {
  fs::path language = path;
  if (fs::is_directory(path)) {
    std::vector<fs::path> models = gguf_files(path);
    std::erase_if(models, is_mmproj);
    if (models.size() != 1) {
      user_error("{} holds {} language models in GGUF; name the file to read", path.string(),
                 models.size());
    }
    language = models.front();
  }
  const fs::path mmproj = language.parent_path() / ("mmproj-" + language.filename().string());
  return {language, is_there(mmproj) ? std::optional(mmproj) : std::nullopt};
}

at::Tensor GgufSource::read(const std::string& name) const {
  const auto& [file, stored] = places_.at(name);
  const at::Tensor tensor = file->read(stored);
  const auto heads = rotary_heads(name, config_);
  return heads ? halves_from_pairs(tensor, *heads, stored).contiguous() : tensor;
}

void GgufSource::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto& [file, stored] = places_.at(name);
  const auto read = [&, file = file, &stored = stored](RowRange rows, std::byte* to) {
    file->read_rows(stored, rows, to);
  };
  const auto heads = rotary_heads(name, config_);
  if (!heads) return read(range, out);
  read_moved_rows(tensors_.at(name), *heads, halves_from_pairs, range, out, read, stored);
}

GgufRounded::GgufRounded(const TensorSource& source, const ModelConfig& config, GgmlType type)
    : source_(source) {
  for (const auto& [hf, info] : source.tensors()) {
    if (!gguf_uses(hf, config)) continue;
    types_[hf] = gguf_stored_type(gguf_name(hf), info.shape, type);
    tensors_[hf] = {ggml_dtype(types_[hf]), info.shape};
  }
}

void GgufRounded::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const GgmlType type = types_.at(name);
  at::Tensor values = read_range(source_, name, range).view(-1);
  const GgmlLayout& layout = ggml_layout(type);
  std::vector<std::byte> encoded(static_cast<size_t>(values.numel() / layout.block * layout.bytes));
  ggml_encode(values, type, encoded);
  if (type == GgmlType::kQ8_0) values = ggml_decode_q8_0(encoded);
  std::memcpy(out, type == GgmlType::kQ8_0 ? values.const_data_ptr() : encoded.data(),
              type == GgmlType::kQ8_0 ? values.nbytes() : encoded.size());
}

bool is_gguf_model(const fs::path& path) {
  const std::string_view kind = kind_of(path);
  if (kind == "a regular file") return is_gguf(path);
  return kind == "a directory" && !gguf_files(path).empty() && !is_there(path / "config.json") &&
         !is_there(path / "params.json") && !is_megatron_checkpoint(path);
}

}  // namespace trestle
