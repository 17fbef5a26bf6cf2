// What all ranks must know before any of them goes on: whether one of them failed, and why. Called
// by the trainer and by what it shares out.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "parallel/group.h"

namespace trestle {

/// A fault that one rank met and all of them throw, in the same words: the first of them tells it.
class AgreedError : public UserError {
 public:
  using UserError::UserError;
};

/// An AgreedError on a rank other than the first, on its way to main: nothing more is to be told.
class ToldByFirstRank : public UserError {
 public:
  using UserError::UserError;
};

/// The text of the first rank that has one, "rank 3: " before it unless all have the same; empty
/// where none has. A group of one gives `mine`.
std::string first_told(const Group& host, const std::string& mine);

/// The text of the first rank that has one, as it is; empty where none has.
std::string first_text(const Group& host, const std::string& mine);

/// fn on every rank. Where it throws UserError on any, all throw AgreedError with what the first of
/// these says; in a group of one what was thrown goes on. fn communicates with nobody.
void together(const Group& host, const std::function<void()>& fn);

}  // namespace trestle
