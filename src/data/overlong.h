// What becomes of a sample that is longer than the model is trained on. Called by the trainer and
// `trestle data`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/processor.h"

namespace trestle {

/// kError: refused. kDrop: left out. kShrinkImage: its pictures are made smaller until it fits.
/// kCutText: ids behind the limit go, a picture that would be cut goes whole.
enum class Overlong { kError, kDrop, kShrinkImage, kCutText };

/// "error", "drop", "shrink-image", "cut-text"; nothing for another name.
std::optional<Overlong> overlong_of_name(std::string_view name);
std::string_view name_of(Overlong policy);
/// The names, for messages.
std::string overlong_names();

/// The sample in at most `max_length` ids, or nothing where it is dropped. `name` opens the
/// UserError of one that cannot be read, and of one that does not fit: under kError any, under
/// kShrinkImage one that is too long with every picture at its smallest, under kCutText one that
/// keeps no target.
std::optional<Sample> fit(const Processor& processor, const Conversation& conversation,
                          int64_t max_length, Overlong policy, std::string_view name);

/// The first ids of a sample, at most `max_length`, no picture cut through.
Sample cut_text(Sample sample, int64_t max_length);

}  // namespace trestle
