// What the ranks of a plan run on, in rates that are given, assumed of a kind of card, or measured
// here. Called by `trestle plan`.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace trestle {

/// Where a number comes from.
enum class Origin { kGiven, kMeasured, kAssumed };

struct Rate {
  /// Operations or bytes a second.
  double value = 0;
  Origin origin = Origin::kAssumed;
};

/// Of one rank.
struct Machine {
  bool on_card = false;
  int64_t ranks = 1, ranks_per_node = 1;
  int64_t memory_bytes = 0;
  Origin memory_origin = Origin::kAssumed;
  /// Products in the run's dtype, FLOP/s.
  Rate flops;
  /// Its own memory, bytes read and written a second.
  Rate bandwidth;
  /// Bytes a second that it sends to another rank of its node, and to one of another node.
  Rate link, network;
};

/// A node of 8 cards with 80 GB, as H100s: 600 TFLOP/s, 3 TB/s, 450 GB/s of NVLink and 50 GB/s of
/// network each. Assumed, nothing is measured.
Machine usual_cards(int64_t ranks);
/// Processes on this machine, which share its processor and memory: products of `dtype` and a copy
/// are measured, half a second in all.
Machine this_machine(int64_t ranks, at::ScalarType dtype);

/// "given", "measured" or "assumed".
std::string to_string(Origin origin);

/// "600T", "450GB/s", "3TB/s", "1.5e12" as a number a second. Throws UserError naming `flag` for
/// anything else.
double parse_rate(std::string_view flag, std::string_view text);
/// "600 T", "450 G".
std::string rate_text(double rate);

}  // namespace trestle
