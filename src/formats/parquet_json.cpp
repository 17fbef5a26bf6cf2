#include "formats/parquet_json.h"

#include <arrow/api.h>

#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr int kMaxLevels = 16;

class CellReader {
 public:
  explicit CellReader(const std::string& name) : name_(name) {}

  Json read(const arrow::Array& array, int64_t index, int level = 0) const {
    if (level > kMaxLevels) user_error("{} has more than {} levels", name_, kMaxLevels);
    if (index < 0 || index >= array.length()) {
      user_error("{} leaves its values; the file is damaged", name_);
    }
    if (array.IsNull(index)) return nullptr;
    switch (array.type_id()) {
      case arrow::Type::STRUCT:
        return object(static_cast<const arrow::StructArray&>(array), index, level);
      case arrow::Type::LIST:
        return list(static_cast<const arrow::ListArray&>(array), index, level);
      case arrow::Type::LARGE_LIST:
        return list(static_cast<const arrow::LargeListArray&>(array), index, level);
      case arrow::Type::FIXED_SIZE_LIST:
        return list(static_cast<const arrow::FixedSizeListArray&>(array), index, level);
      case arrow::Type::DICTIONARY: {
        const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
        return read(*coded.dictionary(), coded.GetValueIndex(index), level + 1);
      }
      default:
        return leaf(array, index);
    }
  }

 private:
  Json object(const arrow::StructArray& array, int64_t index, int level) const {
    Json result = Json::object();
    for (int i = 0; i < array.num_fields(); ++i) {
      // Rows of one column share their fields; those that a row has not are null.
      Json value = read(*array.field(i), index, level + 1);
      if (!value.is_null()) result[array.struct_type()->field(i)->name()] = std::move(value);
    }
    return result;
  }

  template <class List>
  Json list(const List& array, int64_t index, int level) const {
    const int64_t first = array.value_offset(index), count = array.value_length(index);
    if (first < 0 || count < 0 || first > array.values()->length() - count) {
      user_error("{} leaves its values; the file is damaged", name_);
    }
    Json result = Json::array();
    for (int64_t i = first; i < first + count; ++i) {
      result.push_back(read(*array.values(), i, level + 1));
    }
    return result;
  }

  Json text(std::string_view bytes) const {
    if (!is_utf8(bytes)) user_error("{} holds text that is not UTF-8", name_);
    return std::string(bytes);
  }

  static Json binary(std::string_view bytes) {
    return Json::binary(std::vector<uint8_t>(bytes.begin(), bytes.end()));
  }

  template <class Array>
  static auto cell(const arrow::Array& array, int64_t index) {
    return static_cast<const Array&>(array).GetView(index);
  }

  Json leaf(const arrow::Array& array, int64_t index) const {
    switch (array.type_id()) {
      case arrow::Type::STRING:
        return text(cell<arrow::StringArray>(array, index));
      case arrow::Type::LARGE_STRING:
        return text(cell<arrow::LargeStringArray>(array, index));
      case arrow::Type::BINARY:
        return binary(cell<arrow::BinaryArray>(array, index));
      case arrow::Type::LARGE_BINARY:
        return binary(cell<arrow::LargeBinaryArray>(array, index));
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
      case arrow::Type::FLOAT:
        return cell<arrow::FloatArray>(array, index);
      case arrow::Type::DOUBLE:
        return cell<arrow::DoubleArray>(array, index);
      case arrow::Type::NA:
        return nullptr;
      default:
        user_error("{} is of type {}, which no conversation is made of", name_,
                   array.type()->ToString());
    }
  }

  const std::string& name_;
};

}  // namespace

Json json_of_cell(const arrow::Array& array, int64_t index, const std::string& name) {
  return CellReader(name).read(array, index);
}

}  // namespace trestle
