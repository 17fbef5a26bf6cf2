// What a save says of itself in its run_config.yaml, under `trestle`: which run it is of, and which
// files it wrote that integrity.json does not list. By this alone a run knows what it may remove.
// Called by the trainer's snapshots, by its retention and where a run's directory is settled.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "base/json.h"

namespace trestle {

struct SaveRecord {
  /// RunProgress::lineage.
  std::string lineage;
  /// RunProgress::step, so that a copy under another step's name is known as one.
  int64_t step = 0;
  /// Names in tokenizer/.
  std::set<std::string> tokenizer = {};
  /// Names in hf/ beside the weights and their index; nothing where there is no such folder.
  std::optional<std::set<std::string>> hf = {};

  Json to_json() const;
};

/// 128 random bits in lower-case hex.
std::string new_lineage();

/// Of run_config.yaml's content; nothing where that does not say which run made it, as another
/// program's does not, nor one of before 2026-12.
std::optional<SaveRecord> save_record(const Json& run_config);
/// Of an iteration's directory, likewise. Throws UserError where the file is no YAML.
std::optional<SaveRecord> save_record(const std::filesystem::path& iteration);

/// Nothing, or the first entry below an iteration's directory that its save is not known to have
/// written. Throws UserError where what would say so is damaged.
std::filesystem::path foreign_entry(const std::filesystem::path& iteration);

/// Removes an iteration's directory, what says that it is whole first and what says what is in it
/// last, so that a removal that a kill cut short can be ended by the same call. Throws UserError,
/// and removes nothing, where it has a foreign_entry; MachineError when the disk refuses.
void remove_save(const std::filesystem::path& iteration);

}  // namespace trestle
