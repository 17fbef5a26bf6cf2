#include "hub/hub.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

#include "hub/cache.h"
#include "hub/client.h"
#include "hub/downloads.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Names = HubNames;

bool includes(const Names& all, const Names& some) { return std::ranges::includes(all, some); }

std::vector<std::string> without(const Names& all, const Names& some) {
  std::vector<std::string> rest;
  std::ranges::set_difference(all, some, std::back_inserter(rest));
  return rest;
}

// What a Hub answered in this process, by endpoint, kind and name; nothing where it did not and the
// cache was taken.
class Answers {
 public:
  std::optional<std::optional<HubRevision>> find(const std::string& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(key);
    if (found == answers_.end()) return std::nullopt;
    return found->second;
  }
  void keep(const std::string& key, std::optional<HubRevision> answer) {
    const std::lock_guard lock(mutex_);
    answers_.insert_or_assign(key, std::move(answer));
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::optional<HubRevision>> answers_;
};

Answers& answers() {
  static Answers kept;
  return kept;
}

// One repository.
class Resolution {
 public:
  Resolution(HubName name, const HubRequest& request)
      : settings_(HubSettings::from_environment()),
        name_(std::move(name)),
        request_(request),
        cache_(settings_.cache, name_.repository, name_.kind) {}

  HubSnapshot resolve() const;

 private:
  struct Cached {
    Names chosen;
    HubWhole whole;
  };

  std::string key() const;
  bool offline() const {
    return name_.kind == HubKind::kModel ? settings_.offline : settings_.data_offline;
  }
  std::optional<Cached> cached(const std::string& commit) const;
  HubSnapshot as_cached(const std::string& commit, const Cached& cached) const;
  [[noreturn]] void refuse_offline(const std::optional<std::string>& known) const;
  std::optional<HubRevision> ask(const std::optional<std::string>& known, bool usable) const;
  HubSnapshot fetch(const HubRevision& revision) const;

  const HubSettings settings_;
  const HubName name_;
  const HubRequest& request_;
  const HubCache cache_;
};

std::string Resolution::key() const {
  return fmt::format("{} {} {}@{}", settings_.endpoint, static_cast<int>(name_.kind),
                     name_.repository, name_.revision);
}

HubSnapshot Resolution::resolve() const {
  const bool is_commit = is_commit_hash(name_.revision);
  const auto known = is_commit ? name_.revision : cache_.commit_of(name_.revision);
  const auto cached = known ? this->cached(*known) : std::nullopt;
  const bool usable = cached && cached->whole != HubWhole::kNo;
  if (offline()) {
    if (!usable) refuse_offline(known);
    return as_cached(*known, *cached);
  }
  if (is_commit && usable && cached->whole == HubWhole::kYes) {
    return as_cached(*known, *cached);
  }
  const auto before = answers().find(key());
  const std::optional<HubRevision> revision =
      before && (*before || usable) ? *before : ask(known, usable);
  return revision ? fetch(*revision) : as_cached(*known, *cached);
}

// Nothing where the cache does not hold what is wanted.
std::optional<Resolution::Cached> Resolution::cached(const std::string& commit) const {
  const Names present = cache_.present(commit);
  const auto read = [&](const std::string& name) {
    if (!present.contains(name)) user_error("{} is not in the cache", name);
    return cache_.snapshot(commit) / name;
  };
  const auto choose = [&](const Names& names) -> std::optional<Names> {
    try {
      Names chosen = request_.choose(names, read);
      return includes(present, chosen) ? std::optional(std::move(chosen)) : std::nullopt;
    } catch (const UserError&) {
      return std::nullopt;  // it is not there, or only a part of it
    }
  };
  if (present.empty()) return std::nullopt;
  const std::optional<Names> chosen = choose(present);
  if (!chosen) return std::nullopt;
  std::optional<bool> all_listed;
  if (const auto listed = cache_.listed(commit)) all_listed = choose(*listed) == chosen;
  return Cached{*chosen, request_.whole({present, *chosen, all_listed})};
}

HubSnapshot Resolution::as_cached(const std::string& commit, const Cached& cached) const {
  return {cache_.snapshot(commit), commit, cached.chosen, true};
}

void Resolution::refuse_offline(const std::optional<std::string>& known) const {
  throw NotInCache(fmt::format("HF_HUB_OFFLINE is set and {} holds {} of {}@{}; {}",
                               settings_.cache.string(),
                               known && !cache_.present(*known).empty() ? "only a part" : "nothing",
                               name_.repository, name_.revision, how_to_fetch(name_)));
}

// Nothing where the Hub does not answer, and the cache is usable.
std::optional<HubRevision> Resolution::ask(const std::optional<std::string>& known,
                                           bool usable) const {
  const std::atomic<bool> never = false;
  std::optional<HubRevision> revision;
  try {
    revision = HubClient(settings_, name_, never).revision(/*patient=*/!usable);
  } catch (const NoSuchRevision&) {
    throw;
  } catch (const std::runtime_error& error) {
    if (!usable) throw;
    fmt::print(stderr, "warning: {}; taking {} as it lies in the cache, commit {}\n", error.what(),
               name_.repository, *known);
  }
  answers().keep(key(), revision);
  return revision;
}

HubSnapshot Resolution::fetch(const HubRevision& revision) const {
  const std::string& commit = revision.commit;
  const Names present = cache_.present(commit);
  const HubDownloads downloads(settings_, name_, cache_);
  std::map<std::string, std::string> etags;  // of what is new
  const auto read = [&](const std::string& name) -> fs::path {
    if (present.contains(name)) return cache_.snapshot(commit) / name;
    if (!etags.contains(name)) downloads.get(commit, {name}, etags);
    return cache_.blob(etags.at(name));
  };
  const Names chosen = request_.choose(revision.names, read);
  Names missing = chosen;
  for (const auto& [name, etag] : etags) missing.erase(name);
  downloads.get(commit, without(missing, present), etags);
  cache_.link(commit, etags);
  if (!chosen.empty()) cache_.set_commit(name_.revision, commit);
  return {cache_.snapshot(commit), commit, chosen, false};
}

// Of a checkpoint.
Names choose_model(const HubName& name, HubFiles wanted, const Names& names,
                   const HubReader& read) {
  HubPlan plan;
  try {
    plan = plan_files(names, wanted);
  } catch (const UserError& error) {
    user_error("{} {}", name.repository, error.what());
  }
  if (plan.index.empty()) return plan.files;
  const Names shards = shard_files(read(plan.index));
  if (!includes(names, shards)) {
    user_error("{} does not hold {}, which its {} names", name.repository,
               without(shards, names).front(), plan.index);
  }
  plan.files.insert(shards.begin(), shards.end());
  return plan.files;
}

HubWhole whole_model(const HubCached& cached) {
  if (cached.all_listed) return *cached.all_listed ? HubWhole::kYes : HubWhole::kPerhaps;
  // The files do not tell that the tokenizer, say, is missing.
  const bool is_whole = cached.present.contains("tokenizer.json") ||
                        cached.present.contains("tekken.json") ||
                        cached.present.contains("adapter_config.json");
  return is_whole ? HubWhole::kYes : HubWhole::kPerhaps;
}

}  // namespace

HubSnapshot fetch_snapshot(const HubName& name, const HubRequest& request) {
  return Resolution(name, request).resolve();
}

std::string how_to_fetch(const HubName& name) {
  return fmt::format("run it once online, or `hf download {}{}{}`", name.repository,
                     name.kind == HubKind::kModel ? "" : " --repo-type dataset",
                     name.revision == "main" ? "" : " --revision " + name.revision);
}

std::optional<HubName> hub_name_of(const std::string& given, HubKind kind) {
  std::error_code error;
  if (fs::exists(given, error) || error == std::errc::permission_denied) return std::nullopt;
  return parse_hub_name(given, kind);
}

fs::path resolve_model(const std::string& given, std::string_view flag, HubFiles wanted) {
  std::error_code error;
  if (fs::exists(given, error)) return given;
  // It may well be there: nothing to ask the Hub for.
  if (error == std::errc::permission_denied) user_error("{} {}: {}", flag, given, error.message());
  constexpr const char* kMessage = "{} {}: no such directory here, and {}";
  try {
    const auto name = parse_hub_name(given);
    if (!name) return given;
    const auto choose = [&](const Names& names, const HubReader& read) {
      return choose_model(*name, wanted, names, read);
    };
    return fetch_snapshot(*name, {choose, whole_model}).directory;
  } catch (const UserError& error) {
    user_error(kMessage, flag, given, error.what());
  } catch (const MachineError& error) {
    machine_error(kMessage, flag, given, error.what());
  }
}

}  // namespace trestle
