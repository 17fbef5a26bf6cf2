// Zip archives as torch.save makes them: records stored, never compressed. Called by
// pytorch/torch_save only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  /// The bytes of a block, which lies in the archive, as whoever asked for the sums reads them.
  using ReadBlock = std::function<std::span<const std::byte>(std::span<const std::byte>)>;
  static constexpr size_t kSumBlock = 1 << 20;
  /// Compares every record with its CRC-32, a block of at most kSumBlock bytes at a time. A sum of
  /// 0 is one that was not recorded (torch.serialization.set_crc32_options); nothing of such a
  /// record is read. Throws UserError naming the record and both sums.
  void check_sums(const ReadBlock& read = [](auto block) { return block; }) const;

 private:
  std::string what_;
  std::string root_;
  std::map<std::string, std::span<const std::byte>> records_;
  std::map<std::string, uint32_t> sums_;
};

/// Appends an archive at the end of `file`, one record after the other, each whole or in pieces.
class ZipWriter {
 public:
  /// Sizes and offsets from `zip64_from` on are written in the 64-bit fields (only tests lower it).
  explicit ZipWriter(OutputFile& file, uint64_t zip64_from = 0xffffffff);

  void add(std::string_view name, std::span<const std::byte> data);
  /// Opens a record of `size` bytes, which append() then brings; the last byte closes it.
  void begin(std::string_view name, uint64_t size);
  void append(std::span<const std::byte> data);
  /// Writes the directory and returns the archive's length.
  uint64_t finish();

 private:
  struct Record {
    std::string name;
    uint64_t size = 0, offset = 0;
    uint32_t crc = 0;
  };
  bool is_big(const Record& record) const;

  OutputFile& file_;
  uint64_t start_, zip64_from_;
  std::vector<Record> records_;
  uint64_t left_ = 0;  // bytes that the open record still lacks
};

}  // namespace trestle
