// Parquet files as the cord data set reads them, and as own data are: every column whole. Arrow is
// not instrumented: what counts is what we do with what it says.
#include "parquet/parquet.h"

#include "base/json.h"
#include "chat/json.h"
#include "data/cord.h"
#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::InputFile file;
  fuzz::or_refused([&] {
    const ParquetFile parquet(file.fill(data, size), {"image.bytes", "ground_truth"});
    for (int64_t row = 0; row < std::min<int64_t>(parquet.rows(), 16); ++row) {
      const ParquetRow cells = parquet.row(row);
      if (const auto bytes = cells.bytes(0)) fuzz::touch(std::as_bytes(std::span(*bytes)));
      if (const auto text = cells.bytes(1)) json_to_tags(parse_json(*text, "input"));
    }
    parquet.row(parquet.rows() - 1).integer(0);
  });
  fuzz::or_refused([&] {
    const std::filesystem::path path = file.fill(data, size);
    std::vector<std::string> columns;
    for (const ParquetColumn& column : parquet_columns(path)) columns.push_back(column.name);
    const ParquetFile parquet(path, columns);
    for (int64_t row = 0; row < std::min<int64_t>(parquet.rows(), 16); ++row) {
      Json cells = Json::object();
      for (size_t i = 0; i < columns.size(); ++i) {
        fuzz::or_refused([&] { cells[columns[i]] = parquet.row(row).value(i); });
      }
      fuzz::or_refused([&] { parse_conversation(cells, "input"); });
    }
  });
  return 0;
}
