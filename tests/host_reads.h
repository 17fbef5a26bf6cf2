// Which operators an action asks for, and whether one of them makes the host wait for a value or
// for a number of elements: seen on the CPU as well, where waiting costs nothing.
#pragma once

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::testing {

using Waits = std::map<std::string, int>;

/// Those that read a value for the host, or have as many elements as values say.
inline const std::set<std::string_view> kWaiting = {"aten::_local_scalar_dense",
                                                    "aten::nonzero",
                                                    "aten::is_nonzero",
                                                    "aten::equal",
                                                    "aten::masked_select",
                                                    "aten::unique_dim",
                                                    "aten::_unique2",
                                                    "aten::_unique",
                                                    "aten::unique_consecutive",
                                                    "aten::bincount",
                                                    "aten::count_nonzero",
                                                    "aten::repeat_interleave",
                                                    "aten::nonzero_static"};

struct SeenOperators {
  std::mutex mutex;
  Waits waits;
  /// Names and the sizes of what they are given, of all threads.
  std::vector<std::string> calls;
};
inline SeenOperators* seen_operators = nullptr;
inline thread_local int in_optimizer = 0;

/// The CPU's fused optimizer reads its own count of steps; a card's does not.
inline bool is_optimizer(const at::RecordFunction& function) {
  return std::string_view(function.name()) == "aten::_fused_adamw_";
}

inline std::unique_ptr<at::ObserverContext> begin_operator(const at::RecordFunction& function) {
  if (is_optimizer(function)) ++in_optimizer;
  std::string call = function.name();
  for (const c10::IValue& input : function.inputs()) {
    if (input.isTensor() && input.toTensor().defined()) {
      call += ' ' + c10::str(input.toTensor().sizes());
    } else if (input.isInt()) {
      call += ' ' + std::to_string(input.toInt());
    }
  }
  const std::scoped_lock lock(seen_operators->mutex);
  seen_operators->calls.push_back(std::move(call));
  if (in_optimizer == 0 && kWaiting.contains(function.name())) {
    ++seen_operators->waits[function.name()];
  }
  return nullptr;
}

inline void end_operator(const at::RecordFunction& function, at::ObserverContext*) {
  if (is_optimizer(function)) --in_optimizer;
}

template <class Action>
void see_operators(SeenOperators& seen, const Action& action) {
  seen_operators = &seen;
  const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback(&begin_operator, &end_operator)
                                .needsInputs(true)
                                .scopes({at::RecordScope::FUNCTION}));
  action();
  at::removeCallback(handle);
  seen_operators = nullptr;
  EXPECT_FALSE(seen.calls.empty());
}

/// What `action` waits for, in all threads.
template <class Action>
Waits waits_of(const Action& action) {
  SeenOperators seen;
  see_operators(seen, action);
  return seen.waits;
}

}  // namespace trestle::testing
