#include "recipes/bridge_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/number.h"
#include "base/text.h"
#include "recipes/config.h"

namespace trestle {

namespace {

// Calls visit(part) for each part of a text; true where one of them says so, which ends it.
template <class Visit>
bool any_part(std::string_view text, char separator, Visit&& visit) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0 && visit(text.substr(0, end))) return true;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return false;
}

bool is_beginning(std::string_view name) { return name.ends_with('*'); }
// Of what lies in a mapping whose keys are anybody's.
bool is_below(std::string_view name) { return name.ends_with(".*"); }

// Whether the Bridge has the key, or names none of the section's: env_vars.* are anybody's.
bool is_of_the_bridge(std::string_view section, std::string_view rest) {
  for (const BridgeNames& each : bridge_names()) {
    if (each.section != section) continue;
    return any_part(each.names, ' ', [&](std::string_view name) { return name == rest; });
  }
  return true;
}

// How much of a key a row's best name says: all of it (npos), the length of its beginning, or
// nothing.
std::optional<size_t> match(const BridgeKeys& row, std::string_view section, std::string_view rest,
                            bool is_known) {
  if (row.section != section) return std::nullopt;
  if (row.names == rest) return std::string_view::npos;
  std::optional<size_t> best;
  any_part(row.names, ' ', [&](std::string_view name) {
    if (name == rest) {
      best = std::string_view::npos;
      return true;
    }
    if (!is_beginning(name) || !(is_known || is_below(name))) return false;
    name.remove_suffix(1);
    if (rest.starts_with(name) && (!best || *best < name.size())) best = name.size();
    return false;
  });
  return best;
}

// Without quotes.
std::string_view plain(std::string_view value) {
  value = trimmed(value);
  if (value.size() >= 2 && value.front() == value.back() &&
      (value.front() == '"' || value.front() == '\'')) {
    value = value.substr(1, value.size() - 2);
  }
  return value;
}

bool is_word(std::string_view value, std::string_view word) {
  return std::ranges::equal(
      value, word, [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
}

bool is_list(std::string_view value) {
  return value.size() >= 2 && ((value.front() == '[' && value.back() == ']') ||
                               (value.front() == '{' && value.back() == '}'));
}

// Lists of plain values; no list lies in a list here.
bool same_lists(std::string_view wanted, std::string_view given) {
  if (wanted.front() != given.front()) return false;
  std::vector<std::string> a, b;
  parse_value("", wanted.substr(1, wanted.size() - 2), a);
  parse_value("", given.substr(1, given.size() - 2), b);
  return std::ranges::equal(a, b, same_value);
}

// A value of the Bridge's, and the one here that stands for it.
struct ValuePair {
  std::string_view theirs, ours;
};

std::vector<ValuePair> value_pairs(const BridgeKeys& row) {
  std::vector<ValuePair> pairs;
  any_part(row.values, '|', [&](std::string_view each) {
    const size_t arrow = each.find('>');
    const bool is_same = arrow == std::string_view::npos;
    pairs.push_back({each.substr(0, arrow), is_same ? each : each.substr(arrow + 1)});
    return false;
  });
  return pairs;
}

// The value that stands for one of the Bridge's, if the row has it.
std::optional<std::string_view> mapped(const BridgeKeys& row,
                                       const std::optional<std::string>& given) {
  const std::string_view value = given ? std::string_view(*given) : "null";
  for (const ValuePair& each : value_pairs(row)) {
    if (same_value(each.theirs, value)) return each.ours;
  }
  return std::nullopt;
}

// Theirs of a row whose values are renamed: "cord_v2, medpix or raven".
std::string values_text(const BridgeKeys& row) {
  std::vector<std::string_view> names;
  for (const ValuePair& each : value_pairs(row)) names.push_back(each.theirs);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string text_of(const Assignment& given) {
  return fmt::format("{}={}", given.key, given.value.value_or("null"));
}

// A group of the Bridge's that has no key here.
bool is_foreign_group(std::string_view name) {
  bool is_group = false;
  for (const BridgeKeys& row : bridge_keys()) {
    if (row.section != name) continue;
    if (row.how == BridgeHow::kTaken) return false;
    is_group = is_group || !row.names.empty();
  }
  return is_group;
}

// A key of this program's, or a group of them.
bool is_ours(std::string_view key) {
  static const std::vector<FieldText> ours = list_fields(TrainConfig());
  return std::ranges::any_of(ours, [&](const FieldText& each) {
    return each.path.starts_with(key) &&
           (each.path.size() == key.size() || each.path[key.size()] == '.');
  });
}

enum class From { kCommandLine, kFile, kBridgesFile };

class Translation {
 public:
  explicit Translation(From from) : from_(from) {}

  void add(Assignment given) {
    const BridgeKeys* row = find_bridge_key(given.key, from_ == From::kBridgesFile);
    if (row != nullptr && given.value && trimmed(*given.value) == "None") given.value.reset();
    if (is_foreign_group(given.key) && (row == nullptr || !row->names.empty())) {
      if (!given.value || given.value == "{}") return;
      user_error("{}: is a group; name a key of it", text_of(given));
    }
    if (row == nullptr && from_ == From::kBridgesFile && !is_ours(given.key)) {
      unknown_.push_back(given.key);
      return;
    }
    if (row == nullptr) {
      out_.assignments.push_back(std::move(given));
      return;
    }
    switch (row->how) {
      case BridgeHow::kTaken:
      case BridgeHow::kRenamed:
        return take(*row, std::move(given));
      case BridgeHow::kNoEffect:
        return leave_out(given, row->words);
      case BridgeHow::kOfCheckpoint:
        if (from_ == From::kBridgesFile) return leave_out(given, row->words);
        user_error("{}: {}; leave it out", text_of(given), row->words);
      case BridgeHow::kRefused:
        // Off, as it is here.
        if (mapped(*row, given.value)) return;
        if (from_ == From::kCommandLine) user_error("{}: {}", text_of(given), row->words);
        user_error("--config: {}: {}; {} on the command line goes before it", text_of(given),
                   row->words,
                   fmt::format("{}={}", given.key, row->values.substr(0, row->values.find('|'))));
    }
  }

  OfBridge finish(std::string_view file) && {
    if (!tags_.empty()) {
      out_.assignments.push_back({std::string(kTags), fmt::format("[{}]", fmt::join(tags_, ", "))});
    }
    if (left_out_ > 0) {
      out_.notes.push_back(
          fmt::format("{}: {} keys of Megatron Bridge have no effect here (trestle recipes "
                      "--bridge-keys says of each why)",
                      file, left_out_));
    }
    if (!unknown_.empty()) {
      out_.notes.push_back(fmt::format("{}: left out what this version does not know: {}", file,
                                       fmt::join(unknown_, ", ")));
    }
    return std::move(out_);
  }

 private:
  // MLflow's tags are a mapping there, whole or key by key, and a list of name=value here.
  bool take_tags(const Assignment& given) {
    const bool is_one = given.key.starts_with(kTags) && given.key.size() > kTags.size() + 1;
    if (!is_one && (given.key != kTags || !given.value || !given.value->starts_with('{'))) {
      return false;
    }
    std::vector<Assignment> tags;
    if (is_one) {
      tags.push_back({given.key.substr(kTags.size() + 1), given.value});
    } else {
      tags = flatten_yaml(load_yaml(*given.value, given.key), given.key);
    }
    for (const auto& [name, value] : tags) {
      if (value.value_or("").find(',') != std::string::npos) {
        user_error("{}: {}={}: a comma parts tags; leave it out", kTags, name, *value);
      }
      tags_.push_back(fmt::format("{}={}", name, value.value_or("")));
    }
    return true;
  }

  void take(const BridgeKeys& row, Assignment given) {
    if (take_tags(given)) return;
    const auto value = mapped(row, given.value);
    if (row.how == BridgeHow::kRenamed) {
      // The Bridge's files state what they do not ask for.
      if (!given.value && from_ == From::kBridgesFile) return;
      if (given.value && !value && !row.values.empty()) {
        user_error("{}: must be one of {}", text_of(given), values_text(row));
      }
    }
    if (value && given.value) given.value = std::string(*value);
    if (row.how == BridgeHow::kRenamed) {
      if (row.words == "dataset.path_or_dataset" && given.value && given.value->starts_with('[')) {
        user_error("{}: name one file, or a directory", text_of(given));
      }
      out_.typed[std::string(row.words)] = given.key;
      given.key = row.words;
    }
    out_.assignments.push_back(std::move(given));
  }

  void leave_out(const Assignment& given, std::string_view why) {
    if (from_ != From::kCommandLine) {
      ++left_out_;
    } else {
      out_.notes.push_back(fmt::format("{} has no effect here: {}", text_of(given), why));
    }
  }

  static constexpr std::string_view kTags = "logger.mlflow_tags";

  From from_;
  OfBridge out_;
  std::vector<std::string> tags_;
  size_t left_out_ = 0;
  std::vector<std::string> unknown_;
};

// What megatron-bridge's YAML says of a class: torch.bfloat16, megatron.bridge.peft.lora.LoRA.
std::optional<std::string> scheme_of_class(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  if (last == "LoRA" || last == "VLMLoRA") return "lora";
  if (last == "DoRA") return "dora";
  return std::nullopt;
}

// What a key of a file that the Bridge wrote says by null, where here null is the recipe's value.
void say_nulls(Assignment& given, bool has_validation) {
  if (given.value) return;
  const bool is_interval = given.key == "validation.eval_interval" ||
                           (given.key == "train.eval_interval" && !has_validation);
  if (is_interval) given.value = "0";                                       // never
  if (given.key == "checkpoint.save_interval") given.value = "1000000000";  // at the end alone
  if (given.key == "peft") given = {"peft.scheme", "none"};
}

}  // namespace

bool same_value(std::string_view wanted, std::string_view given) {
  wanted = plain(wanted);
  given = plain(given);
  if (wanted == given) return true;
  if (is_list(wanted) && is_list(given)) return same_lists(wanted, given);
  const auto is_null = [](std::string_view value) {
    return value == "null" || value == "None" || value == "~";
  };
  if (is_null(wanted)) return is_null(given);
  if (is_word(wanted, "true")) return is_word(given, "true") || given == "1" || given == "on";
  if (is_word(wanted, "false")) return is_word(given, "false") || given == "0" || given == "off";
  double a = 0, b = 0;
  return number_problem(wanted, a).empty() && number_problem(given, b).empty() && a == b;
}

std::vector<std::string> bridge_key_names() {
  std::vector<std::string> names;
  for (const BridgeNames& each : bridge_names()) {
    any_part(each.names, ' ', [&](std::string_view name) {
      names.push_back(fmt::format("{}.{}", each.section, name));
      return false;
    });
  }
  return names;
}

std::string in_typed_words(std::string message, const TypedKeys& typed) {
  const auto names = [](std::string_view text, std::string_view key) {
    const auto is_of_a_key = [](char c) { return std::isalnum(c) != 0 || c == '_' || c == '.'; };
    for (size_t at = text.find(key); at != text.npos; at = text.find(key, at + 1)) {
      const size_t end = at + key.size();
      if ((at == 0 || !is_of_a_key(text[at - 1])) &&
          (end == text.size() || !is_of_a_key(text[end]))) {
        return true;
      }
    }
    return false;
  };
  std::string told;
  for (const auto& [ours, theirs] : typed) {
    if (names(message, ours) && !names(message, theirs)) {
      told += fmt::format("{}{} is {} here", told.empty() ? "" : ", ", theirs, ours);
    }
  }
  return told.empty() ? message : fmt::format("{} ({})", message, told);
}

const BridgeKeys* find_bridge_key(std::string_view key, bool of_any_version) {
  const size_t dot = std::min(key.find('.'), key.size());
  const std::string_view section = key.substr(0, dot);
  const std::string_view rest = dot < key.size() ? key.substr(dot + 1) : std::string_view();
  const bool is_known = of_any_version || is_of_the_bridge(section, rest);
  const BridgeKeys* found = nullptr;
  size_t length = 0;
  for (const BridgeKeys& row : bridge_keys()) {
    const std::optional<size_t> said = match(row, section, rest, is_known);
    if (said && (found == nullptr || *said > length)) {
      found = &row;
      length = *said;
    }
  }
  return found;
}

OfBridge of_bridge(const std::vector<Assignment>& command_line) {
  Translation translation(From::kCommandLine);
  for (Assignment each : command_line) {
    // Hydra's words for a key that the recipe does not have yet.
    each.key.erase(0, std::min<size_t>(each.key.find_first_not_of('+'), 2));
    translation.add(std::move(each));
  }
  return std::move(translation).finish({});
}

OfBridge of_bridge_file(const std::vector<Assignment>& file, std::string_view name,
                        const std::vector<Assignment>& command_line) {
  const auto has = [](const std::vector<Assignment>& list, std::string_view key) {
    return std::ranges::find(list, key, &Assignment::key) != list.end();
  };
  const auto root = std::ranges::find(file, "_target_", &Assignment::key);
  const bool is_written =
      root != file.end() && root->value && root->value->ends_with(".ConfigContainer");
  const bool has_validation = has(file, "validation.eval_interval");
  Translation translation(is_written ? From::kBridgesFile : From::kFile);
  for (Assignment each : file) {
    // What the command line says instead is not looked at.
    if (has(command_line, each.key)) continue;
    if (is_written && each.key.starts_with("trestle.")) continue;  // what a save says of itself
    if (is_written) say_nulls(each, has_validation);
    const size_t dot = std::min(each.key.rfind('.'), each.key.size());
    const std::string parent = each.key.substr(0, dot);
    const std::string last = dot < each.key.size() ? each.key.substr(dot + 1) : each.key;
    const std::string value = each.value.value_or("");
    if (last == "_call_" || last == "_args_" || last == "_partial_" || last == "_name_") continue;
    if (last == "_target_") {
      if (parent == "peft") {
        const auto scheme = scheme_of_class(value);
        if (!scheme) user_error("{}: {}: LoRA and DoRA are here", name, text_of(each));
        translation.add({"peft.scheme", scheme});
      } else if (value.starts_with("torch.")) {  // an element type
        translation.add({parent, value});
      }
    } else {
      translation.add(each);
    }
  }
  OfBridge result = std::move(translation).finish(name);
  result.is_written = is_written;
  return result;
}

std::string bridge_keys_table() {
  std::string out = "| key of Megatron Bridge | here | |\n|---|---|---|\n";
  for (const BridgeKeys& row : bridge_keys()) {
    std::vector<std::string> names;
    any_part(row.names, ' ', [&](std::string_view name) {
      names.push_back(fmt::format("`{}.{}`", row.section, name));
      return false;
    });
    if (names.empty()) names.push_back(fmt::format("`{}`", row.section));
    std::string how, words(row.words), values;
    for (const ValuePair& each : value_pairs(row)) {
      values += values.empty() ? "" : ", ";
      values += fmt::format("`{}`", each.theirs);
      if (each.ours != each.theirs) values += fmt::format(" is `{}`", each.ours);
    }
    switch (row.how) {
      case BridgeHow::kTaken:
        how = "the same key";
        words = values;
        break;
      case BridgeHow::kRenamed:
        how = fmt::format("`{}`", row.words);
        words = values;
        break;
      case BridgeHow::kNoEffect:
        how = "no effect";
        break;
      case BridgeHow::kOfCheckpoint:
        how = "the checkpoint's";
        break;
      case BridgeHow::kRefused:
        how = fmt::format("refused, but for {}", values);
        break;
    }
    out += fmt::format("| {} | {} | {} |\n", fmt::join(names, " "), how, words);
  }
  return out;
}

}  // namespace trestle
