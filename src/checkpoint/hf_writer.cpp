#include "checkpoint/hf_writer.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

HfWriter::HfWriter(const fs::path& directory, const TensorList& tensors, const Json& config,
                   const std::vector<fs::path>& side_files, Options options)
    : options_(options), output_(directory, options.replace) {
  const bool mistral = options_.spelling == HfSpelling::kMistral;
  if (mistral && std::ranges::none_of(side_files, [](const fs::path& file) {
        return file.filename() == "tekken.json";
      })) {
    user_error(
        "{}: Mistral's form needs the vocabulary as tekken.json, and the source has none; give a "
        "source that does",
        directory.string());
  }
  write_json(output_.path() / hf_file_names(options_.spelling).config, config);
  for (const fs::path& source : side_files) {
    if (!belongs_beside(source, options_.spelling)) continue;
    const MappedFile file(source);
    write_text(output_.path() / source.filename(), file.text());
  }
  plan_shards(tensors);
}

void HfWriter::plan_shards(const TensorList& tensors) {
  uint64_t shard_bytes = 0;
  for (const auto& [canonical, info] : tensors) {
    const auto bytes = byte_size(info);
    TORCH_CHECK(bytes, canonical, ": ", describe(info), " has no size");
    if (shards_.empty() || (shard_bytes > 0 && shard_bytes + *bytes > options_.max_shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    const std::string name = spelled_name(canonical, options_.spelling);
    TORCH_CHECK(shard_of_.emplace(name, shards_.size() - 1).second, name, " is listed twice");
    shards_.back().tensors.emplace_back(name, info);
    ++shards_.back().unwritten;
    shard_bytes += *bytes;
    total_bytes_ += *bytes;
  }
  const HfFileNames names = hf_file_names(options_.spelling);
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].path =
        output_.path() / (shards_.size() == 1 ? names.single() : names.shard(i, shards_.size()));
  }
}

HfWriter::Shard& HfWriter::open_shard(const std::string& spelled) {
  const auto found = shard_of_.find(spelled);
  TORCH_CHECK(found != shard_of_.end(), spelled, " is not in the list");
  Shard& shard = shards_[found->second];
  TORCH_CHECK(shard.unwritten > 0, spelled, " was written before");
  if (!shard.writer) shard.writer = std::make_unique<SafetensorsWriter>(shard.path, shard.tensors);
  return shard;
}

void HfWriter::close_if_full(Shard& shard) {
  if (--shard.unwritten > 0) return;
  shard.writer->commit();
  shard.writer.reset();
}

void HfWriter::write(const std::string& canonical, const at::Tensor& tensor) {
  const std::string name = spelled_name(canonical, options_.spelling);
  Shard& shard = open_shard(name);
  shard.writer->write(name, tensor);
  close_if_full(shard);
}

void HfWriter::write_rows(const std::string& canonical, std::span<const std::byte> rows) {
  const std::string name = spelled_name(canonical, options_.spelling);
  Shard& shard = open_shard(name);
  if (shard.writer->write_rows(name, rows)) close_if_full(shard);
}

void HfWriter::write_index() const {
  nlohmann::json index;
  index["metadata"]["total_size"] = total_bytes_;
  for (const auto& [name, shard] : shard_of_) {
    index["weight_map"][name] = shards_[shard].path.filename().string();
  }
  write_text(output_.path() / hf_file_names(options_.spelling).index(), index.dump(2) + "\n");
}

fs::path HfWriter::finish() {
  for (const Shard& shard : shards_) {
    TORCH_CHECK(shard.unwritten == 0, shard.unwritten, " tensors of ",
                shard.path.filename().string(), " were not written");
  }
  if (shards_.size() > 1) write_index();
  return output_.path();
}

void HfWriter::commit() {
  finish();
  output_.commit();
}

}  // namespace trestle
