// The program: subcommands, and the one place where errors become a line and an exit status.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/heap.h"
#include "base/standard_streams.h"
#include "base/text.h"
#include "cli/commands.h"
#include "flags/recipe_choice.h"
#include "parallel/agreement.h"

namespace {

constexpr int kFailed = 1;     // our bug, or the machine's
constexpr int kUserError = 2;  // the user can mend it

int fail(int status, const char* message) {
  std::fprintf(stderr, "trestle: %s\n", message);
  return status;
}

void add_commands(trestle::Command app, const trestle::RankCommand& of_ranks) {
  trestle::add_demo(app);
  trestle::add_import(app);
  trestle::add_export(app);
  trestle::add_quantize(app);
  trestle::add_generate(app);
  trestle::add_finetune(app);
  trestle::add_launch(app, of_ranks);
  trestle::add_plan(app);
  trestle::add_evaluate(app);
  trestle::add_data(app);
  trestle::add_recipes(app);
  trestle::add_rehearse(app);
  trestle::add_inspect(app);
  trestle::add_compare(app);
  trestle::add_logits(app);
  trestle::add_tokenize(app);
  trestle::add_preprocess(app);
}

void run(std::vector<std::string> arguments) {
  const std::string command = arguments.empty() ? "" : arguments.front();
  if (command == "finetune") trestle::spell_short_flags(arguments);
  trestle::RankCommand of_ranks;
  if (command == "launch") of_ranks = trestle::take_rank_command(arguments);
  trestle::run_command_line(
      "Ministral 3 in one program: convert, train, answer.", "trestle",
      [&](trestle::Command app) { add_commands(app, of_ranks); }, std::move(arguments));
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
  try {
    run({argv + std::min(argc, 1), argv + argc});
    return 0;
  } catch (const trestle::OutputClosed&) {
    return end_in_silence();
  } catch (const trestle::ToldByFirstRank&) {
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
    if (const auto asked = trestle::memory_asked(error.what())) {
      return fail(kFailed, ("out of memory: " + *asked).c_str());
    }
    return fail(kFailed, error.what());
  }
}
