#include "checkpoint/torch_dist_writer.h"

#include <c10/util/Exception.h>

#include "checkpoint/pickle_writer.h"
#include "checkpoint/torch_dtype.h"

namespace trestle {

namespace {

constexpr const char* kDataFile = "__0_0.distcp";
constexpr const char* kMetadata = "torch.distributed.checkpoint.metadata";

void size(PickleWriter& out, const std::vector<int64_t>& sizes) {
  out.global("torch", "Size").mark().integers(sizes).tuple().reduce();
}

}  // namespace

TorchDistWriter::TorchDistWriter(const std::filesystem::path& directory)
    : directory_(directory), data_(directory / kDataFile) {}

TorchDistWriter::Entry& TorchDistWriter::entry(const std::string& key) {
  const auto [position, added] = entries_.try_emplace(key);
  if (added) order_.push_back(key);
  return position->second;
}

void TorchDistWriter::write_chunk(const std::string& key, const TensorInfo& whole,
                                  const std::vector<int64_t>& offsets, const at::Tensor& chunk) {
  Entry& tensor = entry(key);
  TORCH_CHECK(chunk.scalar_type() == whole.dtype && offsets.size() == whole.shape.size() &&
                  chunk.dim() == static_cast<int64_t>(whole.shape.size()),
              "a chunk of ", key, " does not fit its tensor");
  TORCH_CHECK(tensor.chunks.empty() || tensor.whole == whole, "chunks of ", key, " disagree");
  tensor.is_tensor = true;
  tensor.whole = whole;
  const uint64_t start = data_.offset();
  SavedArchiveWriter archive;
  archive.tensor(chunk);
  const uint64_t length = archive.write(data_);
  tensor.chunks.push_back({offsets, chunk.sizes().vec(), start, length});
}

void TorchDistWriter::write_object(const std::string& key, SavedArchiveWriter object) {
  Entry& place = entry(key);
  TORCH_CHECK(place.chunks.empty(), "object ", key, " is written twice");
  const uint64_t start = data_.offset();
  const uint64_t length = object.write(data_);
  place.chunks.push_back({{}, {}, start, length});
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
      size(out, chunk.offsets);
      out.string("sizes");
      size(out, chunk.sizes);
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
        size(out, chunk.offsets);
      }
      out.string("index").none().set_items().build();
      out.new_object("torch.distributed.checkpoint.filesystem", "_StorageInfo").empty_dict().mark();
      out.string("relative_path").string(kDataFile);
      out.string("offset").integer(static_cast<int64_t>(chunk.offset));
      out.string("length").integer(static_cast<int64_t>(chunk.length));
      out.set_items().build();
    }
  }
  out.set_items().set_items().build();
  return out.finish();
}

void TorchDistWriter::commit() {
  data_.commit();
  write_text(directory_ / ".metadata", metadata());
}

}  // namespace trestle
