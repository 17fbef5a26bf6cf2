#include "hub/files.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/hf_layout.h"

namespace trestle {

namespace {

constexpr size_t kMaxName = 96;  // as huggingface_hub has it
constexpr size_t kMaxRevision = 200;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_word(char c) { return is_alphanumeric(c) || c == '_'; }

bool is_repository_part(std::string_view part) {
  return !part.empty() && part.size() <= kMaxName && is_word(part.front()) &&
         is_word(part.back()) &&
         std::ranges::all_of(part, [](char c) { return is_word(c) || c == '-' || c == '.'; });
}

bool is_repository(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != text.npos && is_repository_part(text.substr(0, slash)) &&
         is_repository_part(text.substr(slash + 1)) && text.find("--") == text.npos &&
         text.find("..") == text.npos && !text.ends_with(".git");
}

// A revision is also the name of a file below refs/: no way out of it.
bool is_revision(std::string_view text) {
  if (text.empty() || text.size() > kMaxRevision || text.find("..") != text.npos) return false;
  bool part_begins = true;
  for (const char c : text) {
    if (part_begins && (c == '/' || c == '.' || c == '-')) return false;
    if (!is_word(c) && std::string_view("/.-+=,#").find(c) == std::string_view::npos) return false;
    part_begins = c == '/';
  }
  return !part_begins;
}

// A pattern lets the server choose the rest of the name; it stays a plain one.
bool is_consolidated(std::string_view name) {
  return name.starts_with("consolidated") && is_repository_part(name) &&
         (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
}

}  // namespace

std::optional<HubName> parse_hub_name(std::string_view given, HubKind kind) {
  const size_t at = given.find('@');
  const std::string_view repository = given.substr(0, at);
  if (!is_repository(repository)) return std::nullopt;
  if (at == given.npos) return HubName{std::string(repository), "main", kind};
  const std::string_view revision = given.substr(at + 1);
  if (!is_revision(revision)) {
    user_error("{}: '{}' is not a branch, tag or commit", given, revision);
  }
  return HubName{std::string(repository), std::string(revision), kind};
}

bool is_hub_file(std::string_view name) {
  constexpr size_t kMaxPath = 1024, kMaxPart = 255;
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; };
  if (name.size() > kMaxPath || std::ranges::any_of(name, is_control)) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > kMaxPart) return false;
    begin = end + 1;
  }
  return true;
}

bool is_commit_hash(std::string_view text) {
  constexpr size_t kDigits = 40;
  return text.size() == kDigits && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

HubPlan plan_files(const std::set<std::string>& names, HubFiles wanted) {
  HubPlan plan;
  const auto add = [&](const char* name) {
    return names.contains(name) && (plan.files.insert(name), true);
  };
  for (const std::string& name : names) {
    if (is_side_file(name)) plan.files.insert(name);
  }
  const bool has_config = add("config.json"), has_params = add("params.json"),
             has_adapter = add("adapter_config.json");
  if (wanted == HubFiles::kAssets) {
    if (plan.files.empty()) user_error("holds no config.json and no tokenizer");
    return plan;
  }
  const bool adapter = has_adapter && add("adapter_model.safetensors");
  if (wanted == HubFiles::kModel && has_config) {
    if (add("model.safetensors")) return plan;
    if (add("model.safetensors.index.json")) {
      plan.index = "model.safetensors.index.json";
      return plan;
    }
  }
  if (adapter) return plan;
  bool consolidated = false;
  for (const std::string& name : names) {
    if (!is_consolidated(name)) continue;
    plan.files.insert(name);
    consolidated = consolidated || name.ends_with(".safetensors");
  }
  if (consolidated && has_params) return plan;
  user_error(
      "holds neither {}an adapter nor params.json with consolidated*.safetensors (other formats "
      "are "
      "not downloaded)",
      wanted == HubFiles::kModel ? "config.json with model*.safetensors, nor " : "");
}

std::set<std::string> shard_files(const std::filesystem::path& index) {
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : read_weight_map(index)) {
    if (!shard.ends_with(".safetensors")) {
      user_error("{}: tensor {}: {} is not a safetensors file", index.string(), tensor, shard);
    }
    shards.insert(shard);
  }
  return shards;
}

}  // namespace trestle
