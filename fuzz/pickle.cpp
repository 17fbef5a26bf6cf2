// Pickles of any allowed names: the tree they become, and its JSON.
#include "pytorch/pickle.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kNames[] = {"collections.OrderedDict", "torch.Size", "_codecs.encode",
                                         "builtins.set", "argparse.Namespace"};
  fuzz::or_refused([&] {
    const Pickle pickle(fuzz::bytes_of(data, size), kNames, "input");
    fuzz::or_refused([&] { to_json(pickle.root()); });
    fuzz::or_refused([&] { pickle.root().as_ints(); });
    fuzz::or_refused([&] { pickle.root().at("key"); });
  });
  return 0;
}
