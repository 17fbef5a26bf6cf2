#include "pytorch/torch_dist_writer.h"

#include <c10/util/Exception.h>

#include "formats/safetensors.h"
#include "pytorch/pickle_writer.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

constexpr const char* kMetadata = "torch.distributed.checkpoint.metadata";

void size(PickleWriter& out, const std::vector<int64_t>& sizes) {
  out.global("torch", "Size").mark().integers(sizes).tuple().reduce();
}

}  // namespace

TorchDistWriter::RankFile::RankFile(const std::filesystem::path& directory, std::string file_name)
    : name(std::move(file_name)), file(directory / name), digest(file.temporary()) {}

TorchDistWriter::TorchDistWriter(const std::filesystem::path& directory, int64_t ranks)
    : directory_(directory) {
  for (int64_t rank = 0; rank < ranks; ++rank) {
    ranks_.emplace_back(directory, fmt::format("__{}_0.distcp", rank));
  }
}

TorchDistWriter::Entry& TorchDistWriter::entry(const std::string& key) {
  const auto [position, added] = entries_.try_emplace(key);
  if (added) order_.push_back(key);
  return position->second;
}

void TorchDistWriter::begin_chunk(const std::string& key, const TensorInfo& whole,
                                  const ChunkPlace& place) {
  Entry& tensor = entry(key);
  TORCH_CHECK(
      place.offsets.size() == whole.shape.size() && place.sizes.size() == whole.shape.size(),
      "a chunk of ", key, " does not fit its tensor");
  TORCH_CHECK(tensor.chunks.empty() || tensor.whole == whole, "chunks of ", key, " disagree");
  tensor.is_tensor = true;
  tensor.whole = whole;
  RankFile& rank = ranks_.at(static_cast<size_t>(place.rank));
  TORCH_CHECK(rank.chunk == nullptr, "a chunk of ", key, " begins before another has ended");
  const TensorInfo info{whole.dtype, place.sizes};
  tensor.chunks.push_back({place, rank.file.offset(), 0});
  rank.chunk = &tensor.chunks.back();
  rank.stream.emplace(rank.file, info);
  rank.left = byte_size(info).value();
  end_if_full(rank);
}

void TorchDistWriter::append(int64_t number, std::span<const std::byte> data) {
  RankFile& rank = ranks_.at(static_cast<size_t>(number));
  rank.stream.value().append(data);
  rank.left -= data.size();
  end_if_full(rank);
}

void TorchDistWriter::end_if_full(RankFile& rank) {
  if (rank.left > 0) return;
  rank.chunk->length = rank.stream->finish();
  rank.chunk = nullptr;
  rank.stream.reset();
  rank.digest.settled(rank.file.offset());
}

void TorchDistWriter::write_object(const std::string& key, SavedArchiveWriter object,
                                   int64_t number) {
  Entry& place = entry(key);
  TORCH_CHECK(place.chunks.empty(), "object ", key, " is written twice");
  RankFile& rank = ranks_.at(static_cast<size_t>(number));
  TORCH_CHECK(rank.chunk == nullptr, key, " is written into an open chunk");
  const uint64_t start = rank.file.offset();
  const uint64_t length = object.write(rank.file);
  rank.digest.settled(rank.file.offset());
  place.chunks.push_back({{{}, {}, number}, start, length});
}

std::string TorchDistWriter::metadata() const {
  PickleWriter out;
  out.new_object(kMetadata, "Metadata").empty_dict().mark();
  out.string("state_dict_metadata").empty_dict().mark();
  for (const std::string& key : order_) {
    const Entry& entry = entries_.at(key);
    out.string(key);
    if (!entry.is_tensor) {
      out.new_object(kMetadata, "BytesStorageMetadata");
      continue;
    }
    out.new_object(kMetadata, "TensorStorageMetadata").empty_dict().mark();
    // TensorProperties: dtype, layout, requires_grad, memory_format, pin_memory.
    out.string("properties").new_object(kMetadata, "TensorProperties").mark();
    out.global("torch", dtype_name(entry.whole.dtype));
    out.global("torch.serialization", "_get_layout")
        .mark()
        .string("torch.strided")
        .tuple()
        .reduce();
    out.boolean(false);
    out.global(kMetadata, "_MEM_FORMAT_ENCODING").mark().integer(0).tuple().reduce();
    out.boolean(false).tuple().build();
    out.string("size");
    size(out, entry.whole.shape);
    out.string("chunks").empty_list().mark();
    for (const Chunk& chunk : entry.chunks) {
      out.new_object(kMetadata, "ChunkStorageMetadata").empty_dict().mark().string("offsets");
      size(out, chunk.place.offsets);
      out.string("sizes");
      size(out, chunk.place.sizes);
      out.set_items().build();
    }
    out.appends().set_items().build();
  }
  out.set_items();

  out.string("planner_data").none();
  out.string("storage_data").empty_dict().mark();
  for (const std::string& key : order_) {
    const Entry& entry = entries_.at(key);
    for (const Chunk& chunk : entry.chunks) {
      out.new_object(kMetadata, "MetadataIndex").empty_dict().mark().string("fqn").string(key);
      if (entry.is_tensor) {
        out.string("offset");
        size(out, chunk.place.offsets);
      }
      out.string("index").none().set_items().build();
      out.new_object("torch.distributed.checkpoint.filesystem", "_StorageInfo").empty_dict().mark();
      out.string("relative_path").string(ranks_[static_cast<size_t>(chunk.place.rank)].name);
      out.string("offset").integer(static_cast<int64_t>(chunk.offset));
      out.string("length").integer(static_cast<int64_t>(chunk.length));
      out.set_items().build();
    }
  }
  out.set_items().set_items().build();
  return out.finish();
}

void TorchDistWriter::commit() {
  for (RankFile& rank : ranks_) {
    rank.file.commit();
    sha256_[rank.name] = rank.digest.finish();
  }
  write_text(directory_ / ".metadata", metadata());
}

}  // namespace trestle
