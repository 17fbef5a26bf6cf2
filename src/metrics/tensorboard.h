// TensorBoard event files: scalars by step. Called by the metrics log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle {

/// Values of one step by name, in order.
using Scalars = std::vector<std::pair<std::string, double>>;

/// A TFRecord: length, payload, each with its masked CRC-32C
/// (tensorflow/core/lib/io/record_writer.cc).
std::string tf_record(std::string_view payload);

class TensorBoardWriter {
 public:
  /// Starts a new file in `directory`, which TensorBoard reads after those that are there. Their
  /// steps from `first_step` on are about to be made again: TensorBoard drops them (what
  /// SummaryWriter calls purge_step). Throws MachineError when nothing can be written.
  TensorBoardWriter(const std::filesystem::path& directory, int64_t first_step);

  /// On the disk when it returns. Values are kept as float, as SummaryWriter does.
  void write(int64_t step, const Scalars& scalars);

 private:
  void append(std::string_view event);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace trestle
