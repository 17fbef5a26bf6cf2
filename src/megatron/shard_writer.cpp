#include "megatron/shard_writer.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "base/error.h"
#include "megatron/names.h"
#include "parallel/by_all.h"
#include "pytorch/torch_dist_writer.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::span<const std::byte> bytes_of(const at::Tensor& plain) {
  return {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()};
}

// One chunk a box. Whoever writes a weight's first element writes the state that Megatron Bridge
// wants beside it.
void write_tensor(TorchDistFile& file, const MegatronOutput& output, const HeldTensor& held,
                  std::vector<std::string>& extra_states) {
  const Shard& shard = held.shard;
  const MegatronPlace place = megatron_place(output, shard.name, shard.whole);
  TORCH_CHECK(held.data.numel() == shard.elements() && held.data.scalar_type() == shard.whole.dtype,
              shard.name, " is not what its shard says");
  const at::Tensor plain = held.data.detach().cpu().contiguous();
  std::span<const std::byte> left = bytes_of(plain);
  for (const TensorBox& box : shard.boxes) {
    std::vector<int64_t> offsets = box.offset, sizes = box.size;
    if (std::ranges::count(offsets, 0) == std::ssize(offsets)) {
      const std::string extra = extra_state_key(output, shard.name);
      if (!extra.empty()) extra_states.push_back(extra);
    }
    if (place.layer) {
      offsets.insert(offsets.begin(), *place.layer);
      sizes.insert(sizes.begin(), 1);
    }
    const size_t bytes = static_cast<size_t>(box.elements()) * plain.element_size();
    file.begin_chunk(place.key, place.whole, std::move(offsets), std::move(sizes));
    if (bytes > 0) file.append(left.first(bytes));
    left = left.subspan(bytes);
  }
}

// What a rank tells of its file: its digest, then its index.
std::string write_file(const fs::path& directory, int64_t rank, const MegatronOutput& output,
                       const MegatronShards& shards) {
  TorchDistFile file(directory, rank);
  std::vector<std::string> extra_states;
  for (const HeldTensor& each : shards.tensors) write_tensor(file, output, each, extra_states);
  for (const auto& [key, value] : shards.objects) {
    file.write_object(object_key(key), plain_object(value));
  }
  for (const std::string& key : extra_states) file.write_object(key, empty_extra_state());
  file.commit();
  return file.sha256() + file.index().to_text();
}

// Over a network a directory that another machine made may take a moment to be seen.
void await_directory(const fs::path& directory) {
  constexpr int kTries = 50;
  for (int i = 0; i < kTries && !is_there(directory); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (is_there(directory)) return;
  machine_error(
      "{} is not there, where rank 0 has made it: checkpoint.save must lie on a file system that "
      "all ranks share",
      directory.string());
}

// What ranks have written tiles every tensor, or every layer of it that is there.
void require_whole(const TorchDistIndex& index) {
  for (const auto& [key, entry] : index.entries()) {
    if (!entry.is_tensor) continue;
    const bool stacked = split_stacked_key(key).has_value() && !entry.whole.shape.empty();
    std::vector<int64_t> one = entry.whole.shape;
    if (stacked) one[0] = 1;
    std::map<int64_t, int64_t> written;
    for (const auto& chunk : entry.chunks) {
      written[stacked ? chunk.offsets[0] : 0] += c10::multiply_integers(chunk.sizes);
    }
    for (const auto& [layer, elements] : written) {
      TORCH_CHECK(elements == c10::multiply_integers(one), key, ": ranks wrote ", elements,
                  " elements of ", c10::multiply_integers(one), stacked ? " of layer " : "",
                  stacked ? std::to_string(layer) : "");
    }
  }
}

// Each file is where rank 0 sees it, and whole.
void require_files(const fs::path& directory, const TorchDistIndex& index,
                   const std::map<std::string, std::string>& sha256) {
  for (const auto& [name, digest] : sha256) {
    std::error_code error;
    const uint64_t found = fs::file_size(directory / name, error), wanted = index.bytes_of(name);
    if (!error && found == wanted) continue;
    machine_error(
        "{} has {} bytes here, and {} were written: checkpoint.save must lie on a file system that "
        "all ranks share",
        (directory / name).string(), error ? "no" : std::to_string(found), wanted);
  }
}

void write_the_rest(MegatronIteration& iteration, const std::vector<std::string>& told,
                    const Finishing& finishing) {
  constexpr size_t kDigest = 64;
  TorchDistIndex index;
  std::map<std::string, std::string> sha256;
  for (size_t rank = 0; rank < told.size(); ++rank) {
    sha256[distcp_name(static_cast<int64_t>(rank))] = told[rank].substr(0, kDigest);
    index.join(TorchDistIndex::from_text(told[rank].substr(kDigest)));
  }
  require_whole(index);
  require_files(iteration.path(), index, sha256);
  write_text(iteration.path() / ".metadata", index.metadata());
  MegatronContents contents;
  for (const auto& [key, entry] : index.entries()) {
    if (entry.is_tensor) contents.add(key, entry.whole.dtype);
  }
  iteration.write_side_files(contents, std::move(sha256));
  if (finishing.add && !finishing.opens) finishing.add(iteration.path());
  iteration.mark();
  if (finishing.add && finishing.opens) finishing.add(iteration.path());
  iteration.commit();
}

}  // namespace

void write_megatron(const MegatronOutput& output, const MegatronShards& shards, const Group& world,
                    const Finishing& finishing) {
  std::optional<MegatronIteration> iteration;
  const auto begin = [&]() -> std::string {
    if (world.rank() > 0) return {};
    return iteration.emplace(output).path().string();
  };
  const fs::path directory = by_all(world, begin).front();
  const std::vector<std::string> told = by_all(world, [&] {
    await_directory(directory);
    return write_file(directory, world.rank(), output, shards);
  });
  by_all(world, [&]() -> std::string {
    if (iteration) write_the_rest(*iteration, told, finishing);
    return {};
  });
}

}  // namespace trestle
