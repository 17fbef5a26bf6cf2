#include "data/datasets.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/fields.h"
#include "data/datasets_own.h"
#include "data/datasets_parquet.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Maker = std::function<std::unique_ptr<Dataset>(const fs::path&, const std::string&)>;

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {
      {"make_cord_v2_dataset", make_cord_v2_dataset},
      {"make_medpix_dataset", make_medpix_dataset},
      {"make_raven_dataset", make_raven_dataset},
      {"jsonl", make_jsonl_dataset},
      {"parquet", make_parquet_dataset},
      {"webdataset", make_webdataset},
  };
  return table;
}

}  // namespace

std::vector<std::string> dataset_makers() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

std::unique_ptr<Dataset> make_dataset(const std::string& maker, const fs::path& path,
                                      const std::string& split) {
  const auto found = makers().find(maker);
  if (found == makers().end()) {
    user_error("dataset.maker_name={} is not known; did you mean {}? There are {}", maker,
               nearest(maker, dataset_makers()), fmt::join(dataset_makers(), ", "));
  }
  return found->second(path, split);
}

bool has_split(const fs::path& path, const std::string& split) {
  if (!fs::is_directory(path)) return false;
  const auto is_of_split = [&](const fs::directory_entry& entry) {
    const fs::path extension = entry.path().extension();
    return (extension == ".parquet" || extension == ".tar") &&
           entry.path().filename().string().find(split) != std::string::npos;
  };
  return std::ranges::any_of(fs::recursive_directory_iterator(path), is_of_split);
}

}  // namespace trestle
