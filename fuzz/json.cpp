// JSON texts: config.json, a shard index, adapter_config.json, a row of conversations, and the
// labels of receipts. Each input goes to every reader.
#include "base/json.h"

#include "chat/json.h"
#include "checkpoint/hf_config.h"
#include "data/cord.h"
#include "formats/safetensors.h"
#include "fuzz/fuzz.h"
#include "peft/peft_config.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::or_refused([&] { parse_tensor_json(text, "input"); });
  fuzz::or_refused([&] {
    const Json json = parse_json(text, "input");
    fuzz::or_refused([&] {
      parse_hf_config(json, "input");
      stated_tie(json);
      stated_fp8_block(json, "input");
      parse_hf_config(export_config(json, true, at::kBFloat16), "exported");
    });
    fuzz::or_refused([&] { parse_peft_config(json, "input"); });
    fuzz::or_refused([&] { parse_conversation(json, "input"); });
    fuzz::or_refused([&] {
      flat_fields(json);
      tags_to_json(json_to_tags(json));
    });
  });
  return 0;
}
