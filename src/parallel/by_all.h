// A part of the work that ranks do apart from each other and that counts only where it has come off
// on all of them. Called where a run is saved and gone on with.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/group.h"

namespace trestle {

/// fn() on every rank of `group`, and what each returned, in their order. Where it throws on one it
/// throws on all: there what was thrown, elsewhere a LostRank that says it of that rank. Everybody
/// waits for the last.
std::vector<std::string> by_all(const Group& group, const std::function<std::string()>& fn);

}  // namespace trestle
