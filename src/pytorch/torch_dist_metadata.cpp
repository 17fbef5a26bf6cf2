#include "pytorch/torch_dist_metadata.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "formats/safetensors.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

#define DCP "torch.distributed.checkpoint."
#define MCORE "megatron.core.dist_checkpointing.strategies.torch."
// Everything `.metadata` may name beside element types. The plans that megatron-core appends are
// skipped, so their classes stay opaque.
constexpr std::string_view kNames[] = {
    // NOLINTBEGIN(bugprone-suspicious-missing-comma): the macros are prefixes
    DCP "metadata.Metadata",
    DCP "metadata.TensorStorageMetadata",
    DCP "metadata.TensorProperties",
    DCP "metadata._MEM_FORMAT_ENCODING",
    DCP "metadata.ChunkStorageMetadata",
    DCP "metadata.BytesStorageMetadata",
    DCP "metadata.MetadataIndex",
    DCP "metadata.StorageMeta",
    DCP "filesystem._StorageInfo",
    DCP "planner.SavePlan",
    DCP "planner.WriteItem",
    DCP "planner.WriteItemType",
    DCP "planner.TensorWriteData",
    DCP "planner.BytesIOWriteData",
    MCORE "MCoreMetadata",
    MCORE "MCoreSavePlan",
    // NOLINTEND(bugprone-suspicious-missing-comma)
    // The checkpoint_id that torch keeps may be a path.
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "collections.OrderedDict",
    "torch.Size",
    "torch.serialization._get_layout",
};
constexpr std::string_view kTensor = DCP "metadata.TensorStorageMetadata";
constexpr std::string_view kBytes = DCP "metadata.BytesStorageMetadata";
constexpr std::string_view kIndex = DCP "metadata.MetadataIndex";
#undef DCP
#undef MCORE

constexpr size_t kMaxAxes = 16;
constexpr size_t kMaxFiles = 1 << 16;
constexpr uint64_t kMaxTensorBytes = uint64_t{1} << 62;

std::span<const PickleValue* const> dict_items(const PickleValue& value, std::string_view name) {
  const PickleValue& dict = value.at(name);
  if (dict.kind != PickleValue::Kind::kDict)
    user_error("{} is a {}, not a dict", name, dict.kind_name());
  return dict.items;
}

std::vector<int64_t> axes(const PickleValue& value) {
  if (value.items.size() > kMaxAxes) {
    user_error("a tensor with {} axes; at most {} are read", value.items.size(), kMaxAxes);
  }
  return value.as_ints();
}

// Where chunks are looked up: name and offsets, or a name alone for an object.
std::string key_of(const std::string& name, const std::vector<int64_t>& offsets) {
  std::string key = name;
  key += '\0';
  key.append(reinterpret_cast<const char*>(offsets.data()), offsets.size() * sizeof(int64_t));
  return key;
}

class Parser {
 public:
  TorchDistMetadata parse(const PickleValue& root) {
    read_storage(root);
    const auto items = dict_items(root, "state_dict_metadata");
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::string& name = items[i]->as_string();
      if (items[i + 1]->is_object(kTensor)) {
        out_.tensors.insert_or_assign(name, tensor(name, *items[i + 1]));
      } else if (items[i + 1]->is_object(kBytes)) {
        const auto found = storage_.find(name);
        if (found == storage_.end()) user_error("no place is given for the object {}", name);
        out_.objects.insert_or_assign(name, found->second);
      } else {
        user_error("{} is neither a tensor nor an object", name);
      }
    }
    return std::move(out_);
  }

 private:
  void read_storage(const PickleValue& root) {
    std::unordered_map<std::string, size_t> files;
    const auto items = dict_items(root, "storage_data");
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const PickleValue& index = *items[i];
      const PickleValue& place = *items[i + 1];
      if (!index.is_object(kIndex)) user_error("storage_data has a {} as key", index.kind_name());
      const std::string& file = place.at("relative_path").as_string();
      // A name from a file must not lead out of the checkpoint's directory.
      if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos) {
        user_error("data file \"{}\" is not a plain file name in this directory", file);
      }
      const auto [position, added] = files.try_emplace(file, out_.files.size());
      if (added) out_.files.push_back(file);
      if (out_.files.size() > kMaxFiles) user_error("over {} data files", kMaxFiles);
      const int64_t offset = place.at("offset").as_int();
      const int64_t length = place.at("length").as_int();
      if (offset < 0 || length < 0) user_error("{} bytes at {} of {}", length, offset, file);
      if (const auto* extra = place.find("transform_descriptors"); extra && !extra->is_none()) {
        user_error("{} is compressed; save it again without extensions", file);
      }

      const std::string& name = index.at("fqn").as_string();
      const PickleValue* where = index.find("offset");
      const std::string key = where && !where->is_none() ? key_of(name, axes(*where)) : name;
      storage_[key] = {position->second, static_cast<uint64_t>(offset),
                       static_cast<uint64_t>(length)};
    }
  }

  TorchDistReader::Entry tensor(const std::string& name, const PickleValue& value) {
    TorchDistReader::Entry entry;
    const PickleValue& properties = value.at("properties");
    const PickleValue* dtype = nullptr;
    if (properties.kind == PickleValue::Kind::kObject && properties.items.size() == 3) {
      const PickleValue& state = *properties.items[2];
      dtype = state.kind == PickleValue::Kind::kTuple && !state.items.empty() ? state.items[0]
                                                                              : state.find("dtype");
    }
    const auto type = dtype && dtype->kind == PickleValue::Kind::kGlobal
                          ? dtype_of_name(dtype->text)
                          : std::nullopt;
    if (!type) user_error("tensor {} has no element type that we know", name);
    entry.info = {*type, axes(value.at("size"))};
    const auto whole = byte_size(entry.info);
    if (!whole || *whole > kMaxTensorBytes) user_error("tensor {} has an impossible size", name);

    for (const PickleValue* item : value.at("chunks").as_sequence()) {
      TorchDistReader::Chunk chunk{axes(item->at("offsets")), axes(item->at("sizes")), {}};
      const auto& shape = entry.info.shape;
      bool inside = chunk.offsets.size() == shape.size() && chunk.sizes.size() == shape.size();
      for (size_t axis = 0; inside && axis < shape.size(); ++axis) {
        inside = chunk.offsets[axis] >= 0 && chunk.sizes[axis] >= 0 &&
                 chunk.offsets[axis] <= shape[axis] &&
                 chunk.sizes[axis] <= shape[axis] - chunk.offsets[axis];
      }
      if (!inside) {
        user_error("tensor {} of shape [{}] has a chunk of [{}] at [{}], which lies outside", name,
                   fmt::join(shape, ", "), fmt::join(chunk.sizes, ", "),
                   fmt::join(chunk.offsets, ", "));
      }
      const auto found = storage_.find(key_of(name, chunk.offsets));
      if (found == storage_.end()) {
        user_error("no place is given for the chunk of {} at [{}]", name,
                   fmt::join(chunk.offsets, ", "));
      }
      chunk.item = found->second;
      const auto bytes = byte_size({*type, chunk.sizes});
      if (!bytes || *bytes > chunk.item.length) {
        user_error("the chunk of {} at [{}] needs {} bytes and has {}", name,
                   fmt::join(chunk.offsets, ", "), bytes.value_or(kMaxTensorBytes),
                   chunk.item.length);
      }
      entry.chunks.push_back(std::move(chunk));
    }
    return entry;
  }

  TorchDistMetadata out_;
  std::unordered_map<std::string, TorchDistReader::Item> storage_;
};

}  // namespace

TorchDistMetadata parse_torch_dist_metadata(std::span<const std::byte> bytes,
                                            const std::string& what) {
  const Pickle pickle(bytes, kNames, what, {.memory = size_t{4} << 30});
  try {
    return Parser().parse(pickle.root());
  } catch (const UserError& error) {
    user_error("{}: {}", what, error.what());
  }
}

TorchDistMetadata read_torch_dist_metadata(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_torch_dist_metadata(file.bytes(), path.string());
}

}  // namespace trestle
