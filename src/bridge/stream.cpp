#include "bridge/stream.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "base/bytes.h"
#include "base/error.h"
#include "base/thread.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kAhead = 2;  // blocks read and not yet taken
// Blocks' worth of memory in all: one being read, those ahead, one being written, and as much again
// for what dequantising, casting and cutting columns need beside them.
constexpr uint64_t kBlocks = 8;
constexpr uint64_t kSmallestBlock = 1 << 20, kLargestBlock = 32 << 20;

uint64_t free_bytes(fs::path target) {
  std::error_code error;
  target = fs::absolute(target, error);
  while (!fs::exists(target, error) && target.has_relative_path()) target = target.parent_path();
  const fs::space_info space = fs::space(target, error);
  return error ? UINT64_MAX : space.available;
}

struct Block {
  const std::string* name = nullptr;
  std::vector<std::byte> bytes;
};

// Blocks on their way from the reader to the writer; emptied ones go back to be filled again.
class Queue {
 public:
  // False when the other side has given up.
  bool push(Block block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return full_.size() < kAhead || stopped_; });
    if (stopped_) return false;
    full_.push_back(std::move(block));
    changed_.notify_all();
    return true;
  }
  // Nothing when the reader has ended; throws what ended it.
  std::optional<Block> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !full_.empty() || stopped_; });
    if (full_.empty()) {
      if (failure_) std::rethrow_exception(failure_);
      return std::nullopt;
    }
    Block block = std::move(full_.front());
    full_.pop_front();
    changed_.notify_all();
    return block;
  }
  std::vector<std::byte> empty() {
    const std::scoped_lock lock(mutex_);
    if (empty_.empty()) return {};
    std::vector<std::byte> bytes = std::move(empty_.back());
    empty_.pop_back();
    return bytes;
  }
  void give_back(std::vector<std::byte> bytes) {
    const std::scoped_lock lock(mutex_);
    empty_.push_back(std::move(bytes));
  }
  void stop(std::exception_ptr failure = nullptr) {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    failure_ = std::move(failure);
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> full_;
  std::vector<std::vector<std::byte>> empty_;
  std::exception_ptr failure_;
  bool stopped_ = false;
};

void read_all(const TensorSource& source, const TensorList& list, uint64_t block_bytes,
              Queue& queue) {
  for (const auto& [name, info] : list) {
    const uint64_t row = std::max<uint64_t>(info.row_bytes(), 1);
    const auto step = static_cast<int64_t>(std::max<uint64_t>(block_bytes / row, 1));
    // A tensor without rows comes once too, so that its writer sees it.
    for (int64_t first = 0; first == 0 || first < info.rows(); first += step) {
      const int64_t count = std::min(step, info.rows() - first);
      Block block{&name, queue.empty()};
      block.bytes.resize(info.row_bytes() * static_cast<uint64_t>(count));
      source.read_rows(name, {first, count}, block.bytes.data());
      if (!queue.push(std::move(block))) return;
    }
  }
}

}  // namespace

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void release_free_memory() { ::malloc_trim(0); }

StreamPlan plan_stream(const TensorList& list, uint64_t max_memory, const fs::path& target,
                       std::optional<uint64_t> written) {
  StreamPlan plan;
  for (const auto& [name, info] : list) {
    ++plan.tensors;
    plan.bytes += byte_size(info).value_or(0);
  }
  plan.bytes = written.value_or(plan.bytes);
  const uint64_t now = resident_bytes();
  if (max_memory < now + kBlocks * kSmallestBlock) {
    user_error("--max-memory {} is too little: the program itself holds {}; give {} or more",
               size_text(max_memory), size_text(now),
               size_text(now + 2 * kBlocks * kSmallestBlock));
  }
  plan.block_bytes = std::min((max_memory - now) / kBlocks, kLargestBlock);
  plan.peak_bytes = now + kBlocks * plan.block_bytes;
  plan.free_disk = free_bytes(target);
  if (plan.bytes > plan.free_disk) {
    machine_error("{} needs {:.2f} GB but its disk has {:.2f} GB free; make room or name another",
                  target.string(), gigabytes(plan.bytes), gigabytes(plan.free_disk));
  }
  return plan;
}

void stream_rows(const TensorSource& source, const TensorList& list, uint64_t block_bytes,
                 const RowSink& sink) {
  Queue queue;
  const auto read = [&] {
    try {
      read_all(source, list, block_bytes, queue);
      queue.stop();
    } catch (...) {
      queue.stop(std::current_exception());
    }
  };
  const std::jthread reader = start_thread(read, "reading ahead of the writer");
  try {
    while (std::optional<Block> block = queue.pop()) {
      sink(*block->name, block->bytes);
      queue.give_back(std::move(block->bytes));
    }
  } catch (...) {
    queue.stop();
    throw;
  }
}

}  // namespace trestle
