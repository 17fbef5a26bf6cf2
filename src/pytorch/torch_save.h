// What torch.save writes: a zip with a pickle (`data.pkl`) and one record of raw bytes a storage
// (`data/0`, ...). Every item of a torch_dist file is one, as are common.pt and train_state.pt.
// Called by torch_dist and megatron.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "formats/tensor_source.h"
#include "pytorch/pickle.h"
#include "pytorch/pickle_writer.h"
#include "pytorch/zip.h"

namespace trestle {

/// A tensor inside an archive, contiguous. `data` views the archive and need not be aligned for its
/// type.
struct SavedTensor {
  TensorInfo info;
  std::span<const std::byte> data;
  /// Keeps `data` alive where the archive holds the tensor with odd strides and it was rearranged.
  at::Tensor owner;

  /// A copy of its own.
  at::Tensor clone() const;
};

/// One archive. It views `bytes`, which must outlive it.
class SavedArchive {
 public:
  enum class Holds { kTensor, kObject };
  /// The pickle may name what a lone tensor needs, or also what plain Python data, random states
  /// and argparse need; `what` names the archive in errors. Throws UserError for anything else.
  SavedArchive(std::span<const std::byte> bytes, Holds holds, std::string what);

  const PickleValue& root() const { return pickle_.root(); }
  static bool is_tensor(const PickleValue& value);
  SavedTensor tensor(const PickleValue& value) const;
  /// ZipReader::check_sums of every record.
  void check_sums() const { zip_.check_sums(); }
  void check_sums(const ZipReader::ReadBlock& read) const { zip_.check_sums(read); }
  /// The whole object; a tensor of one element becomes a number, any other "<tensor>".
  Json json() const;

 private:
  std::string what_;
  ZipReader zip_;
  Pickle pickle_;
};

/// Appends the archive of one tensor to a file, its data in pieces: a tensor may be larger than the
/// memory.
class SavedTensorStream {
 public:
  SavedTensorStream(OutputFile& file, const TensorInfo& info);
  void append(std::span<const std::byte> data) { zip_.append(data); }
  /// Returns the archive's length.
  uint64_t finish();

 private:
  ZipWriter zip_;
};

/// Composes one archive: describe the object with pickle() and, where a tensor belongs, tensor().
class SavedArchiveWriter {
 public:
  /// `root` is the archive's folder: the stem of a file's name, "archive" inside a torch_dist file.
  explicit SavedArchiveWriter(std::string root = "archive") : root_(std::move(root)) {}

  PickleWriter& pickle() { return pickle_; }
  void tensor(const at::Tensor& tensor);
  /// Appends the archive to `file` and returns its length.
  uint64_t write(OutputFile& file);

 private:
  std::string root_;
  PickleWriter pickle_;
  std::vector<at::Tensor> storages_;
};

}  // namespace trestle
