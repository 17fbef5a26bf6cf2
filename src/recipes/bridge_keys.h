// Megatron Bridge's config keys and what becomes of each here: the one table behind the notes and
// errors of `trestle finetune`, `trestle recipes --bridge-keys` and docs/bridge-keys.md. Called by
// settle.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fields.h"

namespace trestle {

enum class BridgeHow {
  /// A key of ours too.
  kTaken,
  /// `words` is the key here.
  kRenamed,
  /// Accepted with a note: `words` says why nothing changes.
  kNoEffect,
  /// Only what `values` has is accepted; `words` says why not, and what to do.
  kRefused,
  /// The checkpoint says it: nothing in a file that Megatron Bridge wrote, refused elsewhere.
  kOfCheckpoint
};

/// Keys of one group that fare alike. Names of megatron-bridge 0.6.2 with megatron-core 0.19.2, and
/// older ones that its pages had.
struct BridgeKeys {
  std::string_view section;
  /// Parted by spaces; `x*` is every key that begins so, `*` every key of the section.
  std::string_view names;
  BridgeHow how;
  std::string_view words = {};
  /// Parted by `|`: `theirs>ours`, or a value that asks for what is done here anyway.
  std::string_view values = {};
};

std::span<const BridgeKeys> bridge_keys();
/// The row of a dotted key, an exact name before a beginning; null for none.
const BridgeKeys* find_bridge_key(std::string_view key);

struct OfBridge {
  /// In our words: what has no effect is gone.
  std::vector<Assignment> assignments;
  /// A line each for whoever asked.
  std::vector<std::string> notes;
  /// A file that Megatron Bridge wrote: it states every key, and asks for none by name.
  bool is_written = false;
};

/// A command line's assignments in our words. Throws UserError `KEY=VALUE: why` for what cannot be
/// had here. Keys of neither pass as they are, for settle to refuse.
OfBridge of_bridge(const std::vector<Assignment>& command_line);
/// A file's, which may be a `run_config.yaml` as Megatron Bridge writes it (`_target_` names
/// classes): its keys without effect are one note.
/// Keys that the command line names are left out.
OfBridge of_bridge_file(const std::vector<Assignment>& file, std::string_view name,
                        const std::vector<Assignment>& command_line);

/// As docs/bridge-keys.md has it.
std::string bridge_keys_table();

}  // namespace trestle
