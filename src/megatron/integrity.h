// integrity.json, the manifest that megatron-core 0.19 writes and compares under verify_integrity:
// {"algorithm": "sha256", "files": {NAME: HEX}} of the files that lie directly in an iteration's
// directory. Called by MegatronWriter, `inspect --check` and the trainer's resume.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace trestle {

constexpr const char* kIntegrity = "integrity.json";

/// Of every file that is there, and of those of `known`, which have been hashed already and may
/// come behind it. Else it is written last: a file that comes later is in no manifest, and no
/// reader misses it there. Throws MachineError when the disk refuses.
void write_integrity(const std::filesystem::path& iteration,
                     const std::map<std::string, std::string>& known = {});

/// What the manifest lists: names of files beside it, and their SHA-256 as it has them. Throws
/// UserError where it is missing, is none or lists nothing.
std::map<std::string, std::string> integrity_manifest(const std::filesystem::path& iteration);

/// Hashes the listed files again, a megabyte in memory at a time: a line for each that is missing
/// or has other bytes, and for each file of the checkpoint that is not listed. Throws UserError as
/// integrity_manifest() does.
std::vector<std::string> integrity_problems(const std::filesystem::path& iteration);

/// The first listed file of no more than `most_bytes` that has other bytes than the manifest says,
/// or nothing; larger and missing ones are passed over. Throws as integrity_manifest() does.
std::filesystem::path changed_file(const std::filesystem::path& iteration, uint64_t most_bytes);

/// Throws UserError with the first of the problems and their number.
void require_integrity(const std::filesystem::path& iteration);

}  // namespace trestle
