#include "checkpoint/megatron_writer.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "checkpoint/megatron_names.h"
#include "checkpoint/run_config.h"
#include "checkpoint/yaml.h"

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

// The modules whose Transformer Engine state the bridge insists on finding.
bool has_extra_state(std::string_view module) {
  constexpr std::array<std::string_view, 4> kModules = {"self_attention.linear_qkv",
                                                        "self_attention.linear_proj",
                                                        "mlp.linear_fc1", "mlp.linear_fc2"};
  return std::ranges::find(kModules, module) != kModules.end();
}

}  // namespace

MegatronWriter::MegatronWriter(MegatronOutput output, const TensorList& tensors)
    : output_(std::move(output)),
      new_run_(is_new(output_.run)),
      directory_(new_run_ ? output_.run : output_.run / iteration_name(output_.iteration),
                 output_.replace),
      iteration_(new_run_ ? directory_.path() / iteration_name(output_.iteration)
                          : directory_.path()),
      data_(iteration_) {
  const int64_t layers = output_.config.text.num_layers;
  std::map<std::string, TensorInfo> wholes;
  for (const auto& [name, info] : tensors) {
    has_optimizer_ = has_optimizer_ || name.starts_with("optimizer.");
    Place place{name, info, false, std::vector<int64_t>(info.shape.size(), 0)};
    const auto layer = split_layer_name(name);
    if (layer && !output_.per_layer_keys) {
      TORCH_CHECK(layer->layer < layers, name, " in a model of ", layers, " layers");
      place.key = layer->stacked();
      place.stacked = true;
      place.whole.shape.insert(place.whole.shape.begin(), layers);
      place.offsets.insert(place.offsets.begin(), layer->layer);
      const auto& whole = wholes.try_emplace(place.key, place.whole).first->second;
      TORCH_CHECK(whole == place.whole, name, " differs from the other layers");
    }
    TORCH_CHECK(pending_.emplace(name, std::move(place)).second, name, " occurs twice");

    constexpr std::string_view kWeight = ".weight";
    if (!is_model_key(name) || !name.ends_with(kWeight)) continue;
    if (name.ends_with("word_embeddings.weight") || name.find(".adapter.") != std::string::npos) {
      dtype_ = info.dtype;
    }
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (name.ends_with("decoder.final_layernorm.weight")) {
      extra_states_.insert(module + "._extra_state/shard_0_1");
    } else if (layer) {
      const std::string inner = layer->after.substr(0, layer->after.size() - kWeight.size());
      if (!has_extra_state(inner)) continue;
      extra_states_.insert(output_.per_layer_keys
                               ? module + "._extra_state/shard_0_1"
                               : fmt::format("{}{}._extra_state/shard_{}_{}", layer->before, inner,
                                             layer->layer, layers));
    }
  }
}

void MegatronWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto found = pending_.find(name);
  TORCH_CHECK(found != pending_.end(), name, " was not announced, or is written twice");
  const Place& place = found->second;
  const at::Tensor chunk = place.stacked ? tensor.unsqueeze(0) : tensor;
  if (!place.stacked) {
    TORCH_CHECK(info_of(tensor) == place.whole, name, " is ", describe(info_of(tensor)),
                ", announced was ", describe(place.whole));
  } else {
    TORCH_CHECK(tensor.sizes().equals(at::IntArrayRef(place.whole.shape).slice(1)), name, " is ",
                describe(info_of(tensor)), ", announced was a layer of ", describe(place.whole));
  }
  data_.write_chunk(place.key, place.whole, place.offsets, chunk);
  pending_.erase(found);
}

void MegatronWriter::add_object(const std::string& key, const Json& value) {
  SavedArchiveWriter archive;
  archive.pickle().json(Json::array({value}));
  data_.write_object(key + "/shard_0_1", std::move(archive));
}

void MegatronWriter::write_extra_states() {
  // Without fp8 the state is a list with one empty tensor.
  const at::Tensor empty = at::empty({0}, at::kByte);
  for (const std::string& key : extra_states_) {
    SavedArchiveWriter archive;
    archive.pickle().empty_list().mark();
    archive.tensor(empty);
    archive.pickle().appends();
    data_.write_object(key, std::move(archive));
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

void MegatronWriter::commit() {
  TORCH_CHECK(pending_.empty(), pending_.size(), " tensors were announced and not written, ",
              pending_.empty() ? "" : pending_.begin()->first, " the first");
  write_extra_states();
  data_.commit();
  write_common_state();
  write_run_config();
  write_train_state();
  copy_tokenizer();
  // Its presence says that everything else is there.
  write_text(iteration_ / "metadata.json",
             R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1})");
  if (new_run_) write_trackers(directory_.path());
  directory_.commit();
  if (!new_run_) write_trackers(output_.run);
}

void MegatronWriter::write_trackers(const fs::path& run) const {
  const std::string name = iteration_name(output_.iteration);
  copy_to(run / name / "train_state.pt", run / "latest_train_state.pt");
  write_text(run / "latest_checkpointed_iteration.txt", std::to_string(output_.iteration));
}

}  // namespace trestle
