// Weights & Biases' offline run: what `WANDB_MODE=offline` leaves on the disk and `wandb sync`
// uploads. Called by the metrics log.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "metrics/protobuf.h"
#include "metrics/tensorboard.h"
#include "recipes/config.h"

namespace trestle {

/// The transaction log run-ID.wandb: LevelDB's log format behind a header of 7 bytes, with the
/// CRC-32 of zlib (wandb core/internal/transactionlog).
class WandbRecords {
 public:
  explicit WandbRecords(const std::filesystem::path& path);
  /// Throws MachineError when it cannot be written.
  void append(std::string_view record);
  /// What was appended is in the file.
  void flush();

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  uint64_t offset_ = 0;
};

class WandbRun {
 public:
  /// Null where W&B is off: no project, or WANDB_MODE=disabled. `first_step` > 0 goes on with the
  /// run whose id `checkpoint.save` keeps. Throws UserError for a mode or id that W&B does not
  /// know, MachineError when nothing can be written.
  static std::unique_ptr<WandbRun> start(const TrainConfig& config, int64_t first_step);

  /// Whether it may start, before anything is written. Throws UserError for a mode or id that W&B
  /// does not know and for a folder (logger.wandb_save_dir or WANDB_DIR) that cannot be written in.
  static void check(const TrainConfig& config);

  /// Steps must not fall. What comes for one step becomes one row, written when the next begins.
  void write(int64_t step, const Scalars& scalars);
  /// Ends the run and, where there is time, WANDB_API_KEY is set and WANDB_MODE lets it, has `wandb
  /// sync` upload it; says in one line where the run is and how to upload it when that was not
  /// done.
  void finish(int exit_code, bool has_time);

 private:
  WandbRun(const TrainConfig& config, const std::string& id, bool resumed,
           const std::filesystem::path& directory, bool upload);
  void append(ProtoMessage record);
  void append_run(const TrainConfig& config, bool resumed);
  void append_environment();
  void append_row();
  double runtime() const;

  std::string id_;
  std::filesystem::path directory_;
  WandbRecords records_;
  bool upload_;
  int64_t number_ = 0;
  int64_t step_ = 0;
  Scalars row_;
  std::chrono::system_clock::time_point start_ = std::chrono::system_clock::now();
};

}  // namespace trestle
