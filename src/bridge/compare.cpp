#include "bridge/compare.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <future>
#include <limits>
#include <map>
#include <set>
#include <thread>

#include "base/bytes.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/thread.h"
#include "bridge/gguf_source.h"
#include "bridge/load.h"
#include "bridge/stream.h"
#include "bridge/streamed.h"
#include "checkpoint/packed_checkpoint.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One side of a tensor, a block of rows at a time.
class Side {
 public:
  Side(const TensorSource& source, const std::string& name, const TensorInfo& info, bool hash)
      : source_(source), name_(name), info_(info) {
    if (hash) digest_.emplace(Digest::Kind::kSha256);
  }

  void read(RowRange range) {
    bytes_.resize(info_.row_bytes() * static_cast<uint64_t>(range.count));
    source_.read_rows(name_, range, bytes_.data());
    if (digest_) digest_->update({reinterpret_cast<const char*>(bytes_.data()), bytes_.size()});
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  /// Of the block, one after another; those of a packed type as numbers.
  at::Tensor elements() {
    if (info_.packed != nullptr) return unpacked(*info_.packed, bytes_);
    const auto count = static_cast<int64_t>(bytes_.size() / c10::elementSize(info_.dtype));
    return at::from_blob(bytes_.data(), {count}, at::TensorOptions(info_.dtype));
  }
  std::string sha256() { return digest_ ? digest_->hex() : std::string(); }

 private:
  const TensorSource& source_;
  const std::string& name_;
  const TensorInfo& info_;
  std::optional<Digest> digest_;
  std::vector<std::byte> bytes_;
};

// Both sides' next block, one on a thread of its own: either may decode or merge as it reads.
void read_both(Side& a, Side& b, RowRange range) {
  std::packaged_task<void()> other([&] { b.read(range); });
  std::future<void> done = other.get_future();
  const std::jthread thread = start_thread(std::ref(other), "reading two checkpoints at once");
  a.read(range);
  done.get();
}

// Whether elements of both can be told apart and stand for numbers.
bool by_value(const TensorInfo& a, const TensorInfo& b) {
  return a.shape == b.shape && a.packed == b.packed &&
         (a.packed == nullptr || !a.packed->values.empty());
}

// [elements, 1], of complex ones [elements, 2].
at::Tensor numbers(const at::Tensor& elements) {
  const at::Tensor parts =
      elements.is_complex() ? at::view_as_real(elements) : elements.unsqueeze(1);
  return parts.to(at::kDouble);
}

// Which a double does not tell apart.
bool is_wide_integer(const at::Tensor& elements) {
  return elements.scalar_type() == at::kLong || elements.scalar_type() == at::kUInt64;
}

void add_error(const at::Tensor& elements_a, const at::Tensor& elements_b, TensorDifference& out) {
  if (elements_a.numel() == 0) return;
  at::Tensor a = numbers(elements_a), b = numbers(elements_b);
  if (a.size(1) < b.size(1)) a = at::constant_pad_nd(a, {0, 1});
  if (b.size(1) < a.size(1)) b = at::constant_pad_nd(b, {0, 1});
  // Equal infinities and NaNs of both sides are no difference.
  at::Tensor same = at::logical_or(a == b, at::logical_and(a.isnan(), b.isnan()));
  at::Tensor error = at::where(same, 0.0, (a - b).abs());
  if (is_wide_integer(elements_a) && elements_a.scalar_type() == elements_b.scalar_type()) {
    same = (elements_a.view(at::kLong) == elements_b.view(at::kLong)).unsqueeze(1);
    error = at::where(same, 0.0, error.clamp_min(1));
  }
  const auto count = [](const at::Tensor& parts) { return parts.any(1).sum().item<int64_t>(); };
  *out.differing += count(same.logical_not());
  const at::Tensor zero = at::logical_and(a == 0, b == 0);
  out.zeros += count(at::logical_and(zero, a.signbit() != b.signbit()));
  const at::Tensor finite = at::logical_and(a.isfinite(), b.isfinite());
  if (!finite.all().item<bool>()) {
    const at::Tensor nan = at::logical_xor(a.isnan(), b.isnan());
    out.nan += count(nan);
    out.infinite += count(at::logical_or(at::logical_or(same, nan), finite).logical_not());
    error = at::where(finite, error, 0.0);
  }
  // Of two doubles the difference may be none.
  const double largest = std::min(error.max().item<double>(), std::numeric_limits<double>::max());
  out.finite_error = std::max(out.finite_error, largest);
  out.max_error = out.nan + out.infinite > 0 ? kInfinity : out.finite_error;
  out.max_value =
      std::max(out.max_value, at::where(a.isfinite(), a.abs(), 0.0).max().item<double>());
}

void set_incomparable(TensorDifference& out) {
  out.differing.reset();
  out.max_error = kInfinity;
}

void compare_one(const TensorSource& a, const TensorSource& b, bool hashes, TensorDifference& out) {
  Side ours(a, out.name, *out.a, hashes), theirs(b, out.name, *out.b, hashes);
  out.equal = out.a == out.b;
  if (out.a->shape != out.b->shape || out.a->packed != out.b->packed) {
    set_incomparable(out);
    if (!hashes) return;
    for_row_blocks(*out.a, [&](RowRange range) { ours.read(range); });
    for_row_blocks(*out.b, [&](RowRange range) { theirs.read(range); });
  } else {
    for_row_blocks(*out.a, [&](RowRange range) {
      read_both(ours, theirs, range);
      out.equal = out.equal && ours.bytes() == theirs.bytes();
    });
  }
  out.sha256_a = ours.sha256();
  out.sha256_b = theirs.sha256();
  if (out.equal) return;
  if (!by_value(*out.a, *out.b)) {
    set_incomparable(out);
    return;
  }
  Side left(a, out.name, *out.a, false), right(b, out.name, *out.b, false);
  const auto add = [&](RowRange range) {
    read_both(left, right, range);
    add_error(left.elements(), right.elements(), out);
  };
  // Sixteen bytes of doubles are made of a byte of four-bit codes.
  for_row_blocks(*out.a, add, out.a->packed != nullptr ? 2 << 20 : 16 << 20);
}

}  // namespace

std::string error_text(const TensorDifference& tensor) {
  std::vector<std::string> texts;
  if (tensor.finite_error > 0) {
    texts.push_back(fmt::format("{:.3g}", tensor.finite_error));
    if (tensor.max_value > 0) texts.back() += fmt::format(" of {:.3g}", tensor.max_value);
  }
  if (tensor.nan > 0) texts.push_back(fmt::format("NaN against a number at {}", tensor.nan));
  if (tensor.infinite > 0) {
    texts.push_back(fmt::format("infinity against another number at {}", tensor.infinite));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string sha256_of(const TensorSource& source, const std::string& name, const TensorInfo& info) {
  Side side(source, name, info, true);
  for_row_blocks(info, [&](RowRange range) { side.read(range); });
  return side.sha256();
}

std::vector<TensorDifference> compare_tensors(
    const TensorSource& a, const TensorSource& b, bool hashes,
    const std::function<void(const TensorDifference&)>& on_tensor) {
  std::set<std::string> names;
  for (const auto& [name, info] : a.tensors()) names.insert(name);
  for (const auto& [name, info] : b.tensors()) names.insert(name);
  const auto info_of = [](const TensorSource& source, const std::string& name) {
    const auto found = source.tensors().find(name);
    return found == source.tensors().end() ? std::nullopt : std::optional(found->second);
  };
  std::vector<TensorDifference> all;
  for (const std::string& name : names) {
    TensorDifference& out = all.emplace_back();
    out.name = name;
    out.a = info_of(a, name);
    out.b = info_of(b, name);
    if (out.a && out.b) {
      compare_one(a, b, hashes, out);
    } else {
      set_incomparable(out);
    }
    if (on_tensor) on_tensor(out);
  }
  return all;
}

namespace {

// NaN stays, as in torch's max.
double largest_of(double a, double b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

LogitDifference compare_logits(const at::Tensor& a_TV, const at::Tensor& b_TV) {
  TORCH_CHECK(a_TV.sizes() == b_TV.sizes() && a_TV.dim() == 2, "logits of two shapes");
  LogitDifference result{.positions = a_TV.size(0)};
  // Position by position: in fp64 all of a large vocabulary's would be the most that is held.
  for (int64_t t = 0; t < result.positions; ++t) {
    const at::Tensor a = a_TV[t].to(at::kDouble), b = b_TV[t].to(at::kDouble);
    const at::Tensor p = at::log_softmax(a, -1);
    const double kl = (p.exp() * (p - at::log_softmax(b, -1))).sum().clamp_min(0).item<double>();
    result.mean_kl += kl / static_cast<double>(result.positions);
    result.max_kl = largest_of(result.max_kl, kl);
    result.max_error =
        largest_of(result.max_error, at::where(a == b, 0.0, (a - b).abs()).max().item<double>());
    result.max_value = largest_of(result.max_value, a.abs().max().item<double>());
    result.same_top += a.argmax().item<int64_t>() == b.argmax().item<int64_t>() ? 1 : 0;
  }
  return result;
}

std::string not_finite(const at::Tensor& a_TV, const at::Tensor& b_TV) {
  const auto finite = [](const at::Tensor& logits) { return logits.isfinite().all().item<bool>(); };
  const bool a = finite(a_TV), b = finite(b_TV);
  if (a && b) return {};
  return fmt::format("{} not finite: weights there are NaN, infinite or overflow in {}",
                     !a && !b ? "the logits of A and of B are"
                     : a      ? "the logits of B are"
                              : "the logits of A are",
                     c10::toString(a_TV.scalar_type()));
}

std::string incomparable(const ModelConfig& a, const ModelConfig& b) {
  const auto differ = [](const char* what, auto x, auto y) {
    return fmt::format("{} is {} and {}", what, x, y);
  };
  if (a.text.vocab_size != b.text.vocab_size) {
    return differ("vocab_size", a.text.vocab_size, b.text.vocab_size);
  }
  if (a.vision.has_value() != b.vision.has_value()) return "only one of them has a vision tower";
  if (!a.vision) return {};
  if (a.image_token_id != b.image_token_id) {
    return differ("image_token_id", a.image_token_id, b.image_token_id);
  }
  const int64_t side_a = a.vision->patch_size * a.projector.spatial_merge_size;
  const int64_t side_b = b.vision->patch_size * b.projector.spatial_merge_size;
  return side_a == side_b ? "" : differ("the side of an image token", side_a, side_b);
}

namespace {

constexpr const char* kAdvice =
    "nothing was kept: try again, elsewhere if the disk is not to be trusted; if it stays, this is "
    "a bug";

// The number of tensors, all of which are equal.
int64_t require_equal_tensors(const TensorSource& source, const TensorSource& written) {
  int64_t count = 0;
  compare_tensors(source, written, false, [&](const TensorDifference& tensor) {
    const auto say = [](const std::optional<TensorInfo>& info) {
      return info ? describe(*info) : std::string("absent");
    };
    if (tensor.a != tensor.b) {
      machine_error("verify: {} is {} in the source and reads back as {}; {}", tensor.name,
                    say(tensor.a), say(tensor.b), kAdvice);
    }
    if (!tensor.equal) {
      const std::string error = error_text(tensor);
      machine_error("verify: {} reads back off by {}; {}", tensor.name,
                    error.empty() ? "other bits of the same values" : error, kAdvice);
    }
    ++count;
  });
  return count;
}

// What of two configs is not the same arithmetic, to the precision in which GGUF keeps numbers.
std::string different_arithmetic(const ModelConfig& a, const ModelConfig& b,
                                 const ModelInput& input) {
  if (std::string why = incomparable(a, b); !why.empty()) return why;
  const auto eps = [](const ModelConfig& config) {
    return static_cast<float>(config.text.rms_norm_eps);
  };
  if (eps(a) != eps(b)) return fmt::format("rms_norm_eps is {} and {}", eps(a), eps(b));
  if (a.text.num_layers != b.text.num_layers) return "the layers differ in number";
  const auto context = [&](const ModelConfig& config) {
    return LanguageModel(config.text, {at::kFloat, at::Device(at::kMeta)})
        .context(input.positions_T, input.packing, nullptr, at::kFloat);
  };
  const LayerContext ours = context(a), theirs = context(b);
  const auto close = [](const at::Tensor& x, const at::Tensor& y) {
    return x.defined() == y.defined() &&
           (!x.defined() || (x.sizes() == y.sizes() && at::allclose(x, y, 1e-4, 1e-4)));
  };
  if (!close(ours.rotation.cos, theirs.rotation.cos) ||
      !close(ours.rotation.sin, theirs.rotation.sin)) {
    return "the rotary embedding differs";
  }
  if (!close(ours.query_scale, theirs.query_scale)) return "the query scale differs";
  if (!a.vision) return {};
  if (a.vision->num_attention_heads != b.vision->num_attention_heads ||
      a.vision->hidden_act != b.vision->hidden_act ||
      a.projector.hidden_act != b.projector.hidden_act) {
    return "heads or activation of the vision tower differ";
  }
  return {};
}

std::string no_room(const ModelConfig& config, const VerifyLimits& limits) {
  release_free_memory();
  const uint64_t needed = resident_bytes() + streamed_bytes(config, limits.dtype);
  if (needed <= limits.max_memory) return {};
  return fmt::format("a forward takes {:.2f} GB, --max-memory allows {:.2f} GB", gigabytes(needed),
                     gigabytes(limits.max_memory));
}

// Of Megatron's names.
struct StreamedModel {
  const TensorSource& weights;
  const ModelConfig& config;
};

// The logits of what was rounded on its way, which only have to be numbers, where there is room.
void show_rounding(const StreamedModel& source, const StreamedModel& copy,
                   const VerifyLimits& limits, Verified& result) {
  result.no_logits = no_room(source.config, limits);
  if (!result.no_logits.empty()) return;
  const ModelInput input = probe_input(source.config);
  const at::Tensor logits = streamed_logits(source.weights, source.config, limits.dtype, input);
  result.logits =
      compare_logits(logits, streamed_logits(copy.weights, copy.config, limits.dtype, input));
  if (!std::isfinite(result.logits.max_error)) {
    machine_error("verify: the files compute no finite logits; {}", kAdvice);
  }
}

}  // namespace

Verified verify_checkpoint(const TensorSource& megatron, const ModelConfig& config,
                           const VerifyLimits& limits, std::optional<WeightDtype> rounded,
                           const std::filesystem::path& written) {
  const OpenCheckpoint copy(written);
  const MegatronAsHf source(megatron, config), theirs(copy.weights(), copy.config());
  Verified result;
  result.tensors = rounded ? require_equal_tensors(ReadBack(Recast(source, *rounded)), theirs)
                           : require_equal_tensors(source, theirs);
  if (const std::string why = incomparable(config, copy.config()); !why.empty()) {
    machine_error("verify: the config reads back differently: {}; {}", why, kAdvice);
  }
  result.no_logits = no_room(config, limits);
  if (!result.no_logits.empty()) return result;
  const ModelInput input = probe_input(config);
  const at::Tensor logits = streamed_logits(megatron, config, limits.dtype, input);
  result.logits =
      compare_logits(logits, streamed_logits(copy.weights(), copy.config(), limits.dtype, input));
  // Equal weights and equal configs compute the same bits.
  if (!(rounded ? std::isfinite(result.logits.max_error) : result.logits.max_error == 0)) {
    machine_error(
        "verify: the weights give other logits when read back, off by {:g} (values up to {:g}), "
        "so the config differs; {}",
        result.logits.max_error, result.logits.max_value, kAdvice);
  }
  return result;
}

Verified verify_packed(const TensorSource& megatron, const ModelConfig& config,
                       const VerifyLimits& limits, const std::filesystem::path& written) {
  const PackedCheckpoint copy(written);
  if (const auto bad = copy.without_finite_scales(); !bad.empty()) {
    machine_error("verify: tensor {} has a scale that is no finite number; {}", bad.front(),
                  kAdvice);
  }
  Verified result{.tensors = static_cast<int64_t>(copy.tensors().size()), .logits = {}};
  show_rounding({megatron, config}, {copy, config}, limits, result);
  return result;
}

Verified verify_gguf(const TensorSource& megatron, const ModelConfig& config,
                     const VerifyLimits& limits, GgmlType type, const GgufFiles& written) {
  const GgufSource copy(written.language, written.mmproj);
  const MegatronAsHf source(megatron, config);
  Verified result;
  result.tensors = require_equal_tensors(GgufRounded(source, config, type), copy);
  const ModelInput input = probe_input(config);
  if (const std::string why = different_arithmetic(config, copy.config(), input); !why.empty()) {
    machine_error("verify: the keys say something else than the config: {}; {}", why, kAdvice);
  }
  show_rounding({megatron, config}, {HfAsMegatron(copy, copy.config()), copy.config()}, limits,
                result);
  return result;
}

}  // namespace trestle
