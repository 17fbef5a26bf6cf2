// GGUF files: keys, tensors and their places.
#include "formats/gguf.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::InputFile input;
  fuzz::or_refused([&] {
    const GgufFile file(input.fill(data, size));
    for (const auto& [key, value] : file.metadata()) {
      value.describe();
      fuzz::touch(std::as_bytes(std::span(value.bytes)));
      value.numbers();
      if (const auto texts = value.texts()) {
        for (const auto text : *texts) fuzz::touch(std::as_bytes(std::span(text)));
      }
    }
    for (const auto& [name, info] : file.tensors()) {
      fuzz::expect(file.stored_bytes(name) <= size);
      fuzz::or_refused([&] {
        const at::Tensor tensor = file.read(name);
        fuzz::touch({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
      });
    }
  });
  return 0;
}
