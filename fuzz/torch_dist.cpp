// A whole torch.distributed.checkpoint directory: chunks that should tile, in archives that should
// be what `.metadata` says. The input is the length of `.metadata` (u32), `.metadata`, and the one
// data file.
#include "pytorch/torch_dist.h"

#include <cstring>
#include <fstream>

#include "formats/safetensors.h"
#include "fuzz/fuzz.h"
#include "pytorch/torch_dist_metadata.h"

using namespace trestle;
namespace fs = std::filesystem;

namespace {

// In memory; removed when the fuzzer ends.
class Scratch {
 public:
  Scratch() : path_(fs::path("/dev/shm") / ("fuzz-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<ssize_t>(bytes.size()));
}

void read_all(const TorchDistReader& reader) {
  for (const auto& [name, info] : reader.tensors()) {
    fuzz::or_refused([&] {
      const at::Tensor tensor = reader.read(name);
      fuzz::expect(info_of(tensor) == info);
      fuzz::touch({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
    });
    fuzz::or_refused([&] { reader.read_padded(name); });
    fuzz::or_refused([&] { reader.read_slice(name, 0); });
    fuzz::or_refused([&] { reader.stored_slices(name); });
  }
  for (const std::string& key : reader.objects()) {
    fuzz::or_refused([&] { reader.object(key).json(); });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch;
  uint32_t metadata_size = 0;
  if (size < sizeof(metadata_size)) return 0;
  std::memcpy(&metadata_size, data, sizeof(metadata_size));
  const std::string_view rest = fuzz::text_of(data, size).substr(sizeof(metadata_size));
  if (metadata_size > rest.size()) return 0;
  const std::string_view metadata = rest.substr(0, metadata_size);
  fuzz::or_refused([&] {
    const auto parsed = parse_torch_dist_metadata(std::as_bytes(std::span(metadata)), "input");
    if (parsed.files.size() != 1 || parsed.files[0] != "__0_0.distcp") return;
    write(scratch.path() / ".metadata", metadata);
    write(scratch.path() / "__0_0.distcp", rest.substr(metadata_size));
    read_all(TorchDistReader(scratch.path()));
  });
  return 0;
}
