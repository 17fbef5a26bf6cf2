// Where the rows of a JSON file lie: lines, or the items of one array. Called by the data set of
// JSON lines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"

namespace trestle {

struct JsonRows {
  struct Row {
    uint64_t offset = 0, size = 0;
    int64_t number = 0;  // of the line from 1, empty ones counted; of the item from 0
  };
  std::vector<Row> rows;
  bool is_array = false;

  /// "line 3", "item 2".
  std::string name(const Row& row) const;
};

/// One pass that keeps a piece in memory: lines that hold anything, or, where the file begins with
/// "[" and has one value (LLaVA's, ShareGPT's and LLaMA-Factory's data.json), its items. Throws
/// UserError for a row over 256 MiB, an array that does not end or goes on behind its end, and a
/// file that is packed, Parquet or UTF-16.
JsonRows find_json_rows(const MappedFile& file);

/// What to say of a line that is no JSON where it begins a value that goes on in the next, or "".
std::string why_no_row(std::string_view line);

}  // namespace trestle
