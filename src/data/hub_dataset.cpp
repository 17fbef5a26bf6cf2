#include "data/hub_dataset.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "data/hub_layout.h"
#include "hub/client.h"
#include "hub/hub.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kMain = "main";
constexpr const char* kConversion = "refs/convert/parquet";
constexpr const char* kReadme = "README.md";
constexpr uint64_t kMaxReadme = 32 << 20;

// Which shard of how many, train-00000-of-00004-b4aaeceff1d90ecb.parquet.
struct Shard {
  std::string of;  // what all of them begin with
  size_t count = 0;
};

std::optional<Shard> shard_of(const std::string& name) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kDigits = 5;
  const size_t at = name.rfind(kOf);
  if (at == name.npos || at < kDigits + 1) return std::nullopt;
  const auto is_number = [&](size_t begin) {
    const std::string_view digits = std::string_view(name).substr(begin, kDigits);
    return digits.size() == kDigits && digits.find_first_not_of("0123456789") == digits.npos;
  };
  if (!is_number(at - kDigits) || !is_number(at + kOf.size())) return std::nullopt;
  Shard shard{name.substr(0, at - kDigits)};
  const char* count = name.data() + at + kOf.size();
  std::from_chars(count, count + kDigits, shard.count);
  return shard;
}

bool is_parquet(const std::string& name) { return name.ends_with(".parquet"); }

// Files that others put there one by one may be a part of a split; numbered ones tell.
HubWhole whole_split(const HubCached& cached) {
  if (cached.all_listed) return *cached.all_listed ? HubWhole::kYes : HubWhole::kNo;
  std::map<std::pair<std::string, size_t>, size_t> there;
  bool all_numbered = true;
  for (const std::string& name : cached.chosen) {
    if (!is_parquet(name)) continue;
    const auto shard = shard_of(name);
    if (shard) ++there[{shard->of, shard->count}];
    all_numbered = all_numbered && shard;
  }
  for (const auto& [shard, count] : there) {
    if (count < shard.second) return HubWhole::kNo;
  }
  return all_numbered && !there.empty() ? HubWhole::kYes : HubWhole::kPerhaps;
}

// What is asked of one revision, and what was found there.
class Asked {
 public:
  Asked(HubName name, const std::string& subset, const std::string& split)
      : name_(std::move(name)), subset_(subset), split_(split) {}

  /// Of the revision; whether it has Parquet files of the subset, of whatever split.
  bool fetch() {
    const HubRequest request{
        [this](const HubNames& names, const HubReader& read) { return choose(names, read); },
        whole_split};
    snapshot_ = fetch_snapshot(name_, request);
    return found_.has_parquet();
  }

  HubData data() const {
    HubData data;
    for (const std::string& file : files_) data.files.push_back(snapshot_.directory / file);
    data.splits = found_.describe();
    if (data.files.empty() && snapshot_.from_cache) {
      data.splits += fmt::format(" in the cache ({})", how_to_fetch(name_));
    }
    return data;
  }

 private:
  // Called with what the cache holds and with what the Hub lists; the last is what counts.
  HubNames choose(const HubNames& names, const HubReader& read) {
    found_ = {};
    files_.clear();
    HubNames wanted;
    if (names.contains(kReadme)) wanted.insert(kReadme);
    // Whatever its README says of subsets.
    if (std::ranges::none_of(names, is_parquet)) return wanted;
    const std::string readme = wanted.empty() ? "" : read_text(read(kReadme), kMaxReadme);
    try {
      const HubLayout layout = name_.revision == kConversion ? HubLayout::of_conversion(names)
                                                             : HubLayout(names, readme);
      found_ = layout.subset(subset_);
      files_ = found_.of_split(split_);
    } catch (const UserError& error) {
      user_error("{}: {}", name_.repository, error.what());
    }
    wanted.insert(files_.begin(), files_.end());
    return wanted;
  }

  HubName name_;
  const std::string &subset_, &split_;
  HubSnapshot snapshot_;
  HubSubset found_;
  HubSubset::Files files_;
};

// Whether the Hub has made Parquet files of the data set.
bool fetch_conversion(Asked& converted) {
  try {
    return converted.fetch();
  } catch (const NoSuchRevision&) {
    return false;
  }
}

// For a data set of which the cache holds no Parquet file: those that the Hub made may lie there.
bool fetch_cached_conversion(Asked& converted) {
  try {
    return converted.fetch();
  } catch (const NotInCache&) {
    return false;
  }
}

}  // namespace

HubData fetch_hub_data(const HubName& name, const std::string& subset, const std::string& split) {
  Asked own(name, subset, split);
  Asked converted({name.repository, kConversion, name.kind}, subset, split);
  const bool may_be_converted = name.revision == kMain;
  const std::string of_subset = subset.empty() ? "" : ", subset " + subset;
  try {
    if (own.fetch()) return own.data();
  } catch (const NotInCache&) {
    if (may_be_converted && fetch_cached_conversion(converted)) return converted.data();
    throw;
  }
  if (!may_be_converted) {
    user_error("{}{} holds no Parquet file at {}, and the Hub makes them of main alone",
               name.repository, of_subset, name.revision);
  }
  try {
    if (fetch_conversion(converted)) return converted.data();
  } catch (const NotInCache&) {
    throw NotInCache(
        fmt::format("HF_HUB_OFFLINE is set and the cache holds no Parquet file of {}{}; {}",
                    name.repository, of_subset, how_to_fetch(name)));
  }
  user_error(
      "{}{} holds no Parquet file, and the Hub has made none of it (refs/convert/parquet); "
      "download it and make one, or name a file of your own",
      name.repository, of_subset);
}

fs::path snapshot_of(const fs::path& file) {
  for (fs::path at = file.parent_path(); at.has_relative_path(); at = at.parent_path()) {
    if (at.parent_path().filename() == "snapshots" && is_commit_hash(at.filename().string())) {
      return at;
    }
  }
  return {};
}

}  // namespace trestle
