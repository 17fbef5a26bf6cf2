#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "errors.h"
#include "pytorch/torch_dist.h"
#include "pytorch/torch_dist_writer.h"
#include "pytorch/torch_save.h"
#include "pytorch/zip.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string written(const std::function<void(OutputFile&)>& write) {
  const testing::TempDir directory;
  OutputFile file(directory / "file");
  write(file);
  file.commit();
  return read_text(directory / "file");
}

using Records = std::vector<std::pair<std::string, std::span<const std::byte>>>;

uint64_t write_zip(OutputFile& file, const Records& records, uint64_t zip64_from = 0xffffffff) {
  ZipWriter zip(file, zip64_from);
  for (const auto& [name, data] : records) {
    // In two pieces: the checksum is that of both.
    zip.begin(name, data.size());
    zip.append(data.first(data.size() / 2));
    if (!data.empty()) zip.append(data.subspan(data.size() / 2));
  }
  return zip.finish();
}

void write_chunk(TorchDistWriter& writer, const std::string& key, const TensorInfo& whole,
                 const std::vector<int64_t>& offsets, const at::Tensor& chunk) {
  writer.begin_chunk(key, whole, {offsets, chunk.sizes().vec(), 0});
  if (chunk.numel() == 0) return;
  const at::Tensor plain = chunk.contiguous();
  writer.append(0, {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

TEST(Zip, RecordsComeBack) {
  for (const uint64_t zip64_from : {uint64_t{0xffffffff}, uint64_t{0}, uint64_t{3}}) {
    const std::string archive = written([&](OutputFile& file) {
      file.write("before");  // an archive counts from its own start
      const Records records = {
          {"a/data.pkl", bytes_of("12345")}, {"a/data/0", {}}, {"a/data/1", bytes_of("x")}};
      const uint64_t length = write_zip(file, records, zip64_from);
      EXPECT_EQ(length, file.offset() - 6);
    });
    const ZipReader zip(bytes_of(archive).subspan(6), "zip");
    ASSERT_EQ(zip.records().size(), 3u);
    EXPECT_TRUE(std::ranges::equal(zip.record("data.pkl"), bytes_of("12345")));
    EXPECT_TRUE(zip.record("data/0").empty());
    EXPECT_TRUE(std::ranges::equal(zip.record("data/1"), bytes_of("x")));
    EXPECT_REFUSED(zip.record("data/2"), "no record data/2");
  }
}

TEST(Zip, DamageIsRefused) {
  const std::string whole = written([](OutputFile& file) {
    write_zip(file, Records{{"a/data.pkl", bytes_of("12345")}});
  });
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_REFUSED(ZipReader(bytes_of(whole).first(size), "zip"),
                   "zip: not an archive of torch.save");
  }
  int refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      std::string damaged = whole;
      damaged[i] = value;
      refused += testing::refusal_of([&] { ZipReader(bytes_of(damaged), "zip"); }).has_value();
    }
  }
  EXPECT_GT(refused, 100);
  // The size in the central directory: 46 bytes of header and the name before the end record.
  std::string lies = whole;
  const size_t central = whole.size() - 22 - 46 - std::string_view("a/data.pkl").size();
  lies[central + 20] = lies[central + 24] = 100;
  EXPECT_REFUSED(ZipReader(bytes_of(lies), "zip"), "outside");
  std::string deflated = whole;
  deflated[central + 10] = 8;
  EXPECT_REFUSED(ZipReader(bytes_of(deflated), "zip"), "compressed");
}

TEST(Zip, SumsAreCompared) {
  const std::string text(100, 'x');
  std::string archive = written([&](OutputFile& file) {
    write_zip(file, Records{{"a/data.pkl", bytes_of(text)}, {"a/data/0", {}}});
  });
  size_t read = 0;
  ZipReader(bytes_of(archive), "zip").check_sums([&](auto block) {
    read += block.size();
    return block;
  });
  EXPECT_EQ(read, text.size());
  archive[archive.find(text) + 50] ^= 1;
  EXPECT_REFUSED(ZipReader(bytes_of(archive), "zip").check_sums(), "record a/data.pkl has the sum");
  // A sum of 0 was not recorded.
  const size_t central = archive.find("PK\1\2");
  archive.replace(central + 16, 4, 4, '\0');
  ZipReader(bytes_of(archive), "zip").check_sums();
}

TEST(TorchSave, TensorsComeBack) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble, at::kLong,
                                     at::kByte, at::kBool, at::kFloat8_e4m3fn}) {
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {0}, {5}, {2, 3, 4}}) {
      const at::Tensor tensor = (at::rand(shape) * 9).to(dtype);
      const std::string archive = written([&](OutputFile& file) {
        SavedArchiveWriter out;
        out.tensor(tensor);
        out.write(file);
      });
      const SavedArchive back(bytes_of(archive), SavedArchive::Holds::kTensor, "item");
      const at::Tensor copy = back.tensor(back.root()).clone();
      EXPECT_EQ(copy.scalar_type(), dtype);
      EXPECT_TRUE(at::equal(copy.to(at::kDouble), tensor.to(at::kDouble)));
    }
  }
}

// An archive with a float tensor of 6 elements described by hand.
std::string described(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                      int64_t offset, int64_t numel) {
  PickleWriter pickle;
  pickle.global("torch._utils", "_rebuild_tensor_v2").mark().mark().string("storage");
  pickle.global("torch", "FloatStorage").string("0").string("cuda:0").integer(numel).tuple();
  pickle.persistent().integer(offset).integers(shape).integers(strides).boolean(false);
  pickle.global("collections", "OrderedDict").empty_tuple().reduce().tuple().reduce();
  const std::string text = pickle.finish();
  const at::Tensor data = at::arange(6, at::kFloat);
  return written([&](OutputFile& file) {
    write_zip(file,
              Records{{"archive/data.pkl", bytes_of(text)},
                      {"archive/data/0", {static_cast<const std::byte*>(data.data_ptr()), 24}}});
  });
}

TEST(TorchSave, StridesAndOffsets) {
  const auto read = [](const std::string& archive) {
    const SavedArchive back(bytes_of(archive), SavedArchive::Holds::kTensor, "item");
    return back.tensor(back.root()).clone();
  };
  const at::Tensor data = at::arange(6, at::kFloat);
  EXPECT_TRUE(at::equal(read(described({2, 3}, {3, 1}, 0, 6)), data.view({2, 3})));
  EXPECT_TRUE(at::equal(read(described({3, 2}, {1, 3}, 0, 6)), data.view({2, 3}).t()));
  EXPECT_TRUE(at::equal(read(described({2}, {1}, 4, 6)), data.slice(0, 4)));
  EXPECT_REFUSED(read(described({2, 3}, {3, 1}, 1, 6)), "beyond its storage");
  EXPECT_REFUSED(read(described({2, 3}, {3, -1}, 0, 6)), "strides");
  EXPECT_REFUSED(read(described({2, 3}, {int64_t{1} << 62, 1}, 0, 6)), "strides");
  EXPECT_REFUSED(read(described({7}, {1}, 0, 6)), "larger than its storage");
  EXPECT_REFUSED(read(described({-1}, {1}, 0, 6)), "larger than its storage");
  EXPECT_REFUSED(read(described({1 << 30}, {0}, 0, 6)), "larger than its storage");
  EXPECT_REFUSED(read(described({int64_t{1} << 40, int64_t{1} << 40}, {1, 1}, 0, 6)), "larger");
  EXPECT_REFUSED(read(described({6}, {1}, 0, 7)), "should have 7 elements");
  EXPECT_REFUSED(read(described({6}, {1}, 0, int64_t{1} << 62)), "elements");
}

TEST(TorchSave, ObjectsComeBack) {
  const Json value = Json::parse(R"({"lr": 0.5, "betas": [0.9, 0.99], "step": 3, "name": null})");
  const std::string archive = written([&](OutputFile& file) {
    SavedArchiveWriter out("common");
    out.pickle().json(value);
    out.write(file);
  });
  EXPECT_EQ(SavedArchive(bytes_of(archive), SavedArchive::Holds::kObject, "x").json(), value);
  // What plain objects may name is more than what a tensor may.
  const std::string namespace_archive = written([&](OutputFile& file) {
    SavedArchiveWriter out;
    out.pickle().new_object("argparse", "Namespace").empty_dict().build();
    out.write(file);
  });
  EXPECT_EQ(SavedArchive(bytes_of(namespace_archive), SavedArchive::Holds::kObject, "x").json(),
            "<argparse.Namespace>");
  EXPECT_REFUSED(SavedArchive(bytes_of(namespace_archive), SavedArchive::Holds::kTensor, "item"),
                 "item: the pickle names argparse.Namespace");
  const std::string hostile = written([&](OutputFile& file) {
    SavedArchiveWriter out;
    out.pickle().global("os", "system").mark().string("ls").tuple().reduce();
    out.write(file);
  });
  EXPECT_REFUSED(SavedArchive(bytes_of(hostile), SavedArchive::Holds::kObject, "item"),
                 "os.system");
}

struct Chunk {
  std::vector<int64_t> offsets;
  at::Tensor tensor;
};

class TorchDist : public testing::InDirectory<> {
 protected:
  // An empty directory, another one each time.
  fs::path fresh() {
    const fs::path path = directory_ / std::to_string(count_++);
    fs::create_directory(path);
    return path;
  }
  fs::path directory_with(const TensorInfo& whole, const std::vector<Chunk>& chunks) {
    const fs::path path = fresh();
    TorchDistWriter writer(path);
    for (const Chunk& chunk : chunks) write_chunk(writer, "t", whole, chunk.offsets, chunk.tensor);
    writer.commit();
    return path;
  }

 private:
  int count_ = 0;
};

TEST_F(TorchDist, AssemblesChunksInAnyOrder) {
  const at::Tensor whole = at::arange(4 * 6 * 5, at::kFloat).view({4, 6, 5});
  const TensorInfo info{at::kFloat, {4, 6, 5}};
  const auto cut = [&](int64_t a0, int64_t a1, int64_t b0, int64_t b1, int64_t c0, int64_t c1) {
    return Chunk{{a0, b0, c0}, whole.slice(0, a0, a1).slice(1, b0, b1).slice(2, c0, c1)};
  };
  const TorchDistReader reader(
      directory_with(info, {cut(2, 4, 0, 6, 3, 5), cut(0, 2, 2, 6, 0, 5), cut(2, 4, 0, 6, 0, 3),
                            cut(0, 1, 0, 2, 0, 5), cut(1, 2, 0, 2, 0, 5)}));
  EXPECT_EQ(reader.tensors().at("t"), info);
  EXPECT_TRUE(at::equal(reader.read("t"), whole));
  for (int64_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(reader.read_slice("t", i), whole[i])) << i;
  EXPECT_REFUSED(reader.read_slice("t", 4), "no slice 4");
  EXPECT_REFUSED(reader.read("u"), "no tensor u");
}

TEST_F(TorchDist, ScalarsAndEmptyTensors) {
  const fs::path path = fresh();
  TorchDistWriter writer(path);
  write_chunk(writer, "scalar", {at::kLong, {}}, {}, at::full({}, 7, at::kLong));
  write_chunk(writer, "empty", {at::kFloat, {3, 0}}, {0, 0}, at::empty({3, 0}));
  writer.commit();
  const TorchDistReader reader(path);
  EXPECT_EQ(reader.read("scalar").item<int64_t>(), 7);
  EXPECT_EQ(reader.read("empty").numel(), 0);
}

TEST_F(TorchDist, CheckedWithoutBeingRead) {
  using Holes = TorchDistReader::Holes;
  const TensorInfo info{at::kFloat, {3, 2}};
  const at::Tensor row = at::ones({1, 2});
  const fs::path path = directory_with(info, {{{0, 0}, row}, {{2, 0}, row}});
  const TorchDistReader reader(path);
  reader.check("t", Holes::kLeadingSlices);
  reader.check("t", Holes::kAnywhere);
  EXPECT_REFUSED(reader.check("t", Holes::kNone), "4 of 6 elements");
  const TorchDistReader half(directory_with(info, {{{0, 0}, row}, {{1, 1}, at::ones({1, 1})}}));
  EXPECT_REFUSED(half.check("t", Holes::kLeadingSlices), "3 of 4 elements");
  EXPECT_REFUSED(reader.check("u", Holes::kNone), "no tensor u");
}

TEST_F(TorchDist, HolesAndOverlapsAreRefused) {
  const TensorInfo info{at::kFloat, {2, 4}};
  const at::Tensor ones = at::ones({2, 2});
  const TorchDistReader hole(directory_with(info, {{{0, 2}, ones}}));
  EXPECT_REFUSED(hole.read("t"), "4 of 8 elements");
  const at::Tensor expected = at::tensor({0.f, 0.f, 1.f, 1.f}).expand({2, 4});
  EXPECT_TRUE(at::equal(hole.read_padded("t"), expected));
  const TorchDistReader overlap(directory_with(info, {{{0, 0}, ones}, {{0, 1}, ones}}));
  EXPECT_REFUSED(overlap.read("t"), "some twice");
  EXPECT_REFUSED(overlap.read_padded("t"), "some twice");
  // As many elements as there should be, yet one twice and one missing.
  const TorchDistReader both(
      directory_with(info, {{{0, 0}, at::ones({2, 3})}, {{0, 2}, at::ones({1, 2})}}));
  EXPECT_REFUSED(both.read("t"), "some twice");
  EXPECT_REFUSED(TorchDistReader(directory_with(info, {{{0, 3}, ones}})), "lies outside");
  // A shape that nothing stands behind is not allocated.
  const TorchDistReader huge(
      directory_with({at::kFloat, {int64_t{1} << 50}}, {{{0}, at::ones({2})}}));
  EXPECT_REFUSED(huge.read("t"), "2 of 1125899906842624");
  EXPECT_REFUSED(huge.read_padded("t"), "claims");
  EXPECT_REFUSED(
      TorchDistReader(directory_with({at::kFloat, {int64_t{1} << 62, 4}}, {{{0, 0}, ones}})),
      "impossible size");
}

TEST_F(TorchDist, DamagedFilesAreRefused) {
  const fs::path path = directory_with({at::kFloat, {3}}, {{{0}, at::ones({3})}});
  const fs::path data = path / "__0_0.distcp";
  const auto size = fs::file_size(data);
  fs::resize_file(data, size - 1);
  EXPECT_REFUSED(TorchDistReader{path}, "cut short");
  fs::resize_file(data, size);  // the end record's last byte is 0 anyway
  EXPECT_EQ(TorchDistReader(path).read("t").sum().item<float>(), 3);
  {
    std::fstream file(data, std::ios::in | std::ios::out);
    file.write("garbage", 7);
  }
  EXPECT_REFUSED(TorchDistReader(path).read("t"), "damaged");
  fs::remove(data);
  EXPECT_REFUSED(TorchDistReader{path}, "__0_0.distcp");
  fs::remove(path / ".metadata");
  EXPECT_REFUSED(TorchDistReader{path}, ".metadata");
}

TEST_F(TorchDist, DataFilesStayInTheDirectory) {
  const fs::path path = directory_with({at::kFloat, {3}}, {{{0}, at::ones({3})}});
  std::string metadata = read_text(path / ".metadata");
  const size_t at = metadata.find("__0_0.distcp");
  ASSERT_NE(at, std::string::npos);
  metadata.replace(at, 12, "../../passwd");
  write_text(path / ".metadata", metadata);
  EXPECT_REFUSED(TorchDistReader{path}, "not a plain file name");
}

TEST_F(TorchDist, HostileMetadataIsRefused) {
  const fs::path path = fresh();
  PickleWriter out;
  out.new_object("torch.distributed.checkpoint.metadata", "Metadata");
  out.global("builtins", "exec")
      .mark()
      .string("open('/tmp/trestle-was-here', 'w')")
      .tuple()
      .reduce();
  write_text(path / ".metadata", out.build().finish());
  EXPECT_REFUSED(TorchDistReader{path}, ".metadata: the pickle names builtins.exec");
  EXPECT_FALSE(fs::exists("/tmp/trestle-was-here"));
}

}  // namespace
}  // namespace trestle
