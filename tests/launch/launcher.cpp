// The launcher with any program in place of `trestle finetune`, for tests/cli/test_launch.py:
//   launcher RANKS NODES NODE ENDPOINT MAX_RESTARTS JOIN_SECONDS GRACE_MS PROGRAM WORD...
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/standard_streams.h"
#include "base/stop_signal.h"
#include "launch/supervisor.h"

namespace {

trestle::LaunchOptions read(char** words) {
  trestle::LaunchOptions out;
  out.nodes.ranks_per_node = std::atoll(words[1]);
  out.nodes.nodes = std::atoll(words[2]);
  out.nodes.node = std::atoll(words[3]);
  const std::string endpoint = words[4];
  if (!endpoint.empty()) out.nodes.endpoint = trestle::parse_endpoint("ENDPOINT", endpoint);
  out.nodes.max_restarts = std::atoll(words[5]);
  out.nodes.join_timeout = std::chrono::seconds(std::atoll(words[6]));
  out.patience.grace = std::chrono::milliseconds(std::atoll(words[7]));
  out.patience.cause = std::chrono::milliseconds(2000);  // a shell of a busy machine is slow
  out.program.path = words[8];
  for (char** word = words + 8; *word != nullptr; ++word) out.program.words.emplace_back(*word);
  return out;
}

int fail(int status, const char* message) {
  std::fprintf(stderr, "trestle: %s\n", message);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 9) return fail(64, "too few words");
  trestle::protect_streams();
  try {
    if (const int signal = trestle::run_ranks(read(argv)); signal != 0) {
      trestle::end_by_signal(signal);
    }
    return 0;
  } catch (const trestle::UserError& error) {
    return fail(2, error.what());
  } catch (const trestle::MachineError& error) {
    return fail(1, error.what());
  }
}
