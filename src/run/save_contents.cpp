#include "run/save_contents.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "data/content.h"
#include "megatron/integrity.h"
#include "megatron/iteration.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char *kSection = "trestle", *kContents = "contents";

// Of a file in the directory or in a folder of it: a name leads nowhere else.
bool is_inside(const fs::path& name) {
  const bool plain = std::ranges::none_of(
      name, [](const fs::path& part) { return part.empty() || part == "." || part == ".."; });
  return plain && name.is_relative() && !name.empty() &&
         name.string().find('\0') == std::string::npos;
}

}  // namespace

void write_contents(const fs::path& iteration) {
  std::vector<fs::path> files;
  for (const auto& each : fs::recursive_directory_iterator(iteration)) {
    const fs::path name = each.path().lexically_relative(iteration);
    if (each.is_regular_file() && name != kIntegrity && name != kMarkerFile) files.push_back(name);
  }
  std::ranges::sort(files);
  Json contents = Json::object();
  for (const fs::path& name : files) contents[name.string()] = content_of({iteration / name});
  contents[kMarkerFile] = content_of_text(kMarkerFile, kMarker);  // which may not be there yet
  Json manifest = read_json(iteration / kIntegrity);
  manifest[kSection] = {{kContents, std::move(contents)}};
  write_text(iteration / kIntegrity, manifest.dump(2));
}

fs::path changed_content(const fs::path& iteration) {
  const fs::path path = iteration / kIntegrity;
  const Json manifest = read_json(path);
  const auto section = manifest.is_object() ? manifest.find(kSection) : manifest.end();
  if (!manifest.is_object() || section == manifest.end()) return {};
  const Json contents = section->is_object() ? section->value(kContents, Json()) : Json();
  if (!contents.is_object()) {
    user_error("{}: {} has no object {}", path.string(), kSection, kContents);
  }
  for (const auto& [name, content] : contents.items()) {
    if (!is_inside(name) || !content.is_string()) {
      user_error("{}: {} is no name of a file below it with its content as text", path.string(),
                 one_line(name));
    }
    const fs::path file = iteration / name;
    if (!fs::is_regular_file(fs::symlink_status(file))) continue;
    if (content_of({file}) != content.get<std::string>()) return file;
  }
  return {};
}

}  // namespace trestle
