#include "megatron/iteration.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/digest.h"
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

constexpr std::string_view kWeight = ".weight";

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
    if (name == ".metadata" || name == kMarkerFile || name.extension() == ".distcp") {
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

}  // namespace

void MegatronContents::add(const std::string& name, at::ScalarType type) {
  has_optimizer = has_optimizer || name.starts_with("optimizer.");
  if (!is_model_key(name) || !name.ends_with(kWeight)) return;
  if (name.ends_with("word_embeddings.weight") || is_adapter_key(name)) dtype = type;
}

MegatronPlace megatron_place(const MegatronOutput& output, const std::string& name,
                             const TensorInfo& info) {
  const int64_t layers = output.config.text.num_layers;
  MegatronPlace place{name, info, std::nullopt};
  const auto layer = split_layer_name(name);
  if (!layer || output.per_layer_keys) return place;
  TORCH_CHECK(layer->layer < layers, name, " in a model of ", layers, " layers");
  place.key = layer->stacked();
  place.layer = layer->layer;
  place.whole.shape.insert(place.whole.shape.begin(), layers);
  return place;
}

std::string extra_state_key(const MegatronOutput& output, const std::string& name) {
  if (!is_model_key(name) || !name.ends_with(kWeight)) return {};
  const std::string module = name.substr(0, name.size() - kWeight.size());
  std::string alone = module + "._extra_state/shard_0_1";
  if (name.ends_with("decoder.final_layernorm.weight")) return alone;
  const auto layer = split_layer_name(name);
  if (!layer) return {};
  const std::string inner = layer->after.substr(0, layer->after.size() - kWeight.size());
  if (!has_extra_state(inner)) return {};
  if (output.per_layer_keys) return alone;
  return fmt::format("{}{}._extra_state/shard_{}_{}", layer->before, inner, layer->layer,
                     output.config.text.num_layers);
}

SavedArchiveWriter empty_extra_state() {
  SavedArchiveWriter archive;
  archive.pickle().empty_list().mark();
  archive.tensor(at::empty({0}, at::kByte));
  archive.pickle().appends();
  return archive;
}

SavedArchiveWriter plain_object(const Json& value) {
  SavedArchiveWriter archive;
  archive.pickle().json(Json::array({value}));
  return archive;
}

std::string object_key(const std::string& key) { return key + "/shard_0_1"; }

MegatronIteration::MegatronIteration(const MegatronOutput& output)
    : output_(output),
      new_run_(is_new(output_.run)),
      directory_(
          new_run_ ? output_.run : replaceable(output_.run / iteration_name(output_.iteration)),
          output_.replace),
      iteration_(new_run_ ? directory_.path() / iteration_name(output_.iteration)
                          : directory_.path()) {
  std::error_code error;
  fs::create_directories(iteration_, error);
  if (error) machine_error("cannot write {}: {}", iteration_.string(), error.message());
}

void MegatronIteration::write_common_state(bool has_optimizer) const {
  Json content = {{"singleton_local_shards", false}, {"chained_optim_avoid_prefix", true}};
  if (has_optimizer) {
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

void MegatronIteration::write_run_config(const MegatronContents& contents) const {
  Json config = make_run_config(output_.hf_config, output_.config, contents.dtype,
                                contents.has_optimizer, output_.per_layer_keys);
  config["model"]["tensor_model_parallel_size"] = output_.tensor_parallel;
  config["model"]["pipeline_model_parallel_size"] = output_.pipeline_parallel;
  config.merge_patch(output_.run_config);
  write_text(iteration_ / "run_config.yaml", dump_yaml(config));
}

void MegatronIteration::write_train_state() const {
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

void MegatronIteration::copy_tokenizer() const {
  for (const fs::path& file : output_.tokenizer_files) {
    copy_to(file, iteration_ / "tokenizer" / file.filename());
  }
}

void MegatronIteration::write_side_files(const MegatronContents& contents,
                                         std::map<std::string, std::string> sha256) const {
  write_common_state(contents.has_optimizer);
  write_run_config(contents);
  write_train_state();
  copy_tokenizer();
  Digest digest(Digest::Kind::kSha256);
  digest.update(kMarker);
  sha256[kMarkerFile] = digest.hex();
  write_integrity(iteration_, sha256);
}

fs::path MegatronIteration::mark() const {
  write_text(iteration_ / kMarkerFile, kMarker);
  if (new_run_) write_trackers(directory_.path());
  return directory_.path();
}

void MegatronIteration::commit() {
  directory_.commit();
  if (!new_run_) write_trackers(output_.run);
}

void MegatronIteration::write_trackers(const fs::path& run) const {
  const std::string name = iteration_name(output_.iteration);
  // The last is the one that readers prefer: until it is there, the older iteration is the latest.
  write_text(run / kTracker, std::to_string(output_.iteration));
  copy_to(run / name / "train_state.pt", run / kTrackerState);
}

}  // namespace trestle
