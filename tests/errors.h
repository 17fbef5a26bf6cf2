// What an action says when it throws: shared by the tests of every stage.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <source_location>
#include <string>
#include <vector>

#include "base/error.h"

namespace trestle::testing {

using Place = std::source_location;

/// The message of the `Error` that `action` throws, which must be one line; nothing where it
/// throws nothing.
template <class Error = UserError>
[[nodiscard]] std::optional<std::string> refusal_of(auto&& action, Place place = Place::current()) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.find('\n') != std::string::npos) {
      ADD_FAILURE_AT(place.file_name(), place.line()) << "more than a line: " << message;
    }
    return message;
  }
  return std::nullopt;
}

/// The same of an action that must throw: a failed test and "" where it throws nothing.
template <class Error = UserError>
[[nodiscard]] std::string error_of(auto&& action, Place place = Place::current()) {
  const std::optional<std::string> message = refusal_of<Error>(action, place);
  if (!message) ADD_FAILURE_AT(place.file_name(), place.line()) << "nothing was thrown";
  return message.value_or("");
}

/// That there is a message and that it has all of these parts.
inline void expect_mentions(const std::optional<std::string>& message,
                            const std::vector<std::string>& parts, Place place = Place::current()) {
  if (!message) ADD_FAILURE_AT(place.file_name(), place.line()) << "nothing was thrown";
  for (const std::string& part : parts) {
    if (!message || message->find(part) != std::string::npos) continue;
    ADD_FAILURE_AT(place.file_name(), place.line()) << "'" << part << "' is not in: " << *message;
  }
}

}  // namespace trestle::testing

/// That a statement throws a UserError whose message has all of the parts behind it.
#define EXPECT_REFUSED(statement, ...)                                                  \
  ::trestle::testing::expect_mentions(::trestle::testing::error_of([&] { statement; }), \
                                      {__VA_ARGS__})
