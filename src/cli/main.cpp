// The program: subcommands, and the one place where errors become a line and an exit status.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "cli/commands.h"

namespace {

constexpr int kFailed = 1;     // our bug, or the machine's
constexpr int kUserError = 2;  // the user can mend it

// A c10::Error carries a backtrace behind its first line.
int fail(int status, const char* message) {
  std::fprintf(stderr, "trestle: %s\n", message);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Ministral 3 in one program: convert, train, answer.", "trestle");
  app.require_subcommand(1);
  trestle::add_demo(app);
  trestle::add_import(app);
  trestle::add_export(app);
  trestle::add_generate(app);
  trestle::add_finetune(app);
  trestle::add_evaluate(app);
  trestle::add_recipes(app);
  trestle::add_inspect(app);
  trestle::add_logits(app);
  trestle::add_tokenize(app);
  trestle::add_preprocess(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "trestle: %s; see trestle --help\n", error.what());
    return kUserError;
  } catch (const trestle::UserError& error) {
    return fail(kUserError, error.what());
  } catch (const trestle::MachineError& error) {
    return fail(kFailed, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFailed, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailed, error.what());
  }
}
