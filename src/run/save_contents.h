// What the files of a checkpoint held when a run saved it, so that retention removes none that
// somebody changed since. Beside what megatron-core writes there, integrity.json has
//   "trestle": {"contents": {"tokenizer/tokenizer.json": HEX, ...}}
// of every file, content_of (data/content.h) each: its size, and its bytes or some of them. Called
// by the snapshot's writer and by retention.
#pragma once

#include <filesystem>

namespace trestle {

/// Adds the contents to integrity.json when all other files are there; metadata.json, the mark, may
/// not be yet.
/// Throws MachineError when the disk refuses.
void write_contents(const std::filesystem::path& iteration);

/// The first file whose content is another than it was; nothing where there is none, or where the
/// checkpoint, as those of before 2026-12, does not say. Files that are missing are passed over.
/// Throws UserError where what should say it is damaged.
std::filesystem::path changed_content(const std::filesystem::path& iteration);

}  // namespace trestle
