// The program: subcommands, and the one place where errors become a line and an exit status.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/fields.h"
#include "base/heap.h"
#include "base/standard_streams.h"
#include "base/text.h"
#include "cli/commands.h"

namespace {

constexpr int kFailed = 1;     // our bug, or the machine's
constexpr int kUserError = 2;  // the user can mend it

int fail(int status, const char* message) {
  std::fprintf(stderr, "trestle: %s\n", message);
  return status;
}

// CLI11 says of a misspelt command only that one is required.
void check_command(const CLI::App& app, const char* given) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  if (given[0] == '-' || std::ranges::find(names, given) != names.end()) return;
  trestle::user_error("unknown command {}; did you mean {}? See trestle --help", given,
                      trestle::nearest(given, names));
}

// An empty text is a variable that was not set: no path, and not the same as no option.
void refuse_empty_paths(CLI::App& app) {
  constexpr std::array<std::string_view, 10> kWords = {"path",   "model", "output", "html",
                                                       "report", "data",  "inputs", "tokenizer",
                                                       "assets", "config"};
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

// libtorch's allocator has no exception of its own.
bool out_of_memory(const std::exception& error) {
  return std::string_view(error.what()).find("can't allocate memory") != std::string_view::npos;
}

void run(CLI::App& app, int argc, char** argv) {
  try {
    if (argc > 1) check_command(app, argv[1]);
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    app.exit(help);
  }
  // What was printed may still wait in a buffer; a full disk behind it is no success.
  trestle::flush_output();
}

// As cat ends where nobody reads it any more.
int end_in_silence() {
  std::signal(SIGPIPE, SIG_DFL);
  std::raise(SIGPIPE);
  return kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  trestle::protect_streams();
  trestle::settle_heap();
  CLI::App app("Ministral 3 in one program: convert, train, answer.", "trestle");
  app.require_subcommand(1);
  trestle::add_demo(app);
  trestle::add_import(app);
  trestle::add_export(app);
  trestle::add_generate(app);
  trestle::add_finetune(app);
  trestle::add_evaluate(app);
  trestle::add_data(app);
  trestle::add_recipes(app);
  trestle::add_inspect(app);
  trestle::add_compare(app);
  trestle::add_logits(app);
  trestle::add_tokenize(app);
  trestle::add_preprocess(app);
  refuse_empty_paths(app);
  try {
    run(app, argc, argv);
    return 0;
  } catch (const trestle::OutputClosed&) {
    return end_in_silence();
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "trestle: %s; see trestle --help\n", error.what());
    return kUserError;
  } catch (const trestle::UserError& error) {
    return fail(kUserError, trestle::one_line(error.what()).c_str());
  } catch (const trestle::MachineError& error) {
    return fail(kFailed, trestle::one_line(error.what()).c_str());
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string line = error.path1().string() + ": " + error.code().message();
    return fail(kFailed, trestle::one_line(line).c_str());
  } catch (const std::system_error& error) {
    // fmt's, of standard output; stderr throws none.
    if (std::ferror(stdout) == 0) return fail(kFailed, error.what());
    if (trestle::output_closed()) return end_in_silence();
    return fail(kFailed, ("cannot write to standard output: " + error.code().message()).c_str());
  } catch (const std::bad_alloc&) {
    return fail(kFailed, "out of memory");
  } catch (const std::exception& error) {
    // A bug of ours: a c10::Error carries a backtrace behind its first line.
    return fail(kFailed, out_of_memory(error) ? "out of memory" : error.what());
  }
}
