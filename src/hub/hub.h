// A repository by its name on the Hugging Face Hub, ORG/NAME or ORG/NAME@REVISION, where a path is
// taken. Called by every command with such a flag, before it opens what the flag names, and by data
// sets by name.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/error.h"
#include "hub/files.h"

namespace trestle {

/// The directory that `given` names: itself where it exists, or where it can be no name of the Hub;
/// else its snapshot in huggingface_hub's cache, with what of `wanted` is missing downloaded (see
/// docs/hub.md for the environment that is heeded). A snapshot in the cache is used without the
/// network offline and for a commit, and with one line of warning where the Hub does not answer.
///
/// Throws UserError (no such repository or revision, a token refused, nothing of use in it, offline
/// and not in the cache) and MachineError (network, checksum, disk); each begins with `flag` and
/// `given`.
std::filesystem::path resolve_model(const std::string& given, std::string_view flag,
                                    HubFiles wanted = HubFiles::kModel);

/// The name on the Hub that `given` is; nothing where it exists as a path, may exist where it
/// cannot be looked at, or can only be one. Throws as parse_hub_name does.
std::optional<HubName> hub_name_of(const std::string& given, HubKind kind);

using HubNames = std::set<std::string>;

/// The bytes of a file that settles which ones are wanted; downloaded where they have to be.
using HubReader = std::function<std::filesystem::path(const std::string& name)>;

/// What the cache holds of a commit.
struct HubCached {
  const HubNames& present;
  /// Of those, what is wanted.
  const HubNames& chosen;
  /// Whether that is all that is wanted of the commit's listing, where huggingface_hub left one.
  std::optional<bool> all_listed;
};
enum class HubWhole { kNo, kPerhaps, kYes };

/// What is wanted of a repository.
struct HubRequest {
  /// Which of its files. May throw UserError, a whole sentence.
  std::function<HubNames(const HubNames& names, const HubReader& read)> choose;
  /// Whether the cache holds all that the commit has of what is wanted, as far as it can be known:
  /// others put single files into a snapshot. What is not whole is not used offline, and what is
  /// perhaps whole not without the network.
  std::function<HubWhole(const HubCached&)> whole;
};

struct HubSnapshot {
  std::filesystem::path directory;
  std::string commit;
  /// What was chosen; all of it is in the directory.
  HubNames chosen;
  /// The Hub was not asked: there may be more than the cache knows of.
  bool from_cache = false;
};

/// Offline, and the cache does not hold it.
class NotInCache : public UserError {
 public:
  using UserError::UserError;
};

/// As resolve_model, of any repository. A revision is asked for once in a process, so that whatever
/// it reads of a branch is of one commit. Errors are sentences without flag and name; NotInCache
/// and NoSuchRevision (client.h) are among them.
HubSnapshot fetch_snapshot(const HubName& name, const HubRequest& request);

/// "run it once online, or `hf download ORG/NAME`".
std::string how_to_fetch(const HubName& name);

}  // namespace trestle
