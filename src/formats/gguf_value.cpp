#include "formats/gguf_value.h"

#include <fmt/format.h>

#include <cstring>

namespace trestle {

namespace {

constexpr size_t kShownText = 60;

template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

std::optional<int64_t> load_integer(GgufKind kind, const char* bytes) {
  switch (kind) {
    case GgufKind::kUint8:
    case GgufKind::kBool:
      return load<uint8_t>(bytes);
    case GgufKind::kInt8:
      return load<int8_t>(bytes);
    case GgufKind::kUint16:
      return load<uint16_t>(bytes);
    case GgufKind::kInt16:
      return load<int16_t>(bytes);
    case GgufKind::kUint32:
      return load<uint32_t>(bytes);
    case GgufKind::kInt32:
      return load<int32_t>(bytes);
    case GgufKind::kInt64:
      return load<int64_t>(bytes);
    case GgufKind::kUint64: {
      const auto value = load<uint64_t>(bytes);
      return value <= INT64_MAX ? std::optional(static_cast<int64_t>(value)) : std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> load_number(GgufKind kind, const char* bytes) {
  if (kind == GgufKind::kFloat32) return load<float>(bytes);
  if (kind == GgufKind::kFloat64) return load<double>(bytes);
  if (kind == GgufKind::kUint64) return static_cast<double>(load<uint64_t>(bytes));
  if (const auto whole = load_integer(kind, bytes)) return static_cast<double>(*whole);
  return std::nullopt;
}

}  // namespace

uint64_t gguf_fixed_size(GgufKind kind) {
  switch (kind) {
    case GgufKind::kUint8:
    case GgufKind::kInt8:
    case GgufKind::kBool:
      return 1;
    case GgufKind::kUint16:
    case GgufKind::kInt16:
      return 2;
    case GgufKind::kUint32:
    case GgufKind::kInt32:
    case GgufKind::kFloat32:
      return 4;
    case GgufKind::kUint64:
    case GgufKind::kInt64:
    case GgufKind::kFloat64:
      return 8;
    default:
      return 0;
  }
}

std::optional<int64_t> GgufValue::integer() const { return load_integer(kind, bytes.data()); }

std::optional<double> GgufValue::number() const { return load_number(kind, bytes.data()); }

std::optional<std::string_view> GgufValue::text() const {
  return kind == GgufKind::kString ? std::optional(bytes) : std::nullopt;
}

std::optional<std::vector<double>> GgufValue::numbers() const {
  if (kind != GgufKind::kArray || element == GgufKind::kString) return std::nullopt;
  std::vector<double> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    values.push_back(*load_number(element, bytes.data() + i * gguf_fixed_size(element)));
  }
  return values;
}

std::optional<std::vector<std::string_view>> GgufValue::texts() const {
  if (kind != GgufKind::kArray || element != GgufKind::kString) return std::nullopt;
  std::vector<std::string_view> values;
  values.reserve(count);
  // The constructor has checked that the strings fill `bytes`.
  for (size_t at = 0; values.size() < count;) {
    const auto length = load<uint64_t>(bytes.data() + at);
    values.push_back(bytes.substr(at + 8, length));
    at += 8 + length;
  }
  return values;
}

std::string GgufValue::describe() const {
  if (kind == GgufKind::kArray) {
    return fmt::format("{} {}", count, element == GgufKind::kString ? "strings" : "numbers");
  }
  if (kind == GgufKind::kString) {
    const bool whole = bytes.size() <= kShownText;
    return Json(bytes.substr(0, kShownText)).dump(-1, ' ', false, Json::error_handler_t::replace) +
           (whole ? "" : fmt::format("... ({} bytes)", bytes.size()));
  }
  if (kind == GgufKind::kBool) return *integer() != 0 ? "true" : "false";
  if (const auto whole = integer()) return fmt::format("{}", *whole);
  if (kind == GgufKind::kUint64) return fmt::format("{}", load<uint64_t>(bytes.data()));
  if (kind == GgufKind::kFloat32) return fmt::format("{}", load<float>(bytes.data()));
  return fmt::format("{}", *number());
}

Json GgufValue::to_json() const {
  if (kind == GgufKind::kArray) {
    return {{element == GgufKind::kString ? "strings" : "numbers", count}};
  }
  if (const auto whole = text()) return *whole;
  const std::string described = describe();
  Json value = Json::parse(described, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json(described) : value;  // nan, inf
}

}  // namespace trestle
