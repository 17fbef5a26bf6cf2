// `.metadata` of a torch.distributed.checkpoint directory.
#include "pytorch/torch_dist_metadata.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::or_refused([&] { parse_torch_dist_metadata(fuzz::bytes_of(data, size), "input"); });
  return 0;
}
