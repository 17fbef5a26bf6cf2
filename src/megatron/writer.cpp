#include "megatron/writer.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/paths.h"
#include "formats/yaml.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "megatron/names.h"
#include "megatron/run_config.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::string iteration_name(int64_t iteration) { return fmt::format("iter_{:07}", iteration); }

void copy_to(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  OutputFile target(to);
  target.write(source.bytes());
  target.commit();
}

void write_archive(const fs::path& path, SavedArchiveWriter archive) {
  OutputFile file(path);
  archive.write(file);
  file.commit();
}

// A run that is not there yet appears whole, trackers and all; in one that is, an iteration does
// and the trackers follow it.
bool is_new(const fs::path& run) {
  std::error_code error;
  return !fs::exists(run, error) || (fs::is_directory(run, error) && fs::is_empty(run, error));
}

// What is to be replaced whole has been written by Megatron or by us: data files, and what says
// that they are all there.
fs::path replaceable(const fs::path& iteration) {
  std::error_code error;
  for (fs::directory_iterator each(iteration, error), end; !error && each != end;
       each.increment(error)) {
    const fs::path name = each->path().filename();
    if (name == ".metadata" || name == "metadata.json" || name.extension() == ".distcp") {
      return iteration;
    }
  }
  if (kind_of(iteration) == "a directory") require_replaceable_directory(iteration);
  return iteration;
}

// The modules whose Transformer Engine state the bridge insists on finding.
bool has_extra_state(std::string_view module) {
  constexpr std::array<std::string_view, 4> kModules = {"self_attention.linear_qkv",
                                                        "self_attention.linear_proj",
                                                        "mlp.linear_fc1", "mlp.linear_fc2"};
  return std::ranges::find(kModules, module) != kModules.end();
}

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
      new_run_(is_new(output_.run)),
      directory_(
          new_run_ ? output_.run : replaceable(output_.run / iteration_name(output_.iteration)),
          output_.replace),
      iteration_(new_run_ ? directory_.path() / iteration_name(output_.iteration)
                          : directory_.path()),
      data_(iteration_, output_.tensor_parallel * output_.pipeline_parallel) {
  const int64_t layers = output_.config.text.num_layers;
  std::map<std::string, TensorInfo> wholes;
  for (const auto& [name, info] : tensors) {
    has_optimizer_ = has_optimizer_ || name.starts_with("optimizer.");
    Place place{name, info, info, std::nullopt, boxes_of(name, info)};
    const auto layer = split_layer_name(name);
    if (layer && !output_.per_layer_keys) {
      TORCH_CHECK(layer->layer < layers, name, " in a model of ", layers, " layers");
      place.key = layer->stacked();
      place.layer = layer->layer;
      place.whole.shape.insert(place.whole.shape.begin(), layers);
      const auto& whole = wholes.try_emplace(place.key, place.whole).first->second;
      if (whole.dtype != place.whole.dtype) {
        user_error(
            "{} is {}, but {} in a layer before; Megatron's form has one type for all layers: "
            "turn the checkpoint into one with export --dtype first",
            name, c10::toString(info.dtype), c10::toString(whole.dtype));
      }
      TORCH_CHECK(whole == place.whole, name, " differs from the other layers");
    }
    TORCH_CHECK(pending_.emplace(name, std::move(place)).second, name, " occurs twice");

    constexpr std::string_view kWeight = ".weight";
    if (!is_model_key(name) || !name.ends_with(kWeight)) continue;
    if (name.ends_with("word_embeddings.weight") || is_adapter_key(name)) {
      dtype_ = info.dtype;
    }
    const int64_t rank = pipeline_.stage_of(name) * output_.tensor_parallel;
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (name.ends_with("decoder.final_layernorm.weight")) {
      extra_states_.emplace(module + "._extra_state/shard_0_1", rank);
    } else if (layer) {
      const std::string inner = layer->after.substr(0, layer->after.size() - kWeight.size());
      if (!has_extra_state(inner)) continue;
      extra_states_.emplace(output_.per_layer_keys
                                ? module + "._extra_state/shard_0_1"
                                : fmt::format("{}{}._extra_state/shard_{}_{}", layer->before, inner,
                                              layer->layer, layers),
                            rank);
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
    if (place.layer) {
      chunk.offsets.insert(chunk.offsets.begin(), *place.layer);
      chunk.sizes.insert(chunk.sizes.begin(), 1);
    }
    data_.begin_chunk(place.key, place.whole, chunk);
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
  SavedArchiveWriter archive;
  archive.pickle().json(Json::array({value}));
  data_.write_object(key + "/shard_0_1", std::move(archive));
}

void MegatronWriter::write_extra_states() {
  // Without fp8 the state is a list with one empty tensor.
  const at::Tensor empty = at::empty({0}, at::kByte);
  for (const auto& [key, rank] : extra_states_) {
    SavedArchiveWriter archive;
    archive.pickle().empty_list().mark();
    archive.tensor(empty);
    archive.pickle().appends();
    data_.write_object(key, std::move(archive), rank);
  }
}

void MegatronWriter::write_common_state() {
  Json content = {{"singleton_local_shards", false}, {"chained_optim_avoid_prefix", true}};
  if (has_optimizer_) {
    content["distrib_optim_sharding_type"] = "fully_reshardable";
    content["distrib_optim_fully_reshardable_mem_efficient"] = false;
  }
  Json state = {{"checkpoint_version", 3.0},
                {"iteration", output_.iteration},
                {"content_metadata", std::move(content)}};
  state.merge_patch(output_.common_state);
  SavedArchiveWriter archive("common");
  archive.pickle().json(state);
  write_archive(iteration_ / "common.pt", std::move(archive));
}

void MegatronWriter::write_run_config() {
  Json config = make_run_config(output_.hf_config, output_.config, dtype_, has_optimizer_,
                                output_.per_layer_keys);
  config["model"]["tensor_model_parallel_size"] = output_.tensor_parallel;
  config["model"]["pipeline_model_parallel_size"] = output_.pipeline_parallel;
  config.merge_patch(output_.run_config);
  write_text(iteration_ / "run_config.yaml", dump_yaml(config));
}

void MegatronWriter::write_train_state() {
  Json state = {{"step", output_.iteration},
                {"consumed_train_samples", 0},
                {"skipped_train_samples", 0},
                {"consumed_valid_samples", 0},
                {"floating_point_operations_so_far", 0.0},
                {"do_train", false},
                {"do_valid", false},
                {"do_test", false}};
  state.merge_patch(output_.train_state);
  // The bridge wants tensors without axes, int64, float32 and bool.
  SavedArchiveWriter archive("train_state");
  archive.pickle().empty_dict().mark();
  for (const auto& [key, value] : state.items()) {
    archive.pickle().string(key);
    if (value.is_boolean()) {
      archive.tensor(at::full({}, value.get<bool>(), at::kBool));
    } else if (value.is_number_float()) {
      archive.tensor(at::full({}, value.get<double>(), at::kFloat));
    } else {
      archive.tensor(at::full({}, value.get<int64_t>(), at::kLong));
    }
  }
  archive.pickle().set_items();
  write_archive(iteration_ / "train_state.pt", std::move(archive));
}

void MegatronWriter::copy_tokenizer() {
  for (const fs::path& file : output_.tokenizer_files) {
    copy_to(file, iteration_ / "tokenizer" / file.filename());
  }
}

fs::path MegatronWriter::finish() {
  TORCH_CHECK(pending_.empty(), pending_.size(), " tensors were announced and not written, ",
              pending_.empty() ? "" : pending_.begin()->first, " the first");
  write_extra_states();
  data_.commit();
  write_common_state();
  write_run_config();
  write_train_state();
  copy_tokenizer();
  // Its presence says that all data are there.
  write_text(iteration_ / "metadata.json",
             R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1})");
  write_integrity(iteration_, data_.sha256());
  if (new_run_) write_trackers(directory_.path());
  finished_ = true;
  return directory_.path();
}

void MegatronWriter::commit() {
  if (!finished_) finish();
  directory_.commit();
  if (!new_run_) write_trackers(output_.run);
}

void MegatronWriter::write_trackers(const fs::path& run) const {
  const std::string name = iteration_name(output_.iteration);
  // The last is the one that readers prefer: until it is there, the older iteration is the latest.
  write_text(run / kTracker, std::to_string(output_.iteration));
  copy_to(run / name / "train_state.pt", run / kTrackerState);
}

}  // namespace trestle
