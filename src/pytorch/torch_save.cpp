#include "pytorch/torch_save.h"

#include <ATen/Functions.h>

#include <cstring>

#include "base/error.h"
#include "formats/safetensors.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

using Kind = PickleValue::Kind;

namespace {

constexpr std::string_view kRebuildV2 = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildV3 = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kUntypedStorage = "torch.storage.UntypedStorage";

// A lone tensor needs the first kTensorNames of these, beside the element types that every pickle
// may name; objects may also use the rest.
constexpr std::string_view kNames[] = {
    kRebuildV2,
    kRebuildV3,
    kUntypedStorage,
    "collections.OrderedDict",
    "torch.BFloat16Storage",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    // Plain Python values.
    "torch.Size",
    "__builtin__.set",
    "__builtin__.frozenset",
    "__builtin__.bytearray",
    "builtins.set",
    "builtins.frozenset",
    "builtins.bytearray",
    "_codecs.encode",
    // Random states.
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    // Megatron-LM's arguments and Transformer Engine 1.x's extra state.
    "argparse.Namespace",
    "megatron.core.enums.ModelType",
    "megatron.core.transformer.enums.AttnBackend",
    "_io.BytesIO",
};
constexpr size_t kTensorNames = 14;
static_assert(kNames[kTensorNames - 1] == "torch.BoolStorage");

std::span<const std::string_view> names_for(SavedArchive::Holds holds) {
  const std::span all(kNames);
  return holds == SavedArchive::Holds::kTensor ? all.first(kTensorNames) : all;
}

ZipReader open_zip(std::span<const std::byte> bytes, const std::string& what) {
  ZipReader zip(bytes, what);
  if (zip.has("byteorder")) {
    const auto order = zip.record("byteorder");
    const std::string_view text(reinterpret_cast<const char*>(order.data()), order.size());
    if (text != "little")
      user_error("{}: byte order \"{}\"; only little is read", what, text.substr(0, 16));
  }
  return zip;
}

bool is_contiguous(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

constexpr std::string_view kArchive = "archive";  // the root folder inside a torch_dist file

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string record_name(std::string_view root, size_t storage) {
  return fmt::format("{}/data/{}", root, storage);
}

// The call that rebuilds a contiguous tensor from storage number `storage`.
void put_tensor(PickleWriter& out, const TensorInfo& info, size_t storage) {
  const std::string storage_class = storage_class_name(info.dtype);
  const bool v3 = storage_class.empty();
  const auto bytes = static_cast<int64_t>(byte_size(info).value());
  std::vector<int64_t> strides(info.shape.size(), 1);
  for (size_t axis = strides.size(); axis-- > 1;) {
    strides[axis - 1] = strides[axis] * std::max<int64_t>(info.shape[axis], 1);
  }
  out.global("torch._utils", v3 ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2").mark();
  out.mark().string("storage");
  if (v3) {
    out.global("torch.storage", "UntypedStorage");
  } else {
    out.global("torch", storage_class);
  }
  out.string(std::to_string(storage))
      .string("cpu")
      .integer(v3 ? bytes : bytes / static_cast<int64_t>(c10::elementSize(info.dtype)))
      .tuple()
      .persistent();
  out.integer(0).integers(info.shape).integers(strides).boolean(false);
  out.global("collections", "OrderedDict").empty_tuple().reduce();
  if (v3) out.global("torch", dtype_name(info.dtype));
  out.tuple().reduce();
}

// What stands before and behind an archive's storages.
void put_head(ZipWriter& zip, std::string_view root, const std::string& pickle) {
  zip.add(fmt::format("{}/data.pkl", root), bytes_of(pickle));
  zip.add(fmt::format("{}/byteorder", root), bytes_of("little"));
}

uint64_t put_tail(ZipWriter& zip, std::string_view root) {
  zip.add(fmt::format("{}/version", root), bytes_of("3\n"));
  return zip.finish();
}

}  // namespace

at::Tensor SavedTensor::clone() const {
  at::Tensor out = at::empty(info.shape, info.dtype);
  if (!data.empty()) std::memcpy(out.data_ptr(), data.data(), data.size());
  return out;
}

SavedArchive::SavedArchive(std::span<const std::byte> bytes, Holds holds, std::string what)
    : what_(std::move(what)),
      zip_(open_zip(bytes, what_)),
      pickle_(zip_.record("data.pkl"), names_for(holds), what_) {}

bool SavedArchive::is_tensor(const PickleValue& value) {
  return value.is_object(kRebuildV2) || value.is_object(kRebuildV3);
}

SavedTensor SavedArchive::tensor(const PickleValue& value) const {
  const auto damaged = [&](std::string_view why) {
    user_error("{}: a tensor is described wrongly: {}; the file is damaged", what_, why);
  };
  try {
    if (!is_tensor(value)) user_error("found a {} where a tensor belongs", value.kind_name());
    const bool v3 = value.is_object(kRebuildV3);
    const auto arguments = value.items[1]->as_sequence();
    if (arguments.size() < (v3 ? 7 : 6)) damaged("too few parts");
    if (arguments[0]->kind != Kind::kPersistent) damaged("no storage");
    const auto storage = arguments[0]->items[0]->as_sequence();
    if (storage.size() != 5 || storage[1]->kind != Kind::kGlobal) damaged("no storage");
    const std::string& storage_class = storage[1]->text;

    std::optional<at::ScalarType> dtype;
    int64_t storage_item = 1;
    if (v3) {
      if (arguments[6]->kind == Kind::kGlobal) dtype = dtype_of_name(arguments[6]->text);
      if (storage_class != kUntypedStorage) damaged("a typed storage with a type of its own");
    } else {
      dtype = dtype_of_storage(std::string_view(storage_class).substr(storage_class.find('.') + 1));
      if (dtype) storage_item = static_cast<int64_t>(c10::elementSize(*dtype));
    }
    if (!dtype) damaged("an element type we do not know");

    SavedTensor out;
    out.info = {*dtype, arguments[2]->as_ints()};
    const std::vector<int64_t> strides = arguments[3]->as_ints();
    const int64_t offset = arguments[1]->as_int();
    const auto data = zip_.record("data/" + storage[2]->as_string());
    const auto size = static_cast<int64_t>(data.size());
    const int64_t numel = storage[4]->as_int();
    if (numel < 0 || numel > size || numel * storage_item != size) {
      damaged(fmt::format("its storage should have {} elements and has {} bytes", numel, size));
    }
    const std::optional<uint64_t> bytes = byte_size(out.info);
    if (!bytes || *bytes > data.size()) damaged("it is larger than its storage");
    if (strides.size() != out.info.shape.size() || offset < 0 || offset > size)
      damaged("its strides");
    if (*bytes == 0) return out;

    // The last element must lie inside; 128 bits, so that no product wraps around.
    const auto item = static_cast<int64_t>(c10::elementSize(*dtype));
    __int128 last = offset;
    for (size_t i = 0; i < strides.size(); ++i) {
      if (strides[i] < 0 || strides[i] > size) damaged("its strides");
      last += static_cast<__int128>(out.info.shape[i] - 1) * strides[i];
    }
    if (last >= size / item) damaged("it reaches beyond its storage");
    if (is_contiguous(out.info.shape, strides)) {
      out.data = data.subspan(static_cast<size_t>(offset * item), *bytes);
      return out;
    }
    at::Tensor whole = at::empty({size / item}, *dtype);
    std::memcpy(whole.data_ptr(), data.data(), static_cast<size_t>(size / item * item));
    out.owner = whole.as_strided(out.info.shape, strides, offset).contiguous();
    out.data = {static_cast<const std::byte*>(out.owner.const_data_ptr()), *bytes};
    return out;
  } catch (const UserError& error) {
    if (std::string_view(error.what()).starts_with(what_)) throw;
    user_error("{}: {}", what_, error.what());
  }
}

Json SavedArchive::json() const {
  try {
    return to_json(root(), [this](const PickleValue& value) -> std::optional<Json> {
      if (!is_tensor(value)) return std::nullopt;
      const SavedTensor saved = tensor(value);
      if (saved.data.size() != c10::elementSize(saved.info.dtype)) return Json("<tensor>");
      const at::Tensor whole = saved.clone();
      if (whole.scalar_type() == at::kBool) return Json(whole.item<bool>());
      if (whole.is_floating_point()) return Json(whole.item<double>());
      if (whole.scalar_type() == at::kUInt64) return Json(whole.item().toUInt64());
      return Json(whole.item<int64_t>());
    });
  } catch (const UserError& error) {
    if (std::string_view(error.what()).starts_with(what_)) throw;
    user_error("{}: {}", what_, error.what());
  }
}

SavedTensorStream::SavedTensorStream(OutputFile& file, const TensorInfo& info) : zip_(file) {
  PickleWriter pickle;
  put_tensor(pickle, info, 0);
  put_head(zip_, kArchive, pickle.finish());
  zip_.begin(record_name(kArchive, 0), info.row_bytes() * static_cast<uint64_t>(info.rows()));
}

uint64_t SavedTensorStream::finish() { return put_tail(zip_, kArchive); }

void SavedArchiveWriter::tensor(const at::Tensor& tensor) {
  storages_.push_back(tensor.detach().cpu().contiguous());
  put_tensor(pickle_, info_of(storages_.back()), storages_.size() - 1);
}

uint64_t SavedArchiveWriter::write(OutputFile& file) {
  ZipWriter zip(file);
  put_head(zip, root_, pickle_.finish());
  for (size_t i = 0; i < storages_.size(); ++i) {
    zip.add(record_name(root_, i),
            {static_cast<const std::byte*>(storages_[i].const_data_ptr()), storages_[i].nbytes()});
  }
  return put_tail(zip, root_);
}

}  // namespace trestle
