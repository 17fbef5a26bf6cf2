#include "parquet/parquet_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "parquet/parquet_group.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

fs::path folder_or_default(fs::path folder) {
  if (!folder.empty()) return folder;
  std::error_code error;
  const fs::path usual = fs::temp_directory_path(error);
  return error ? fs::path("/tmp") : usual;  // what is wrong with it is said when it is needed
}

}  // namespace

GroupStore::GroupStore(int64_t bytes, fs::path folder, int64_t spare)
    : bytes_(bytes), spare_(spare), folder_(folder_or_default(std::move(folder))) {}

const std::shared_ptr<GroupStore>& GroupStore::of_process() {
  static const auto store = std::make_shared<GroupStore>();
  return store;
}

GroupStore::Group GroupStore::Slot::held() const {
  const std::scoped_lock lock(mutex);
  return group;
}

GroupStore::Group GroupStore::get(const std::shared_ptr<Slot>& slot,
                                  const std::function<Group()>& decode) {
  Group group = slot->held();
  if (!group) {
    const std::scoped_lock once(slot->decoding);
    group = slot->held();
    if (!group) group = decoded_anew(slot, decode);
  }
  count_read(*slot);
  return group;
}

GroupStore::Group GroupStore::decoded_anew(const std::shared_ptr<Slot>& slot,
                                           const std::function<Group()>& decode) {
  try {
    for (const auto& victim : take_victims(slot)) put_out(victim);
    Group group = decode();
    ++decoded_;
    slot->bytes = group->size_in_bytes();
    const std::scoped_lock lock(slot->mutex);
    slot->group = group;
    return group;
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    std::erase_if(in_memory_, [&](const auto& each) { return each.lock() == slot; });
    throw;
  }
}

void GroupStore::count_read(Slot& slot) {
  ++slot.reads;
  slot.last_used = ++clock_;
  if (!slot.on_disk) return;
  // What is read from the files counts as the process's memory until it is let go.
  const int64_t row = slot.bytes / std::max<int64_t>(slot.rows, 1);
  if (mapped_.fetch_add(row) + row > bytes_) release_pages();
}

// Makes room for `coming`, which is then among those in memory. The least used go first; those that
// are being decoded stay.
std::vector<std::shared_ptr<GroupStore::Slot>> GroupStore::take_victims(
    const std::shared_ptr<Slot>& coming) {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<Slot>> kept, coming_too = {coming}, victims;
  int64_t sum = coming->bytes;
  for (const auto& each : in_memory_) {
    auto slot = each.lock();
    if (!slot) continue;
    sum += slot->bytes;
    (slot->held() ? kept : coming_too).push_back(std::move(slot));
  }
  const auto last_used = [](const auto& slot) -> int64_t { return slot->last_used; };
  std::ranges::sort(kept, std::greater<>(), last_used);
  while (sum > bytes_ && !kept.empty()) {
    sum -= kept.back()->bytes;
    victims.push_back(std::move(kept.back()));
    kept.pop_back();
  }
  in_memory_.assign(kept.begin(), kept.end());
  in_memory_.insert(in_memory_.end(), coming_too.begin(), coming_too.end());
  return victims;
}

// Readers have the group as it is until the file is there.
void GroupStore::put_out(const std::shared_ptr<Slot>& slot) {
  Group group = slot->held(), moved;
  if (!group) return;
  const bool is_read_through = slot->reads >= slot->rows;
  if (!is_read_through && has_room_) {
    try {
      moved = group->spilled(folder_, spare_);
    } catch (const MachineError& error) {
      if (has_room_.exchange(false)) {
        fmt::print(stderr,
                   "warning: no room to keep the decoded rows of {}: {}; rows in random order "
                   "decode their row groups again and again, which is slow; set TMPDIR to a "
                   "directory with room\n",
                   group->columns().path, error.what());
      }
    }
  }
  if (moved) {
    ++spilled_;
    slot->on_disk = true;
    const std::scoped_lock lock(mutex_);
    in_files_.push_back(slot);
  }
  slot->reads = 0;
  const std::scoped_lock lock(slot->mutex);
  slot->group = std::move(moved);
}

void GroupStore::release_pages() {
  const std::scoped_lock lock(mutex_);
  if (mapped_ <= bytes_) return;  // another thread has done it
  mapped_ = 0;
  std::erase_if(in_files_, [](const auto& each) { return each.expired(); });
  for (const auto& each : in_files_) {
    const auto slot = each.lock();
    if (const Group group = slot ? slot->held() : nullptr) group->release();
  }
}

}  // namespace trestle
