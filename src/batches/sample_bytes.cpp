#include "batches/sample_bytes.h"

#include <ATen/ATen.h>

#include <cstring>
#include <utility>

namespace trestle {

namespace {

// Counts of ids, labels, pictures and spans; the pictures' sizes; then what was counted.
constexpr size_t kCounts = 4, kSizes = 3;

class Writer {
 public:
  explicit Writer(uint8_t* to) : to_(to) {}
  void write(const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(std::exchange(to_, to_ + bytes), from, bytes);
  }
  void number(int64_t value) { write(&value, sizeof(value)); }

 private:
  uint8_t* to_;
};

class Reader {
 public:
  explicit Reader(const uint8_t* from) : from_(from) {}
  void read(void* to, size_t bytes) {
    if (bytes > 0) std::memcpy(to, std::exchange(from_, from_ + bytes), bytes);
  }
  int64_t number() {
    int64_t value = 0;
    read(&value, sizeof(value));
    return value;
  }
  size_t count() { return static_cast<size_t>(number()); }

 private:
  const uint8_t* from_;
};

}  // namespace

int64_t size_in_bytes(const Sample& sample) {
  size_t numbers = kCounts + sample.ids.size() + sample.labels.size() +
                   kSizes * sample.images_CHW.size() + 2 * sample.image_spans.size();
  size_t bytes = numbers * sizeof(int64_t);
  for (const at::Tensor& image : sample.images_CHW) bytes += image.nbytes();
  return static_cast<int64_t>(bytes);
}

at::Tensor bytes_of_sample(const Sample& sample) {
  at::Tensor bytes = at::empty({size_in_bytes(sample)}, at::kByte);
  Writer writer(bytes.mutable_data_ptr<uint8_t>());
  for (const size_t count : {sample.ids.size(), sample.labels.size(), sample.images_CHW.size(),
                             sample.image_spans.size()}) {
    writer.number(static_cast<int64_t>(count));
  }
  for (const at::Tensor& image : sample.images_CHW) {
    TORCH_CHECK(image.dim() == 3 && image.scalar_type() == at::kFloat,
                "a picture is fp32 [C, H, W]");
    for (const int64_t size : image.sizes()) writer.number(size);
  }
  writer.write(sample.ids.data(), sample.ids.size() * sizeof(int64_t));
  writer.write(sample.labels.data(), sample.labels.size() * sizeof(int64_t));
  for (const auto& [begin, end] : sample.image_spans) {
    writer.number(begin);
    writer.number(end);
  }
  for (const at::Tensor& image : sample.images_CHW) {
    const at::Tensor pixels = image.contiguous();
    writer.write(pixels.const_data_ptr(), pixels.nbytes());
  }
  return bytes;
}

Sample sample_of_bytes(const at::Tensor& bytes) {
  Reader reader(bytes.const_data_ptr<uint8_t>());
  Sample sample;
  sample.ids.resize(reader.count());
  sample.labels.resize(reader.count());
  sample.images_CHW.resize(reader.count());
  sample.image_spans.resize(reader.count());
  for (at::Tensor& image : sample.images_CHW) {
    const int64_t channels = reader.number(), height = reader.number(), width = reader.number();
    image = at::empty({channels, height, width}, at::kFloat);
  }
  reader.read(sample.ids.data(), sample.ids.size() * sizeof(int64_t));
  reader.read(sample.labels.data(), sample.labels.size() * sizeof(int64_t));
  for (auto& [begin, end] : sample.image_spans) {
    begin = reader.number();
    end = reader.number();
  }
  for (at::Tensor& image : sample.images_CHW) reader.read(image.mutable_data_ptr(), image.nbytes());
  return sample;
}

}  // namespace trestle
