#include "formats/gguf.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "formats/safetensors.h"

namespace trestle {
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian");

namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxDimensions = 4;  // ggml's own limits
constexpr uint64_t kMaxTensorName = 63;
constexpr uint64_t kMaxKey = 65535;
constexpr uint64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = 1 << 24;
// The least that one entry of the header takes: bounds the counts before anything is stored.
constexpr uint64_t kLeastKey = 8 + 4 + 1;
constexpr uint64_t kLeastTensor = 8 + 4 + 4 + 8;

template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

/// Reads the header front to back; nothing it returns passes the end of the file.
class GgufFile::Header {
 public:
  explicit Header(const MappedFile& file) : text_(file.text()), file_(file.path().string()) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return text_.size() - at_; }

  std::string_view take(uint64_t bytes, const char* what) {
    if (bytes > left()) {
      user_error("{}: {} at byte {} needs {} bytes but the file ends after {}; it is truncated",
                 file_, what, at_, bytes, left());
    }
    const std::string_view taken = text_.substr(at_, bytes);
    at_ += bytes;
    return taken;
  }
  template <class T>
  T number(const char* what) {
    return load<T>(take(sizeof(T), what).data());
  }
  std::string_view string(const char* what, uint64_t limit = UINT64_MAX) {
    const auto length = number<uint64_t>(what);
    if (length > limit) {
      user_error("{}: {} at byte {} has {} bytes; at most {} are read", file_, what, at_, length,
                 limit);
    }
    return take(length, what);
  }
  /// A count of entries that take at least `least` bytes each.
  uint64_t count(const char* what, uint64_t least) {
    const auto value = number<uint64_t>(what);
    if (value > left() / least) {
      user_error("{}: it claims {} {} but has {} bytes; it is damaged", file_, value, what, left());
    }
    return value;
  }
  GgufValue value(const std::string& key) {
    GgufValue result;
    result.kind = kind(key);
    if (result.kind == GgufKind::kString) {
      result.bytes = string(key.c_str());
    } else if (result.kind != GgufKind::kArray) {
      result.bytes = take(gguf_fixed_size(result.kind), key.c_str());
    } else {
      result.element = kind(key);
      if (result.element == GgufKind::kArray) {
        user_error("{}: key {}: an array of arrays, which ggml does not read either", file_, key);
      }
      const bool strings = result.element == GgufKind::kString;
      const uint64_t size = strings ? sizeof(uint64_t) : gguf_fixed_size(result.element);
      result.count = count(("elements of " + key).c_str(), size);
      const uint64_t begin = at_;
      if (strings) {
        for (uint64_t i = 0; i < result.count; ++i) string(key.c_str());
      } else {
        take(result.count * size, key.c_str());
      }
      result.bytes = text_.substr(begin, at_ - begin);
    }
    return result;
  }

 private:
  GgufKind kind(const std::string& key) {
    const auto number = this->number<uint32_t>(key.c_str());
    if (number > static_cast<uint32_t>(GgufKind::kFloat64)) {
      user_error("{}: key {} is of kind {}; GGUF has 0 to {}", file_, key, number,
                 static_cast<uint32_t>(GgufKind::kFloat64));
    }
    return static_cast<GgufKind>(number);
  }

  std::string_view text_;
  std::string file_;
  uint64_t at_ = 0;
};

GgufFile::GgufFile(const fs::path& path) : file_(std::make_shared<const MappedFile>(path)) {
  const std::string file = path.string();
  if (!file_->text().starts_with(kMagic)) {
    user_error("{} is not a GGUF file: it does not begin with \"GGUF\"", file);
  }
  Header header(*file_);
  header.take(kMagic.size(), "magic");
  const auto version = header.number<uint32_t>("version");
  if (version != 2 && version != 3) {
    user_error("{}: GGUF version {} is not supported; 2 and 3, little-endian, are", file, version);
  }
  const uint64_t tensors = header.count("tensors", kLeastTensor);
  const uint64_t keys = header.count("keys", kLeastKey);
  for (uint64_t i = 0; i < keys; ++i) read_metadata(header);
  const uint64_t alignment = this->alignment();
  for (uint64_t i = 0; i < tensors; ++i) read_tensor(header, alignment);
  place_data(round_up(header.at(), alignment), alignment);
}

void GgufFile::read_metadata(Header& header) {
  const std::string key(header.string("a key", kMaxKey));
  if (!metadata_.emplace(key, header.value(key)).second) {
    user_error("{}: the key {} appears twice", path().string(), key);
  }
}

uint64_t GgufFile::alignment() const {
  const auto found = metadata_.find("general.alignment");
  if (found == metadata_.end()) return kDefaultAlignment;
  const int64_t stated = found->second.integer().value_or(0);
  if (stated <= 0 || stated > kMaxAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(stated))) {
    user_error("{}: general.alignment is {}, but it must be a power of two up to {}",
               path().string(), found->second.describe(), kMaxAlignment);
  }
  return static_cast<uint64_t>(stated);
}

void GgufFile::read_tensor(Header& header, uint64_t alignment) {
  const std::string name(header.string("the name of a tensor", kMaxTensorName));
  const std::string where = fmt::format("{}: tensor {}", path().string(), name);
  const auto dimensions = header.number<uint32_t>("dimensions");
  if (dimensions > kMaxDimensions) {
    user_error("{}: it has {} dimensions; GGUF has at most {}", where, dimensions, kMaxDimensions);
  }
  TensorInfo info;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = header.number<uint64_t>("shape");
    if (size > INT64_MAX) user_error("{}: {} is no size", where, size);
    info.shape.insert(info.shape.begin(), static_cast<int64_t>(size));
  }
  const auto type = header.number<uint32_t>("type");
  const GgmlLayout* layout = ggml_layout(type);
  if (layout == nullptr) user_error("{}: ggml type {} is not known", where, type);
  info.dtype = ggml_dtype(layout->type);
  const int64_t row = info.shape.empty() ? 1 : info.shape.back();
  if (row % layout->block != 0) {
    user_error("{}: rows of {} values cannot be {}, whose blocks have {}", where, row, layout->name,
               layout->block);
  }
  // No type takes more than eight bytes a value, packed or not.
  const auto widest = byte_size({at::kDouble, info.shape});
  if (!widest) user_error("{}: {} is larger than any file", where, describe(info));
  const uint64_t bytes = *widest / sizeof(double) / static_cast<uint64_t>(layout->block) *
                         static_cast<uint64_t>(layout->bytes);
  const auto offset = header.number<uint64_t>("offset");
  if (offset % alignment != 0) {
    user_error("{}: its offset {} is no multiple of the alignment {}", where, offset, alignment);
  }
  if (!tensors_.emplace(name, info).second) {
    user_error("{}: the tensor {} appears twice", path().string(), name);
  }
  places_[name] = {layout, offset, bytes};
}

void GgufFile::place_data(uint64_t begin, uint64_t alignment) {
  const uint64_t size = file_->bytes().size();
  const uint64_t data_size = size > begin ? size - begin : 0;
  std::vector<std::pair<Place*, const std::string*>> order;
  for (auto& [name, place] : places_) {
    if (place.bytes > data_size || place.offset > data_size - place.bytes) {
      user_error(
          "{}: tensor {} takes {} bytes from byte {} of the data but the file holds {} bytes of "
          "data; it is truncated",
          path().string(), name, place.bytes, place.offset, data_size);
    }
    order.emplace_back(&place, &name);
  }
  std::ranges::sort(
      order, {}, [](const auto& item) { return std::pair(item.first->offset, item.first->bytes); });
  uint64_t end = 0;
  for (const auto& [place, name] : order) {
    if (place->offset < end) {
      user_error(
          "{}: tensor {} begins at byte {} of the data but the one before ends at {}; they overlap",
          path().string(), *name, place->offset, end);
    }
    if (place->offset != round_up(end, alignment)) {  // which ggml refuses too
      user_error(
          "{}: tensor {} begins at byte {} of the data but the one before ends at {}; what lies "
          "between belongs to none",
          path().string(), *name, place->offset, end);
    }
    end = place->offset + place->bytes;
    place->offset += begin;
  }
}

const GgufFile::Place& GgufFile::readable(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) user_error("{} has no tensor {}", path().string(), name);
  const GgmlLayout& layout = *found->second.layout;
  if (!ggml_readable(layout.type)) {
    user_error(
        "{}: tensor {} is {}, which this program does not decode; F32, F16, BF16 and Q8_0 "
        "are read",
        path().string(), name, layout.name);
  }
  return found->second;
}

void GgufFile::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto& [layout, offset, bytes] = readable(name);
  const auto rows = static_cast<uint64_t>(tensors_.at(name).rows());
  if (rows == 0 || range.count == 0) return;
  // Rows are whole blocks.
  const uint64_t row = bytes / rows, from = offset + row * static_cast<uint64_t>(range.first);
  const uint64_t size = row * static_cast<uint64_t>(range.count);
  const std::span<const std::byte> data = file_->bytes().subspan(from, size);
  if (layout->type != GgmlType::kQ8_0) return file_->copy(data, out);
  std::vector<std::byte> blocks(size);
  file_->copy(data, blocks.data());
  const at::Tensor values = ggml_decode_q8_0(blocks);
  std::memcpy(out, values.const_data_ptr(), values.nbytes());
}

at::Tensor GgufFile::read(const std::string& name) const {
  const auto& [layout, offset, bytes] = readable(name);
  const std::vector<int64_t>& shape = tensors_.at(name).shape;
  const std::span<const std::byte> data = file_->bytes().subspan(offset, bytes);
  if (layout->type == GgmlType::kQ8_0) return ggml_decode_q8_0(data).view(shape);
  // The map is read-only; TensorSource forbids callers to write.
  const at::Tensor view = at::from_blob(
      const_cast<std::byte*>(data.data()), shape, [keep = file_](void*) {},
      at::TensorOptions().dtype(tensors_.at(name).dtype));
  const bool aligned =
      reinterpret_cast<uintptr_t>(data.data()) % static_cast<uintptr_t>(layout->bytes) == 0;
  return aligned ? view : view.clone();
}

bool is_gguf(const fs::path& path) { return MappedFile(path).text().starts_with(kMagic); }

}  // namespace trestle
