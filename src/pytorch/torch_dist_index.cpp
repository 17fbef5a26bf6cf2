#include "pytorch/torch_dist_index.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/json.h"
#include "pytorch/pickle_writer.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

constexpr const char* kMetadata = "torch.distributed.checkpoint.metadata";

void size(PickleWriter& out, const std::vector<int64_t>& sizes) {
  out.global("torch", "Size").mark().integers(sizes).tuple().reduce();
}

void write_tensor(PickleWriter& out, const TorchDistIndex::Entry& entry) {
  out.new_object(kMetadata, "TensorStorageMetadata").empty_dict().mark();
  // TensorProperties: dtype, layout, requires_grad, memory_format, pin_memory.
  out.string("properties").new_object(kMetadata, "TensorProperties").mark();
  out.global("torch", dtype_name(entry.whole.dtype));
  out.global("torch.serialization", "_get_layout").mark().string("torch.strided").tuple().reduce();
  out.boolean(false);
  out.global(kMetadata, "_MEM_FORMAT_ENCODING").mark().integer(0).tuple().reduce();
  out.boolean(false).tuple().build();
  out.string("size");
  size(out, entry.whole.shape);
  out.string("chunks").empty_list().mark();
  for (const auto& chunk : entry.chunks) {
    out.new_object(kMetadata, "ChunkStorageMetadata").empty_dict().mark().string("offsets");
    size(out, chunk.offsets);
    out.string("sizes");
    size(out, chunk.sizes);
    out.set_items().build();
  }
  out.appends().set_items().build();
}

void write_place(PickleWriter& out, const std::string& key, bool is_tensor,
                 const TorchDistIndex::Chunk& chunk) {
  out.new_object(kMetadata, "MetadataIndex").empty_dict().mark().string("fqn").string(key);
  if (is_tensor) {
    out.string("offset");
    size(out, chunk.offsets);
  }
  out.string("index").none().set_items().build();
  out.new_object("torch.distributed.checkpoint.filesystem", "_StorageInfo").empty_dict().mark();
  out.string("relative_path").string(chunk.file);
  out.string("offset").integer(static_cast<int64_t>(chunk.offset));
  out.string("length").integer(static_cast<int64_t>(chunk.length));
  out.set_items().build();
}

}  // namespace

TorchDistIndex::Entry& TorchDistIndex::entry(const std::string& key) {
  const auto [position, added] = entries_.try_emplace(key);
  if (added) order_.push_back(key);
  return position->second;
}

TorchDistIndex::Chunk& TorchDistIndex::add_chunk(const std::string& key, const TensorInfo& whole,
                                                 Chunk chunk) {
  Entry& tensor = entry(key);
  TORCH_CHECK(
      chunk.offsets.size() == whole.shape.size() && chunk.sizes.size() == whole.shape.size(),
      "a chunk of ", key, " does not fit its tensor");
  TORCH_CHECK(tensor.chunks.empty() || (tensor.is_tensor && tensor.whole == whole), "chunks of ",
              key, " disagree");
  tensor.is_tensor = true;
  tensor.whole = whole;
  tensor.chunks.push_back(std::move(chunk));
  return tensor.chunks.back();
}

void TorchDistIndex::add_object(const std::string& key, Chunk place) {
  Entry& object = entry(key);
  TORCH_CHECK(object.chunks.empty(), "object ", key, " is written twice");
  object.chunks.push_back(std::move(place));
}

uint64_t TorchDistIndex::bytes_of(const std::string& file) const {
  uint64_t bytes = 0;
  for (const auto& [key, entry] : entries_) {
    for (const Chunk& chunk : entry.chunks) {
      if (chunk.file == file) bytes += chunk.length;
    }
  }
  return bytes;
}

void TorchDistIndex::join(const TorchDistIndex& other) {
  for (const std::string& key : other.order_) {
    const Entry& theirs = other.entries_.at(key);
    std::set<std::vector<int64_t>> starts;
    if (const auto ours = entries_.find(key); ours != entries_.end()) {
      for (const Chunk& chunk : ours->second.chunks) starts.insert(chunk.offsets);
    }
    for (const Chunk& chunk : theirs.chunks) {
      TORCH_CHECK(!starts.contains(chunk.offsets), key, " is written by two ranks");
      if (theirs.is_tensor) {
        add_chunk(key, theirs.whole, chunk);
      } else {
        add_object(key, chunk);
      }
    }
  }
}

std::string TorchDistIndex::to_text() const {
  Json entries = Json::array();
  for (const std::string& key : order_) {
    const Entry& entry = entries_.at(key);
    Json chunks = Json::array();
    for (const Chunk& chunk : entry.chunks) {
      chunks.push_back({chunk.offsets, chunk.sizes, chunk.file, chunk.offset, chunk.length});
    }
    entries.push_back({key, entry.is_tensor, dtype_name(entry.whole.dtype), entry.whole.shape,
                       std::move(chunks)});
  }
  const std::vector<uint8_t> bytes = Json::to_msgpack(entries);
  return {bytes.begin(), bytes.end()};
}

TorchDistIndex TorchDistIndex::from_text(const std::string& text) {
  TorchDistIndex index;
  for (const Json& each : Json::from_msgpack(text)) {
    const auto key = each.at(0).get<std::string>();
    const bool is_tensor = each.at(1).get<bool>();
    const TensorInfo whole{dtype_of_name(each.at(2).get<std::string>()).value(),
                           each.at(3).get<std::vector<int64_t>>()};
    for (const Json& of : each.at(4)) {
      Chunk chunk{of.at(0).get<std::vector<int64_t>>(), of.at(1).get<std::vector<int64_t>>(),
                  of.at(2).get<std::string>(), of.at(3).get<uint64_t>(), of.at(4).get<uint64_t>()};
      if (is_tensor) {
        index.add_chunk(key, whole, std::move(chunk));
      } else {
        index.add_object(key, std::move(chunk));
      }
    }
  }
  return index;
}

std::string TorchDistIndex::metadata() const {
  PickleWriter out;
  out.new_object(kMetadata, "Metadata").empty_dict().mark();
  out.string("state_dict_metadata").empty_dict().mark();
  for (const std::string& key : order_) {
    const Entry& entry = entries_.at(key);
    out.string(key);
    if (entry.is_tensor) {
      write_tensor(out, entry);
    } else {
      out.new_object(kMetadata, "BytesStorageMetadata");
    }
  }
  out.set_items();

  out.string("planner_data").none();
  out.string("storage_data").empty_dict().mark();
  for (const std::string& key : order_) {
    const Entry& entry = entries_.at(key);
    for (const Chunk& chunk : entry.chunks) write_place(out, key, entry.is_tensor, chunk);
  }
  out.set_items().set_items().build();
  return out.finish();
}

}  // namespace trestle
