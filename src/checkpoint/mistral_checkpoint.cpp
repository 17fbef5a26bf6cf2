#include "checkpoint/mistral_checkpoint.h"

#include "base/file.h"
#include "checkpoint/mistral_names.h"
#include "checkpoint/mistral_params.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

Json read_params(const fs::path& directory) {
  require_directory(directory, "Mistral model");
  const fs::path path = directory / "params.json";
  return config_of_params(read_json(path), path.string());
}

}  // namespace

MistralCheckpoint::MistralCheckpoint(const fs::path& directory)
    : HfCheckpoint(directory, HfSpelling::kMistral, read_params(directory)) {}

at::Tensor MistralCheckpoint::read(const std::string& name) const {
  const at::Tensor tensor = HfCheckpoint::read(name);
  const auto heads = rotary_heads(name, config());
  return heads ? halves_from_pairs(tensor, *heads, directory().string() + ": tensor " + name)
               : tensor;
}

void MistralCheckpoint::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto heads = rotary_heads(name, config());
  if (!heads) return HfCheckpoint::read_rows(name, range, out);
  read_moved_rows(
      tensors().at(name), *heads, halves_from_pairs, range, out,
      [&](RowRange whole, std::byte* rows) { HfCheckpoint::read_rows(name, whole, rows); },
      directory().string() + ": tensor " + name);
}

std::optional<Fp8Scales> MistralCheckpoint::fp8_scales(const std::string& name) const {
  auto scales = HfCheckpoint::fp8_scales(name);
  const auto heads = rotary_heads(name, config());
  if (scales && heads) {
    scales->grid_row =
        halves_from_pairs(scales->grid_row, *heads, directory().string() + ": tensor " + name);
  }
  return scales;
}

void MistralCheckpoint::read_fp8_rows(const std::string& name, RowRange range,
                                      std::byte* out) const {
  const auto heads = rotary_heads(name, config());
  if (!heads) return HfCheckpoint::read_fp8_rows(name, range, out);
  read_moved_rows(
      {at::kByte, tensors().at(name).shape}, *heads, halves_from_pairs, range, out,
      [&](RowRange whole, std::byte* rows) { HfCheckpoint::read_fp8_rows(name, whole, rows); },
      directory().string() + ": tensor " + name);
}

}  // namespace trestle
