// Conversations to ids and loss mask, built turn by turn from structure: control ids never come
// from text. Called by generate (prompts), the data sets (training samples), the demo and `trestle
// tokenize --chat`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "tokenizer/tokenizer.h"

namespace trestle {

enum class Role { kSystem, kUser, kAssistant, kTool };
std::string_view role_name(Role role);

/// A picture of a user message. `source` is a path, an http(s) URL or a data: URI, or empty when
/// only the size matters.
struct ImageRef {
  std::string source;
  /// The encoded picture itself, where it is in memory already (a Parquet cell); then `source` only
  /// names it.
  std::shared_ptr<const std::string> bytes = nullptr;
  /// uint8 [3, H, W] once loaded.
  at::Tensor decoded = {};
  /// Pixels as stored; 0 when unknown.
  int64_t height = 0, width = 0;
  /// [IMG] ids: rows * cols (`image_grid` of image/pixels.h). The caller sets both before encoding.
  int64_t rows = 0, cols = 0;
};

struct Part {
  enum class Kind { kText, kThink, kImage } kind = Kind::kText;
  std::string text = {};  // kText, kThink
  bool closed = true;     // kThink: ends with [/THINK]
  ImageRef image = {};    // kImage
};

struct ToolCall {
  std::string id = "null";
  std::string name;
  std::string arguments;  // JSON text
};

struct Message {
  Role role = Role::kUser;
  std::vector<Part> parts;
  std::vector<ToolCall> tool_calls;         // assistant
  std::optional<std::string> tool_call_id;  // tool
  std::string tool_name;                    // tool: whose result it is, or empty
  bool prefix = false;                      // assistant, last: to be continued, so no </s>
  bool trained = true;                      // assistant: its tokens are targets of the loss
};

Message text_message(Role role, std::string text);

/// What a conversation sets of the model beside what it says, from layout v15 on.
struct ModelSettings {
  /// How much the model shall think; the tokenizer says which values there are, and which is meant
  /// where there is none.
  std::optional<std::string> reasoning_effort = std::nullopt;
  /// The schema (JSON Schema, draft 7) of the answer, or null.
  Json json_schema = nullptr;
};

struct Conversation {
  std::vector<Message> messages;
  /// Array of {"type": "function", "function": {...}}, or null.
  Json tools = nullptr;
  /// Keys of the row and of its messages that say something to nobody here (chat/keys.h).
  std::vector<std::string> unread = {};
  ModelSettings settings = {};
};

/// What the last message must be: anything; one that the model answers; one that the model has
/// written.
enum class Ending { kAny, kPrompt, kSample };

struct EncodedChat {
  std::vector<int64_t> ids;
  /// As long as ids; 1 for what the model must emit: the text, thoughts and tool calls of trained
  /// assistant messages and their </s>.
  std::vector<uint8_t> mask;
  struct Image {
    ImageRef ref;
    size_t begin, end;  // its ids, never to be cut
  };
  std::vector<Image> images;  // in order of appearance
};

class ChatEncoder {
 public:
  /// `version` overrides the tokenizer's own: 3, 7, 11, 13 or 15. Throws UserError for another one,
  /// and for 15 where the vocabulary lacks its tokens.
  explicit ChatEncoder(const Tokenizer& tokenizer, std::optional<int> version = std::nullopt);

  /// Layout and rules are mistral-common's for the version: neighbouring user or assistant messages
  /// merge, text joined by an empty line (v15: the text parts of one message by nothing); text
  /// followed by one final image turns to image first; tool results take the order of their calls;
  /// where the layout writes no ids of calls, they may be absent; tools and settings (v15) stand
  /// before a user turn, or nowhere if there is none. Throws UserError, one line that names the
  /// message, for a conversation that breaks the rules (rules.h).
  EncodedChat encode(Conversation conversation, Ending ending = Ending::kAny) const;

 private:
  const Tokenizer& tokenizer_;
  int version_;
};

/// labels[i] = ids[i + 1] where mask[i + 1] is 1, else -100; the last is -100.
std::vector<int64_t> next_token_labels(const EncodedChat& chat);

/// Puts the checkpoint's default system prompt ("default"), `choice` itself, or nothing ("none")
/// before a conversation that does not start with a system message. [THINK]...[/THINK] in it
/// becomes a thought where the vocabulary has the tokens. Throws UserError when "default" is asked
/// for and the checkpoint has none.
void add_system_prompt(Conversation& conversation, std::string_view choice,
                       const Tokenizer& tokenizer);

}  // namespace trestle
