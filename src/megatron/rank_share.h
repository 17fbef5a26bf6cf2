// A model's tensors as one tensor-parallel rank holds them: what loaders read in place of the
// whole. Made by bridge/load.
#pragma once

#include <map>
#include <string>

#include "formats/tensor_source.h"
#include "parallel/share.h"

namespace trestle {

/// Of a source whose names are Megatron's, each tensor cut as split_of() says; it reads no more of
/// a weight that is cut by rows than the rank's. Keeps a reference.
class RankShare : public TensorSource {
 public:
  /// Embedding and head have `vocabulary` rows; what stands behind them is padding. Throws
  /// UserError for a tensor that does not divide.
  RankShare(const TensorSource& whole, RankOf who, int64_t vocabulary);

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override;
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override;
  std::optional<Fp8Scales> fp8_scales(const std::string& name) const override;
  void read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const override;

 private:
  /// read(whole range, out) for each run of whole rows that holds rows of the range.
  template <class Read>
  void read_cut(const std::string& name, RowRange range, int64_t element_size, std::byte* out,
                const Read& read) const;
  std::vector<ShareRun> runs_of(const std::string& name) const;

  const TensorSource& whole_;
  RankOf who_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace trestle
