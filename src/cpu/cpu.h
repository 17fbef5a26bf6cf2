// What the processor can do with bf16, and which path its products take for that. Asked by the
// products and attention; told by `trestle inspect --cpu` and by a run.
#pragma once

#include <string>

namespace trestle {

/// kNative: as libtorch has them. kWidened: in fp32, a tile of the weight at a time, since libtorch
/// goes through scalar code without instructions for bf16.
enum class Bf16Path { kNative, kWidened };

/// By capability and not by a clock, so that a run that is gone on with takes the same path and
/// gives the same bits. kNative where libtorch finds bf16 instructions (AVX-512 BF16, AMX, Arm's)
/// and ONEDNN_MAX_CPU_ISA, by which oneDNN makes less of a processor, leaves them.
Bf16Path bf16_path();

/// As above, of a processor with such instructions or without, and oneDNN's limit (empty: none).
Bf16Path bf16_path_of(bool has_bf16, const std::string& onednn_limit);

/// For tests: the path of all threads to the end of the scope.
class ForcedBf16Path {
 public:
  explicit ForcedBf16Path(Bf16Path path);
  ~ForcedBf16Path();
  ForcedBf16Path(const ForcedBf16Path&) = delete;
  ForcedBf16Path& operator=(const ForcedBf16Path&) = delete;

 private:
  Bf16Path before_;
};

/// What is known of the processor, for people.
struct CpuFacts {
  std::string name;          // as it calls itself
  std::string instructions;  // those that matter here: "AVX2, FMA, AVX-512"
  std::string limit;         // ONEDNN_MAX_CPU_ISA's value; empty where it is not set
  std::string vectors;       // libtorch's own loops: "AVX2"
  int threads = 1;
};
CpuFacts cpu_facts();

/// One sentence: how products and attention in bf16 are computed here, and why.
std::string describe_bf16_path();

}  // namespace trestle
