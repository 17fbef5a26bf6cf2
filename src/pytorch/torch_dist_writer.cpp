#include "pytorch/torch_dist_writer.h"

#include <c10/util/Exception.h>

#include <utility>

#include "formats/safetensors.h"

namespace trestle {

std::string distcp_name(int64_t rank) { return fmt::format("__{}_0.distcp", rank); }

TorchDistFile::TorchDistFile(const std::filesystem::path& directory, int64_t rank)
    : name_(distcp_name(rank)), file_(directory / name_), digest_(file_.temporary()) {}

void TorchDistFile::begin_chunk(const std::string& key, const TensorInfo& whole,
                                std::vector<int64_t> offsets, std::vector<int64_t> sizes) {
  TORCH_CHECK(chunk_ == nullptr, "a chunk of ", key, " begins before another has ended");
  const TensorInfo info{whole.dtype, sizes};
  chunk_ = &index_.add_chunk(key, whole,
                             {std::move(offsets), std::move(sizes), name_, file_.offset(), 0});
  stream_.emplace(file_, info);
  left_ = byte_size(info).value();
  end_if_full();
}

void TorchDistFile::append(std::span<const std::byte> data) {
  stream_.value().append(data);
  left_ -= data.size();
  end_if_full();
}

void TorchDistFile::end_if_full() {
  if (left_ > 0) return;
  chunk_->length = stream_->finish();
  chunk_ = nullptr;
  stream_.reset();
  digest_.settled(file_.offset());
}

void TorchDistFile::write_object(const std::string& key, SavedArchiveWriter object) {
  TORCH_CHECK(chunk_ == nullptr, key, " is written into an open chunk");
  const uint64_t start = file_.offset();
  const uint64_t length = object.write(file_);
  digest_.settled(file_.offset());
  index_.add_object(key, {{}, {}, name_, start, length});
}

void TorchDistFile::commit() {
  TORCH_CHECK(chunk_ == nullptr, name_, " ends within a chunk");
  file_.commit();
  sha256_ = digest_.finish();
}

TorchDistWriter::TorchDistWriter(const std::filesystem::path& directory, int64_t ranks)
    : directory_(directory) {
  for (int64_t rank = 0; rank < ranks; ++rank) ranks_.emplace_back(directory, rank);
}

void TorchDistWriter::begin_chunk(const std::string& key, const TensorInfo& whole,
                                  const ChunkPlace& place) {
  of_rank(place.rank).begin_chunk(key, whole, place.offsets, place.sizes);
}

void TorchDistWriter::append(int64_t rank, std::span<const std::byte> data) {
  of_rank(rank).append(data);
}

void TorchDistWriter::write_object(const std::string& key, SavedArchiveWriter object,
                                   int64_t rank) {
  of_rank(rank).write_object(key, std::move(object));
}

void TorchDistWriter::commit() {
  TorchDistIndex index;
  for (TorchDistFile& rank : ranks_) {
    rank.commit();
    index.join(rank.index());
    sha256_[rank.name()] = rank.sha256();
  }
  write_text(directory_ / ".metadata", index.metadata());
}

}  // namespace trestle
