// The facts taken from a checkpoint's Jinja chat template, which is never run: the layout it
// renders, the settings of the model that it takes and the system prompt it inserts. Called when a
// tokenizer is opened and when a user asks for the default system prompt.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/vocabulary.h"

namespace trestle {

/// chat_template.jinja, else "chat_template" of chat_template.json or of tokenizer_config.json
/// (where a list means its "default" entry). Throws UserError on a malformed file.
std::optional<std::string> read_chat_template(const std::filesystem::path& directory);

/// The layout whose markers the template writes: [MODEL_SETTINGS] 15, [ARGS] without [CALL_ID] 13,
/// with it 11, [TOOL_CONTENT] or [SYSTEM_PROMPT] 7, only [INST] 3. Nothing for a template of
/// another kind.
std::optional<int> template_version(std::string_view chat_template);

/// What a template of layout v15 takes: the values of `reasoning_effort` that it does not refuse
/// and the one it sets where none is given, and whether it writes a "json_schema". Nothing where it
/// does not say so in the way of mistral-common's generator.
std::optional<SettingsBuilder> template_settings(std::string_view chat_template);

/// What the template inserts when the conversation has no system message
/// (`default_system_message`), else the text of SYSTEM_PROMPT.txt, else nothing. `{today}` and
/// `{yesterday}` stay as they are.
std::optional<std::string> default_system_prompt(const std::filesystem::path& directory);

}  // namespace trestle
