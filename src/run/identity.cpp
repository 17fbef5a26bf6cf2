#include "run/identity.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/digest.h"
#include "base/error.h"
#include "bridge/load_quantized.h"
#include "checkpoint/config_difference.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"
#include "parallel/plan.h"
#include "run/sampled_weights.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kSmallModel = 64 << 20;
constexpr const char *kBlend = "dataset.blend", *kPath = "dataset.path_or_dataset";
constexpr const char *kBaseBits = "peft.base_bits", *kDenseBase = "16";

std::string_view bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

// `read(range)` gives rows.
template <class Read>
void add_tensor(Digest& digest, const std::string& name, const TensorInfo& info, bool whole,
                const Read& read) {
  digest.update(
      fmt::format("{} {} {};", name, at::toString(info.dtype), fmt::join(info.shape, "x")));
  for (const RowRange& range : sampled_rows(info, whole)) digest.update(bytes_of(read(range)));
}

bool must_stay(OnResume on_resume) {
  return on_resume == OnResume::kSame || on_resume == OnResume::kSameContent;
}

// Of the keys that a file may not have: those that came later.
std::map<std::string, std::string> defaults() {
  auto values = identity_of(TrainConfig{}, {}).values;
  values[kBaseBits] = kDenseBase;  // there was nothing else
  return values;
}

// What a key names, and what that holds; the digest is empty where it is not given.
struct Named {
  std::string value, digest;

  std::string text() const {
    return digest.empty() ? "not given"
                          : fmt::format("{}, SHA-256 {}", value, digest.substr(0, 12));
  }
};

// Of a key that must name the same content.
struct OtherContent {
  Named before, now;

  std::string text(const std::string& key) const {
    return fmt::format("{}{}{} (there: {})", key, now.digest.empty() ? " is " : "=", now.text(),
                       before.text());
  }
};

// One set in the place of several, or several in that of one: one difference, of two keys.
bool is_exchange(const OtherContent& one, const OtherContent& other) {
  return one.before.digest.empty() && other.now.digest.empty();
}

}  // namespace

bool RunIdentity::has_content(const std::string& key, const std::string& saved) const {
  const auto is_it = [&](const std::map<std::string, std::string>& all) {
    const auto found = all.find(key);
    return found != all.end() && found->second == saved;
  };
  return is_it(contents) || is_it(named_contents);
}

Json RunIdentity::to_json() const { return {{"values", values}, {"contents", contents}}; }

RunIdentity RunIdentity::from_json(const Json& json, std::string_view what) {
  const auto texts = [&](const char* name) {
    std::map<std::string, std::string> out;
    const auto found = json.is_object() ? json.find(name) : json.end();
    if (!json.is_object() || found == json.end() || !found->is_object()) {
      user_error("{}: what it says of its run has no {}; was it made by another trestle?", what,
                 name);
    }
    for (const auto& [key, value] : found->items()) {
      if (!value.is_string()) user_error("{}: {} of its run is no text", what, key);
      out[key] = value.get<std::string>();
    }
    return out;
  };
  return {texts("values"), texts("contents"), {}};
}

RunIdentity identity_of(const TrainConfig& config, std::map<std::string, std::string> contents) {
  RunIdentity identity{{}, std::move(contents), {}};
  for (const FieldText& each : list_fields(config)) {
    if (must_stay(each.on_resume)) identity.values[each.path] = each.value;
  }
  // A seed that nothing is drawn from tells no run from another.
  if (!config.draws()) identity.values["rng.seed"] = format_value(RngOptions{}.seed);
  return identity;
}

std::string settled_base_bits(const LoraConfig& peft, const OpenCheckpoint& base,
                              const RunIdentity* saved) {
  if (peft.base_bits == "fp8" && count_fp8(base.weights(), base.config()) == 0) {
    user_error("{}=fp8 has no effect: no projection of the base is in FP8; leave it out",
               kBaseBits);
  }
  if (peft.base_bits != "auto") return peft.base_bits;
  if (peft.scheme.empty() || peft.starts_with_pissa()) return kDenseBase;
  if (saved != nullptr) {
    const auto before = saved->values.find(kBaseBits);
    if (before == saved->values.end() || before->second == kDenseBase) return kDenseBase;
  }
  return count_fp8(base.weights(), base.config()) == 0 ? kDenseBase : "fp8";
}

std::set<std::string> require_same_run(const RunIdentity& saved, const RunIdentity& now,
                                       const std::set<std::string>& may_change,
                                       std::string_view from) {
  std::vector<std::string> differences, keys;
  std::set<std::string> without_difference = may_change;
  const auto differ = [&](const FieldText& field, const std::string& before,
                          const std::string& value) {
    if (without_difference.erase(field.path) > 0) return;
    differences.push_back(fmt::format("{}={} (there: {})", field.path, value.empty() ? "''" : value,
                                      before.empty() ? "''" : before));
    keys.push_back(field.path);
  };
  std::map<std::string, OtherContent> contents;
  static const std::map<std::string, std::string> kDefaults = defaults();
  for (const FieldText& field : list_fields(TrainConfig{})) {
    const std::string& path = field.path;
    if (!must_stay(field.on_resume)) continue;
    const std::string& value = now.values.at(path);
    const auto found = saved.values.find(path);
    const std::string& before = found == saved.values.end() ? kDefaults.at(path) : found->second;
    if (field.on_resume == OnResume::kSame && value != before) differ(field, before, value);
    if (field.on_resume != OnResume::kSameContent) continue;
    // Of what was never named there is no content.
    const auto content = [&](const RunIdentity& run, bool named) -> std::optional<std::string> {
      const auto at = run.contents.find(path);
      if (at != run.contents.end()) return at->second;
      return named ? std::nullopt : std::optional<std::string>("");
    };
    const auto named = [](const std::string& text) { return !text.empty() && text != "[]"; };
    const auto was = content(saved, named(before)), is = content(now, named(value));
    if (was && is && *was != *is && !now.has_content(path, *was))
      contents[path] = {{before, *was}, {value, *is}};
  }
  for (const auto& [one, other] : {std::pair{kBlend, kPath}, {kPath, kBlend}}) {
    if (!contents.contains(one) || !contents.contains(other)) continue;
    const OtherContent ours = contents[one], theirs = contents[other];
    if (!is_exchange(ours, theirs)) continue;
    const size_t allowed = without_difference.erase(one) + without_difference.erase(other);
    if (allowed == 0) {
      differences.push_back(
          fmt::format("{}={} (there: {}={})", one, ours.now.text(), other, theirs.before.text()));
      keys.emplace_back(one);
    }
    contents.erase(one);
    contents.erase(other);
  }
  for (const auto& [path, content] : contents) {
    if (without_difference.erase(path) > 0) continue;
    differences.push_back(content.text(path));
    keys.push_back(path);
  }
  if (differences.empty()) return without_difference;
  user_error(
      "checkpoint.load={} is of another run: {}; give it what it was made with, or let it be with "
      "--allow-change {}",
      from, fmt::join(differences, "; "), fmt::join(keys, " --allow-change "));
}

void require_changeable(const std::set<std::string>& may_change) {
  const std::vector<FieldText> fields = list_fields(TrainConfig{});
  for (const std::string& key : may_change) {
    const auto found = std::ranges::find(fields, key, &FieldText::path);
    if (found == fields.end()) unknown_key(key, fields);
    if (!must_stay(found->on_resume)) {
      user_error("--allow-change {} has no effect: a resumed run may have any value of it", key);
    }
  }
}

std::string content_of(const OpenCheckpoint& base) {
  Digest digest(Digest::Kind::kSha256);
  // What the config says that no weight does: each key on which shapes or arithmetic depend.
  for (const ConfigDifference& each : config_differences(base.config(), ModelConfig{})) {
    digest.update(fmt::format("{}={};", each.key, each.ours));
  }
  const TensorSource& source = base.weights();
  uint64_t bytes = 0;
  for (const auto& [name, info] : source.tensors()) bytes += size_of(info);
  for (const auto& [name, info] : source.tensors()) {
    add_tensor(digest, name, info, bytes <= kSmallModel,
               [&](RowRange range) { return read_range(source, name, range); });
  }
  // Tokenizer and processor: other ids and other pixels are another run.
  std::vector<fs::path> files = base.side_files();
  std::ranges::sort(files, {}, [](const fs::path& file) { return file.filename().string(); });
  for (const fs::path& file : files) add_content(digest, file, kMostBlocksOfFile);
  return digest.hex();
}

std::string content_of_adapters(const Ministral3& model) {
  Digest digest(Digest::Kind::kSha256);
  for (const auto& entry : model.named_parameters()) {
    if (!is_adapter_tensor(entry.key())) continue;
    const at::Tensor values = entry.value().detach().cpu().contiguous();
    add_tensor(digest, entry.key(), info_of(values), false, [&](RowRange range) {
      return values.dim() == 0 ? values : values.narrow(0, range.first, range.count);
    });
  }
  return digest.hex();
}

}  // namespace trestle
