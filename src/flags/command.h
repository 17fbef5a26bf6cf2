// A command of the program and its flags: the one place that knows CLI11, whose header costs each
// file that sees it five seconds. Called by every command for what it takes.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace trestle {

/// A flag or a positional argument; what is asked of it is checked while a command line is read.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}
  Flag& required();
  Flag& one_of(const std::vector<std::string>& words);
  Flag& needs(const Flag& other);
  Flag& excludes(const Flag& other);
  /// What --help says of a flag that is not given: its variable's value now, or this.
  Flag& show_default();
  Flag& show_default(const std::string& text);
  /// Given again for each value: what follows one is not another.
  Flag& one_value_each();
  /// INT, FLOAT: what --help calls the value.
  Flag& type(const std::string& name);
  bool is_given() const;

 private:
  CLI::Option* option_;
};

/// `names` of a flag are `--max-rows,--max_rows`, of a positional a word. A view: copies are the
/// same command.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}
  Command add_command(const std::string& name, const std::string& help);
  /// One of the commands below it has to be named.
  void require_command();
  void on_run(std::function<void()> run);

  Flag add(const std::string& names, std::string& value, const std::string& help);
  Flag add(const std::string& names, std::vector<std::string>& values, const std::string& help);
  Flag add(const std::string& names, const std::function<void(const std::string&)>& take,
           const std::string& help);
  /// On or off (--flag=false, or by the name behind a '!').
  Flag add_switch(const std::string& names, bool& value, const std::string& help);
  Flag add_switch(const std::string& names, std::function<void(bool)> take,
                  const std::string& help);

  Flag flag(const std::string& name) const;
  /// A flag given where it can change nothing is refused: who gave it expects something of it.
  /// Throws UserError, "FLAG VALUE has no effect: WHY; leave it out".
  void refuse_given(std::initializer_list<const char*> flags, std::string_view why) const;

 private:
  CLI::App* app_;
};

/// Reads a command line and runs what it names; false where it only asked for help, which is
/// printed. `add` adds the commands. Throws UserError for what it does not understand, and whatever
/// a command throws.
void run_command_line(const std::string& help, const std::string& name,
                      const std::function<void(Command)>& add, std::vector<std::string> arguments);

}  // namespace trestle
