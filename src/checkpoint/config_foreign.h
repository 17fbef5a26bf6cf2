// Keys of other families' configs that change what a model computes: a config that states one means
// a model that is not ours, whatever its model_type says. Used by hf_config only.
#pragma once

#include "checkpoint/config_section.h"

namespace trestle {

/// Throws UserError, naming key and value, where the section has such a key and the value is not
/// the one that changes nothing (null, false, 0 or an empty list; 1 for factors).
void refuse_foreign_keys(const ConfigSection& section);

}  // namespace trestle
