#include <algorithm>

#include "base/error.h"
#include "pytorch/pickle.h"

namespace trestle {

using Kind = PickleValue::Kind;

namespace {

constexpr int kMaxJsonDepth = 64;
constexpr size_t kMaxJsonBytes = size_t{64} << 20;
constexpr size_t kMaxJsonEntries = 1 << 14;
constexpr size_t kMaxFields = 2 * 256;

std::string key_text(const PickleValue& key);

// Shared values make a small pickle describe a huge tree, so what is written out is counted.
class JsonWriter {
 public:
  using Special = std::function<std::optional<Json>(const PickleValue&)>;
  explicit JsonWriter(const Special& special) : special_(special) {}

  Json write(const PickleValue& value, int depth = 0) {
    size_ += sizeof(Json) + value.text.size();
    if (depth > kMaxJsonDepth || size_ > kMaxJsonBytes ||
        (value.kind == Kind::kDict && value.items.size() > 2 * kMaxJsonEntries)) {
      user_error("a value is nested deeper than {} levels or too large to be shown", kMaxJsonDepth);
    }
    switch (value.kind) {
      case Kind::kNone:
        return nullptr;
      case Kind::kBool:
        return value.integer != 0;
      case Kind::kInt:
        return value.integer;
      case Kind::kFloat:
        return value.number;
      case Kind::kString:
        return value.text;
      case Kind::kList:
      case Kind::kTuple:
      case Kind::kSet: {
        Json out = Json::array();
        for (const PickleValue* item : value.items) out.push_back(write(*item, depth + 1));
        return out;
      }
      case Kind::kDict: {
        Json out = Json::object();
        for (size_t i = 0; i + 1 < value.items.size(); i += 2) {
          std::string key = key_text(*value.items[i]);
          size_ += key.size();
          out[std::move(key)] = write(*value.items[i + 1], depth + 1);
        }
        return out;
      }
      case Kind::kGlobal:
        return value.text;
      case Kind::kObject:
        if (special_) {
          if (std::optional<Json> json = special_(value)) return *json;
        }
        return fmt::format("<{}>", value.items[0]->text);
      case Kind::kBigInt:
      case Kind::kBytes:
      case Kind::kPersistent:
        return fmt::format("<{}>", value.kind_name());
    }
    return nullptr;
  }

 private:
  const Special& special_;
  size_t size_ = 0;
};

// A tuple inside a key's tuple is not spelled out, so a key cannot recurse.
std::string part_text(const PickleValue& part) {
  return part.kind == Kind::kTuple ? "(...)" : key_text(part);
}

std::string key_text(const PickleValue& key) {
  switch (key.kind) {
    case Kind::kString:
    case Kind::kGlobal:
      return key.text;
    case Kind::kInt:
      return std::to_string(key.integer);
    case Kind::kTuple: {
      std::string out = "(";
      for (size_t i = 0; i < key.items.size(); ++i) {
        const PickleValue& item = *key.items[i];
        out += fmt::format("{}{}", i == 0 ? "" : ", ", i == 8 ? "..." : part_text(item));
        if (i == 8) break;
      }
      return out + ")";
    }
    default:
      return fmt::format("<{}>", key.kind_name());
  }
}

[[noreturn]] void wrong_kind(const PickleValue& value, std::string_view wanted) {
  user_error("found a {} where a {} belongs; the file is damaged or of another format",
             value.kind_name(), wanted);
}

}  // namespace

Json to_json(const PickleValue& value,
             const std::function<std::optional<Json>(const PickleValue&)>& special) {
  return JsonWriter(special).write(value);
}

std::string_view PickleValue::kind_name() const {
  constexpr std::string_view kNames[] = {"none",   "bool",  "int",    "long int",     "float",
                                         "string", "bytes", "list",   "tuple",        "set",
                                         "dict",   "name",  "object", "persistent id"};
  return kNames[static_cast<size_t>(kind)];
}

int64_t PickleValue::as_int() const {
  if (kind != Kind::kInt && kind != Kind::kBool) wrong_kind(*this, "int");
  return integer;
}

const std::string& PickleValue::as_string() const {
  if (kind != Kind::kString) wrong_kind(*this, "string");
  return text;
}

std::span<const PickleValue* const> PickleValue::as_sequence() const {
  if (kind != Kind::kList && kind != Kind::kTuple) wrong_kind(*this, "list");
  return items;
}

std::vector<int64_t> PickleValue::as_ints() const {
  std::vector<int64_t> out;
  for (const PickleValue* item : as_sequence()) out.push_back(item->as_int());
  return out;
}

const PickleValue* PickleValue::find(std::string_view key) const {
  const PickleValue* dict = this;
  if (kind == Kind::kObject && items.size() == 3) dict = items[2];
  if (dict->kind != Kind::kDict) return nullptr;
  // No class of the format has many fields; thousands of objects that share a huge state would take
  // for ever.
  const size_t size = dict == this ? dict->items.size() : std::min(dict->items.size(), kMaxFields);
  for (size_t i = 0; i + 1 < size; i += 2) {
    const PickleValue& candidate = *dict->items[i];
    if (candidate.kind == Kind::kString && candidate.text == key) return dict->items[i + 1];
  }
  return nullptr;
}

const PickleValue& PickleValue::at(std::string_view key) const {
  const PickleValue* found = find(key);
  if (!found) user_error("a {} lacks the entry {}; the file is damaged", kind_name(), key);
  return *found;
}

bool PickleValue::is_object(std::string_view class_name) const {
  return kind == Kind::kObject && items[0]->text == class_name;
}

}  // namespace trestle
