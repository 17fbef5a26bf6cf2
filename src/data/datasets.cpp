#include "data/datasets.h"

#include <fmt/ranges.h>

#include <map>
#include <string_view>
#include <utility>
#include <variant>

#include "base/error.h"
#include "base/suggestion.h"
#include "data/datasets_own.h"
#include "data/datasets_parquet.h"
#include "data/hub_dataset.h"
#include "data/splits.h"
#include "hub/hub.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Files = std::vector<fs::path>;
using OfParquet = std::unique_ptr<Dataset> (*)(const Files&);
using OfPath = std::unique_ptr<Dataset> (*)(const fs::path&, const std::string&);

struct Maker {
  std::variant<OfParquet, OfPath> make;
  std::string_view extension;  // of what it reads of a directory; "": it reads one file
  DataName hub = {};           // the data set that it is for

  bool of_parquet() const { return std::holds_alternative<OfParquet>(make); }
};

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {
      {"make_cord_v2_dataset", {make_cord_v2_dataset, ".parquet", {"naver-clova-ix/cord-v2"}}},
      {"make_medpix_dataset", {make_medpix_dataset, ".parquet", {"mmoukouba/MedPix-VQA"}}},
      {"make_raven_dataset",
       {make_raven_dataset, ".parquet", {.path = "HuggingFaceM4/the_cauldron", .subset = "raven"}}},
      {"jsonl", {make_jsonl_dataset, ""}},
      {"parquet", {make_parquet_dataset, ".parquet"}},
      {"webdataset", {make_webdataset, ".tar"}},
  };
  return table;
}

const Maker& maker_of(const std::string& name) {
  const auto found = makers().find(name);
  if (found == makers().end()) {
    user_error("dataset.maker_name={} is not known; {}", name, suggest_maker(name));
  }
  return found->second;
}

// Nothing where the path exists or can only be one, or the maker takes none.
std::optional<HubName> hub_name(const Maker& maker, const std::string& path) {
  if (!maker.of_parquet() || path.ends_with(".parquet")) return std::nullopt;
  return hub_name_of(path, HubKind::kDataset);
}

// The maker's own subset of the data set that it is for.
std::string subset_of(const Maker& maker, const DataName& name, const HubName& on_hub) {
  const bool is_its_own = on_hub.repository == maker.hub.path;
  return name.subset.empty() && is_its_own ? maker.hub.subset : name.subset;
}

// For a maker that reads what is here.
void refuse_name(const DataName& name) {
  if (!hub_name_of(name.path, HubKind::kDataset) || fs::path(name.path).has_extension()) return;
  user_error(
      "{} {} does not exist here; by its name on the Hub a data set is read as Parquet, with the "
      "maker parquet",
      name.key, name.path);
}

HubData fetch(const Maker& maker, const DataName& name, const HubName& on_hub) {
  constexpr const char* kMessage = "{} {}: no such file or directory here, and {}";
  try {
    return fetch_hub_data(on_hub, subset_of(maker, name, on_hub), name.split);
  } catch (const UserError& error) {
    user_error(kMessage, name.key, name.path, error.what());
  } catch (const MachineError& error) {
    machine_error(kMessage, name.key, name.path, error.what());
  }
}

Files parquet_files(const Maker& maker, const DataName& name) {
  const auto on_hub = hub_name(maker, name.path);
  if (!on_hub) {
    if (!name.subset.empty()) {
      user_error("{} {}: it has no subsets, as only data sets on the Hub have; leave {} out",
                 name.key, name.path, name.subset);
    }
    return files_of_split(name.path, name.split, maker.extension);
  }
  HubData data = fetch(maker, name, *on_hub);
  if (data.files.empty()) {
    user_error("{} {} holds no Parquet file of split '{}'; {}", name.key, name.path, name.split,
               data.splits);
  }
  return std::move(data.files);
}

}  // namespace

std::string Dataset::row_name(int64_t index, const std::string& name) const {
  return fmt::format("row {} of {}", index, name);
}

std::vector<std::string> dataset_makers() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

std::string suggest_maker(const std::string& name) {
  const std::vector<std::string> makers = dataset_makers();
  const std::string meant = did_you_mean(name, makers, "");
  return fmt::format("{}{}there are {}", meant, meant.empty() ? "" : " ", fmt::join(makers, ", "));
}

DataName hub_name_of_maker(const std::string& maker) { return maker_of(maker).hub; }

bool is_on_hub(const std::string& maker, const std::string& path) {
  return hub_name(maker_of(maker), path).has_value();
}

std::unique_ptr<Dataset> make_dataset(const std::string& maker, const DataName& name) {
  const Maker& its = maker_of(maker);
  try {
    if (const auto* of_parquet = std::get_if<OfParquet>(&its.make)) {
      return (*of_parquet)(parquet_files(its, name));
    }
    refuse_name(name);
    return std::get<OfPath>(its.make)(name.path, name.split);
  } catch (const UserError& error) {
    // A reader names the file that it was given; of several keys that name some, this one did.
    const std::string_view said = error.what();
    if (said.find(name.key) != said.npos) throw;
    user_error("{}: {}", name.key, said);
  }
}

std::unique_ptr<Dataset> make_dataset(const std::string& maker, const fs::path& path,
                                      const std::string& split) {
  return make_dataset(maker, DataName{path.string(), split});
}

bool split_matters(const std::string& maker, const fs::path& path) {
  std::error_code ignored;
  const Maker& its = maker_of(maker);
  return (!its.extension.empty() && fs::is_directory(path, ignored)) ||
         hub_name(its, path.string());
}

std::optional<std::string> why_no_split(const std::string& maker, const DataName& name) {
  const Maker& its = maker_of(maker);
  if (const auto on_hub = hub_name(its, name.path)) {
    const HubData data = fetch(its, name, *on_hub);
    return data.files.empty() ? std::optional(data.splits) : std::nullopt;
  }
  if (!split_matters(maker, name.path)) return "it is read whole, as one file";
  if (!find_split(name.path, name.split, its.extension).empty()) return std::nullopt;
  return describe_splits(name.path, its.extension);
}

std::string describe_files(const Dataset& dataset, const fs::path& path) {
  constexpr size_t kNames = 3;
  const std::vector<fs::path> files = dataset.files();
  if (files.size() == 1 && files.front() == path) return path.string();
  std::error_code ignored;
  const fs::path snapshot = fs::exists(path, ignored) ? "" : snapshot_of(files.front());
  const fs::path root = fs::is_directory(path, ignored) ? path : snapshot;
  std::vector<std::string> names;
  for (const fs::path& file : files) {
    if (names.size() == kNames) break;
    names.push_back((root.empty() ? file.filename() : file.lexically_relative(root)).string());
  }
  const std::string commit =
      snapshot.empty() ? "" : fmt::format(", commit {}", snapshot.filename().string());
  return fmt::format("{}{}: {} file{}, {}{}", path.string(), commit, files.size(),
                     files.size() == 1 ? "" : "s", fmt::join(names, ", "),
                     files.size() > kNames ? ", ..." : "");
}

}  // namespace trestle
