#include "checkpoint/torch_dist.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "checkpoint/torch_dist_metadata.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Shape = std::vector<int64_t>;
constexpr size_t kMaxSlices = 1 << 16;  // layers of a model

int64_t volume(const Shape& sizes) {
  if (std::ranges::find(sizes, 0) != sizes.end()) return 0;
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

// The part of a chunk that lies in the region asked for, in the region's coordinates.
struct Box {
  const TorchDistReader::Chunk* chunk;
  Shape offset, size;
};

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
  int64_t covered = 0;
  for (const Box& box : boxes) covered += volume(box.size);
  if (overlap == Overlap::kSome || covered > wanted || (covered < wanted && !holes)) {
    user_error("{} do not tile it: {} of {} elements are stored{}; save it again", what, covered,
               wanted, overlap == Overlap::kSome ? ", some twice" : "");
  }
  return covered;
}

// Copies a box between two contiguous arrays, one run of the innermost axis at a time.
void copy_box(std::byte* to, const Shape& to_shape, const Shape& to_offset, const std::byte* from,
              const Shape& from_shape, const Shape& from_offset, const Shape& size, size_t item) {
  size_t axes = size.size();
  size_t run = item;
  size_t to_step = item, from_step = item;  // bytes of one step along axis `axes - 1`
  // Trailing axes that are copied whole are one run.
  while (axes > 0 && size[axes - 1] == to_shape[axes - 1] &&
         size[axes - 1] == from_shape[axes - 1]) {
    --axes;
    run *= static_cast<size_t>(size[axes]);
    to_step = from_step = run;
  }
  std::vector<size_t> to_stride(axes), from_stride(axes);
  for (size_t axis = axes; axis-- > 0;) {
    to_stride[axis] = to_step;
    from_stride[axis] = from_step;
    to_step *= static_cast<size_t>(to_shape[axis]);
    from_step *= static_cast<size_t>(from_shape[axis]);
    to += to_stride[axis] * static_cast<size_t>(to_offset[axis]);
    from += from_stride[axis] * static_cast<size_t>(from_offset[axis]);
  }
  if (axes > 0) run *= static_cast<size_t>(size[--axes]);
  Shape index(axes, 0);
  while (true) {
    std::memcpy(to, from, run);
    size_t axis = axes;
    while (axis > 0) {
      --axis;
      to += to_stride[axis];
      from += from_stride[axis];
      if (++index[axis] < size[axis]) break;
      to -= to_stride[axis] * static_cast<size_t>(size[axis]);
      from -= from_stride[axis] * static_cast<size_t>(size[axis]);
      index[axis] = 0;
      if (axis == 0) return;
    }
    if (axes == 0) return;
  }
}

}  // namespace

TorchDistReader::TorchDistReader(fs::path directory) : directory_(std::move(directory)) {
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
  return assemble(name, Shape(shape.size(), 0), shape, false);
}

at::Tensor TorchDistReader::read_padded(const std::string& name) const {
  const Shape& shape = find(name).info.shape;
  return assemble(name, Shape(shape.size(), 0), shape, true);
}

at::Tensor TorchDistReader::read_slice(const std::string& name, int64_t index) const {
  Shape extent = find(name).info.shape;
  if (extent.empty() || index < 0 || index >= extent[0]) {
    user_error("{}: {} has no slice {}", directory_.string(), name, index);
  }
  Shape begin(extent.size(), 0);
  begin[0] = index;
  extent[0] = 1;
  return assemble(name, begin, extent, false).squeeze(0);
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

at::Tensor TorchDistReader::assemble(const std::string& name, const Shape& begin,
                                     const Shape& extent, bool holes_are_zero) const {
  const Entry& entry = find(name);
  std::vector<Box> boxes = boxes_inside(entry.chunks, begin, extent);
  const int64_t wanted = volume(extent);
  const int64_t covered = tiled(boxes, extent.size(), wanted, holes_are_zero,
                                fmt::format("{}: the chunks of {}", directory_.string(), name));
  constexpr int64_t kMaxPadding = 1 << 20;
  if (wanted > 4 * covered + kMaxPadding) {
    user_error("{}: {} claims {} elements and has {}", directory_.string(), name, wanted, covered);
  }

  const auto options = at::TensorOptions().dtype(entry.info.dtype);
  at::Tensor out = covered == wanted ? at::empty(extent, options) : at::zeros(extent, options);
  for (const Box& box : boxes) {
    const Chunk& chunk = *box.chunk;
    const SavedArchive archive = open_chunk(name, chunk);
    const SavedTensor saved = chunk_tensor(name, chunk, archive);
    Shape from = begin;
    for (size_t axis = 0; axis < from.size(); ++axis) {
      from[axis] = begin[axis] + box.offset[axis] - chunk.offsets[axis];
    }
    copy_box(static_cast<std::byte*>(out.mutable_data_ptr()), extent, box.offset, saved.data.data(),
             chunk.sizes, from, box.size, c10::elementSize(entry.info.dtype));
  }
  return out;
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
    const MappedFile& file = files_[chunk.item.file];
    const SavedArchive archive = open_chunk(name, chunk);
    chunk_tensor(name, chunk, archive);
    archive.check_sums([&](std::span<const std::byte> part) { file.release(part); });
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
