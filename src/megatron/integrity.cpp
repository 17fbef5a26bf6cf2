#include "megatron/integrity.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/file_digest.h"
#include "base/json.h"
#include "base/text.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kAlgorithm = "sha256";

// A name leads to a file beside the manifest and nowhere else.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
}

// What is wrong with a file, or nothing.
std::string problem_of(const fs::path& path, const std::string& wanted) {
  constexpr size_t kShown = 16;
  if (!is_there(path)) return fmt::format("{} is missing", one_line(path.string()));
  if (!fs::is_regular_file(path)) return fmt::format("{} is no file", one_line(path.string()));
  const std::string found = sha256_of(path);
  if (found == wanted) return {};
  return fmt::format("{} has SHA-256 {}..., not {}...: it is damaged or was changed",
                     one_line(path.string()), found.substr(0, kShown),
                     one_line(wanted.substr(0, kShown)));
}

// Files of the checkpoint that every manifest has to list. Megatron Bridge writes the last two
// behind it, so that one of its own has neither of them.
std::vector<std::string> files_to_list(const fs::path& iteration,
                                       const std::map<std::string, std::string>& listed) {
  std::vector<std::string> names = {".metadata", "common.pt", "metadata.json"};
  for (const auto& each : fs::directory_iterator(iteration)) {
    if (each.path().extension() == ".distcp") names.push_back(each.path().filename().string());
  }
  const std::vector<std::string> late = {"run_config.yaml", "train_state.pt"};
  const auto is_listed = [&](const std::string& name) { return listed.contains(name); };
  if (std::ranges::any_of(late, is_listed)) names.insert(names.end(), late.begin(), late.end());
  std::erase_if(names, [&](const std::string& name) { return !is_there(iteration / name); });
  std::ranges::sort(names);
  return names;
}

}  // namespace

std::map<std::string, std::string> integrity_manifest(const fs::path& iteration) {
  const fs::path path = iteration / kIntegrity;
  if (!is_there(path)) {
    user_error(
        "{} has no {}, so that its files cannot be verified; megatron-core writes one with "
        "verify_integrity=true",
        iteration.string(), kIntegrity);
  }
  const Json manifest = read_json(path);
  const Json files = manifest.is_object() ? manifest.value("files", Json()) : Json();
  if (!files.is_object()) user_error("{} has no object \"files\"", path.string());
  const Json algorithm = manifest.value("algorithm", Json(kAlgorithm));
  if (algorithm != kAlgorithm) {
    user_error("{} says algorithm {}; only {} is known", path.string(), one_line(algorithm.dump()),
               kAlgorithm);
  }
  std::map<std::string, std::string> hashes;
  for (const auto& [name, hash] : files.items()) {
    if (!is_plain_name(name) || !hash.is_string()) {
      user_error("{}: {} is no name of a file beside it with a hash as text", path.string(),
                 one_line(name));
    }
    hashes[name] = hash.get<std::string>();
  }
  if (hashes.empty()) {
    user_error("{} lists no files, so that none can be verified; take the checkpoint from a copy",
               path.string());
  }
  return hashes;
}

void write_integrity(const fs::path& iteration, const std::map<std::string, std::string>& known) {
  std::vector<std::string> names;
  for (const auto& each : fs::directory_iterator(iteration)) {
    if (each.is_regular_file()) names.push_back(each.path().filename().string());
  }
  for (const auto& [name, digest] : known) {
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  std::ranges::sort(names);
  Json files = Json::object();
  for (const std::string& name : names) {
    if (name == kIntegrity) continue;
    const auto found = known.find(name);
    files[name] = found == known.end() ? sha256_of(iteration / name) : found->second;
  }
  // As Python's json.dump(indent=2) has it.
  write_text(iteration / kIntegrity,
             Json({{"algorithm", kAlgorithm}, {"files", std::move(files)}}).dump(2));
}

std::vector<std::string> integrity_problems(const fs::path& iteration) {
  std::vector<std::string> problems;
  const std::map<std::string, std::string> listed = integrity_manifest(iteration);
  for (const auto& [name, hash] : listed) {
    std::string problem = problem_of(iteration / name, hash);
    if (!problem.empty()) problems.push_back(fmt::format("{}: {}", kIntegrity, problem));
  }
  for (const std::string& name : files_to_list(iteration, listed)) {
    if (listed.contains(name)) continue;
    problems.push_back(
        fmt::format("{} does not list {}, which is of the checkpoint: the one or "
                    "the other was changed",
                    kIntegrity, one_line((iteration / name).string())));
  }
  return problems;
}

fs::path changed_file(const fs::path& iteration, uint64_t most_bytes) {
  for (const auto& [name, hash] : integrity_manifest(iteration)) {
    const fs::path file = iteration / name;
    if (!is_there(file) || fs::file_size(file) > most_bytes) continue;
    if (sha256_of(file) != hash) return file;
  }
  return {};
}

void require_integrity(const fs::path& iteration) {
  const std::vector<std::string> problems = integrity_problems(iteration);
  if (problems.empty()) return;
  const std::string more =
      problems.size() > 1 ? fmt::format(" ({} such files)", problems.size()) : "";
  user_error("{}{}", problems.front(), more);
}

}  // namespace trestle
