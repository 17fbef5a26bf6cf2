// Keeps decoded row groups, so that rows in any order decode each group once and not once a row.
// Called by ParquetFile.
//
// A run takes its rows in an order drawn over all of them, which resumed and repeated runs must
// have again: neighbours in it are of different groups, and a group is written as one page or a few
// (pyarrow looks at a page's size every 1024 rows), compressed, so that no row can be read alone.
// What is decoded is therefore kept: in memory up to kDecodedBytes, beyond that in temporary files
// from which a row is read in place, at the speed of the page cache. A group that has been read
// through is dropped instead, so that reading a large set in order writes nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace trestle {

class ParquetGroup;

/// Of all data sets of a process together: a set of thousands of rows with small pictures, or a few
/// groups of 400 photographs, beside the gigabytes that a model takes.
constexpr int64_t kDecodedBytes = 256 << 20;

/// Of the disk with the temporary files: a run whose rows filled it could not save its checkpoint.
constexpr int64_t kSpareBytes = int64_t{4} << 30;

class GroupStore {
 public:
  /// Keeps at most `bytes`, or one group where that is larger, in memory. `folder`: of the
  /// temporary files; empty: TMPDIR, or /tmp. `spare`: bytes of its disk that stay free; without
  /// room a line on stderr says so, once, and groups are decoded again instead.
  explicit GroupStore(int64_t bytes = kDecodedBytes, std::filesystem::path folder = {},
                      int64_t spare = kSpareBytes);
  static const std::shared_ptr<GroupStore>& of_process();

  using Group = std::shared_ptr<const ParquetGroup>;
  /// The place of one group of one file.
  struct Slot {
    /// `bytes`: as the footer has it.
    Slot(int64_t rows, int64_t bytes) : rows(rows), bytes(bytes) {}
    Group held() const;

    const int64_t rows;
    std::atomic<int64_t> bytes;
    std::atomic<int64_t> reads = 0;      // since it was decoded
    std::atomic<int64_t> last_used = 0;  // by clock_
    std::atomic<bool> on_disk = false;
    std::mutex decoding;
    mutable std::mutex mutex;
    Group group;
  };

  /// The group, decoded where it is not kept. Many threads may ask: those that ask for a group that
  /// is being decoded wait for it, others do not. What `decode` throws goes through.
  Group get(const std::shared_ptr<Slot>& slot, const std::function<Group()>& decode);

  /// Groups decoded, and written to files, so far.
  int64_t decoded() const { return decoded_; }
  int64_t spilled() const { return spilled_; }

 private:
  using Slots = std::vector<std::weak_ptr<Slot>>;
  Group decoded_anew(const std::shared_ptr<Slot>& slot, const std::function<Group()>& decode);
  void count_read(Slot& slot);
  std::vector<std::shared_ptr<Slot>> take_victims(const std::shared_ptr<Slot>& coming);
  void put_out(const std::shared_ptr<Slot>& slot);
  void release_pages();

  const int64_t bytes_, spare_;
  const std::filesystem::path folder_;
  std::mutex mutex_;
  Slots in_memory_, in_files_;
  std::atomic<int64_t> clock_ = 0, decoded_ = 0, spilled_ = 0, mapped_ = 0;
  std::atomic<bool> has_room_ = true;
};

}  // namespace trestle
