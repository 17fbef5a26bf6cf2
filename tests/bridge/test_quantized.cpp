// Quantised weights against bitsandbytes (tools/make_quantized_goldens.py), and a model that is
// loaded so.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "bridge/load_quantized.h"
#include "errors.h"
#include "golden.h"

namespace trestle {
namespace {

// What AVX-512's conversion to bf16, which torch and the compiler may take or not, makes zero.
at::Tensor flushed(const at::Tensor& bf16) {
  return at::where(bf16.abs() < std::numeric_limits<float>::min(), at::zeros_like(bf16), bf16);
}

TEST(Quantize, CodesScalesAndValuesAreBitsandbytes) {
  const SafetensorsFile golden("bridge/golden/quantized.safetensors");
  int compared = 0;
  for (const auto& [name, info] : golden.tensors()) {
    for (const int64_t bits : {4, 8}) {
      const auto wanted = [&](const char* what) {
        return golden.read(fmt::format("{}.{}.{}", name, bits, what));
      };
      if (!golden.tensors().contains(fmt::format("{}.{}.codes", name, bits))) continue;
      QuantizedWeight weight(info.shape[0], info.shape[1], bits);
      // Row by row, as a loader may.
      const at::Tensor matrix = golden.read(name);
      for (int64_t row = 0; row < matrix.size(0); ++row)
        weight.set_rows(row, matrix.narrow(0, row, 1));
      EXPECT_TRUE(at::equal(weight.codes(), wanted("codes"))) << name << " " << bits;
      EXPECT_TRUE(at::equal(weight.absmax(), wanted("absmax"))) << name << " " << bits;
      EXPECT_TRUE(at::equal(weight.dense(at::kFloat), wanted("fp32"))) << name << " " << bits;
      EXPECT_TRUE(at::equal(flushed(weight.dense(at::kBFloat16)), flushed(wanted("bf16"))))
          << name << " " << bits;
      // What a device takes that has no loop of ours: to the bit.
      const IndexRange rows{0, weight.rows()}, columns{0, weight.columns()};
      const IndexRange last{weight.columns() / 64 * 64 - 64 * (weight.columns() >= 128),
                            weight.columns() % 64 + 64 * (weight.columns() >= 128)};
      for (const IndexRange part : {columns, last}) {
        for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
          EXPECT_TRUE(at::equal(flushed(weight.dense_by_operators(rows, part, dtype)),
                                flushed(weight.dense(rows, part, dtype))))
              << name << " " << bits << " " << part.first;
        }
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 17);
}

std::shared_ptr<Ministral3> load(const std::string& name, at::ScalarType dtype, int64_t bits) {
  return load_model(OpenCheckpoint("golden/" + name), {dtype, at::kCPU, bits});
}

TEST(Quantize, EveryProjectionButTheHeadHoldsItsOwnWeight) {
  for (const char* name : {"tied", "untied", "mistral", "text"}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t bits : {4, 8}) {
        const auto dense = load(name, dtype, 16), model = load(name, dtype, bits);
        const auto held = quantized_weights(*model);
        size_t matrices = 0;
        const auto ours = model->named_parameters();
        for (const auto& entry : dense->named_parameters()) {
          const bool quantized = held.contains(entry.key());
          matrices += quantized ? 1 : 0;
          EXPECT_EQ(ours[entry.key()].is_meta(), quantized) << entry.key();
          EXPECT_EQ(ours[entry.key()].sizes(), entry.value().sizes()) << entry.key();
          if (!quantized) {
            EXPECT_TRUE(at::equal(ours[entry.key()], entry.value())) << entry.key();
            continue;
          }
          QuantizedWeight wanted(entry.value().size(0), entry.value().size(1), bits);
          wanted.set_rows(0, entry.value().detach().to(at::kFloat));
          EXPECT_TRUE(at::equal(held.at(entry.key())->codes(), wanted.codes())) << entry.key();
          EXPECT_TRUE(at::equal(held.at(entry.key())->absmax(), wanted.absmax())) << entry.key();
        }
        EXPECT_EQ(matrices, held.size());
        // Three decoder layers of four; vision layers of seven, and the projector's three.
        const auto& vision = model->config().vision;
        EXPECT_EQ(std::ssize(held), 12 + (vision ? 7 * vision->num_layers + 3 : 0)) << name;
        EXPECT_FALSE(held.contains("language_model.output_layer.weight"));
      }
    }
  }
}

// A source whose rows are all there is: a whole read would be the dense model in memory.
class RowsOnly : public TensorSource {
 public:
  RowsOnly(at::Tensor matrix, uint64_t most) : matrix_(std::move(matrix)), most_(most) {
    tensors_["w"] = {matrix_.scalar_type(), matrix_.sizes().vec()};
  }
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string& name) const override {
    ADD_FAILURE() << "the whole of " << name << " is read";
    return matrix_;
  }
  void read_rows(const std::string&, RowRange range, std::byte* out) const override {
    const at::Tensor rows = matrix_.narrow(0, range.first, range.count);
    EXPECT_LE(rows.nbytes(), most_);
    std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
  }

 private:
  at::Tensor matrix_;
  uint64_t most_;
  std::map<std::string, TensorInfo> tensors_;
};

TEST(Quantize, ReadsSomeRowsAtATime) {
  const at::Tensor matrix = at::randn({5000, 1024});
  QuantizedWeight weight(5000, 1024, 4), wanted(5000, 1024, 4);
  quantize(RowsOnly(matrix, 16 << 20), "w", at::kBFloat16, weight);
  wanted.set_rows(0, matrix.to(at::kBFloat16).to(at::kFloat));
  EXPECT_TRUE(at::equal(weight.codes(), wanted.codes()));
  EXPECT_TRUE(at::equal(weight.absmax(), wanted.absmax()));
}

TEST(Quantize, AWeightThatIsNotFiniteIsRefusedByName) {
  at::Tensor matrix = at::randn({4, 64});
  matrix[3][5] = std::numeric_limits<float>::quiet_NaN();
  QuantizedWeight weight(4, 64, 8);
  EXPECT_EQ(
      testing::error_of([&] { quantize(RowsOnly(matrix, 1 << 20), "w", at::kFloat, weight); }),
      "tensor w holds a value that is no finite number, which 8 bits cannot say; mend the "
      "checkpoint, or hold its base in 16 bits");
}

}  // namespace
}  // namespace trestle
