// Megatron Bridge's config keys and what becomes of each here: the one table behind the notes and
// errors of `trestle finetune`, `trestle recipes --bridge-keys` and docs/bridge-keys.md. Called by
// settle.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
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
/// The row of a dotted key, an exact name before a beginning; null for none. A beginning speaks of
/// keys that the Bridge has, which a misspelt one is not; of a file that the Bridge wrote
/// (`of_any_version`) it speaks of all, as other versions had others.
const BridgeKeys* find_bridge_key(std::string_view key, bool of_any_version = false);

/// Every key of megatron-bridge 0.6.2: a section's names, parted by spaces.
struct BridgeNames {
  std::string_view section, names;
};
std::span<const BridgeNames> bridge_names();
/// Dotted.
std::vector<std::string> bridge_key_names();

/// Whether `given` says what `wanted` does: 0.00 and 0.0, 1e-4 and 0.0001, False and false, 0 where
/// false is wanted, [ 0 ] and [0].
bool same_value(std::string_view wanted, std::string_view given);

/// Our key -> the Bridge's that was typed for it.
using TypedKeys = std::map<std::string, std::string>;
/// A message about our keys, with those that were typed.
std::string in_typed_words(std::string message, const TypedKeys& typed);
/// action(), whose UserErrors are told so.
template <class Action>
decltype(auto) in_typed_words(const TypedKeys& typed, Action&& action) {
  try {
    return action();
  } catch (const UserError& error) {
    throw UserError(in_typed_words(std::string(error.what()), typed));
  }
}

struct OfBridge {
  /// In our words: what has no effect is gone.
  std::vector<Assignment> assignments;
  /// A line each for whoever asked.
  std::vector<std::string> notes;
  TypedKeys typed = {};
  /// A file that Megatron Bridge wrote: it states every key, and asks for none by name.
  bool is_written = false;
};

/// A command line's assignments in our words. Throws UserError `KEY=VALUE: why` for what cannot be
/// had here. Keys of neither pass as they are, for settle to refuse.
OfBridge of_bridge(const std::vector<Assignment>& command_line);
/// A file's, which may be a `run_config.yaml` as Megatron Bridge writes it (`_target_` names
/// classes): its keys without effect are one note, and those that neither it nor this version knows
/// another, as nobody typed them.
/// Keys that the command line names are left out.
OfBridge of_bridge_file(const std::vector<Assignment>& file, std::string_view name,
                        const std::vector<Assignment>& command_line);

/// As docs/bridge-keys.md has it.
std::string bridge_keys_table();

}  // namespace trestle
