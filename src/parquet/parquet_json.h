// A cell of an Arrow array as JSON. Called by parquet.cpp alone: nothing else sees Arrow's types.
#pragma once

#include <arrow/type_fwd.h>

#include <cstdint>
#include <string>

#include "base/json.h"

namespace trestle {

/// ParquetFile::value says what becomes what. `name` opens the UserError.
Json json_of_cell(const arrow::Array& array, int64_t index, const std::string& name);

}  // namespace trestle
