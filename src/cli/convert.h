// What `trestle import`, `trestle export` and `trestle quantize` have in common: flags, and the
// lines before and after.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "bridge/compare.h"
#include "bridge/convert.h"
#include "flags/command.h"
#include "flags/format_flag.h"
#include "peft/merged.h"

namespace trestle {

double seconds_since(std::chrono::steady_clock::time_point start);

/// Runs a verification and tells what it found, if it passes.
void verify_and_report(const std::function<Verified()>& verify);

struct ConvertFlags {
  std::string hf_model, megatron, adapter, max_memory = "1.5GB";
  FormatFlag format;
  ConvertOptions options;
  /// What the conversion may hold besides its blocks, when these are gone.
  uint64_t later_bytes = 0;

  void add_to(Command command);
  /// --hf-model, --megatron-path and --adapter-path.
  void add_source_to(Command command);
  /// The model that these name. With `config_only` nothing of a base but its config is needed.
  /// Throws UserError where one of them has no effect, or nothing is named.
  ModelNames source(bool config_only = false) const;
  /// Runs `convert` between a line with its plan and a line with what it did.
  void report(const char* verb, const std::string& target,
              const std::function<Conversion()>& convert);
};

}  // namespace trestle
