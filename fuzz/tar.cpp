// Tar files as the webdataset data set reads them. A header's sum is mended before it is read, or
// no changed header would come further: every input is read as it is and so mended.
#include "formats/tar.h"

#include <vector>

#include "fuzz/fuzz.h"

using namespace trestle;

namespace {

constexpr size_t kBlock = 512, kSumBegin = 148, kSumSize = 8;

// Each block that could be a header gets the sum of its bytes.
void mend_sums(std::vector<uint8_t>& bytes) {
  for (size_t at = 0; at + kBlock <= bytes.size(); at += kBlock) {
    uint32_t sum = 0;
    bool empty = true;
    for (size_t i = 0; i < kBlock; ++i) {
      sum += i >= kSumBegin && i < kSumBegin + kSumSize ? ' ' : bytes[at + i];
      empty = empty && bytes[at + i] == 0;
    }
    if (empty) continue;
    for (size_t i = 0; i < 6; ++i) {
      bytes[at + kSumBegin + 5 - i] = static_cast<uint8_t>('0' + (sum >> 3 * i) % 8);
    }
    bytes[at + kSumBegin + 6] = 0;
    bytes[at + kSumBegin + 7] = ' ';
  }
}

void read(const uint8_t* data, size_t size) {
  static fuzz::InputFile file;
  fuzz::or_refused([&] {
    const TarFile tar(file.fill(data, size));
    uint64_t end = 0;
    for (const TarMember& member : tar.members()) {
      fuzz::expect(member.offset >= end);  // members lie one behind the other
      end = member.offset + member.size;
      const std::string bytes = tar.read(member);
      fuzz::expect(bytes.size() == member.size);
      fuzz::touch(std::as_bytes(std::span(bytes)));
    }
    fuzz::expect(end <= size);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read(data, size);
  std::vector<uint8_t> mended(data, data + size);
  mend_sums(mended);
  read(mended.data(), mended.size());
  return 0;
}
