#include "pytorch/zip.h"

#include <c10/util/Exception.h>
#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace trestle {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr size_t kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20, kLocalSize = 30,
                 kCentralSize = 46;
constexpr size_t kLocalCrc = 14;  // within a local header
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kEncrypted = 1;
constexpr uint32_t kSee64 = 0xffffffff;
constexpr uint64_t kMaxRecords = 1 << 20;

// Little-endian reads at an offset; every one is checked against the end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& what) : bytes_(bytes), what_(what) {}

  template <class T>
  T get(uint64_t offset) const {
    T value;
    std::memcpy(&value, slice(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> slice(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) {
      fail(fmt::format("bytes {}+{} lie outside its {} bytes", offset, size, bytes_.size()));
    }
    return bytes_.subspan(offset, size);
  }
  [[noreturn]] void fail(const std::string& why) const {
    user_error("{}: not an archive of torch.save: {}; the file is damaged", what_, why);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& what_;
};

struct Directory {
  uint64_t count = 0, size = 0, offset = 0;
};

Directory find_directory(const Reader& in, std::span<const std::byte> bytes) {
  if (bytes.size() < kEndSize) in.fail("it ends too early");
  // The end record is last but for a comment of at most 65535 bytes.
  const size_t first = bytes.size() - std::min<size_t>(bytes.size(), kEndSize + 0xffff);
  size_t end = bytes.size() - kEndSize + 1;
  do {
    if (end == first) in.fail("no end record; it is cut short");
    --end;
  } while (in.get<uint32_t>(end) != kEnd ||
           in.get<uint16_t>(end + 20) != bytes.size() - end - kEndSize);
  Directory directory{in.get<uint16_t>(end + 10), in.get<uint32_t>(end + 12),
                      in.get<uint32_t>(end + 16)};
  const bool big =
      directory.count == 0xffff || directory.size == kSee64 || directory.offset == kSee64;
  if (big && end >= kLocatorSize && in.get<uint32_t>(end - kLocatorSize) == kEnd64Locator) {
    const auto at = in.get<uint64_t>(end - kLocatorSize + 8);
    if (in.slice(at, kEnd64Size); in.get<uint32_t>(at) != kEnd64) in.fail("bad zip64 end record");
    directory = {in.get<uint64_t>(at + 32), in.get<uint64_t>(at + 40), in.get<uint64_t>(at + 48)};
  }
  return directory;
}

class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& put_text(std::string_view text) {
    text_ += text;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// What a local and a central header share, from "version needed" to the lengths of name and extra
// field.
void put_common(Bytes& out, std::string_view name, uint64_t size, uint32_t crc, bool big,
                size_t extra) {
  const auto shown = big ? kSee64 : static_cast<uint32_t>(size);
  out.put<uint16_t>(big ? 45 : 20).put<uint16_t>(0).put<uint16_t>(0);
  out.put<uint16_t>(0).put<uint16_t>(0x21);  // midnight of 1980-01-01, the earliest a zip can say
  out.put(crc).put(shown).put(shown);
  out.put(static_cast<uint16_t>(name.size())).put(static_cast<uint16_t>(extra));
}

}  // namespace

ZipReader::ZipReader(std::span<const std::byte> bytes, std::string what) : what_(std::move(what)) {
  const Reader in(bytes, what_);
  const Directory directory = find_directory(in, bytes);
  in.slice(directory.offset, directory.size);
  if (directory.count > kMaxRecords || directory.count * kCentralSize > directory.size) {
    in.fail(fmt::format("a directory of {} bytes for {} records", directory.size, directory.count));
  }
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.count; ++i) {
    if (in.get<uint32_t>(at) != kCentralHeader) in.fail("bad directory entry");
    const auto flags = in.get<uint16_t>(at + 8);
    const auto method = in.get<uint16_t>(at + 10);
    uint64_t packed = in.get<uint32_t>(at + 20);
    uint64_t size = in.get<uint32_t>(at + 24);
    const auto name_size = in.get<uint16_t>(at + 28);
    const auto extra_size = in.get<uint16_t>(at + 30);
    const auto comment_size = in.get<uint16_t>(at + 32);
    uint64_t local = in.get<uint32_t>(at + 42);
    const auto name_bytes = in.slice(at + kCentralSize, name_size);
    std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());

    // Zip64: the 64-bit fields are present in this order, each only if its 32-bit field is full.
    const uint64_t extra_end = at + kCentralSize + name_size + extra_size;
    for (uint64_t extra = at + kCentralSize + name_size; extra + 4 <= extra_end;) {
      const auto id = in.get<uint16_t>(extra);
      uint64_t field = extra + 4;
      extra = field + in.get<uint16_t>(extra + 2);
      if (id != kZip64Extra) continue;
      for (uint64_t* value : {&size, &packed, &local}) {
        if (*value != kSee64) continue;
        if (field + 8 > std::min(extra, extra_end)) in.fail("bad zip64 field");
        *value = in.get<uint64_t>(field);
        field += 8;
      }
    }
    if (method != 0 || (flags & kEncrypted) || packed != size) {
      in.fail(fmt::format("record {} is compressed or encrypted", name));
    }
    if (in.get<uint32_t>(local) != kLocalHeader) in.fail(fmt::format("no record at {}", local));
    const uint64_t data =
        local + kLocalSize + in.get<uint16_t>(local + 26) + in.get<uint16_t>(local + 28);
    if (!records_.emplace(name, in.slice(data, size)).second) {
      in.fail(fmt::format("record {} occurs twice", name));
    }
    sums_.emplace(name, in.get<uint32_t>(at + 16));
    at = extra_end + comment_size;
  }
  for (const auto& [name, data] : records_) {
    if (name == "data.pkl" || name.ends_with("/data.pkl")) {
      root_ = name.substr(0, name.size() - std::string_view("data.pkl").size());
    }
  }
}

std::span<const std::byte> ZipReader::record(std::string_view name) const {
  const auto found = records_.find(root_ + std::string(name));
  if (found == records_.end()) {
    user_error("{}: the archive has no record {}; the file is damaged", what_, name);
  }
  return found->second;
}

void ZipReader::check_sums(const ReadBlock& read) const {
  for (const auto& [name, data] : records_) {
    const uint32_t recorded = sums_.at(name);
    uint32_t sum = 0;
    for (size_t at = 0; recorded != 0 && at < data.size(); at += kSumBlock) {
      const auto block = read(data.subspan(at, std::min(kSumBlock, data.size() - at)));
      sum = libdeflate_crc32(sum, block.data(), block.size());
    }
    if (sum != recorded) {
      user_error("{}: record {} has the sum {:08x}, but {:08x} was written; its data are damaged",
                 what_, name, sum, recorded);
    }
  }
}

ZipWriter::ZipWriter(OutputFile& file, uint64_t zip64_from)
    : file_(file), start_(file.offset()), zip64_from_(zip64_from) {}

bool ZipWriter::is_big(const Record& record) const {
  return record.size >= zip64_from_ || record.offset >= zip64_from_;
}

void ZipWriter::add(std::string_view name, std::span<const std::byte> data) {
  begin(name, data.size());
  append(data);
}

void ZipWriter::begin(std::string_view name, uint64_t size) {
  TORCH_CHECK(left_ == 0, "a record of an archive lacks ", left_, " bytes");
  const Record& record =
      records_.emplace_back(Record{std::string(name), size, file_.offset() - start_, 0});
  const bool big = is_big(record);
  Bytes local;
  local.put(kLocalHeader);
  put_common(local, name, size, 0, big, big ? 20 : 0);
  local.put_text(name);
  if (big) local.put(kZip64Extra).put<uint16_t>(16).put(size).put(size);
  file_.write(local.text());
  left_ = size;
}

void ZipWriter::append(std::span<const std::byte> data) {
  TORCH_CHECK(data.size() <= left_, "a record of an archive has ", left_, " bytes left, not ",
              data.size());
  Record& record = records_.back();
  record.crc = libdeflate_crc32(record.crc, data.data(), data.size());
  file_.write(data);
  left_ -= data.size();
  // The checksum stands before the data, so it is filled in behind.
  if (left_ == 0) {
    file_.write_at(start_ + record.offset + kLocalCrc, std::as_bytes(std::span(&record.crc, 1)));
  }
}

uint64_t ZipWriter::finish() {
  TORCH_CHECK(left_ == 0, "a record of an archive lacks ", left_, " bytes");
  Bytes directory;
  bool any_big = false;
  for (const Record& record : records_) {
    const bool big = is_big(record);
    any_big = any_big || big;
    directory.put(kCentralHeader).put<uint16_t>(big ? 45 : 20);
    put_common(directory, record.name, record.size, record.crc, big, big ? 28 : 0);
    directory.put<uint16_t>(0).put<uint16_t>(0).put<uint16_t>(0).put<uint32_t>(0);
    directory.put(big ? kSee64 : static_cast<uint32_t>(record.offset)).put_text(record.name);
    if (big) {
      directory.put(kZip64Extra).put<uint16_t>(24);
      directory.put(record.size).put(record.size).put(record.offset);
    }
  }
  const uint64_t at = file_.offset() - start_;
  const uint64_t size = directory.text().size();
  const uint64_t count = records_.size();
  const bool big = any_big || at >= zip64_from_ || count >= 0xffff;
  Bytes end;
  if (big) {
    end.put(kEnd64).put<uint64_t>(kEnd64Size - 12).put<uint16_t>(45).put<uint16_t>(45);
    end.put<uint32_t>(0).put<uint32_t>(0).put(count).put(count).put(size).put(at);
    end.put(kEnd64Locator).put<uint32_t>(0).put(at + size).put<uint32_t>(1);
  }
  const auto short_count = big ? uint16_t{0xffff} : static_cast<uint16_t>(count);
  end.put(kEnd).put<uint16_t>(0).put<uint16_t>(0).put(short_count).put(short_count);
  end.put(big ? kSee64 : static_cast<uint32_t>(size)).put(big ? kSee64 : static_cast<uint32_t>(at));
  end.put<uint16_t>(0);
  file_.write(directory.text());
  file_.write(end.text());
  return file_.offset() - start_;
}

}  // namespace trestle
