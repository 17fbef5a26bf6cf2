#include "chat/known_keys.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

namespace trestle {

namespace {

/// Words with a space between them, and one reason.
struct Group {
  std::string_view why, keys;
};

constexpr std::string_view kLearnt =
    "what is learnt stands in each message: \"weight\" 0 where it is not";
constexpr std::string_view kTexts = "it belongs into the messages";
constexpr std::string_view kPictures = "pictures stand under \"images\"";

// Of LLaMA-Factory, ms-swift, axolotl, TRL, OpenAI's and Mistral's fine-tuning, and of data sets on
// the Hugging Face hub.
constexpr std::array kLost = {
    Group{"the system prompt stands under \"system\" or is the first message",
          "system system_prompt system_message system_instruction system_instructions "
          "system_content sys_prompt sys"},
    Group{"there is one conversation, under \"messages\" or \"conversations\"",
          "messages conversations conversation message dialog dialogs dialogue dialogues turns "
          "texts chat chats"},
    Group{"earlier turns are messages",
          "history histories chat_history dialog_history dialogue_history conversation_history "
          "message_history previous_messages past_messages"},
    Group{"of answers to choose between none is learnt here; the one to learn is a message",
          "rejected chosen rejected_response rejected_responses chosen_response rejected_messages "
          "chosen_messages rejected_conversations rejected_images positive_messages "
          "negative_messages negative negatives hard_negatives kto_tag preference preferences "
          "preferred_output non_preferred_output"},
    Group{"boxes of a row are not put into its texts; write them there", "objects"},
    Group{"no template is filled in here; the layout is the checkpoint's",
          "chat_template_kwargs chat_template_args chat_template template_kwargs "
          "enable_thinking thinking_budget add_generation_prompt "
          "continue_final_message"},
    Group{"tools stand under \"tools\", calls in their message under \"tool_calls\"",
          "tools functions function_call function_calls tool_calls tool_call tool_results "
          "tool_responses tool_plan"},
    Group{"the layout has no place for documents", "document documents files attachments"},
    Group{"thoughts stand in their message as \"reasoning\"",
          "reasoning reasoning_content reasoning_details thinking thought thoughts "
          "chain_of_thought cot"},
    Group{"a message's text is its \"content\"", "contents parts refusal"},
    Group{"ids of another tokenizer are not taken",
          "input_ids token_ids attention_mask position_ids pixel_values"},
    Group{kLearnt,
          "weight weights train training train_on trainable train_on_turn train_detail loss "
          "loss_mask loss_scale loss_weight loss_weights mask masks masked assistant_mask "
          "assistant_masks completion_mask sample_weight sample_weights example_weight "
          "mask_history train_on_input train_on_inputs"},
    Group{kTexts,
          "prompt prompts completion completions response responses query queries question "
          "questions problem instruction instructions input inputs output outputs target targets "
          "context contexts passage passages choices options hint hints"},
};

constexpr std::string_view kVideos = "video videos", kSounds = "audio audios sound sounds speech";
constexpr std::string_view kPictureStems =
    "image images img imgs picture pictures photo photos jpg jpeg png webp screenshot screenshots";
// What follows one of those.
constexpr std::string_view kMediaEndings =
    "path paths url urls uri uris file files bytes data base64 b64 list frames array content input";

constexpr std::string_view kHarmless =
    "id idx index uid uuid guid key number split subset set source sources dataset datasets "
    "data_source origin provenance url urls link links domain license licence copyright "
    "attribution language languages lang locale country category categories subcategory topic "
    "topics subject field task tasks tag tags keyword keywords difficulty level grade score scores "
    "rating ratings rank quality reward rewards margin confidence perplexity metadata meta extra "
    "info extra_info note notes comment comments title created updated timestamp timestamps time "
    "date datetime year author authors annotator annotators annotations model models generator "
    "engine version hash md5 sha1 sha256 checksum length lengths width height size filename path "
    "usage "
    // What a request asks of an API's server.
    "temperature top_p top_k max_tokens max_completion_tokens seed stop stream n user store "
    "parallel_tool_calls tool_choice presence_penalty frequency_penalty";
// Further answers, or the one that is learnt under another name.
constexpr std::string_view kAnswers = "answer answers solution label ground_truth answer_key";
constexpr std::string_view kHarmlessBeginnings = "num n is has original orig source meta";
constexpr std::string_view kHarmlessEndings =
    "id ids idx index uid uuid key name source score scores rating ratings count counts num type "
    "types version hash at date time width height size length min max mean split lang language "
    "license tokens";

bool has(std::string_view words, std::string_view word) {
  if (word.empty()) return false;
  for (size_t at = words.find(word); at != words.npos; at = words.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || words[at - 1] == ' ') && (end == words.size() || words[end] == ' ')) {
      return true;
    }
  }
  return false;
}

// imagePath, Image-Path, "image path" -> image_path.
std::string folded(std::string_view key) {
  std::string out;
  for (size_t i = 0; i < key.size(); ++i) {
    const auto c = static_cast<unsigned char>(key[i]);
    const auto before = static_cast<unsigned char>(i > 0 ? key[i - 1] : 'A');
    if (std::isupper(c) != 0 && std::islower(before) != 0) out += '_';
    out += c == '-' || c == ' ' || c == '.' ? '_' : static_cast<char>(std::tolower(c));
  }
  return out;
}

// image, image_path, image_2, image2_path and so on.
bool is_medium(std::string_view key, std::string_view stems) {
  const size_t last = key.rfind('_');
  if (last != key.npos && has(kMediaEndings, key.substr(last + 1))) key = key.substr(0, last);
  key = key.substr(0, key.find_last_not_of("0123456789") + 1);
  if (key.ends_with('_')) key.remove_suffix(1);
  return has(stems, key);
}

std::optional<std::string_view> loss_without_folded(std::string_view key) {
  for (const Group& group : kLost) {
    if (has(group.keys, key)) return group.why;
  }
  if (is_medium(key, kVideos)) return "the model takes no videos";
  if (is_medium(key, kSounds)) return "the model takes no sound";
  if (is_medium(key, kPictureStems)) return kPictures;
  return std::nullopt;
}

}  // namespace

std::optional<std::string_view> loss_without(std::string_view key) {
  return loss_without_folded(folded(key));
}

bool names_pictures(std::string_view key) { return loss_without(key) == kPictures; }

bool is_harmless(std::string_view key) {
  const std::string plain = folded(key);
  if (loss_without_folded(plain)) return false;
  if (plain.starts_with('_') || has(kHarmless, plain)) return true;
  const size_t first = plain.find('_'), last = plain.rfind('_');
  return first != plain.npos && (has(kHarmlessBeginnings, plain.substr(0, first)) ||
                                 has(kHarmlessEndings, plain.substr(last + 1)));
}

bool repeats_a_text(std::string_view key) { return loss_without(key) == kTexts; }

bool is_answer(std::string_view key) { return has(kAnswers, folded(key)); }

bool says_what_is_learnt(std::string_view key) { return loss_without(key) == kLearnt; }

}  // namespace trestle
