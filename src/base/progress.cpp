#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace trestle {

namespace {

using namespace std::chrono_literals;

constexpr auto kRedraw = 100ms;
constexpr auto kNextLine = 10s;

}  // namespace

std::string readable_bytes(uint64_t bytes) {
  const auto size = static_cast<double>(bytes);
  if (bytes < 1000) return fmt::format("{} B", bytes);
  if (size < 1e6) return fmt::format("{:.1f} kB", size / 1e3);
  if (size < 1e9) return fmt::format("{:.1f} MB", size / 1e6);
  return fmt::format("{:.2f} GB", size / 1e9);
}

Progress::Progress(std::string what, uint64_t total_bytes, uint64_t done_bytes)
    : what_(std::move(what)),
      total_(total_bytes),
      terminal_(::isatty(STDERR_FILENO) == 1),
      done_(static_cast<int64_t>(done_bytes)),
      next_(start_ + (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kNextLine))) {}

Progress::~Progress() {
  if (!drawn_) return;
  print(Clock::now());
  std::fputc('\n', stderr);
}

void Progress::add(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  moved_ += std::max<int64_t>(bytes, 0);
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kNextLine));
  print(now);
}

void Progress::print(Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(moved_) / std::max(seconds, 1e-3);
  const auto done = static_cast<uint64_t>(std::max<int64_t>(done_, 0));
  std::string line =
      fmt::format("{}: {} of {}, {}/s", what_, readable_bytes(done), readable_bytes(total_),
                  readable_bytes(static_cast<uint64_t>(rate)));
  if (rate > 1 && done < total_) {
    const auto left = static_cast<int64_t>(static_cast<double>(total_ - done) / rate);
    line += fmt::format(", {}:{:02} left", left / 60, left % 60);
  }
  constexpr const char* kClearLine = "\r\033[K";
  fmt::print(stderr, "{}{}{}", terminal_ ? kClearLine : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

}  // namespace trestle
