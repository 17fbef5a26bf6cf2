#include "parquet/arrow_layouts.h"

#include <arrow/api.h>
#include <arrow/extension_type.h>

namespace trestle {

namespace {

template <class Array>
std::string_view view(const arrow::Array& array, int64_t index) {
  return static_cast<const Array&>(array).GetView(index);
}

/// fn(array as the class of lists that it is), or `otherwise`.
template <class Function, class Result>
Result with_lists(const arrow::Array& array, const Function& fn, Result otherwise) {
  switch (array.type_id()) {
    case arrow::Type::LIST:
    case arrow::Type::MAP:
      return fn(static_cast<const arrow::ListArray&>(array));
    case arrow::Type::LARGE_LIST:
      return fn(static_cast<const arrow::LargeListArray&>(array));
    case arrow::Type::LIST_VIEW:
      return fn(static_cast<const arrow::ListViewArray&>(array));
    case arrow::Type::LARGE_LIST_VIEW:
      return fn(static_cast<const arrow::LargeListViewArray&>(array));
    case arrow::Type::FIXED_SIZE_LIST:
      return fn(static_cast<const arrow::FixedSizeListArray&>(array));
    default:
      return otherwise;
  }
}

}  // namespace

const arrow::Array& storage_of(const arrow::Array& array) {
  const arrow::Array* at = &array;
  while (at->type_id() == arrow::Type::EXTENSION) {
    at = static_cast<const arrow::ExtensionArray&>(*at).storage().get();
  }
  return *at;
}

bool is_extension(const arrow::Array& array, std::string_view name) {
  return array.type_id() == arrow::Type::EXTENSION &&
         static_cast<const arrow::ExtensionType&>(*array.type()).extension_name() == name;
}

bool is_text(const arrow::DataType& type) {
  return type.id() == arrow::Type::STRING || type.id() == arrow::Type::LARGE_STRING ||
         type.id() == arrow::Type::STRING_VIEW;
}

std::optional<std::string_view> bytes_of(const arrow::Array& array, int64_t index) {
  switch (array.type_id()) {
    case arrow::Type::BINARY:
    case arrow::Type::STRING:
      return view<arrow::BinaryArray>(array, index);
    case arrow::Type::LARGE_BINARY:
    case arrow::Type::LARGE_STRING:
      return view<arrow::LargeBinaryArray>(array, index);
    case arrow::Type::BINARY_VIEW:
    case arrow::Type::STRING_VIEW:
      return view<arrow::BinaryViewArray>(array, index);
    case arrow::Type::FIXED_SIZE_BINARY:
      return view<arrow::FixedSizeBinaryArray>(array, index);
    case arrow::Type::DICTIONARY: {
      const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
      const int64_t place = coded.GetValueIndex(index);
      const arrow::Array& values = *coded.dictionary();
      if (place < 0 || place >= values.length() || values.IsNull(place)) return std::nullopt;
      return bytes_of(values, place);
    }
    case arrow::Type::EXTENSION:
      return bytes_of(storage_of(array), index);
    default:
      return std::nullopt;
  }
}

std::shared_ptr<arrow::Array> list_values(const arrow::Array& array) {
  return with_lists(
      storage_of(array), [](const auto& lists) { return lists.values(); },
      std::shared_ptr<arrow::Array>());
}

std::optional<ItemRange> items_of(const arrow::Array& lists, int64_t index) {
  const arrow::Array& array = storage_of(lists);
  const std::shared_ptr<arrow::Array> values = list_values(array);
  if (!values) return std::nullopt;
  const ItemRange range = with_lists(
      array,
      [&](const auto& each) {
        return ItemRange{each.value_offset(index), each.value_length(index)};
      },
      ItemRange{-1, 0});
  if (range.first < 0 || range.count < 0 || range.first > values->length() - range.count) {
    return std::nullopt;
  }
  return range;
}

}  // namespace trestle
