#include "formats/tar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kMaxExtension = 1 << 20;  // a long name, or the records of a pax header
constexpr size_t kMaxName = 1 << 14;

struct Field {
  size_t begin, size;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kSum{148, 8}, kMagic{257, 6}, kPrefix{345, 155};
constexpr size_t kType = 156;

// What headers before it say of the next member.
struct Extension {
  std::optional<std::string> name;
  std::optional<uint64_t> size;
};

std::string string_of(std::string_view field) {
  return std::string(field.substr(0, field.find('\0')));
}

class Headers {
 public:
  explicit Headers(const std::filesystem::path& path) : file_(path) {
    std::string first(std::min<size_t>(2, file_.bytes().size()), '\0');
    copy(0, first.size(), first.data());
    if (first == "\x1f\x8b") {
      user_error("{} is gzip'ed; gunzip it first: random access needs a plain tar", path.string());
    }
  }

  std::vector<TarMember> read() {
    std::vector<TarMember> members;
    Extension extension;
    while (next_header()) {
      const char type = header_[kType];
      const uint64_t size = size_of(type, extension);
      if (size > file_.bytes().size() - at_) {
        refuse("claims {} bytes, but {} are left in the file; the archive is cut off or damaged",
               size, file_.bytes().size() - at_);
      }
      switch (type) {
        case 'L':
          extension.name = string_of(payload(size));
          break;
        case 'x':
        case 'X':  // Solaris' name for it
          read_pax(payload(size), extension);
          break;
        case 'g':
          read_global(payload(size));
          break;
        default:
          if (is_regular(type, extension)) {
            members.push_back({checked_name(extension), at_, size});
          }
          extension = {};
      }
      skip(size);
    }
    if (extension.name || extension.size) refuse("is announced, but the archive ends");
    return members;
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: the member with its header at byte {} {}", file_.path().string(), header_at_,
               fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view field(const Field& which) const {
    return std::string_view(header_.data(), header_.size()).substr(which.begin, which.size);
  }

  // By reading, not through the map: a file that shrinks meanwhile is an error and no signal.
  void copy(uint64_t offset, uint64_t size, char* out) const {
    file_.copy(file_.bytes().subspan(offset, size), reinterpret_cast<std::byte*>(out));
  }

  // Reads the header at at_ and moves behind it; false at the end.
  bool next_header() {
    const uint64_t left = file_.bytes().size() - at_;
    if (left == 0) return false;
    header_at_ = at_;
    if (left < kBlock) {
      refuse("has {} bytes of a header of {}; the archive is cut off", left, kBlock);
    }
    copy(at_, kBlock, header_.data());
    at_ += kBlock;
    if (std::ranges::all_of(header_, [](char c) { return c == 0; })) return false;
    check_sum();
    return true;
  }

  void check_sum() const {
    // The sum counts its own field as spaces. Old writers added signed characters.
    int64_t of_unsigned = 0, of_signed = 0;
    for (size_t i = 0; i < header_.size(); ++i) {
      const char c = i >= kSum.begin && i < kSum.begin + kSum.size ? ' ' : header_[i];
      of_unsigned += static_cast<uint8_t>(c);
      of_signed += static_cast<int8_t>(c);
    }
    const auto stated = static_cast<int64_t>(number(kSum, "checksum"));
    if (stated == of_unsigned || stated == of_signed) return;
    if (header_at_ == 0) {
      user_error("{} is no tar file: its first header sums up to {} and states {}",
                 file_.path().string(), of_unsigned, stated);
    }
    refuse("sums up to {} and states {}; the archive is damaged", of_unsigned, stated);
  }

  // Octal digits, or with the first bit set base 256.
  uint64_t number(const Field& which, const char* what) const {
    const std::string_view text = field(which);
    uint64_t value = 0;
    if ((text[0] & 0x80) != 0) {
      for (size_t i = 0; i < text.size(); ++i) {
        const uint8_t byte = i == 0 ? text[i] & 0x7f : static_cast<uint8_t>(text[i]);
        if (value >> 55 != 0) refuse("has a {} that is negative or over 2^63", what);
        value = value << 8 | byte;
      }
      return value;
    }
    const size_t first = text.find_first_not_of(' ');
    if (first == text.npos || text[first] == '\0') return 0;
    const auto [end, fault] =
        std::from_chars(text.data() + first, text.data() + text.size(), value, 8);
    const bool ends = end == text.data() + text.size() || *end == ' ' || *end == '\0';
    if (fault != std::errc() || !ends) {
      if (header_at_ == 0) user_error("{} is no tar file", file_.path().string());
      refuse("has a {} that is no octal number; the archive is damaged", what);
    }
    return value;
  }

  // Directories, devices and pipes have no data, whatever their size says.
  uint64_t size_of(char type, const Extension& extension) const {
    if (type >= '1' && type <= '6') return 0;
    return extension.size && !is_extension(type) ? *extension.size : number(kSize, "size");
  }

  static bool is_extension(char type) {
    return type == 'L' || type == 'K' || type == 'x' || type == 'X' || type == 'g';
  }

  std::string payload(uint64_t size) const {
    if (size > kMaxExtension) {
      refuse("has a name or pax records of {} bytes; at most {} are read", size, kMaxExtension);
    }
    std::string bytes(size, '\0');
    copy(at_, size, bytes.data());
    return bytes;
  }

  /// fn(key, value) for each "LENGTH KEY=VALUE\n".
  template <class Function>
  void each_record(std::string_view records, const Function& fn) const {
    while (!records.empty() && records[0] != '\0') {
      uint64_t length = 0;
      const auto [end, fault] =
          std::from_chars(records.data(), records.data() + records.size(), length);
      const auto digits = static_cast<uint64_t>(end - records.data());
      if (fault != std::errc() || length > records.size() || length < digits + 3 || *end != ' ' ||
          records[length - 1] != '\n') {
        refuse("has pax records that do not add up; the archive is damaged");
      }
      const std::string_view record = records.substr(digits + 1, length - digits - 2);
      const size_t equals = record.find('=');
      if (equals == record.npos) refuse("has a pax record without '='; the archive is damaged");
      fn(record.substr(0, equals), record.substr(equals + 1));
      records.remove_prefix(length);
    }
  }

  void read_pax(std::string_view records, Extension& extension) const {
    each_record(records, [&](std::string_view key, std::string_view value) {
      if (key == "path") extension.name = std::string(value);
      if (key == "size") {
        uint64_t size = 0;
        const char* last = value.data() + value.size();
        const auto [end, fault] = std::from_chars(value.data(), last, size);
        if (fault != std::errc() || end != last) refuse("has a pax size of \"{}\"", value);
        extension.size = size;
      }
      if (key.starts_with("GNU.sparse.")) refuse_sparse();
    });
  }

  // Comments and times are let pass; one name or size for all members makes no sense.
  void read_global(std::string_view records) const {
    each_record(records, [&](std::string_view key, std::string_view) {
      if (key == "path" || key == "size") refuse("states one {} for all members", key);
    });
  }

  [[noreturn]] void refuse_sparse() const {
    refuse("is a sparse file; write the archive without --sparse");
  }

  bool is_regular(char type, const Extension& extension) const {
    if (type == '1' || type == '2') {
      refuse(
          "is a link, whose content is elsewhere; write the archive with --dereference "
          "--hard-dereference");
    }
    if (type == 'S' || type == 'M') refuse_sparse();
    if (type == '0' || type == '7') return true;
    // The oldest writers mark a directory by its name only.
    return type == '\0' && !name_of(extension).ends_with('/');
  }

  std::string name_of(const Extension& extension) const {
    if (extension.name) return *extension.name;
    const std::string name = string_of(field(kName));
    // GNU keeps other things where ustar has the front of the name.
    const std::string prefix =
        field(kMagic) == std::string_view("ustar\0", 6) ? string_of(field(kPrefix)) : "";
    return prefix.empty() ? name : prefix + "/" + name;
  }

  std::string checked_name(const Extension& extension) const {
    std::string name = name_of(extension);
    if (name.size() > kMaxName) {
      refuse("has a name of {} bytes; at most {} are read", name.size(), kMaxName);
    }
    if (!is_utf8(name)) refuse("has a name that is not UTF-8; rename it");
    return name;
  }

  // To the header behind `size` bytes and their padding; the last padding may be missing.
  void skip(uint64_t size) {
    const uint64_t padding = (kBlock - size % kBlock) % kBlock;
    at_ += size;
    at_ += std::min(padding, file_.bytes().size() - at_);
  }

  MappedFile file_;
  uint64_t at_ = 0, header_at_ = 0;
  std::array<char, kBlock> header_{};
};

}  // namespace

TarFile::TarFile(std::filesystem::path path)
    : path_(std::move(path)), members_(Headers(path_).read()) {}

std::string TarFile::read(const TarMember& member) const {
  const MappedFile file(path_);
  const uint64_t size = file.bytes().size();
  if (member.offset > size || member.size > size - member.offset) {
    user_error("{} has become shorter: {} ends at byte {}, the file at {}", path_.string(),
               member.name, member.offset + member.size, size);
  }
  std::string bytes(member.size, '\0');
  file.copy(file.bytes().subspan(member.offset, member.size),
            reinterpret_cast<std::byte*>(bytes.data()));
  return bytes;
}

}  // namespace trestle
