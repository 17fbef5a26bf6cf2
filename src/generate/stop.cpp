#include "generate/stop.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/paths.h"

namespace trestle {

std::vector<int64_t> stop_ids(const Tokenizer& tokenizer) {
  std::vector<int64_t> ids;
  if (const auto end = tokenizer.find_special("</s>")) ids.push_back(*end);

  const std::filesystem::path path = tokenizer.file().parent_path() / "generation_config.json";
  Json stated;
  if (has_file(path)) {
    const Json config = read_json(path);
    if (config.is_object() && config.contains("eos_token_id")) stated = config["eos_token_id"];
  }
  if (!stated.is_array()) stated = stated.is_null() ? Json::array() : Json::array({stated});
  for (const Json& id : stated) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size()) {
      user_error("{}: eos_token_id holds {}, which is not a token id from 0 to {}", path.string(),
                 id.dump(), tokenizer.vocab_size() - 1);
    }
    if (std::find(ids.begin(), ids.end(), id.get<int64_t>()) == ids.end()) {
      ids.push_back(id.get<int64_t>());
    }
  }
  if (ids.empty()) {
    user_error("{} has no </s> and no generation_config.json beside it names an eos_token_id",
               tokenizer.file().string());
  }
  return ids;
}

}  // namespace trestle
