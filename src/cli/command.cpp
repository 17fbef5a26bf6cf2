#include "cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/suggestion.h"

namespace trestle {

namespace {

// CLI11 says of a misspelt command only that one is required.
void check_command(const CLI::App& app, const std::string& given) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  if (given.starts_with('-') || std::ranges::find(names, given) != names.end()) return;
  user_error("unknown command {}; {}", given,
             did_you_mean(given, names, "trestle --help lists those that there are"));
}

// An empty text is a variable that was not set: no path, and not the same as no option.
void refuse_empty_paths(CLI::App& app) {
  constexpr std::array<std::string_view, 11> kWords = {"path",   "model",  "output", "html",
                                                       "report", "data",   "inputs", "tokenizer",
                                                       "assets", "config", "-dir"};
  const auto refuse = [](const std::string& value) {
    return value.empty() ? "is empty; name a path or leave it out" : "";
  };
  for (CLI::App* command : app.get_subcommands({})) {
    refuse_empty_paths(*command);
    for (CLI::Option* option : command->get_options()) {
      const std::string name = option->get_name();
      const bool is_path =
          option->get_positional() || std::ranges::any_of(kWords, [&](std::string_view word) {
            return name.find(word) != name.npos;
          });
      if (is_path && option->get_items_expected_max() > 0) option->check(refuse, "");
    }
  }
}

}  // namespace

Flag& Flag::required() {
  option_->required();
  return *this;
}

Flag& Flag::one_of(const std::vector<std::string>& words) {
  option_->check(CLI::IsMember(words));
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
  CLI::Option* option = app_->add_flag_function(
      names, [take = std::move(take)](int64_t on) { take(on > 0); }, help);
  const auto refuse = [](const std::string& value) {
    const bool is_known = value == "true" || value == "false" || value == "1" || value == "0" ||
                          value == "on" || value == "off";
    return is_known ? std::string() : fmt::format("'{}' is not true or false", value);
  };
  option->check(refuse, "");
  return Flag(option);
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
  refuse_empty_paths(app);
  if (!arguments.empty()) check_command(app, arguments.front());
  std::ranges::reverse(arguments);  // as CLI11 takes them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& asked) {
    app.exit(asked);
  } catch (const CLI::ParseError& error) {
    user_error("{}; see trestle --help", error.what());
  }
}

}  // namespace trestle
