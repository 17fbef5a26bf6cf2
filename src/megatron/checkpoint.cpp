#include "megatron/checkpoint.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "formats/yaml.h"
#include "megatron/integrity.h"
#include "megatron/names.h"
#include "megatron/run_config.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

constexpr const char* kCommonState = "common_state/shard_0_1";

// An object of torch.save, such as common.pt, with its sums compared.
Json read_object(const fs::path& path) {
  const MappedFile file(path);
  const SavedArchive archive(file.bytes(), SavedArchive::Holds::kObject, path.string());
  archive.check_sums();
  return archive.json();
}

std::optional<int64_t> parse_iteration(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

fs::path directory_of(const fs::path& run, int64_t iteration) {
  return run / fmt::format("iter_{:07}", iteration);
}

std::string tracker_text(const fs::path& run) {
  std::string text = read_text(run / kTracker, 64);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

// The bridge prefers latest_train_state.pt to the text file, so we do too.
fs::path tracked_directory(const fs::path& run) {
  if (is_there(run / kTrackerState)) {
    const Json state = read_object(run / kTrackerState);
    const auto step = state.find("step");
    if (step == state.end() || !step->is_number_integer() || *step < 0) {
      user_error("{} holds no step; name the iteration's directory itself",
                 (run / kTrackerState).string());
    }
    // The text is written first: what it says less was set back by hand, as one does for
    // Megatron-LM.
    const auto said = is_there(run / kTracker) ? parse_iteration(tracker_text(run)) : std::nullopt;
    if (said && *said < step->get<int64_t>()) {
      user_error(
          "{}: {} says iteration {} but {} says {}; name the iteration's directory itself, or make "
          "the two agree",
          run.string(), kTracker, *said, kTrackerState, step->get<int64_t>());
    }
    return directory_of(run, step->get<int64_t>());
  }
  const std::string text = tracker_text(run);
  if (text == "release") return run / "release";
  const auto iteration = parse_iteration(text);
  if (!iteration) {
    user_error("{} holds \"{}\", neither an iteration nor \"release\"", (run / kTracker).string(),
               text);
  }
  return directory_of(run, *iteration);
}

bool is_iteration(const fs::path& path) {
  return is_there(path / ".metadata") || is_there(path / "metadata.json");
}

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

}  // namespace

fs::path megatron_directory(const fs::path& path) {
  require_directory(path, "Megatron checkpoint");
  fs::path directory = path;
  if (!is_iteration(path)) {
    if (!is_megatron_checkpoint(path)) {
      user_error("{} is no Megatron checkpoint: it has neither {} nor .metadata", path.string(),
                 kTracker);
    }
    directory = tracked_directory(path);
    if (!is_there(directory)) {
      user_error("{} is named as the latest checkpoint of {} and does not exist",
                 directory.string(), path.string());
    }
  }
  // Written last, after all data.
  const fs::path marker = directory / "metadata.json";
  if (!is_there(marker)) {
    user_error("{} has no metadata.json: the save was cut off, or its format is not torch_dist",
               directory.string());
  }
  const Json metadata = read_json(marker);
  const Json backend = metadata.is_object() ? metadata.value("sharded_backend", Json()) : Json();
  if (backend != "torch_dist") {
    user_error("{} says sharded_backend {}; only torch_dist is read", marker.string(),
               backend.dump());
  }
  return directory;
}

std::string tracker_note(const fs::path& path) {
  if (is_iteration(path) || !is_there(path / kTracker) || !is_there(path / kTrackerState))
    return {};
  const fs::path taken = tracked_directory(path);
  const std::string said = tracker_text(path);
  const auto step = parse_iteration(said);
  if (step && directory_of(path, *step) == taken) return {};
  return fmt::format("{}: {} says \"{}\", {} names {}, which is taken", path.string(), kTracker,
                     one_line(said), kTrackerState, taken.filename().string());
}

bool is_of_iteration(const fs::path& name) {
  constexpr std::array<std::string_view, 8> kNames = {
      ".metadata",      "metadata.json", "common.pt", "run_config.yaml",
      "train_state.pt", "tokenizer",     kIntegrity,  kHuggingFaceFolder};
  return name.extension() == ".distcp" || std::ranges::find(kNames, name.string()) != kNames.end();
}

void require_megatron(const fs::path& path, std::string_view flag) {
  require_directory(path, flag);
  if (is_megatron_checkpoint(path)) return;
  user_error("{} {} is no Megatron checkpoint: it has neither a tracker file nor .metadata", flag,
             path.string());
}

bool is_megatron_checkpoint(const fs::path& path) {
  return is_iteration(path) || is_there(path / kTracker) || is_there(path / kTrackerState);
}

MegatronCheckpoint::MegatronCheckpoint(const fs::path& path) : reader_(megatron_directory(path)) {
  for (const auto& [key, info] : reader_.tensors()) {
    const auto stacked = split_stacked_key(key);
    if (!stacked || info.shape.empty()) {
      add(key, info, {key, std::nullopt, ""});
      continue;
    }
    const TensorInfo slice{info.dtype, {info.shape.begin() + 1, info.shape.end()}};
    const std::vector<bool> stored = reader_.stored_slices(key);
    for (size_t layer = 0; layer < stored.size(); ++layer) {
      const auto number = static_cast<int64_t>(layer);
      if (stored[layer]) add(stacked->of_layer(number), slice, {key, number, ""});
    }
  }
  join_halves(model_);
  join_halves(state_);

  bool any_base = false;
  for (const auto& [name, info] : model_) {
    (is_adapter_key(name) ? is_adapter_ : any_base) = true;
  }
  is_adapter_ = is_adapter_ && !any_base;

  if (is_there(directory() / "run_config.yaml"))
    run_config_ = read_yaml(directory() / "run_config.yaml");
  read_common_state();
  if (const Json* value = find(common_state_, "iteration"); value && value->is_number_integer()) {
    iteration_ = value->get<int64_t>();
  } else {
    const std::string name = directory().filename().string();
    if (name.starts_with("iter_")) iteration_ = parse_iteration(name.substr(5)).value_or(0);
  }
}

void MegatronCheckpoint::add(const std::string& name, TensorInfo info, Stored place) {
  auto& tensors = is_model_key(name) ? model_ : state_;
  if (name.find("._extra_state") != std::string::npos) return;
  if (!tensors.emplace(name, std::move(info)).second) {
    user_error("{} holds {} twice, stacked and by itself", directory().string(), name);
  }
  places_.emplace(name, std::move(place));
}

// With singleton_local_shards, linear_fc1.weight is stored as linear_fc1.weight_w (gate) and
// linear_fc1.weight_v (up).
void MegatronCheckpoint::join_halves(std::map<std::string, TensorInfo>& tensors) {
  std::vector<std::string> firsts;
  for (const auto& [name, info] : tensors) {
    if (name.ends_with("_w") && name.find("linear_fc1.") != std::string::npos)
      firsts.push_back(name);
  }
  for (const std::string& first : firsts) {
    const std::string name = first.substr(0, first.size() - 2);
    const auto gate = tensors.find(first);
    const auto up = tensors.find(name + "_v");
    if (up == tensors.end() || up->second != gate->second || gate->second.shape.empty() ||
        tensors.contains(name)) {
      user_error("{}: {} and {}_v are not the two halves of {}", directory().string(), first, name,
                 name);
    }
    TensorInfo info = gate->second;
    info.shape[0] *= 2;
    Stored place = places_.at(first);
    place.second_key = places_.at(name + "_v").key;
    places_.erase(first);
    places_.erase(name + "_v");
    tensors.erase(gate);
    tensors.erase(up);
    tensors.emplace(name, std::move(info));
    places_.emplace(name, std::move(place));
  }
}

void MegatronCheckpoint::read_common_state() {
  const fs::path file = directory() / "common.pt";
  if (is_there(file)) {
    common_state_ = read_object(file);
  } else if (const auto value = object("common_state")) {
    common_state_ = *value;
  } else {
    user_error("{} has neither common.pt nor {}; it is incomplete", directory().string(),
               kCommonState);
  }
}

const MegatronCheckpoint::Stored& MegatronCheckpoint::stored(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) user_error("{}: no tensor {}", directory().string(), name);
  return found->second;
}

at::Tensor MegatronCheckpoint::read(const std::string& name) const {
  const Stored& place = stored(name);
  const auto part = [&](const std::string& key) {
    return place.layer ? reader_.read_slice(key, *place.layer) : reader_.read(key);
  };
  if (place.second_key.empty()) return part(place.key);
  return at::cat({part(place.key), part(place.second_key)});
}

void MegatronCheckpoint::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const Stored& place = stored(name);
  const auto part = [&](const std::string& key, RowRange rows) {
    if (place.layer) return reader_.read_slice_rows(key, *place.layer, rows, out);
    reader_.read_rows(key, rows, out);
  };
  if (place.second_key.empty()) return part(place.key, range);
  const TensorInfo& info = info_of(name);
  const int64_t half = info.shape[0] / 2;
  if (range.first < half) {
    const RowRange upper{range.first, std::min(range.count, half - range.first)};
    part(place.key, upper);
    out += info.row_bytes() * static_cast<uint64_t>(upper.count);
    range = {half, range.count - upper.count};
  }
  if (range.count > 0) part(place.second_key, {range.first - half, range.count});
}

const TensorInfo& MegatronCheckpoint::info_of(const std::string& name) const {
  const auto found = model_.find(name);
  if (found != model_.end()) return found->second;
  const auto other = state_.find(name);
  if (other == state_.end()) user_error("{}: no tensor {}", directory().string(), name);
  return other->second;
}

std::vector<int64_t> MegatronCheckpoint::shape_for(const Shard& shard) const {
  std::vector<int64_t> shape = info_of(shard.name).shape;
  const std::vector<int64_t>& wanted = shard.whole.shape;
  if (may_be_padded(parameter_of(shard.name)) && !shape.empty() && !wanted.empty()) {
    shape[0] = std::min(shape[0], wanted[0]);
  }
  return shape;
}

at::Tensor MegatronCheckpoint::read(const Shard& shard) const {
  const std::vector<int64_t> shape = shape_for(shard);
  if (shape != shard.whole.shape) {
    user_error("{}: {} has shape [{}], not [{}]", directory().string(), shard.name,
               fmt::join(shape, ", "), fmt::join(shard.whole.shape, ", "));
  }
  std::vector<at::Tensor> parts;
  for (const TensorBox& box : joined(shard.boxes)) {
    parts.push_back(read_box(shard.name, box).reshape({-1}));
  }
  if (parts.empty()) return at::empty({0}, info_of(shard.name).dtype);
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

at::Tensor MegatronCheckpoint::read_box(const std::string& name, const TensorBox& box) const {
  const Stored& place = stored(name);
  const auto part = [&](const std::string& key, TensorBox of) {
    if (place.layer) {
      of.offset.insert(of.offset.begin(), *place.layer);
      of.size.insert(of.size.begin(), 1);
    }
    return reader_.read_box(key, of.offset, of.size);
  };
  if (place.second_key.empty()) return part(place.key, box);
  // Rows of the upper half, then of the lower.
  const int64_t half = info_of(name).shape.at(0) / 2, end = box.offset[0] + box.size[0];
  TensorBox upper = box, lower = box;
  upper.size[0] = std::clamp<int64_t>(half - box.offset[0], 0, box.size[0]);
  lower.offset[0] = std::max<int64_t>(box.offset[0] - half, 0);
  lower.size[0] = std::clamp<int64_t>(end - half, 0, box.size[0]);
  if (lower.size[0] == 0) return part(place.key, upper);
  if (upper.size[0] == 0) return part(place.second_key, lower);
  return at::cat(
      {part(place.key, upper).reshape({-1}), part(place.second_key, lower).reshape({-1})});
}

std::optional<fs::path> MegatronCheckpoint::tokenizer_directory() const {
  fs::path path = directory() / "tokenizer";
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(path, ignored))) return std::nullopt;
  require_directory(path, "tokenizer");
  return path;
}

std::optional<Json> MegatronCheckpoint::hf_config() const {
  return hf_config_of_run_config(run_config_);
}

std::optional<std::string> MegatronCheckpoint::base_checkpoint() const {
  const Json* checkpoint = find(run_config_, "checkpoint");
  const Json* base = checkpoint ? find(*checkpoint, "pretrained_checkpoint") : nullptr;
  if (!base || !base->is_string()) return std::nullopt;
  return base->get<std::string>();
}

Json MegatronCheckpoint::train_state() const {
  const fs::path path = directory() / "train_state.pt";
  return is_there(path) ? read_object(path) : Json::object();
}

std::optional<Json> MegatronCheckpoint::object(const std::string& key) const {
  const std::string full = key + "/shard_0_1";
  if (!reader_.has_object(full)) return std::nullopt;
  reader_.check_object(full);
  const Json list = reader_.object(full).json();
  if (!list.is_array() || list.size() != 1) {
    user_error("{}: {} is not a list of one value", directory().string(), full);
  }
  return list[0];
}

}  // namespace trestle
