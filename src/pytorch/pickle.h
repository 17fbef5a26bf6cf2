// Pickles read without running anything: a pickle becomes a tree of values in which a class or
// function is only a name and a call only a record of what would have been called. Called by
// torch_save and torch_dist.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace trestle {

/// One value. Values may be shared (a memo refers to them twice) and belong to their Pickle.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,        // integer
    kInt,         // integer
    kBigInt,      // text: two's complement, little-endian, over 8 bytes
    kFloat,       // number
    kString,      // text, UTF-8
    kBytes,       // text
    kList,        // items
    kTuple,       // items
    kSet,         // items
    kDict,        // items: key, value, key, value, ...
    kGlobal,      // text: "module.name"
    kObject,      // items: what was called (a kGlobal), its arguments, and the state if any
    kPersistent,  // items: the persistent id
  };
  Kind kind = Kind::kNone;
  uint16_t depth = 0;
  union {
    int64_t integer = 0;
    double number;
  };
  std::string text;
  std::vector<const PickleValue*> items;

  /// These throw UserError (without a file name: whoever knows it adds it) when the value is of
  /// another kind.
  int64_t as_int() const;
  const std::string& as_string() const;
  std::span<const PickleValue* const> as_sequence() const;  // list or tuple
  /// A torch.Size, list or tuple of integers.
  std::vector<int64_t> as_ints() const;
  /// Value of a string key of a dict, or of a field of an object's dict state; null when absent.
  const PickleValue* find(std::string_view key) const;
  const PickleValue& at(std::string_view key) const;
  bool is_object(std::string_view class_name) const;
  bool is_none() const { return kind == Kind::kNone; }
  std::string_view kind_name() const;
};

/// Plain data (None, bool, int, float, str, list, tuple, set, dict) as JSON. Dict keys that are no
/// strings are spelled out; anything else becomes a string such as "<argparse.Namespace>", unless
/// `special` gives something better. Bounded in depth and size.
Json to_json(const PickleValue& value,
             const std::function<std::optional<Json>(const PickleValue&)>& special = {});

struct PickleLimits {
  size_t memory = size_t{1} << 30;
  int depth = 200;
};

class Pickle {
 public:
  /// Reads a pickle of protocol 2 to 5 from the start of `bytes`. `allowed` are the "module.name"s
  /// it may mention beside torch's element types, `what` names it in errors. Throws UserError for
  /// any other name, malformed input and whatever exceeds the limits.
  Pickle(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
         const std::string& what, PickleLimits limits = {});
  Pickle(Pickle&&) noexcept = default;
  Pickle& operator=(Pickle&&) noexcept = default;
  const PickleValue& root() const { return *root_; }

 private:
  friend class PickleReader;
  // A deque never moves its elements, and destroys nested values one after another instead of
  // recursively.
  std::deque<PickleValue> values_;
  const PickleValue* root_ = nullptr;
};

}  // namespace trestle
