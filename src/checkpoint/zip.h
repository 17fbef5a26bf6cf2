// Zip archives as torch.save makes them: records stored, never compressed. Called by
// checkpoint/torch_save only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"

namespace trestle {

/// The records of an archive that fills `bytes` exactly; they view `bytes`, which must outlive
/// them. Sizes come from the central directory: PyTorch leaves them 0 in the local headers.
class ZipReader {
 public:
  /// `what` names the archive in errors. Throws UserError for anything that is not a zip of stored
  /// records.
  ZipReader(std::span<const std::byte> bytes, std::string what);

  const std::map<std::string, std::span<const std::byte>>& records() const { return records_; }
  /// The record `folder/name`, whatever the archive's root folder is called; throws UserError when
  /// it is missing.
  std::span<const std::byte> record(std::string_view name) const;
  bool has(std::string_view name) const { return records_.contains(root_ + std::string(name)); }
  /// Compares every record with its CRC-32, a block at a time, and hands each block to `done` when
  /// it was read. A sum of 0 is one that was not recorded (torch.serialization.set_crc32_options).
  /// Throws UserError naming the record and both sums.
  void check_sums(const std::function<void(std::span<const std::byte>)>& done = {}) const;

 private:
  std::string what_;
  std::string root_;
  std::map<std::string, std::span<const std::byte>> records_;
  std::map<std::string, uint32_t> sums_;
};

struct ZipRecord {
  std::string name;
  std::span<const std::byte> data;
};

/// Appends an archive at the end of `file` and returns its length. Sizes and offsets from
/// `zip64_from` on are written in the 64-bit fields (only tests lower it).
uint64_t write_zip(OutputFile& file, std::span<const ZipRecord> records,
                   uint64_t zip64_from = 0xffffffff);

}  // namespace trestle
