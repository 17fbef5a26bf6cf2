// Arrow has several layouts for one logical type: lists with offsets of 32 or 64 bits, as views or
// of one size, texts likewise, and dictionaries and extension types around them. Read as one here.
// Called by parquet.cpp and parquet_json.cpp alone: nothing else sees Arrow's types.
#pragma once

#include <arrow/type_fwd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace trestle {

/// `array` as the type says it is stored: without extension types around it.
const arrow::Array& storage_of(const arrow::Array& array);

/// Whether it is an extension type of that name, as "arrow.json".
bool is_extension(const arrow::Array& array, std::string_view name);

/// Bytes of a cell that is not null, or nothing where the type is neither bytes nor text. Valid as
/// long as the array.
std::optional<std::string_view> bytes_of(const arrow::Array& array, int64_t index);
bool is_text(const arrow::DataType& type);

/// The values of all lists, or nullptr where the type is no list; a map is a list of structs.
std::shared_ptr<arrow::Array> list_values(const arrow::Array& array);

/// The places of one list's items in list_values.
struct ItemRange {
  int64_t first, count;
};
/// Nothing where they leave the values.
std::optional<ItemRange> items_of(const arrow::Array& lists, int64_t index);

}  // namespace trestle
