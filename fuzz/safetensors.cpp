// Safetensors headers: whatever is accepted lies in the file.
#include "formats/safetensors.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::or_refused([&] {
    const SafetensorsHeader header = parse_safetensors_header(fuzz::text_of(data, size), "input");
    for (const auto& [name, info] : header.tensors) {
      const auto bytes = byte_size(info);
      const uint64_t offset = header.offsets.at(name);
      fuzz::expect(bytes && offset <= size && *bytes <= size - offset);
      // What is read row by row is all of it, of packed types too.
      fuzz::expect(info.row_bytes() * static_cast<uint64_t>(info.rows()) == *bytes);
    }
  });
  return 0;
}
