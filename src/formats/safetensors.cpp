#include "formats/safetensors.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <span>

#include "base/error.h"
#include "base/json.h"

namespace trestle {
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

namespace {

constexpr uint64_t kLengthBytes = sizeof(uint64_t);
constexpr uint64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr int kMaxDepth = 4;
constexpr size_t kMaxDimensions = 64;  // ATen's own limit

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 19> kDtypes = {{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"I16", at::kShort},
    {"U16", at::kUInt16},
    {"I32", at::kInt},
    {"U32", at::kUInt32},
    {"I64", at::kLong},
    {"U64", at::kUInt64},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F32", at::kFloat},
    {"F64", at::kDouble},
    {"C64", at::kComplexFloat},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
    {"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
}};

// E2M1 of OCP's Microscaling Formats (MX) specification 1.0, 5.3.3: the first bit is the sign.
constexpr std::array<double, 16> kE2M1 = {0,    0.5,  1,  1.5,  2,  3,  4,  6,
                                          -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
// How elements of 6 bits lie in bytes neither that specification nor safetensors says.
constexpr std::array<PackedType, 3> kPackedTypes = {
    {{"F4", 4, kE2M1}, {"F6_E2M3", 6, {}}, {"F6_E3M2", 6, {}}}};

std::optional<at::ScalarType> dtype_named(std::string_view name) {
  for (const auto& [text, dtype] : kDtypes) {
    if (text == name) return dtype;
  }
  return std::nullopt;
}

bool ends_within_a_byte(const TensorInfo& info) {
  if (info.packed == nullptr) return false;
  // Only the last bits of the product count, so that it may wrap.
  auto bits = static_cast<uint64_t>(info.packed->bits);
  for (const int64_t size : info.shape) bits *= static_cast<uint64_t>(size);
  return bits % 8 != 0;
}

struct Range {
  uint64_t begin;
  uint64_t end;
};

// `where` is "FILE: tensor NAME".
TensorInfo parse_info(const nlohmann::json& entry, const std::string& where) {
  if (!entry.is_object()) user_error("{}: its header entry is not an object", where);
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) user_error("{}: dtype is missing", where);
  const auto& dtype_text = dtype->get_ref<const std::string&>();
  TensorInfo info;
  const auto* packed = std::ranges::find(kPackedTypes, dtype_text, &PackedType::name);
  if (const auto known = dtype_named(dtype_text)) {
    info.dtype = *known;
  } else if (packed != kPackedTypes.end()) {
    info.dtype = at::kByte;
    info.packed = packed;
  } else {
    user_error("{}: dtype {} is not supported", where, dtype_text);
  }
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array()) user_error("{}: shape is missing", where);
  if (shape->size() > kMaxDimensions) {
    user_error("{}: it has {} dimensions; at most {} are read", where, shape->size(),
               kMaxDimensions);
  }
  for (const auto& size : *shape) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > INT64_MAX) {
      user_error("{}: shape {} is not a list of whole numbers", where, shape->dump());
    }
    info.shape.push_back(size.get<int64_t>());
  }
  return info;
}

Range parse_range(const nlohmann::json& entry, const std::string& where) {
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    user_error("{}: data_offsets is not a pair of whole numbers", where);
  }
  const Range range{(*offsets)[0].get<uint64_t>(), (*offsets)[1].get<uint64_t>()};
  if (range.begin > range.end) {
    user_error("{}: its data begins at byte {} and ends before it, at {}", where, range.begin,
               range.end);
  }
  return range;
}

}  // namespace

std::optional<std::string_view> safetensors_dtype(at::ScalarType dtype) {
  for (const auto& [text, known] : kDtypes) {
    if (known == dtype) return text;
  }
  return std::nullopt;
}

std::string describe(const TensorInfo& info) {
  const auto dtype =
      info.packed != nullptr ? std::optional(info.packed->name) : safetensors_dtype(info.dtype);
  return fmt::format("{} [{}]", dtype ? *dtype : c10::toString(info.dtype),
                     fmt::join(info.shape, ", "));
}

TensorInfo info_of(const at::Tensor& tensor) {
  return {tensor.scalar_type(), tensor.sizes().vec()};
}

std::optional<uint64_t> byte_size(const TensorInfo& info) {
  // An empty tensor's other sizes still make strides, so the product without its zeros must fit
  // too.
  const int64_t unit = info.packed != nullptr ? info.packed->bits
                                              : static_cast<int64_t>(c10::elementSize(info.dtype));
  int64_t units = unit;  // bits of packed types, bytes of others
  bool empty = false;
  for (const int64_t size : info.shape) {
    if (size < 0) return std::nullopt;
    empty = empty || size == 0;
    if (__builtin_mul_overflow(units, std::max<int64_t>(size, 1), &units)) return std::nullopt;
  }
  if (empty) return 0;
  return static_cast<uint64_t>(info.packed != nullptr ? units / 8 + (units % 8 != 0) : units);
}

nlohmann::json parse_tensor_json(std::string_view text, std::string_view what) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of every open object
  const auto on_event = [&](int depth, Event event, nlohmann::json& parsed) {
    if ((event == Event::object_start || event == Event::array_start) && depth >= kMaxDepth) {
      user_error("{}: JSON nested deeper than {} levels", what, kMaxDepth);
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      user_error("{}: {} appears twice", what, parsed.get<std::string>());
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, on_event);
  } catch (const nlohmann::json::parse_error& error) {
    user_error("{}: not valid JSON at byte {} of {}; the file is damaged", what, error.byte,
               text.size());
  } catch (const nlohmann::json::exception& error) {
    user_error("{}: not valid JSON: {}", what, error.what());
  }
}

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file) {
  if (text.starts_with("version https://git-lfs")) {
    user_error("{} is a Git LFS pointer, not the data; run `git lfs pull`", file);
  }
  if (text.size() < kLengthBytes) {
    user_error("{} has {} bytes, too few for a safetensors file; it is truncated", file,
               text.size());
  }
  uint64_t header_size = 0;
  std::memcpy(&header_size, text.data(), kLengthBytes);
  if (header_size > kMaxHeader) {
    user_error("{} is not a safetensors file: it claims a header of {} bytes, over the limit of {}",
               file, header_size, kMaxHeader);
  }
  if (header_size > text.size() - kLengthBytes) {
    user_error("{}: its header has {} bytes but the file only {}; it is truncated", file,
               header_size, text.size());
  }
  const uint64_t data_begin = kLengthBytes + header_size;
  const uint64_t data_size = text.size() - data_begin;
  const nlohmann::json header =
      parse_tensor_json(text.substr(kLengthBytes, header_size), file + ": header");
  if (!header.is_object()) user_error("{}: its header is not a JSON object", file);

  SafetensorsHeader out;
  std::vector<std::pair<Range, const std::string*>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      const auto is_text = [](const nlohmann::json& value) { return value.is_string(); };
      if (!entry.is_object() || !std::ranges::all_of(entry, is_text)) {
        user_error("{}: __metadata__ is not a map of strings", file);
      }
      out.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    const std::string where = fmt::format("{}: tensor {}", file, name);
    const TensorInfo info = parse_info(entry, where);
    const Range range = parse_range(entry, where);
    const auto bytes = byte_size(info);
    if (!bytes) user_error("{}: {} is larger than any file", where, describe(info));
    if (ends_within_a_byte(info)) {
      user_error("{}: {} has elements of {} bits, which do not fill whole bytes", where,
                 describe(info), info.packed->bits);
    }
    if (range.end - range.begin != *bytes) {
      user_error("{}: {} needs {} bytes but its data_offsets span {}; the file is damaged", where,
                 describe(info), *bytes, range.end - range.begin);
    }
    if (range.end > data_size) {
      user_error(
          "{}: its data ends at byte {} but the file holds {} bytes of data; it is truncated",
          where, range.end, data_size);
    }
    out.offsets.emplace(name, data_begin + range.begin);
    ranges.emplace_back(range, &out.tensors.emplace(name, info).first->first);
  }

  std::ranges::sort(ranges, {},
                    [](const auto& item) { return std::pair(item.first.begin, item.first.end); });
  uint64_t end = 0;
  for (const auto& [range, name] : ranges) {
    if (range.begin != end) {
      user_error("{}: tensor {}: its data begins at byte {} but the tensor before ends at {}; {}",
                 file, *name, range.begin, end,
                 range.begin < end ? "they overlap" : "the format allows no hole");
    }
    end = range.end;
  }
  if (end != data_size) {
    user_error("{}: its tensors end at byte {} of the data but the file holds {}; it is damaged",
               file, end, data_size);
  }
  return out;
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : file_(std::make_shared<const MappedFile>(path)),
      header_(parse_safetensors_header(file_->text(), path.string())) {}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end()) user_error("{} has no tensor {}", path().string(), name);
  const TensorInfo& info = found->second;
  if (info.packed != nullptr) {
    user_error("{}: tensor {} is {}, a type that is listed and checked but not loaded",
               path().string(), name, describe(info));
  }
  const std::byte* data = file_->bytes().data() + header_.offsets.at(name);
  // The map is read-only; TensorSource forbids callers to write.
  at::Tensor view = at::from_blob(
      const_cast<std::byte*>(data), info.shape, [keep = file_](void*) {},
      at::TensorOptions().dtype(info.dtype));
  const bool aligned = reinterpret_cast<uintptr_t>(data) % c10::elementSize(info.dtype) == 0;
  return aligned ? view : view.clone();
}

void SafetensorsFile::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const uint64_t row = header_.tensors.at(name).row_bytes();
  file_->copy(
      file_->bytes().subspan(header_.offsets.at(name) + row * static_cast<uint64_t>(range.first),
                             row * static_cast<uint64_t>(range.count)),
      out);
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const TensorList& tensors,
                                     const std::map<std::string, std::string>& metadata,
                                     uint64_t alignment)
    : file_(path) {
  // Wide dtypes first, so that every tensor is aligned without holes.
  std::vector<const TensorList::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [](const auto* item) { return c10::elementSize(item->second.dtype); });

  std::string header = fmt::format("{{\"__metadata__\":{}", nlohmann::json(metadata).dump());
  uint64_t offset = 0;
  for (const auto* item : order) {
    const auto& [name, info] = *item;
    const auto dtype = safetensors_dtype(info.dtype);
    const auto bytes = byte_size(info);
    TORCH_CHECK(dtype && bytes, "safetensors cannot hold ", name, ": ", describe(info));
    TORCH_CHECK(pending_.emplace(name, Pending{info, offset, *bytes}).second, name,
                " is listed twice");
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          nlohmann::json(name).dump(), *dtype, fmt::join(info.shape, ","), offset,
                          offset + *bytes);
    offset += *bytes;
  }
  header += '}';
  const uint64_t before = sizeof(uint64_t) + header.size();
  header.append((alignment - before % alignment) % alignment, ' ');

  const uint64_t header_size = header.size();
  file_.write(std::as_bytes(std::span(&header_size, 1)));
  file_.write(header);
  for (auto& [name, pending] : pending_) pending.offset += file_.offset();
}

void SafetensorsWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found == pending_.end() || found->second.info == info_of(tensor), name, " is ",
              describe(info_of(tensor)), ", listed as ", describe(found->second.info));
  const at::Tensor plain = tensor.detach().cpu().contiguous();
  const bool whole =
      write_rows(name, {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
  TORCH_CHECK(whole, name, " was begun before");
}

bool SafetensorsWriter::write_rows(const std::string& name, std::span<const std::byte> rows) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found != pending_.end(), name, " is not in the list, or was written before");
  Pending& pending = found->second;
  TORCH_CHECK(rows.size() <= pending.left, name, " has ", pending.left, " bytes left, not ",
              rows.size());
  file_.write_at(pending.offset, rows);
  pending.offset += rows.size();
  pending.left -= rows.size();
  if (pending.left > 0) return false;
  pending_.erase(found);
  return true;
}

void SafetensorsWriter::commit() {
  TORCH_CHECK(pending_.empty(), pending_.begin()->first, " and ", pending_.size() - 1,
              " more tensors were not written");
  file_.commit();
}

}  // namespace trestle
