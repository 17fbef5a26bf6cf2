// `trestle tokenize`: JSON lines in, JSON lines out, for parity checks and scripts.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/standard_streams.h"
#include "chat/chat.h"
#include "chat/json.h"
#include "chat/settings.h"
#include "cli/commands.h"
#include "hub/hub.h"
#include "image/fetch.h"
#include "image/pixels.h"
#include "tokenizer/tokenizer.h"

namespace trestle {

namespace {

namespace fs = std::filesystem;

struct TokenizeFlags {
  std::string tokenizer;
  std::string system_prompt = "none";
  std::optional<std::string> reasoning_effort;
  bool chat = false;
  bool decode = false;
  bool keep_special = false;
};

// The processor's files say how large a picture may be; without them tekken.json does.
ImageProcessorConfig image_config(const Tokenizer& tokenizer) {
  const fs::path directory = tokenizer.file().parent_path();
  ImageProcessorConfig config = read_image_processor_config(directory);
  const bool has_files = has_file(directory / "processor_config.json") ||
                         has_file(directory / "preprocessor_config.json");
  if (const auto& section = tokenizer.image(); section && !has_files) {
    config.longest_edge = section->max_size;
    config.patch_size = section->patch_size;
    config.spatial_merge_size = section->merge;
  }
  return config;
}

// A size beside a picture that has one of its own.
void require_size(const ImageRef& declared, const at::Tensor& rgb_CHW) {
  const int64_t height = rgb_CHW.size(1), width = rgb_CHW.size(2);
  if ((declared.height == 0 || declared.height == height) &&
      (declared.width == 0 || declared.width == width)) {
    return;
  }
  user_error("{}: \"width\" {} and \"height\" {}, but the picture has {} x {}; leave them out",
             declared.source, declared.width, declared.height, width, height);
}

void set_grids(Conversation& conversation, const ImageProcessorConfig& config) {
  for (Message& message : conversation.messages) {
    for (Part& part : message.parts) {
      if (part.kind != Part::Kind::kImage) continue;
      ImageRef& image = part.image;
      if (!image.source.empty()) {
        const at::Tensor rgb_CHW = load_image(image.source);
        require_size(image, rgb_CHW);
        image.height = rgb_CHW.size(1);
        image.width = rgb_CHW.size(2);
      }
      const ImageGrid grid = image_grid(image.height, image.width, config);
      image.rows = grid.rows;
      image.cols = grid.cols;
    }
  }
}

class LineTokenizer {
 public:
  explicit LineTokenizer(const TokenizeFlags& flags)
      : flags_(flags),
        tokenizer_(
            Tokenizer::open(resolve_model(flags.tokenizer, "--tokenizer", HubFiles::kAssets))),
        config_(image_config(tokenizer_)) {
    if (flags.chat) encoder_.emplace(tokenizer_);
    if (flags.reasoning_effort) {
      require_effort(*flags.reasoning_effort, tokenizer_, tokenizer_.version(),
                     "--reasoning-effort");
    }
  }

  Json answer(const std::string& line) const {
    const Json row = parse_json_of_single_keys(repair_json_text(line), "line");
    if (flags_.chat) return chat(row);
    return flags_.decode ? decode(row) : encode(row);
  }

 private:
  Json chat(const Json& row) const {
    Conversation conversation = parse_conversation(row, "line", OtherKeys::kRefused);
    add_system_prompt(conversation, flags_.system_prompt, tokenizer_);
    add_reasoning_effort(conversation, flags_.reasoning_effort);
    set_grids(conversation, config_);
    const EncodedChat encoded = encoder_->encode(conversation);
    return {{"ids", encoded.ids}, {"mask", encoded.mask}};
  }

  static void require_alone(const Json& row, std::string_view key) {
    for (const auto& [other, value] : row.items()) {
      if (other != key) user_error("line: nobody reads \"{}\"; the key here is {}", other, key);
    }
  }

  Json encode(const Json& row) const {
    if (!row.is_object() || !row.contains("text") || !row["text"].is_string()) {
      user_error("line: it must be {{\"text\": \"...\"}}");
    }
    require_alone(row, "text");
    return {{"ids", tokenizer_.encode(row["text"].get_ref<const std::string&>())}};
  }

  Json decode(const Json& row) const {
    const auto refuse = [] { user_error("line: it must be {{\"ids\": [1, 2, 3]}}"); };
    if (!row.is_object() || !row.contains("ids") || !row["ids"].is_array()) refuse();
    require_alone(row, "ids");
    std::vector<int64_t> ids;
    for (const Json& id : row["ids"]) {
      if (!id.is_number_integer()) refuse();
      ids.push_back(id.get<int64_t>());
    }
    return {
        {"text", tokenizer_.decode(ids, flags_.keep_special ? Specials::kKeep : Specials::kSkip)}};
  }

  const TokenizeFlags& flags_;
  Tokenizer tokenizer_;
  ImageProcessorConfig config_;
  std::optional<ChatEncoder> encoder_;
};

// False at the end of the input, which a directory or a disk that fails is not: a line that it cut
// short would be answered, and those behind it lost.
bool next_line(std::string& line) {
  const bool is_there = static_cast<bool>(std::getline(std::cin, line));
  const int why = errno;
  if (std::ferror(stdin) != 0) {
    machine_error("cannot read standard input: {}", std::strerror(why));
  }
  return is_there;
}

// A line that cannot be done answers {"error"} and the next one follows; the exit status stays 0.
void tokenize(const TokenizeFlags& flags) {
  const LineTokenizer tokenizer(flags);
  std::string line;
  while (next_line(line)) {
    Json answer;
    try {
      answer = tokenizer.answer(line);
    } catch (const UserError& error) {
      answer = {{"error", error.what()}};
    }
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    flush_output();
  }
}

}  // namespace

void add_tokenize(Command app) {
  Command command =
      app.add_command("tokenize", "text and conversations to ids, ids to text; JSON lines");
  auto flags = std::make_shared<TokenizeFlags>();
  command
      .add("--tokenizer", flags->tokenizer, "tekken.json, tokenizer.json or a checkpoint directory")
      .required();
  Flag chat = command.add_switch(
      "--chat", flags->chat,
      R"({"messages", "tools", "reasoning_effort", "response_format"} -> {"ids", "mask"} instead of {"text"} -> {"ids"})");
  command
      .add("--system-prompt,--system_prompt", flags->system_prompt,
           "with --chat: none, default (the checkpoint's) or a text, for conversations without one")
      .needs(chat)
      .show_default();
  command
      .add(
          "--reasoning-effort,--reasoning_effort",
          [flags](const std::string& effort) { flags->reasoning_effort = effort; },
          "with --chat: for conversations without one, of the values that the tokenizer (v15) "
          "takes")
      .needs(chat);
  Flag decode =
      command.add_switch("--decode", flags->decode, R"({"ids"} -> {"text"})").excludes(chat);
  command
      .add_switch("--keep-special,--keep_special", flags->keep_special,
                  "with --decode: write the names of special tokens")
      .needs(decode);
  command.on_run([flags] { tokenize(*flags); });
}

}  // namespace trestle
