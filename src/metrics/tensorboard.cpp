#include "metrics/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "metrics/crc.h"
#include "metrics/protobuf.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

// tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto
namespace event {
enum Field : uint32_t { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
}
namespace summary {
enum Field : uint32_t { kValue = 1 };
}
namespace value {
enum Field : uint32_t { kTag = 1, kSimpleValue = 2 };
}
namespace session_log {
enum Field : uint32_t { kStatus = 1 };
constexpr uint64_t kStart = 1;
}  // namespace session_log

constexpr std::string_view kPrefix = "events.out.tfevents.";

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return little_endian((crc >> 15 | crc << 17) + 0xa282ead8u, 4);
}

// TensorBoard reads the files of a directory by name, which begins with the second they were begun
// in: a run resumed within that second comes one later.
int64_t next_second(const fs::path& directory) {
  auto second = static_cast<int64_t>(wall_time());
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int64_t other = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), other);
    second = std::max(second, other + 1);
  }
  return second;
}

fs::path event_file(const fs::path& directory) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return directory /
         fmt::format("{}{:010}.{}.{}", kPrefix, next_second(directory), host.data(), ::getpid());
}

ProtoMessage event_at(int64_t step) {
  ProtoMessage message;
  message.fixed64(event::kWallTime, wall_time());
  message.varint(event::kStep, static_cast<uint64_t>(step));
  return message;
}

}  // namespace

std::string tf_record(std::string_view payload) {
  const std::string length = little_endian(payload.size(), 8);
  return length + masked_crc(length) + std::string(payload) + masked_crc(payload);
}

TensorBoardWriter::TensorBoardWriter(const fs::path& directory, int64_t first_step) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) machine_error("cannot create {}: {}", directory.string(), error.message());
  path_ = event_file(directory);
  file_.open(path_, std::ios::binary);
  if (!file_) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
  append(ProtoMessage()
             .fixed64(event::kWallTime, wall_time())
             .text(event::kFileVersion, "brain.Event:2")
             .bytes());
  append(event_at(first_step)
             .message(event::kSessionLog,
                      ProtoMessage().varint(session_log::kStatus, session_log::kStart))
             .bytes());
}

void TensorBoardWriter::write(int64_t step, const Scalars& scalars) {
  ProtoMessage all;
  for (const auto& [name, number] : scalars) {
    all.message(summary::kValue, ProtoMessage()
                                     .text(value::kTag, name)
                                     .fixed32(value::kSimpleValue, static_cast<float>(number)));
  }
  append(event_at(step).message(event::kSummary, all).bytes());
}

void TensorBoardWriter::append(std::string_view event) {
  file_ << tf_record(event) << std::flush;
  if (!file_) machine_error("cannot write {}: {}", path_.string(), std::strerror(errno));
}

}  // namespace trestle
