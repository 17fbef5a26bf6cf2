#include "parquet/parquet_json.h"

#include <arrow/api.h>
#include <arrow/util/float16.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "parquet/arrow_layouts.h"

namespace trestle {

namespace {

constexpr int kMaxLevels = 16;

constexpr size_t kDigitsOfDouble = 15;

class CellReader {
 public:
  explicit CellReader(const std::string& name) : name_(name) {}

  Json read(const arrow::Array& array, int64_t index, int level = 0) const {
    if (level > kMaxLevels) user_error("{} has more than {} levels", name_, kMaxLevels);
    if (index < 0 || index >= array.length()) damaged();
    if (array.IsNull(index)) return nullptr;
    switch (array.type_id()) {
      case arrow::Type::STRUCT:
        return object(static_cast<const arrow::StructArray&>(array), index, level);
      case arrow::Type::MAP:
        return map(array, index, level);
      case arrow::Type::DICTIONARY: {
        const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
        return read(*coded.dictionary(), coded.GetValueIndex(index), level + 1);
      }
      case arrow::Type::EXTENSION:
        return extension(array, index, level);
      default:
        return list_values(array) ? list(array, index, level) : leaf(array, index);
    }
  }

 private:
  [[noreturn]] void damaged() const {
    user_error("{} leaves its values; the file is damaged", name_);
  }

  Json object(const arrow::StructArray& array, int64_t index, int level) const {
    Json result = Json::object();
    for (int i = 0; i < array.num_fields(); ++i) {
      // Rows of one column share their fields; those that a row has not are null.
      Json value = read(*array.field(i), index, level + 1);
      if (!value.is_null()) result[array.struct_type()->field(i)->name()] = std::move(value);
    }
    return result;
  }

  Json list(const arrow::Array& array, int64_t index, int level) const {
    const auto items = items_of(array, index);
    if (!items) damaged();
    const std::shared_ptr<arrow::Array> values = list_values(array);
    Json result = Json::array();
    for (int64_t i = items->first; i < items->first + items->count; ++i) {
      result.push_back(read(*values, i, level + 1));
    }
    return result;
  }

  // An object where its keys are texts, as JSON's are; else its entries, {"key", "value"}.
  Json map(const arrow::Array& array, int64_t index, int level) const {
    Json entries = list(array, index, level);
    const bool is_object = std::ranges::all_of(entries, [](const Json& entry) {
      return entry.contains("key") && entry["key"].is_string();
    });
    if (!is_object) return entries;
    Json result = Json::object();
    for (const Json& entry : entries) {
      const std::string key = entry["key"];
      if (result.contains(key)) user_error("{}: \"{}\" stands twice in one map", name_, key);
      result[key] = entry.value("value", Json());
    }
    return result;
  }

  Json extension(const arrow::Array& array, int64_t index, int level) const {
    Json stored = read(storage_of(array), index, level + 1);
    // The `datasets` library's for values of several shapes, DuckDB's for JSON.
    if (is_extension(array, "arrow.json") && stored.is_string()) {
      return parse_json_of_single_keys(stored.get_ref<const std::string&>(), name_);
    }
    if (is_extension(array, "arrow.bool8") && stored.is_number_integer()) return stored != 0;
    return stored;
  }

  [[noreturn]] void refuse(const arrow::Array& array) const {
    user_error("{} is of type {}, which no conversation is made of", name_,
               array.type()->ToString());
  }

  template <class Array>
  static auto cell(const arrow::Array& array, int64_t index) {
    return static_cast<const Array&>(array).GetView(index);
  }

  Json leaf(const arrow::Array& array, int64_t index) const {
    if (const auto bytes = bytes_of(array, index)) {
      if (!is_text(*array.type())) {
        return Json::binary(std::vector<uint8_t>(bytes->begin(), bytes->end()));
      }
      if (!is_utf8(*bytes)) user_error("{} holds text that is not UTF-8", name_);
      return std::string(*bytes);
    }
    switch (array.type_id()) {
      case arrow::Type::BOOL:
        return static_cast<bool>(cell<arrow::BooleanArray>(array, index));
      case arrow::Type::INT8:
        return cell<arrow::Int8Array>(array, index);
      case arrow::Type::INT16:
        return cell<arrow::Int16Array>(array, index);
      case arrow::Type::INT32:
        return cell<arrow::Int32Array>(array, index);
      case arrow::Type::INT64:
        return cell<arrow::Int64Array>(array, index);
      case arrow::Type::UINT8:
        return cell<arrow::UInt8Array>(array, index);
      case arrow::Type::UINT16:
        return cell<arrow::UInt16Array>(array, index);
      case arrow::Type::UINT32:
        return cell<arrow::UInt32Array>(array, index);
      case arrow::Type::UINT64:
        return cell<arrow::UInt64Array>(array, index);
      case arrow::Type::HALF_FLOAT:
        return arrow::util::Float16::FromBits(cell<arrow::HalfFloatArray>(array, index)).ToDouble();
      case arrow::Type::FLOAT:
        return cell<arrow::FloatArray>(array, index);
      case arrow::Type::DOUBLE:
        return cell<arrow::DoubleArray>(array, index);
      case arrow::Type::DECIMAL32:
      case arrow::Type::DECIMAL64:
      case arrow::Type::DECIMAL128:
      case arrow::Type::DECIMAL256:
        return decimal(written(array, index));
      // Where a conversation holds one, beside a message, it is a note.
      case arrow::Type::DATE32:
      case arrow::Type::DATE64:
      case arrow::Type::TIME32:
      case arrow::Type::TIME64:
      case arrow::Type::TIMESTAMP:
      case arrow::Type::DURATION:
        return written(array, index);
      case arrow::Type::NA:
        return nullptr;
      default:
        refuse(array);
    }
  }

  // As Arrow prints it: 13.75, 2026-02-01, 2026-02-01 12:30:05.
  std::string written(const arrow::Array& array, int64_t index) const {
    const auto scalar = array.GetScalar(index);
    if (!scalar.ok()) refuse(array);
    return (*scalar)->ToString();
  }

  // A number where a double holds its digits, else its text.
  static Json decimal(const std::string& text) {
    const auto digits = std::ranges::count_if(text, [](char c) { return c >= '0' && c <= '9'; });
    if (static_cast<size_t>(digits) > kDigitsOfDouble) return text;
    return Json::parse(text, nullptr, /*allow_exceptions=*/false);
  }

  const std::string& name_;
};

}  // namespace

Json json_of_cell(const arrow::Array& array, int64_t index, const std::string& name) {
  return CellReader(name).read(array, index);
}

}  // namespace trestle
