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
void add_file(Digest& digest, const fs::path& path, const std::string& name, size_t blocks) {
  const MappedFile file(path);
  const std::string_view text = file.text();
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

}  // namespace

void add_content(Digest& digest, const fs::path& path, size_t blocks) {
  add_file(digest, path, path.filename().string() + " ", blocks);
}

std::string content_of(const std::vector<fs::path>& files) {
  Digest digest(Digest::Kind::kSha256);
  for (const fs::path& path : files) add_content(digest, path, blocks_of(files.size()));
  return digest.hex();
}

std::string content_of_text(const std::string& name, std::string_view text) {
  Digest digest(Digest::Kind::kSha256);
  digest.update(fmt::format("{} {};", name, text.size()));
  digest.update(text);
  return digest.hex();
}

std::string content_without_names(const std::vector<fs::path>& files) {
  Digest digest(Digest::Kind::kSha256);
  for (const fs::path& path : files) add_file(digest, path, "", blocks_of(files.size()));
  return digest.hex();
}

}  // namespace trestle
