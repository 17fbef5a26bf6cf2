// tekken.json and tokenizer.json: the vocabulary, its regular expression and its merges.
#include "tokenizer/tokenizer.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::InputFile file;
  fuzz::or_refused([&] {
    const Tokenizer tokenizer = Tokenizer::open(file.fill(data, size));
    const std::vector<int64_t> ids = tokenizer.encode("The price, 12.50 \xe2\x82\xac\n\n [INST]");
    for (const int64_t id : ids) fuzz::expect(id >= 0 && id < tokenizer.vocab_size());
    tokenizer.decode(ids, Specials::kKeep);
  });
  return 0;
}
