// Parquet files as the cord data set reads them. Arrow is not instrumented: what counts is what we
// do with what it says.
#include "data/parquet.h"

#include "base/json.h"
#include "data/cord.h"
#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::InputFile file;
  fuzz::or_refused([&] {
    const ParquetFile parquet(file.fill(data, size), {"image.bytes", "ground_truth"});
    for (int64_t row = 0; row < std::min<int64_t>(parquet.rows(), 16); ++row) {
      if (const auto bytes = parquet.bytes(0, row)) fuzz::touch(std::as_bytes(std::span(*bytes)));
      if (const auto text = parquet.bytes(1, row)) json_to_tags(parse_json(*text, "input"));
    }
    parquet.integer(0, parquet.rows() - 1);
  });
  return 0;
}
