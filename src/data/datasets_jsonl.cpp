#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "chat/json.h"
#include "data/datasets_own.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kPiece = 1 << 20;
constexpr uint64_t kMaxLine = 1ull << 28;  // a conversation with its pictures as base64

struct Line {
  uint64_t offset = 0, size = 0;
  int64_t number = 0;  // in the file, from 1: empty lines count
};

// The lines of a file that hold anything, found by one pass that keeps a piece in memory.
class LineFinder {
 public:
  explicit LineFinder(const MappedFile& file) : file_(file) {}

  std::vector<Line> find() {
    const std::span<const std::byte> bytes = file_.bytes();
    std::string piece;
    for (uint64_t at = 0; at < bytes.size(); at += piece.size()) {
      piece.resize(std::min<uint64_t>(kPiece, bytes.size() - at));
      file_.copy(bytes.subspan(at, piece.size()), reinterpret_cast<std::byte*>(piece.data()));
      scan(piece, at);
    }
    end_line(bytes.size());
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
    if (size > kMaxLine) {
      user_error("{} line {} has {} bytes; at most {} are read", file_.path().string(), number_,
                 size, kMaxLine);
    }
    if (filled_) lines_.push_back({begin_, size, number_});
    filled_ = false;
    begin_ = end + 1;
    ++number_;
  }

  const MappedFile& file_;
  std::vector<Line> lines_;
  uint64_t begin_ = 0;
  int64_t number_ = 1;
  bool filled_ = false;
};

class JsonlDataset : public Dataset {
 public:
  explicit JsonlDataset(const fs::path& path) : file_(path), lines_(LineFinder(file_).find()) {
    if (lines_.empty()) user_error("{} holds no conversation", path.string());
  }

  int64_t size() const override { return static_cast<int64_t>(lines_.size()); }
  std::vector<fs::path> files() const override { return {file_.path()}; }

  Conversation row(int64_t index) const override {
    const Line& line = lines_.at(static_cast<size_t>(index));
    const std::string name = fmt::format("{} line {}", file_.path().string(), line.number);
    std::string text(line.size, '\0');
    file_.copy(file_.bytes().subspan(line.offset, line.size),
               reinterpret_cast<std::byte*>(text.data()));
    Conversation conversation = parse_conversation(parse_json_of_single_keys(text, name), name);
    find_pictures_in(conversation, file_.path().parent_path());
    return conversation;
  }

 private:
  MappedFile file_;
  std::vector<Line> lines_;
};

}  // namespace

std::unique_ptr<Dataset> make_jsonl_dataset(const fs::path& path, const std::string&) {
  return std::make_unique<JsonlDataset>(path);
}

}  // namespace trestle
