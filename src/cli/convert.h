// What `trestle import` and `trestle export` have in common: flags, and the lines before and after.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "bridge/convert.h"
#include "flags/command.h"
#include "flags/format_flag.h"

namespace trestle {

double seconds_since(std::chrono::steady_clock::time_point start);

struct ConvertFlags {
  std::string hf_model, megatron, max_memory = "1.5GB";
  FormatFlag format;
  ConvertOptions options;
  /// What the conversion may hold besides its blocks, when these are gone.
  uint64_t later_bytes = 0;

  void add_to(Command command);
  /// Runs `convert` between a line with its plan and a line with what it did.
  void report(const char* verb, const std::string& target,
              const std::function<Conversion()>& convert);
};

}  // namespace trestle
