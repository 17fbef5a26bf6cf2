// Writes pickles of protocol 2, one opcode a call: what `.metadata` and torch.save records are made
// of. Called by torch_save and torch_dist_writer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"

namespace trestle {

class PickleWriter {
 public:
  PickleWriter();

  PickleWriter& none();
  PickleWriter& boolean(bool value);
  PickleWriter& integer(int64_t value);
  PickleWriter& real(double value);
  PickleWriter& string(std::string_view value);
  PickleWriter& global(std::string_view module, std::string_view name);
  /// A tuple of integers.
  PickleWriter& integers(std::span<const int64_t> values);
  /// JSON as the plain Python objects that json.loads would give.
  PickleWriter& json(const Json& value);

  // A list or dict is begun, filled between mark() and appends() or set_items(); a tuple lies
  // between mark() and tuple().
  PickleWriter& mark() { return op('('); }
  PickleWriter& tuple() { return op('t'); }
  PickleWriter& empty_tuple() { return op(')'); }
  PickleWriter& empty_list() { return op(']'); }
  PickleWriter& appends() { return op('e'); }
  PickleWriter& empty_dict() { return op('}'); }
  PickleWriter& set_items() { return op('u'); }
  /// Calls the global below the tuple on top.
  PickleWriter& reduce() { return op('R'); }
  /// `module.name.__new__(module.name)`; build() then sets its fields from the dict or tuple on
  /// top.
  PickleWriter& new_object(std::string_view module, std::string_view name);
  PickleWriter& build() { return op('b'); }
  PickleWriter& persistent() { return op('Q'); }

  /// Ends the pickle and gives it away.
  std::string finish();

 private:
  PickleWriter& op(char code);

  std::string out_;
};

}  // namespace trestle
