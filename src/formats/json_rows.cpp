#include "formats/json_rows.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <string_view>

#include "base/error.h"
#include "base/text.h"

namespace trestle {

namespace {

constexpr uint64_t kPiece = 1 << 20;
constexpr uint64_t kMaxRow = 1ull << 28;            // a conversation with its pictures as base64
constexpr std::string_view kMark = "\xEF\xBB\xBF";  // of UTF-8, as Windows writes it
constexpr std::string_view kSpace = " \t\r\n";

using Row = JsonRows::Row;

std::string read(const MappedFile& file, uint64_t offset, uint64_t size) {
  std::string text(size, '\0');
  file.copy(file.bytes().subspan(offset, size), reinterpret_cast<std::byte*>(text.data()));
  return text;
}

void each_piece(const MappedFile& file, uint64_t from,
                const std::function<void(std::string_view, uint64_t)>& scan) {
  const uint64_t end = file.bytes().size();
  for (uint64_t at = from; at < end; at += kPiece) {
    scan(read(file, at, std::min(kPiece, end - at)), at);
  }
}

void check_size(const MappedFile& file, const std::string& name, uint64_t size) {
  if (size <= kMaxRow) return;
  user_error("{} {} has {} bytes; at most {} are read", file.path().string(), name, size, kMaxRow);
}

/// The lines that hold anything.
class LineFinder {
 public:
  explicit LineFinder(const MappedFile& file) : file_(file) {}

  std::vector<Row> find() {
    each_piece(file_, 0, [&](std::string_view piece, uint64_t offset) { scan(piece, offset); });
    end_line(file_.bytes().size());
    return std::move(lines_);
  }

 private:
  void scan(std::string_view piece, uint64_t offset) {
    while (!piece.empty()) {
      const size_t end = std::min(piece.find('\n'), piece.size());
      filled_ = filled_ || piece.substr(0, end).find_first_not_of(" \t\r") != piece.npos;
      if (end == piece.size()) return;
      end_line(offset + end);
      offset += end + 1;
      piece.remove_prefix(end + 1);
    }
  }

  void end_line(uint64_t end) {
    const uint64_t size = end - begin_;
    check_size(file_, fmt::format("line {}", number_), size);
    if (filled_) lines_.push_back({begin_, size, number_});
    filled_ = false;
    begin_ = end + 1;
    ++number_;
  }

  const MappedFile& file_;
  std::vector<Row> lines_;
  uint64_t begin_ = 0;
  int64_t number_ = 1;
  bool filled_ = false;
};

/// The items of the array that the file is, by its brackets and quotes; what is between them is
/// read when the item is.
class ItemFinder {
 public:
  ItemFinder(const MappedFile& file, uint64_t bracket) : file_(file), bracket_(bracket) {}

  std::vector<Row> find() {
    each_piece(file_, bracket_, [&](std::string_view piece, uint64_t offset) {
      for (size_t i = 0; i < piece.size(); ++i) take(piece[i], offset + i);
    });
    if (depth_ > 0) {
      user_error("{}: its array does not end; the file is cut short", file_.path().string());
    }
    return std::move(items_);
  }

 private:
  void take(char c, uint64_t at) {
    if (in_string_) {
      in_string_ = escaped_ || c != '"';
      escaped_ = !escaped_ && c == '\\';
      return;
    }
    if (kSpace.find(c) != kSpace.npos) return;
    if (depth_ == 0 && at > bracket_) {
      user_error(
          "{}: its array ends at byte {} and more follows; the file is one array of conversations, "
          "or a conversation {{\"messages\": [...]}} a line",
          file_.path().string(), end_);
    }
    if (depth_ == 1 && (c == ',' || c == ']')) {
      end_item(at, c == ']');
    } else if (depth_ == 1 && !begun_) {
      begun_ = true;
      begin_ = at;
    }
    in_string_ = c == '"';
    if (c == '[' || c == '{') ++depth_;
    if (c == ']' || c == '}') --depth_;
    end_ = at + 1;
  }

  void end_item(uint64_t at, bool is_last) {
    const auto number = std::ssize(items_);
    if (!begun_ && !(is_last && number == 0)) {
      user_error("{} item {} is empty: a comma too many", file_.path().string(), number);
    }
    if (!begun_) return;
    check_size(file_, fmt::format("item {}", number), at - begin_);
    items_.push_back({begin_, at - begin_, number});
    begun_ = false;
  }

  const MappedFile& file_;
  const uint64_t bracket_;
  std::vector<Row> items_;
  int64_t depth_ = 0;
  bool in_string_ = false, escaped_ = false, begun_ = false;
  uint64_t begin_ = 0, end_ = 0;
};

// What a file is that is no JSON, by its first bytes.
void refuse_others(const MappedFile& file, std::string_view begin) {
  struct Kind {
    std::string_view magic, what;
  };
  constexpr std::array kKinds = {
      Kind{"\x1F\x8B", "is gzip'ed; gunzip it first"},
      Kind{"\x28\xB5\x2F\xFD", "is packed by zstd; unzstd it first"},
      Kind{"PK\x03\x04", "is a zip archive; unzip it first"},
      Kind{"PAR1", "is Parquet; dataset.maker_name=parquet (--maker parquet) reads it"},
      Kind{"\xFF\xFE", "is UTF-16; JSON is read as UTF-8"},
      Kind{"\xFE\xFF", "is UTF-16; JSON is read as UTF-8"},
  };
  for (const Kind& kind : kKinds) {
    if (begin.starts_with(kind.magic)) user_error("{} {}", file.path().string(), kind.what);
  }
}

}  // namespace

std::string JsonRows::name(const Row& row) const {
  return fmt::format("{} {}", is_array ? "item" : "line", row.number);
}

JsonRows find_json_rows(const MappedFile& file) {
  const uint64_t size = file.bytes().size();
  const std::string begin = read(file, 0, std::min<uint64_t>(size, kPiece));
  refuse_others(file, begin);
  const size_t start = begin.starts_with(kMark) ? kMark.size() : 0;
  const size_t first = begin.find_first_not_of(kSpace, start);
  if (first == begin.npos || begin[first] != '[') return {.rows = LineFinder(file).find()};
  return {.rows = ItemFinder(file, first).find(), .is_array = true};
}

std::string why_no_row(std::string_view line) {
  const std::string_view text = trimmed(line);
  if (text.empty() || text.ends_with('}') || (text.front() != '{' && text.front() != '"'))
    return "";
  return "; the line ends within a value: one conversation is one line, or the file is an array of "
         "them, [{...}, {...}]";
}

}  // namespace trestle
