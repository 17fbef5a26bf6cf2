#include "formats/gguf_writer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/error.h"

namespace trestle {

namespace {

constexpr uint64_t kAlignment = 32;
constexpr int64_t kPiece = 1 << 22;  // values encoded at a time; whole blocks of every type
constexpr size_t kMaxName = 63;

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& bytes, std::string_view text) {
  put(bytes, static_cast<uint64_t>(text.size()));
  bytes += text;
}

std::string array_of(GgufKind element, uint64_t count) {
  std::string bytes;
  put(bytes, element);
  put(bytes, count);
  return bytes;
}

uint64_t round_up(uint64_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

int64_t count_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

uint64_t bytes_of(GgmlType type, int64_t values) {
  const GgmlLayout& layout = ggml_layout(type);
  return static_cast<uint64_t>(values / layout.block * layout.bytes);
}

}  // namespace

uint64_t gguf_bytes(const std::vector<GgufTensor>& tensors) {
  uint64_t bytes = 0;
  for (const GgufTensor& tensor : tensors) {
    bytes = round_up(bytes) + bytes_of(tensor.type, count_of(tensor.shape));
  }
  return bytes;
}

void GgufMetadata::add(const std::string& key, GgufKind kind, std::string bytes) {
  TORCH_CHECK(std::ranges::find(entries_, key, &Entry::key) == entries_.end(), key,
              " is set twice");
  entries_.push_back({key, kind, std::move(bytes)});
}

void GgufMetadata::set_uint32(const std::string& key, int64_t value) {
  TORCH_CHECK(value >= 0 && value <= UINT32_MAX, key, "=", value, " is no uint32");
  std::string bytes;
  put(bytes, static_cast<uint32_t>(value));
  add(key, GgufKind::kUint32, std::move(bytes));
}

void GgufMetadata::set_float(const std::string& key, double value) {
  std::string bytes;
  put(bytes, static_cast<float>(value));
  add(key, GgufKind::kFloat32, std::move(bytes));
}

void GgufMetadata::set_bool(const std::string& key, bool value) {
  add(key, GgufKind::kBool, std::string(1, value ? '\1' : '\0'));
}

void GgufMetadata::set_text(const std::string& key, std::string_view value) {
  std::string bytes;
  put_string(bytes, value);
  add(key, GgufKind::kString, std::move(bytes));
}

void GgufMetadata::set_texts(const std::string& key, std::span<const std::string> values) {
  std::string bytes = array_of(GgufKind::kString, values.size());
  for (const std::string& value : values) put_string(bytes, value);
  add(key, GgufKind::kArray, std::move(bytes));
}

void GgufMetadata::set_floats(const std::string& key, std::span<const double> values) {
  std::string bytes = array_of(GgufKind::kFloat32, values.size());
  for (const double value : values) put(bytes, static_cast<float>(value));
  add(key, GgufKind::kArray, std::move(bytes));
}

void GgufMetadata::set_int32s(const std::string& key, std::span<const int32_t> values) {
  std::string bytes = array_of(GgufKind::kInt32, values.size());
  for (const int32_t value : values) put(bytes, value);
  add(key, GgufKind::kArray, std::move(bytes));
}

void GgufMetadata::append(const GgufMetadata& other) {
  for (const Entry& entry : other.entries_) add(entry.key, entry.kind, entry.bytes);
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       const std::vector<GgufTensor>& tensors)
    : path_(path.string()), file_(path) {
  std::string header = "GGUF";
  put(header, uint32_t{3});
  put(header, static_cast<uint64_t>(tensors.size()));
  put(header, static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, kind, bytes] : metadata.entries()) {
    put_string(header, key);
    put(header, kind);
    if (kind == GgufKind::kString) texts_[key] = header.size() + sizeof(uint64_t);
    header += bytes;
  }
  for (const GgufTensor& tensor : tensors) {
    const auto& [name, shape, type] = tensor;
    TORCH_CHECK(!name.empty() && name.size() <= kMaxName && !shape.empty() && shape.size() <= 4 &&
                    shape.back() % ggml_layout(type).block == 0,
                "GGUF cannot hold ", name, " ", at::IntArrayRef(shape), " as ",
                ggml_layout(type).name);
    put_string(header, name);
    put(header, static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) put(header, static_cast<uint64_t>(shape[i]));
    put(header, type);
    put(header, end_);
    TORCH_CHECK(pending_.emplace(name, Pending{tensor, end_, 0}).second, name, " is listed twice");
    data_end_ = end_ + bytes_of(type, count_of(shape));
    end_ = round_up(data_end_);
  }
  header.resize(round_up(header.size()));
  file_.write(header);
  for (auto& [name, pending] : pending_) pending.offset += header.size();
  end_ += header.size();
  data_end_ += header.size();
}

void GgufWriter::write_values(const std::string& name, const at::Tensor& values) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found != pending_.end(), name, " is not in the list, or was written before");
  auto& [listed, offset, written] = found->second;
  const int64_t all = count_of(listed.shape);
  TORCH_CHECK(values.numel() <= all - written, name, ": ", values.numel(), " values for ",
              all - written);
  std::vector<std::byte> bytes;
  for (int64_t begin = 0; begin < values.numel(); begin += kPiece) {
    const at::Tensor piece = values.narrow(0, begin, std::min(kPiece, values.numel() - begin));
    bytes.resize(bytes_of(listed.type, piece.numel()));
    if (!ggml_encode(piece, listed.type, bytes)) {
      user_error("{}: tensor {} holds a value beyond the range of {}; export it as bf16", path_,
                 name, ggml_layout(listed.type).name);
    }
    file_.write_at(offset + bytes_of(listed.type, written), bytes);
    written += piece.numel();
  }
  if (written == all) pending_.erase(found);
}

void GgufWriter::write_rows(const std::string& name, at::ScalarType dtype,
                            std::span<const std::byte> rows) {
  const auto count = static_cast<int64_t>(rows.size() / c10::elementSize(dtype));
  // from_blob has no form for data that is only read.
  void* data = const_cast<std::byte*>(rows.data());
  write_values(name, at::from_blob(data, {count}, at::TensorOptions(dtype)));
}

void GgufWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found == pending_.end() || tensor.sizes() == found->second.tensor.shape, name, " is ",
              tensor.sizes(), ", which is not what was listed");
  write_values(name, tensor.detach().cpu().contiguous().view(-1));
}

void GgufWriter::replace_text(const std::string& key, std::string_view text) {
  file_.write_at(texts_.at(key), std::as_bytes(std::span(text)));
}

std::filesystem::path GgufWriter::finish() {
  TORCH_CHECK(pending_.empty(), pending_.begin()->first, " and ", pending_.size() - 1,
              " more tensors were not written");
  // The padding behind the last tensor belongs to the file as gguf-py writes it.
  if (end_ > data_end_) {
    const std::byte zero{0};
    file_.write_at(end_ - 1, std::span(&zero, 1));
  }
  return file_.temporary();
}

void GgufWriter::commit() {
  finish();
  file_.commit();
}

}  // namespace trestle
