#include "data/content.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr size_t kBlock = 64 << 10, kBlocksInAll = 1024;

// How many of each of so many files.
size_t blocks_of(size_t files) {
  return std::clamp<size_t>(kBlocksInAll / std::max<size_t>(files, 1), 1, kMostBlocksOfFile);
}

// `name`: what stands before its size.
void add_text(Digest& digest, std::string_view text, const std::string& name, size_t blocks) {
  digest.update(fmt::format("{}{};", name, text.size()));
  if (text.size() <= blocks * kBlock) {
    digest.update(text);
    return;
  }
  // The last block is the end, where a Parquet file has its index.
  for (size_t i = 0; i < blocks; ++i) {
    const size_t last = text.size() - kBlock;
    const size_t offset = blocks == 1 ? last : last / (blocks - 1) * i;
    digest.update(text.substr(i + 1 == blocks ? last : offset, kBlock));
  }
}

void add_file(Digest& digest, const fs::path& path, const std::string& name, size_t blocks) {
  const MappedFile file(path);
  add_text(digest, file.text(), name, blocks);
}

// Of a file that is told by its name too.
std::string before_size(const std::string& name) { return name + " "; }

}  // namespace

void add_content(Digest& digest, const fs::path& path, size_t blocks) {
  add_file(digest, path, before_size(path.filename().string()), blocks);
}

std::string content_of(const std::vector<fs::path>& files) {
  Digest digest(Digest::Kind::kSha256);
  for (const fs::path& path : files) add_content(digest, path, blocks_of(files.size()));
  return digest.hex();
}

std::string content_of_text(const std::string& name, std::string_view text) {
  Digest digest(Digest::Kind::kSha256);
  add_text(digest, text, before_size(name), kMostBlocksOfFile);
  return digest.hex();
}

std::string content_without_names(const std::vector<fs::path>& files) {
  Digest digest(Digest::Kind::kSha256);
  for (const fs::path& path : files) add_file(digest, path, "", blocks_of(files.size()));
  return digest.hex();
}

}  // namespace trestle
