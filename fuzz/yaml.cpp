// run_config.yaml of a checkpoint, and the YAML of a run's own config.
#include "formats/yaml.h"

#include "base/fields.h"
#include "checkpoint/hf_config.h"
#include "fuzz/fuzz.h"
#include "megatron/run_config.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::or_refused([&] {
    const Json json = parse_yaml(text, "input");
    if (const auto config = hf_config_of_run_config(json)) parse_hf_config(*config, "input");
  });
  fuzz::or_refused([&] { flatten_yaml(load_yaml(std::string(text), "input"), "input"); });
  return 0;
}
