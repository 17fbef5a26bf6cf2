#include "pytorch/torch_dist.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "pytorch/torch_dist_metadata.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Shape = std::vector<int64_t>;
constexpr size_t kMaxSlices = 1 << 16;  // layers of a model

int64_t volume(const Shape& sizes) {
  if (std::ranges::find(sizes, 0) != sizes.end()) return 0;
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

using Box = TorchDistReader::Box;

int64_t covered_by(const std::vector<Box>& boxes) {
  int64_t covered = 0;
  for (const Box& box : boxes) covered += volume(box.size);
  return covered;
}

std::vector<Box> boxes_inside(const std::vector<TorchDistReader::Chunk>& chunks, const Shape& begin,
                              const Shape& extent) {
  std::vector<Box> boxes;
  for (const auto& chunk : chunks) {
    Box box{&chunk, begin, extent};
    for (size_t axis = 0; axis < begin.size(); ++axis) {
      const int64_t from = std::max(chunk.offsets[axis], begin[axis]);
      const int64_t to =
          std::min(chunk.offsets[axis] + chunk.sizes[axis], begin[axis] + extent[axis]);
      box.offset[axis] = from - begin[axis];
      box.size[axis] = std::max<int64_t>(to - from, 0);
    }
    if (volume(box.size) > 0) boxes.push_back(std::move(box));
  }
  return boxes;
}

enum class Overlap { kNone, kSome, kTooManyBoxes };

// Boxes sorted by their start are compared only with those that start before they end on that axis.
Overlap find_overlap(std::vector<Box>& boxes, size_t axes) {
  if (boxes.size() < 2) return Overlap::kNone;
  if (axes == 0) return Overlap::kSome;
  constexpr int64_t kMaxComparisons = 100'000'000;
  int64_t comparisons = 0;
  // The axis that is cut most often leaves the fewest pairs.
  size_t sweep = 0, most = 0;
  for (size_t axis = 0; axis < axes; ++axis) {
    std::vector<int64_t> starts;
    for (const Box& box : boxes) starts.push_back(box.offset[axis]);
    std::ranges::sort(starts);
    const auto distinct =
        static_cast<size_t>(std::unique(starts.begin(), starts.end()) - starts.begin());
    if (distinct > most) sweep = axis, most = distinct;
  }
  std::ranges::sort(boxes, {}, [sweep](const Box& box) { return box.offset[sweep]; });
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& a = boxes[i];
    for (size_t j = i + 1; j < boxes.size(); ++j) {
      const Box& b = boxes[j];
      if (b.offset[sweep] >= a.offset[sweep] + a.size[sweep]) break;
      if (++comparisons > kMaxComparisons) return Overlap::kTooManyBoxes;
      bool apart = false;
      for (size_t axis = 0; axis < axes && !apart; ++axis) {
        apart = b.offset[axis] >= a.offset[axis] + a.size[axis] ||
                a.offset[axis] >= b.offset[axis] + b.size[axis];
      }
      if (!apart) return Overlap::kSome;
    }
  }
  return Overlap::kNone;
}

// The number of elements that the boxes cover: all that are `wanted`, or fewer where there may be
// holes, and none twice. `what` opens the UserError.
int64_t tiled(std::vector<Box>& boxes, size_t axes, int64_t wanted, bool holes,
              const std::string& what) {
  const Overlap overlap = find_overlap(boxes, axes);
  if (overlap == Overlap::kTooManyBoxes) {
    user_error("{} are {} pieces, too many to check", what, boxes.size());
  }
  const int64_t covered = covered_by(boxes);
  if (overlap == Overlap::kSome || covered > wanted || (covered < wanted && !holes)) {
    user_error("{} do not tile it: {} of {} elements are stored{}; save it again", what, covered,
               wanted, overlap == Overlap::kSome ? ", some twice" : "");
  }
  return covered;
}

std::vector<size_t> byte_strides(const Shape& shape, size_t item) {
  std::vector<size_t> strides(shape.size(), item);
  for (size_t axis = shape.size(); axis-- > 1;) {
    strides[axis - 1] = strides[axis] * static_cast<size_t>(shape[axis]);
  }
  return strides;
}

size_t byte_offset(const Shape& index, const std::vector<size_t>& strides) {
  size_t offset = 0;
  for (size_t axis = 0; axis < index.size(); ++axis) {
    offset += static_cast<size_t>(index[axis]) * strides[axis];
  }
  return offset;
}

// Copies a box of `size` between two arrays, whose first elements of it are given, one run of the
// innermost axis at a time.
void copy_box(std::byte* to, const std::vector<size_t>& to_stride, const std::byte* from,
              const std::vector<size_t>& from_stride, const Shape& size, size_t axis, size_t item) {
  if (axis == size.size()) {
    std::memcpy(to, from, item);
    return;
  }
  const auto count = static_cast<size_t>(size[axis]);
  if (axis + 1 == size.size()) {
    std::memcpy(to, from, count * item);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    copy_box(to + i * to_stride[axis], to_stride, from + i * from_stride[axis], from_stride, size,
             axis + 1, item);
  }
}

}  // namespace

struct TorchDistReader::Sums {
  struct One {
    std::mutex mutex;
    bool right = false;
    uint64_t looked_at = 0;  // bytes, before its sums were asked for
  };
  std::mutex mutex;
  std::map<std::pair<size_t, uint64_t>, One> of;  // by file and offset
};

TorchDistReader::TorchDistReader(fs::path directory)
    : directory_(std::move(directory)), sums_(std::make_shared<Sums>()) {
  require_directory(directory_, "checkpoint");
  const fs::path path = directory_ / ".metadata";
  TorchDistMetadata metadata = read_torch_dist_metadata(path);
  entries_ = std::move(metadata.tensors);
  objects_ = std::move(metadata.objects);
  for (const std::string& name : metadata.files) files_.emplace_back(directory_ / name);

  // Items do not share bytes, so their sum bounds the memory that reading can ask for.
  std::vector<uint64_t> used(files_.size(), 0);
  const auto check = [&](const std::string& name, const Item& item) {
    const uint64_t size = files_[item.file].bytes().size();
    if (item.offset > size || item.length > size - item.offset ||
        item.length > size - used[item.file]) {
      user_error(
          "{}: {} should have {} bytes at {}, but {} has {} bytes; it is cut short or damaged",
          path.string(), name, item.length, item.offset,
          files_[item.file].path().filename().string(), size);
    }
    used[item.file] += item.length;
  };
  for (const auto& [key, item] : objects_) check(key, item);
  for (const auto& [name, entry] : entries_) {
    for (const Chunk& chunk : entry.chunks) check(name, chunk.item);
    tensors_.emplace(name, entry.info);
  }
}

const TorchDistReader::Entry& TorchDistReader::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) user_error("{}: no tensor {}", directory_.string(), name);
  return found->second;
}

std::span<const std::byte> TorchDistReader::bytes(const Item& item) const {
  return files_[item.file].bytes().subspan(item.offset, item.length);
}

at::Tensor TorchDistReader::read(const std::string& name) const {
  const Shape& shape = find(name).info.shape;
  return assemble(name, Shape(shape.size(), 0), shape, Holes::kNone);
}

at::Tensor TorchDistReader::read_box(const std::string& name, const Shape& begin,
                                     const Shape& extent) const {
  const Shape& shape = find(name).info.shape;
  bool inside = begin.size() == shape.size() && extent.size() == shape.size();
  for (size_t axis = 0; inside && axis < shape.size(); ++axis) {
    inside = begin[axis] >= 0 && extent[axis] >= 0 && begin[axis] <= shape[axis] - extent[axis];
  }
  if (!inside) {
    user_error("{}: {} has shape [{}] and no [{}] at [{}]", directory_.string(), name,
               fmt::join(shape, ", "), fmt::join(extent, ", "), fmt::join(begin, ", "));
  }
  return assemble(name, begin, extent, Holes::kNone);
}

at::Tensor TorchDistReader::read_padded(const std::string& name) const {
  const Shape& shape = find(name).info.shape;
  return assemble(name, Shape(shape.size(), 0), shape, Holes::kAnywhere);
}

at::Tensor TorchDistReader::read_slice(const std::string& name, int64_t index) const {
  Shape extent = find(name).info.shape;
  if (extent.empty() || index < 0 || index >= extent[0]) {
    user_error("{}: {} has no slice {}", directory_.string(), name, index);
  }
  Shape begin(extent.size(), 0);
  begin[0] = index;
  extent[0] = 1;
  return assemble(name, begin, extent, Holes::kNone).squeeze(0);
}

void TorchDistReader::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  Shape extent = find(name).info.shape;
  Shape begin(extent.size(), 0);
  if (!extent.empty()) begin[0] = range.first, extent[0] = range.count;
  copy_boxes(name, begin, extent, tiles(name, begin, extent, Holes::kNone), out);
}

void TorchDistReader::read_slice_rows(const std::string& name, int64_t index, RowRange range,
                                      std::byte* out) const {
  Shape extent = find(name).info.shape;
  if (extent.empty() || index < 0 || index >= extent[0]) {
    user_error("{}: {} has no slice {}", directory_.string(), name, index);
  }
  Shape begin(extent.size(), 0);
  begin[0] = index, extent[0] = 1;
  if (extent.size() > 1) begin[1] = range.first, extent[1] = range.count;
  copy_boxes(name, begin, extent, tiles(name, begin, extent, Holes::kNone), out);
}

std::vector<bool> TorchDistReader::stored_slices(const std::string& name) const {
  const Entry& entry = find(name);
  std::vector<bool> stored;
  if (entry.info.shape.empty()) return stored;
  for (const Chunk& chunk : entry.chunks) {
    if (volume(chunk.sizes) == 0) continue;
    const auto end = static_cast<size_t>(chunk.offsets[0] + chunk.sizes[0]);
    if (end > kMaxSlices) {
      user_error("{}: {} has over {} slices", directory_.string(), name, kMaxSlices);
    }
    if (end > stored.size()) stored.resize(end);
    std::fill_n(stored.begin() + chunk.offsets[0], chunk.sizes[0], true);
  }
  return stored;
}

SavedArchive TorchDistReader::open_chunk(const std::string& name, const Chunk& chunk) const {
  return SavedArchive(bytes(chunk.item), SavedArchive::Holds::kTensor,
                      fmt::format("{}: {} at [{}]", files_[chunk.item.file].path().string(), name,
                                  fmt::join(chunk.offsets, ", ")));
}

SavedTensor TorchDistReader::chunk_tensor(const std::string& name, const Chunk& chunk,
                                          const SavedArchive& archive) const {
  const at::ScalarType dtype = find(name).info.dtype;
  SavedTensor saved = archive.tensor(archive.root());
  if (saved.info != TensorInfo{dtype, chunk.sizes}) {
    user_error("{}: the chunk of {} at [{}] has shape [{}] or type {}, .metadata says [{}] {}",
               files_[chunk.item.file].path().string(), name, fmt::join(chunk.offsets, ", "),
               fmt::join(saved.info.shape, ", "), c10::toString(saved.info.dtype),
               fmt::join(chunk.sizes, ", "), c10::toString(dtype));
  }
  return saved;
}

size_t TorchDistReader::check_sums(const Chunk& chunk, const SavedArchive& archive,
                                   std::span<const std::byte> data, std::byte* out) const {
  const MappedFile& file = files_[chunk.item.file];
  std::vector<std::byte> scratch(ZipReader::kSumBlock);
  size_t copied = 0;
  archive.check_sums([&](std::span<const std::byte> block) {
    const bool is_wanted = block.data() >= data.data() && block.data() < data.data() + data.size();
    std::byte* to = is_wanted ? out + (block.data() - data.data()) : scratch.data();
    file.copy(block, to);
    if (is_wanted) copied += block.size();
    return std::span<const std::byte>(to, block.size());
  });
  return copied;
}

void TorchDistReader::copy_checked(const Chunk& chunk, const SavedArchive& archive,
                                   std::span<const std::byte> data, std::span<const std::byte> part,
                                   std::byte* out) const {
  constexpr uint64_t kLook = 64;  // a part of so many is still a look
  Sums::One* one = nullptr;
  {
    const std::scoped_lock lock(sums_->mutex);
    one = &sums_->of[{chunk.item.file, chunk.item.offset}];
  }
  size_t copied = 0;
  {
    // Another that wants the same chunk waits for the answer.
    const std::scoped_lock lock(one->mutex);
    one->looked_at += part.size();
    if (!one->right && one->looked_at >= chunk.item.length / kLook) {
      // All of it: each block is summed where it is copied to, while the cache has it.
      const bool whole = out != nullptr && part.size() == data.size();
      copied = check_sums(chunk, archive, whole ? data : std::span<const std::byte>(), out);
      one->right = true;
    }
  }
  // A record without a sum is not read for one.
  if (out != nullptr && copied != part.size()) files_[chunk.item.file].copy(part, out);
}

std::vector<TorchDistReader::Box> TorchDistReader::tiles(const std::string& name,
                                                         const Shape& begin, const Shape& extent,
                                                         Holes holes) const {
  std::vector<Box> boxes = boxes_inside(find(name).chunks, begin, extent);
  tiled(boxes, extent.size(), volume(extent), holes == Holes::kAnywhere,
        fmt::format("{}: the chunks of {}", directory_.string(), name));
  return boxes;
}

at::Tensor TorchDistReader::assemble(const std::string& name, const Shape& begin,
                                     const Shape& extent, Holes holes) const {
  // Before memory is asked for: what the file holds bounds it, but for some padding.
  constexpr int64_t kMaxPadding = 1 << 20;
  const int64_t wanted = volume(extent);
  const std::vector<Box> boxes = tiles(name, begin, extent, holes);
  const int64_t covered = covered_by(boxes);
  if (wanted > 4 * covered + kMaxPadding) {
    user_error("{}: {} claims {} elements and has {}", directory_.string(), name, wanted, covered);
  }
  const auto options = at::TensorOptions().dtype(find(name).info.dtype);
  at::Tensor out = covered == wanted ? at::empty(extent, options) : at::zeros(extent, options);
  copy_boxes(name, begin, extent, boxes, static_cast<std::byte*>(out.mutable_data_ptr()));
  return out;
}

void TorchDistReader::copy_boxes(const std::string& name, const Shape& begin, const Shape& extent,
                                 const std::vector<Box>& boxes, std::byte* out) const {
  const Entry& entry = find(name);
  const size_t item = c10::elementSize(entry.info.dtype);
  const std::vector<size_t> to_stride = byte_strides(extent, item);
  std::vector<std::byte> scratch;
  for (const Box& box : boxes) {
    const Chunk& chunk = *box.chunk;
    const SavedArchive archive = open_chunk(name, chunk);
    const SavedTensor saved = chunk_tensor(name, chunk, archive);
    // The box's corners within the chunk: what lies between them is read.
    Shape first = begin, last = begin;
    for (size_t axis = 0; axis < first.size(); ++axis) {
      first[axis] += box.offset[axis] - chunk.offsets[axis];
      last[axis] = first[axis] + box.size[axis] - 1;
    }
    const std::vector<size_t> from_stride = byte_strides(chunk.sizes, item);
    const size_t start = byte_offset(first, from_stride);
    const size_t length = byte_offset(last, from_stride) + item - start;
    const auto part = saved.data.subspan(start, length);
    Shape to_last = box.offset;
    for (size_t axis = 0; axis < to_last.size(); ++axis) to_last[axis] += box.size[axis] - 1;
    const size_t to_start = byte_offset(box.offset, to_stride);
    const size_t to_length = byte_offset(to_last, to_stride) + item - to_start;
    std::byte* to = out + to_start;
    const auto copy = [&](std::byte* out) { copy_checked(chunk, archive, saved.data, part, out); };
    if (saved.owner.defined()) {
      copy(nullptr);  // the data were unpacked
      copy_box(to, to_stride, part.data(), from_stride, box.size, 0, item);
    } else if (length == to_length && length == item * static_cast<size_t>(volume(box.size))) {
      copy(to);  // one run on both sides
    } else {
      scratch.resize(length);
      copy(scratch.data());
      copy_box(to, to_stride, scratch.data(), from_stride, box.size, 0, item);
    }
  }
}

void TorchDistReader::check(const std::string& name, Holes holes) const {
  const Entry& entry = find(name);
  const Shape& shape = entry.info.shape;
  std::vector<Box> boxes = boxes_inside(entry.chunks, Shape(shape.size(), 0), shape);
  int64_t wanted = volume(shape);
  if (holes == Holes::kLeadingSlices && !shape.empty() && wanted > 0) {
    wanted = wanted / shape[0] * std::ranges::count(stored_slices(name), true);
  }
  tiled(boxes, shape.size(), wanted, holes == Holes::kAnywhere,
        fmt::format("{}: the chunks of {}", directory_.string(), name));
  for (const Chunk& chunk : entry.chunks) {
    const SavedArchive archive = open_chunk(name, chunk);
    chunk_tensor(name, chunk, archive);
    check_sums(chunk, archive);
  }
}

void TorchDistReader::check_object(const std::string& key) const { object(key).check_sums(); }

std::vector<std::string> TorchDistReader::objects() const {
  std::vector<std::string> keys;
  for (const auto& [key, item] : objects_) keys.push_back(key);
  return keys;
}

SavedArchive TorchDistReader::object(const std::string& key) const {
  const auto found = objects_.find(key);
  if (found == objects_.end()) user_error("{}: no object {}", directory_.string(), key);
  return SavedArchive(bytes(found->second), SavedArchive::Holds::kObject,
                      fmt::format("{}: {}", files_[found->second.file].path().string(), key));
}

}  // namespace trestle
