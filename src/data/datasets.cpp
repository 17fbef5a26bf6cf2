#include "data/datasets.h"

#include <fmt/ranges.h>

#include <functional>
#include <map>
#include <string_view>

#include "base/error.h"
#include "base/fields.h"
#include "data/datasets_own.h"
#include "data/datasets_parquet.h"
#include "data/splits.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

struct Maker {
  std::function<std::unique_ptr<Dataset>(const fs::path&, const std::string&)> make;
  std::string_view extension;  // of what it reads of a directory; "": it reads one file
};

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {
      {"make_cord_v2_dataset", {make_cord_v2_dataset, ".parquet"}},
      {"make_medpix_dataset", {make_medpix_dataset, ".parquet"}},
      {"make_raven_dataset", {make_raven_dataset, ".parquet"}},
      {"jsonl", {make_jsonl_dataset, ""}},
      {"parquet", {make_parquet_dataset, ".parquet"}},
      {"webdataset", {make_webdataset, ".tar"}},
  };
  return table;
}

const Maker& maker_of(const std::string& name) {
  const auto found = makers().find(name);
  if (found == makers().end()) {
    user_error("dataset.maker_name={} is not known; did you mean {}? There are {}", name,
               nearest(name, dataset_makers()), fmt::join(dataset_makers(), ", "));
  }
  return found->second;
}

}  // namespace

std::vector<std::string> dataset_makers() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

std::unique_ptr<Dataset> make_dataset(const std::string& maker, const fs::path& path,
                                      const std::string& split) {
  return maker_of(maker).make(path, split);
}

bool split_matters(const std::string& maker, const fs::path& path) {
  std::error_code ignored;
  return !maker_of(maker).extension.empty() && fs::is_directory(path, ignored);
}

bool has_split(const std::string& maker, const fs::path& path, const std::string& split) {
  return split_matters(maker, path) && !find_split(path, split, maker_of(maker).extension).empty();
}

std::string splits_of(const std::string& maker, const fs::path& path) {
  return split_matters(maker, path) ? describe_splits(path, maker_of(maker).extension)
                                    : "it is read whole, as one file";
}

std::string describe_files(const Dataset& dataset, const fs::path& path) {
  constexpr size_t kNames = 3;
  const std::vector<fs::path> files = dataset.files();
  if (files.size() == 1 && files.front() == path) return path.string();
  std::error_code ignored;
  const bool below = fs::is_directory(path, ignored);
  std::vector<std::string> names;
  for (const fs::path& file : files) {
    if (names.size() == kNames) break;
    names.push_back((below ? file.lexically_relative(path) : file.filename()).string());
  }
  return fmt::format("{}: {} file{}, {}{}", path.string(), files.size(),
                     files.size() == 1 ? "" : "s", fmt::join(names, ", "),
                     files.size() > kNames ? ", ..." : "");
}

}  // namespace trestle
