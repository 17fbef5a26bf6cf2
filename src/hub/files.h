// Which repository of the Hugging Face Hub a command line names, and which of a checkpoint's files
// a command needs. Pure functions; called by hub.cpp and by data sets by name.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace trestle {

/// What a command needs of a repository.
enum class HubFiles {
  /// config.json with its safetensors, an adapter, or else Mistral's own consolidated form; and
  /// what stands under kAssets.
  kModel,
  /// As kModel, but of a repository that holds both forms the consolidated one.
  kConsolidated,
  /// Config, tokenizer, processor, chat template and generation files; no weights.
  kAssets,
};

enum class HubKind { kModel, kDataset };

struct HubName {
  std::string repository;  // ORG/NAME
  std::string revision;    // a branch, a tag or a commit
  HubKind kind = HubKind::kModel;
};

/// ORG/NAME or ORG/NAME@REVISION, under huggingface_hub's rules for names; nothing for what can
/// only be a path. The revision is `main` where none is given. Throws UserError for a revision that
/// git would not take.
std::optional<HubName> parse_hub_name(std::string_view given, HubKind kind = HubKind::kModel);

/// Whether a name that a Hub gives a file is a relative path that stays below where it is put: no
/// empty part, `.` or `..`, no control character, no part too long for a file system.
bool is_hub_file(std::string_view name);

/// Forty lower-case hex digits.
bool is_commit_hash(std::string_view text);

struct HubPlan {
  /// To have of what the repository lists.
  std::set<std::string> files;
  /// The one among them that names further ones, see shard_files; empty where no index does.
  std::string index;
};

/// Files of the root of the repository only. Throws UserError, a sentence without its subject, when
/// `names` hold nothing that `wanted` asks for.
HubPlan plan_files(const std::set<std::string>& names, HubFiles wanted);

/// The shards that an index names. Throws UserError for an index that is malformed or names others
/// than safetensors files.
std::set<std::string> shard_files(const std::filesystem::path& index);

}  // namespace trestle
