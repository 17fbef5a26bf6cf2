#include "megatron/flat_state.h"

#include <ATen/ATen.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <tuple>

#include "base/error.h"
#include "megatron/names.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

constexpr std::string_view kBuffers = "optimizer.distributed.dp_group_idx_";
constexpr std::string_view kBucket = ".bucket_idx_", kMaster = ".param", kType = ".dtype_(torch.";
constexpr int64_t kAlignment = 64;

[[noreturn]] void refuse(const MegatronCheckpoint& checkpoint, const std::string& why) {
  user_error(
      "{}: its optimizer is in the form dp_reshardable, which only the run that wrote it can "
      "always "
      "read: {}; go on with a new one by checkpoint.load_optim=false, or save with "
      "checkpoint.dist_ckpt_optim_fully_reshardable=true there",
      checkpoint.directory().string(), why);
}

int64_t number_behind(std::string_view key, std::string_view before) {
  const size_t at = key.find(before);
  int64_t number = -1;
  if (at == std::string_view::npos) return number;
  std::from_chars(key.data() + at + before.size(), key.data() + key.size(), number);
  return number;
}

// Where the first of `names` is found in `name`, or behind the last of them.
template <size_t kNames>
int64_t place_in(std::string_view name, const std::array<std::string_view, kNames>& names) {
  for (size_t i = 0; i < kNames; ++i) {
    if (name.find(names[i]) != std::string_view::npos) return static_cast<int64_t>(i);
  }
  return kNames;
}

// The order of module.parameters() in Megatron Bridge's model: parts as its constructor makes them,
// in a layer the attention's output first (Attention.__init__), and in a module its own parameters
// before those of its children.
auto order_of(const std::string& name) {
  constexpr std::array<std::string_view, 2> kParts = {"vision_tower.", "multi_modal_projector."};
  constexpr std::array<std::string_view, 4> kLanguage = {
      "word_embeddings.", "decoder.layers.", "decoder.final_layernorm.", "output_layer."};
  constexpr std::array<std::string_view, 4> kModules = {"linear_proj.", "linear_qkv.",
                                                        "linear_fc1.", "linear_fc2."};
  constexpr std::array<std::string_view, 4> kParameters = {"layer_norm_weight", "weight_magnitude",
                                                           "linear_in.", "linear_out."};
  const int64_t part = place_in(name, kParts);
  const auto layer = split_layer_name(name);
  if (part < 2) return std::tuple(part, int64_t{0}, int64_t{0}, int64_t{0}, int64_t{0});
  return std::tuple(part, place_in(name, kLanguage), layer ? layer->layer : 0,
                    place_in(name, kModules), place_in(name, kParameters));
}

// The buckets of weights of one type, by their numbers.
struct Buffer {
  at::ScalarType dtype;
  std::map<int64_t, std::string> buckets;
};

std::map<int64_t, Buffer> buffers_in(const MegatronCheckpoint& checkpoint) {
  std::map<int64_t, Buffer> buffers;
  for (const auto& [key, info] : checkpoint.state()) {
    if (!is_flat_state(key) || !key.ends_with(kMaster)) continue;
    if (number_behind(key, kBuffers) != 0) {
      refuse(checkpoint, "it was cut over tensor or pipeline ranks");
    }
    const size_t type = key.find(kType);
    const std::string_view rest =
        type == std::string::npos ? "" : std::string_view(key).substr(type + kType.size());
    const auto dtype = dtype_of_name(rest.substr(0, rest.find(',')));
    const int64_t bucket = number_behind(key, kBucket);
    if (!dtype || bucket < 0 || info.shape.size() != 1) {
      refuse(checkpoint, key + " is no bucket of a known type");
    }
    Buffer& buffer = buffers[number_behind(key, ".gbuf_idx_")];
    buffer.dtype = *dtype;
    buffer.buckets[bucket] = key.substr(0, key.size() - kMaster.size());
  }
  return buffers;
}

}  // namespace

bool is_flat_state(std::string_view key) {
  return key.starts_with(kBuffers) && key.find(kBucket) != std::string_view::npos;
}

FlatState::FlatState(const MegatronCheckpoint& checkpoint, std::vector<std::string> trained)
    : checkpoint_(checkpoint) {
  // What vision modules register in which order, HF's classes say as our model does: `trained` has
  // it.
  std::ranges::stable_sort(trained, {}, order_of);
  std::ranges::reverse(trained);
  for (const auto& [number, buffer] : buffers_in(checkpoint)) {
    auto bucket = buffer.buckets.begin();
    int64_t start = 0;
    const auto size = [&] {
      return checkpoint.state().at(bucket->second + std::string(kMaster)).shape[0];
    };
    for (const std::string& name : trained) {
      const auto info = checkpoint.tensors().find(name);
      if (info == checkpoint.tensors().end()) refuse(checkpoint, "there are no weights of " + name);
      if (info->second.dtype != buffer.dtype) continue;
      const int64_t elements = c10::multiply_integers(info->second.shape);
      if (bucket == buffer.buckets.end() || elements > size() - start) {
        refuse(checkpoint, fmt::format("{} does not fit its buckets", name));
      }
      places_[name] = {bucket->second, start};
      const int64_t end = start + elements;
      start = (end + kAlignment - 1) / kAlignment * kAlignment;
      if (end == size()) ++bucket, start = 0;
    }
    if (bucket != buffer.buckets.end()) {
      refuse(checkpoint, bucket->second + " has room for more than is trained");
    }
  }
  for (const std::string& name : trained) {
    if (!places_.contains(name)) refuse(checkpoint, "no bucket holds " + name);
  }
  require_masters();
}

void FlatState::require_masters() const {
  constexpr int64_t kLooked = 1024;
  for (const auto& [name, place] : places_) {
    const TensorInfo& info = checkpoint_.tensors().at(name);
    Shard weight = whole_shard(name, info),
          master = whole_shard(fmt::format("{}param.{}", kOptimizerState, name), info);
    const int64_t elements = weight.elements();
    for (const int64_t first : {int64_t{0}, std::max<int64_t>(elements - kLooked, 0)}) {
      const int64_t last = std::min(first + kLooked, elements);
      weight.boxes = elements_of(whole_shard(name, info).boxes, first, last);
      master.boxes = weight.boxes;
      if (!read(master).to(info.dtype).equal(checkpoint_.read(weight))) {
        refuse(checkpoint_, fmt::format("where {} should lie are other weights", name));
      }
    }
  }
}

at::Tensor FlatState::read(const Shard& shard) const {
  const std::string name(parameter_of(shard.name));
  const auto found = places_.find(name);
  if (found == places_.end()) refuse(checkpoint_, "no bucket holds " + name);
  const Place& place = found->second;
  // "optimizer.state.exp_avg.NAME" is of "BUCKET.exp_avg".
  const std::string kind = shard.name.substr(
      kOptimizerState.size(), shard.name.size() - kOptimizerState.size() - name.size() - 1);
  const std::string key = fmt::format("{}.{}", place.bucket, kind);
  const std::vector<int64_t>& shape = checkpoint_.tensors().at(name).shape;
  // Whole rows are one run of the flat parameter.
  std::vector<at::Tensor> parts;
  for (const TensorBox& box : shard.boxes) {
    int64_t row = 1, first = place.first;
    for (size_t axis = shape.size(); axis-- > 1;) row *= shape[axis];
    const int64_t rows = box.size.empty() ? 1 : box.size[0];
    if (!box.offset.empty()) first += box.offset[0] * row;
    at::Tensor part = checkpoint_.reader().read_box(key, {first}, {rows * row});
    std::vector<int64_t> of = shape;
    if (!of.empty()) of[0] = rows;
    part = part.view(of);
    for (size_t axis = 1; axis < of.size(); ++axis) {
      part = part.narrow(static_cast<int64_t>(axis), box.offset[axis], box.size[axis]);
    }
    parts.push_back(part.reshape({-1}));
  }
  return parts.empty() ? at::empty({0}, at::kFloat) : at::cat(parts);
}

}  // namespace trestle
