#include "megatron/writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

void require_divides(std::string_view flag, int64_t ranks, int64_t size, std::string_view what) {
  if (ranks >= 1 && size % ranks == 0) return;
  std::vector<int64_t> fitting;
  for (int64_t i = 1; i <= std::min<int64_t>(size, 64); ++i) {
    if (size % i == 0) fitting.push_back(i);
  }
  user_error("{}={} does not divide {} {}; use one of {}", flag, ranks, size, what,
             fmt::join(fitting, ", "));
}

MegatronOutput validated(MegatronOutput output) {
  const TextConfig& text = output.config.text;
  const int64_t ranks = output.tensor_parallel;
  constexpr std::string_view kTensor = "tensor_model_parallel_size";
  require_divides(kTensor, ranks, text.num_query_groups, "query groups");
  require_divides(kTensor, ranks, text.intermediate_size, "rows of the feed-forward");
  require_divides(kTensor, ranks, text.vocab_size, "rows of the vocabulary");
  require_divides("pipeline_model_parallel_size", output.pipeline_parallel, text.num_layers,
                  "layers");
  return output;
}

}  // namespace

MegatronWriter::MegatronWriter(MegatronOutput output, const TensorList& tensors)
    : output_(validated(std::move(output))),
      pipeline_{output_.pipeline_parallel, output_.config.text.num_layers},
      iteration_(output_),
      data_(iteration_.path(), output_.tensor_parallel * output_.pipeline_parallel) {
  std::map<std::string, TensorInfo> wholes;
  for (const auto& [name, info] : tensors) {
    contents_.add(name, info.dtype);
    Place place{megatron_place(output_, name, info), info, boxes_of(name, info)};
    const TensorInfo& stored = place.at.whole;
    const TensorInfo& whole = wholes.try_emplace(place.at.key, stored).first->second;
    if (whole.dtype != stored.dtype) {
      user_error(
          "{} is {}, but {} in a layer before; Megatron's form has one type for all layers: "
          "turn the checkpoint into one with export --dtype first",
          name, c10::toString(info.dtype), c10::toString(whole.dtype));
    }
    TORCH_CHECK(whole == stored, name, " differs from the other layers");
    TORCH_CHECK(pending_.emplace(name, std::move(place)).second, name, " occurs twice");
    const std::string extra = extra_state_key(output_, name);
    if (!extra.empty()) {
      extra_states_.emplace(extra, pipeline_.stage_of(name) * output_.tensor_parallel);
    }
  }
}

std::vector<MegatronWriter::Box> MegatronWriter::boxes_of(const std::string& name,
                                                          const TensorInfo& info) const {
  const int64_t ranks = output_.tensor_parallel;
  const int64_t first_rank = pipeline_.stage_of(name) * ranks;
  const int64_t rows = info.rows();
  const int64_t columns = info.shape.size() > 1 ? info.shape[1] : 1;
  const RowRange all_columns{0, columns};
  std::vector<Box> boxes;
  const auto cut_rows = [&](int64_t first, int64_t count) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t share = count / ranks;
      boxes.push_back({first_rank + rank, {first + rank * share, share}, all_columns});
    }
  };
  switch (split_of(name)) {
    case Split::kReplicated:
      boxes.push_back({first_rank, {0, rows}, all_columns});
      break;
    case Split::kRows:
      cut_rows(0, rows);
      break;
    case Split::kHalvedRows:
      cut_rows(0, rows / 2);
      cut_rows(rows / 2, rows / 2);
      break;
    case Split::kColumns:
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const int64_t share = columns / ranks;
        boxes.push_back({first_rank + rank, {0, rows}, {rank * share, share}});
      }
      break;
  }
  return boxes;
}

void MegatronWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found != pending_.end(), name, " was not announced, or is written twice");
  TORCH_CHECK(info_of(tensor) == found->second.info, name, " is ", describe(info_of(tensor)),
              ", announced was ", describe(found->second.info));
  const at::Tensor plain = tensor.detach().cpu().contiguous();
  write_rows(name, {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

void MegatronWriter::write_rows(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found != pending_.end(), name, " was not announced, or is written twice");
  Place& place = found->second;
  const uint64_t row = place.info.row_bytes();
  TORCH_CHECK(row == 0 || bytes.size() % row == 0, name, " comes in broken rows");
  const RowRange rows{place.next_row,
                      row == 0 ? place.info.rows() : static_cast<int64_t>(bytes.size() / row)};
  for (const Box& box : place.boxes) {
    const int64_t first = std::max(rows.first, box.rows.first);
    const int64_t end = std::min(rows.first + rows.count, box.rows.first + box.rows.count);
    if (first < end || box.rows.count == 0) {
      write_part(place, box, {first, end - first},
                 bytes.data() + row * static_cast<uint64_t>(first - rows.first));
    }
  }
  place.next_row += rows.count;
  if (place.next_row >= place.info.rows()) pending_.erase(found);
}

void MegatronWriter::write_part(const Place& place, const Box& box, RowRange rows,
                                const std::byte* first_row) {
  const TensorInfo& info = place.info;
  if (rows.first == box.rows.first) {
    ChunkPlace chunk{std::vector<int64_t>(info.shape.size(), 0), info.shape, box.rank};
    if (!info.shape.empty()) chunk.offsets[0] = box.rows.first, chunk.sizes[0] = box.rows.count;
    if (info.shape.size() > 1) {
      chunk.offsets[1] = box.columns.first, chunk.sizes[1] = box.columns.count;
    }
    if (place.at.layer) {
      chunk.offsets.insert(chunk.offsets.begin(), *place.at.layer);
      chunk.sizes.insert(chunk.sizes.begin(), 1);
    }
    data_.begin_chunk(place.at.key, place.at.whole, chunk);
  }
  const size_t row = info.row_bytes();
  const auto count = static_cast<size_t>(rows.count);
  if (info.shape.size() < 2 || box.columns.count == info.shape[1]) {
    if (count * row > 0) data_.append(box.rank, {first_row, count * row});
    return;
  }
  const size_t column = row / static_cast<size_t>(info.shape[1]);
  const size_t part = column * static_cast<size_t>(box.columns.count);
  std::vector<std::byte> cut(count * part);
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(cut.data() + i * part,
                first_row + i * row + column * static_cast<size_t>(box.columns.first), part);
  }
  data_.append(box.rank, cut);
}

void MegatronWriter::add_object(const std::string& key, const Json& value) {
  data_.write_object(object_key(key), plain_object(value));
}

fs::path MegatronWriter::finish() {
  TORCH_CHECK(pending_.empty(), pending_.size(), " tensors were announced and not written, ",
              pending_.empty() ? "" : pending_.begin()->first, " the first");
  for (const auto& [key, rank] : extra_states_) {
    data_.write_object(key, empty_extra_state(), rank);
  }
  data_.commit();
  finished_ = true;
  iteration_.write_side_files(contents_, data_.sha256());
  return iteration_.mark();
}

void MegatronWriter::commit() {
  if (!finished_) finish();
  iteration_.commit();
}

}  // namespace trestle
