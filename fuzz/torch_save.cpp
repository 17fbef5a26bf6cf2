// Archives of torch.save: zip, pickle and the tensors inside.
#include "pytorch/torch_save.h"

#include <set>

#include "formats/safetensors.h"
#include "fuzz/fuzz.h"

using namespace trestle;

namespace {

// Each value once: a small pickle may share one in many places.
void read_tensors(const SavedArchive& archive, const PickleValue& value,
                  std::set<const PickleValue*>& seen) {
  if (!seen.insert(&value).second) return;
  if (SavedArchive::is_tensor(value)) {
    fuzz::or_refused([&] {
      const SavedTensor tensor = archive.tensor(value);
      fuzz::touch(tensor.data);
      fuzz::expect(tensor.data.size() == byte_size(tensor.info));
    });
  }
  for (const PickleValue* item : value.items) read_tensors(archive, *item, seen);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const auto holds : {SavedArchive::Holds::kTensor, SavedArchive::Holds::kObject}) {
    fuzz::or_refused([&] {
      const SavedArchive archive(fuzz::bytes_of(data, size), holds, "input");
      std::set<const PickleValue*> seen;
      read_tensors(archive, archive.root(), seen);
      archive.json();
    });
  }
  return 0;
}
