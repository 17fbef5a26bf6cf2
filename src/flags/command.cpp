#include "flags/command.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/suggestion.h"

namespace trestle {

namespace {

// All words behind the first of these are positional arguments, another one too.
constexpr std::string_view kPositionalsFollow = "--";

// "trestle data check".
std::string path_of(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : path_of(*parent) + " " + command.get_name();
}

// "data check"; of the program alone its own name.
std::string name_of(const CLI::App& command) {
  const std::string path = path_of(command);
  return path.substr(path.find(' ') + 1);
}

std::string help_of(const CLI::App& command) {
  return fmt::format("see {} --help", path_of(command));
}

// The command that the first of the words name, and where those behind them begin.
CLI::App* named_command(CLI::App* app, const std::vector<std::string>& words, size_t& next) {
  const std::vector<CLI::App*> commands = app->get_subcommands({});
  const std::string word = next < words.size() ? words[next] : "";
  if (commands.empty() || (word.starts_with('-') && word != kPositionalsFollow)) return app;
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  const std::string those = fmt::format("there are {}; {}", fmt::join(names, ", "), help_of(*app));
  if (next == words.size()) user_error("{} needs a command; {}", name_of(*app), those);
  const auto found = std::ranges::find(names, word);
  if (found == names.end()) {
    const std::string above = app->get_parent() == nullptr ? "" : name_of(*app) + " ";
    user_error("unknown command {}{}; {}", above, word.empty() ? "''" : word,
               did_you_mean(word, names, those));
  }
  ++next;
  return named_command(commands[static_cast<size_t>(found - names.begin())], words, next);
}

// "--prompt" of "--prompt=a"; empty of a value.
std::string flag_in(const std::string& word) {
  const bool is_flag = word.size() > 1 && word[0] == '-' && word != kPositionalsFollow &&
                       !(word[1] >= '0' && word[1] <= '9');
  return is_flag ? word.substr(0, word.find('=')) : "";
}

// The longest of the names that, a part of it more, is the word: hf-model of hf-model-path.
std::optional<std::string> shorter_by_a_part(std::string_view word,
                                             const std::vector<std::string>& names) {
  std::optional<std::string> longest;
  for (const std::string& name : names) {
    const bool begins = name.size() > 2 && word.size() > name.size() && word.starts_with(name) &&
                        (word[name.size()] == '-' || word[name.size()] == '_');
    if (begins && (!longest || name.size() > longest->size())) longest = name;
  }
  return longest;
}

// "did you mean --prompt? see trestle generate --help": a flag that begins so, as argparse takes
// it, whose name is near, or which the word begins with.
std::string meant_flag(const CLI::App& command, std::string_view given) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  const std::string_view word = given.substr(std::min(given.find_first_not_of('-'), given.size()));
  auto meant = begun_or_nearest(word, names);
  if (!meant) meant = shorter_by_a_part(word, names);
  return (meant ? fmt::format("did you mean --{}? ", *meant) : "") + help_of(command);
}

// That of the flag at words[i], where i goes on to it if it is a word of its own.
std::string take_value(const CLI::App& command, std::vector<std::string>& words, size_t& i) {
  const std::string flag = flag_in(words[i]);
  if (words[i].size() > flag.size() + 1) return words[i].substr(flag.size() + 1);
  const bool is_empty = words[i].size() > flag.size();
  if (is_empty) {  // "--flag=", of which CLI11 would take the word behind it
    words[i] = flag;
    words.insert(words.begin() + static_cast<std::ptrdiff_t>(i) + 1, "");
  }
  if (++i == words.size()) user_error("{} needs a value; {}", flag, help_of(command));
  const std::string next = flag_in(words[i]);
  if (!next.empty() && command.get_option_no_throw(next) != nullptr) {
    user_error("{} needs a value, and what follows is the flag {}; write {}={} if it is meant",
               flag, next, flag, words[i]);
  }
  return words[i];
}

void check_switch(const std::string& word, const std::string& flag) {
  constexpr std::array<std::string_view, 6> kWords = {"true", "false", "1", "0", "on", "off"};
  if (word == flag) return;
  const std::string value = word.substr(flag.size() + 1);
  if (std::ranges::find(kWords, value) != kWords.end()) return;
  user_error("{}: '{}' is not true or false", flag, value);
}

// A flag as it was typed: one flag may have several names.
struct TypedFlag {
  const CLI::Option* option;
  std::string name, value;
};

// Of flags that take one value.
void refuse_repeated(const std::vector<TypedFlag>& typed) {
  for (const TypedFlag& first : typed) {
    std::vector<std::string> values, all;
    bool same_name = true;
    for (const TypedFlag& each : typed) {
      if (each.option != first.option) continue;
      values.push_back(fmt::format("'{}'", each.value));
      all.push_back(fmt::format("{} {}", each.name, each.value.empty() ? "''" : each.value));
      same_name = same_name && each.name == first.name;
    }
    const size_t count = all.size();
    if (count == 1) continue;
    const std::string times = count == 2 ? "twice" : fmt::format("{} times", count);
    user_error("{} is given {}, as {}; keep one", same_name ? first.name : "one flag", times,
               fmt::join(same_name ? values : all, count == 2 ? " and " : ", "));
  }
}

// The flag at words[i] and its values, of which i goes on to the last.
TypedFlag take_flag(const CLI::App& command, std::vector<std::string>& words, size_t& i) {
  const std::string flag = flag_in(words[i]);
  const CLI::Option* option = command.get_option_no_throw(flag);
  if (option == nullptr) {
    user_error("{} has no flag {}; {}", name_of(command), flag, meant_flag(command, flag));
  }
  TypedFlag typed{option, flag, {}};
  if (option->get_items_expected_max() == 0) {
    check_switch(words[i], flag);
    return typed;
  }
  typed.value = take_value(command, words, i);
  const auto is_value = [](const std::string& word) {
    return flag_in(word).empty() && word != kPositionalsFollow;
  };
  while (option->get_allow_extra_args() && i + 1 < words.size() && is_value(words[i + 1])) ++i;
  return typed;
}

// Checks the flags behind the first `next` words, which name the command, before CLI11: it speaks
// in words that are not ours, or of the word behind a flag that is misspelt, or not at all. Takes
// the positional arguments out of `words` and returns them: CLI11 2.1 loses what lies behind a
// "--" where a command has no place for it. Of a line that asks for help only that is left.
std::vector<std::string> take_positionals(const CLI::App& command, std::vector<std::string>& words,
                                          size_t next) {
  std::vector<TypedFlag> typed;
  std::vector<std::string> positionals;
  const auto place = [&](size_t i) { return words.begin() + static_cast<std::ptrdiff_t>(i); };
  std::vector<std::string> path(words.begin(), place(next)), kept = path;
  for (size_t i = next; i < words.size(); ++i) {
    if (words[i] == kPositionalsFollow) {
      positionals.insert(positionals.end(), place(i + 1), words.end());
      break;
    }
    if (flag_in(words[i]).empty()) {
      positionals.push_back(words[i]);
      continue;
    }
    const size_t first = i;
    const TypedFlag flag = take_flag(command, words, i);
    if (flag.option == command.get_help_ptr()) {
      path.push_back(flag.name);
      words = std::move(path);
      return {};
    }
    if (flag.option->get_items_expected_max() > 0 && flag.option->get_expected_max() == 1) {
      typed.push_back(flag);
    }
    kept.insert(kept.end(), place(first), place(i + 1));
  }
  refuse_repeated(typed);
  words = std::move(kept);
  return positionals;
}

// In the order in which the command has them; returns the first that has no place.
std::optional<std::string> give_positionals(CLI::App& command,
                                            const std::vector<std::string>& words) {
  const std::vector<CLI::Option*> options =
      command.get_options([](const CLI::Option* option) { return option->get_positional(); });
  for (const std::string& word : words) {
    const auto free = std::ranges::find_if(options, [](const CLI::Option* option) {
      return static_cast<int>(option->count()) < option->get_items_expected_min() ||
             option->get_allow_extra_args();
    });
    if (free == options.end()) return word;
    (*free)->add_result(word);
  }
  return std::nullopt;
}

[[noreturn]] void refuse_extra(const CLI::App& command, const std::string& word) {
  const bool is_flag = command.get_option_no_throw(flag_in(word)) != nullptr;
  user_error("{} has no place for '{}'; {}", name_of(command), word,
             is_flag ? "flags stand before '--'; " + help_of(command) : meant_flag(command, word));
}

// What an option names, "a path"; nothing where an empty text may be meant.
std::string_view named_by(const CLI::Option& option) {
  constexpr std::array<std::string_view, 11> kPaths = {"path",   "model",  "output", "html",
                                                       "report", "data",   "inputs", "tokenizer",
                                                       "assets", "config", "-dir"};
  const std::string name = option.get_name();
  const auto has = [&](std::string_view word) { return name.find(word) != name.npos; };
  if (name == "--recipe") return "a recipe";
  if (name == "--device") return "a device";
  if (name == "--allow-change") return "a key";
  return option.get_positional() || std::ranges::any_of(kPaths, has) ? "a path" : "";
}

// An empty text is a variable that was not set: it names nothing, and is not the same as no option.
void refuse_empty_names(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands({})) {
    refuse_empty_names(*command);
    for (CLI::Option* option : command->get_options()) {
      const std::string_view named = named_by(*option);
      if (named.empty() || option->get_items_expected_max() == 0) continue;
      const auto refuse = [named](const std::string& value) {
        return value.empty() ? fmt::format("is empty; name {} or leave it out", named) : "";
      };
      option->check(refuse, "");
    }
  }
}

}  // namespace

Flag& Flag::required() {
  option_->required();
  return *this;
}

Flag& Flag::one_of(const std::vector<std::string>& words) {
  const auto refuse = [words](const std::string& value) {
    if (std::ranges::find(words, value) != words.end()) return std::string();
    return fmt::format("'{}' is none of {}{}", value, fmt::join(words, ", "),
                       or_meant(value, words));
  };
  option_->check(refuse, fmt::format("{{{}}}", fmt::join(words, ",")));
  return *this;
}

Flag& Flag::needs(const Flag& other) {
  option_->needs(other.option_);
  return *this;
}

Flag& Flag::excludes(const Flag& other) {
  option_->excludes(other.option_);
  return *this;
}

Flag& Flag::show_default() {
  option_->capture_default_str();
  return *this;
}

Flag& Flag::show_default(const std::string& text) {
  option_->default_str(text);
  return *this;
}

Flag& Flag::one_value_each() {
  option_->allow_extra_args(false);
  return *this;
}

Flag& Flag::type(const std::string& name) {
  option_->type_name(name);
  return *this;
}

bool Flag::is_given() const { return option_->count() > 0; }

Command Command::add_command(const std::string& name, const std::string& help) {
  return Command(app_->add_subcommand(name, help));
}

void Command::require_command() { app_->require_subcommand(1); }

void Command::on_run(std::function<void()> run) { app_->callback(std::move(run)); }

Flag Command::add(const std::string& names, std::string& value, const std::string& help) {
  return Flag(app_->add_option(names, value, help));
}

Flag Command::add(const std::string& names, std::vector<std::string>& values,
                  const std::string& help) {
  return Flag(app_->add_option(names, values, help));
}

Flag Command::add(const std::string& names, const std::function<void(const std::string&)>& take,
                  const std::string& help) {
  return Flag(app_->add_option_function<std::string>(names, take, help));
}

Flag Command::add_switch(const std::string& names, bool& value, const std::string& help) {
  return Flag(app_->add_flag(names, value, help));
}

Flag Command::add_switch(const std::string& names, std::function<void(bool)> take,
                         const std::string& help) {
  return Flag(app_->add_flag_function(
      names, [take = std::move(take)](int64_t on) { take(on > 0); }, help));
}

Flag Command::flag(const std::string& name) const { return Flag(app_->get_option(name)); }

void Command::refuse_given(std::initializer_list<const char*> flags, std::string_view why) const {
  for (const char* name : flags) {
    const CLI::Option* option = app_->get_option(name);
    if (option->count() == 0) continue;
    const bool has_value = option->get_items_expected_max() > 0;
    user_error("{}{} has no effect: {}; leave it out", name,
               has_value ? " " + option->results().front() : "", why);
  }
}

void run_command_line(const std::string& help, const std::string& name,
                      const std::function<void(Command)>& add, std::vector<std::string> arguments) {
  CLI::App app(help, name);
  app.require_subcommand(1);
  add(Command(&app));
  refuse_empty_names(app);
  size_t next = 0;
  CLI::App& command = *named_command(&app, arguments, next);
  const auto extra = give_positionals(command, take_positionals(command, arguments, next));
  // What is wrong with a flag goes before it, so CLI11 gets a word without a place too.
  if (extra) arguments.insert(arguments.begin() + static_cast<std::ptrdiff_t>(next), "extra");
  std::ranges::reverse(arguments);  // as CLI11 takes them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& asked) {
    app.exit(asked);
  } catch (const CLI::ExtrasError&) {
    refuse_extra(command, extra.value_or(""));
  } catch (const CLI::ParseError& error) {
    // A word that stands in a wrong place may be what is missing.
    if (extra && error.get_name() == "RequiredError") refuse_extra(command, *extra);
    const std::string said = error.what();
    user_error("{}{} {}", said, said.ends_with('?') ? "" : ";", help_of(command));
  }
}

}  // namespace trestle
