#include "linear/fp8_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Float8_e4m3fn.h>

#include <array>

#include "kernels/cuda_kernels.h"
#include "kernels/row_product.h"
#include "linear/tiled_product.h"

namespace trestle {

namespace {

// Values that one thread takes at a time.
constexpr int64_t kGrain = 1 << 16;
// Values of one scale from which on a table of what its codes become is worth its making.
constexpr int64_t kTableWorth = 4 * 256;

template <class T>
using Table = std::array<T, 256>;

Table<float> unscaled() {
  Table<float> values{};
  for (size_t code = 0; code < values.size(); ++code) {
    values[code] = c10::Float8_e4m3fn(static_cast<uint8_t>(code), c10::Float8_e4m3fn::from_bits());
  }
  return values;
}

// Rounded to bf16 whatever T is: formats/fp8.h makes the same of a whole tensor.
template <class T>
T scaled(float value, float scale) {
  return static_cast<T>(at::BFloat16(value * scale));
}

// Of one matrix: what is read from where.
struct Source {
  explicit Source(const Fp8Weight& weight)
      : codes(static_cast<const uint8_t*>(weight.codes().const_data_ptr())),
        scales(weight.scales().values.const_data_ptr<float>()),
        grid_row(weight.scales().grid_row.const_data_ptr<int32_t>()),
        grid_columns(weight.scales().values.size(1)),
        columns(weight.columns()) {}

  const uint8_t* codes;
  const float* scales;
  const int32_t* grid_row;
  int64_t grid_columns, columns;
};

// `rows` of `columns` under one scale, from codes that are `stride` apart to values `width` apart.
template <class T>
void expand(const uint8_t* codes, int64_t stride, float scale, int64_t rows, int64_t columns,
            int64_t width, T* out) {
  static const Table<float> kUnscaled = unscaled();
  if (rows * columns < kTableWorth) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < columns; ++i) {
        out[row * width + i] = scaled<T>(kUnscaled[codes[row * stride + i]], scale);
      }
    }
    return;
  }
  Table<T> table;
  for (size_t code = 0; code < table.size(); ++code) {
    table[code] = scaled<T>(kUnscaled[code], scale);
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) out[row * width + i] = table[codes[row * stride + i]];
  }
}

template <class T>
at::Tensor tile_of(const Fp8Weight& weight, IndexRange rows, IndexRange columns) {
  at::Tensor tile = at::empty({rows.count, columns.count}, c10::CppTypeToScalarType<T>::value);
  T* out = tile.mutable_data_ptr<T>();
  const Source from(weight);
  const int64_t block = weight.scales().columns, last_column = columns.first + columns.count;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns.count));
  at::parallel_for(0, rows.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin, last; first < end; first = last) {
      const int32_t grid_row = from.grid_row[rows.first + first];
      for (last = first + 1; last < end && from.grid_row[rows.first + last] == grid_row;) ++last;
      for (int64_t column = columns.first; column < last_column;) {
        const int64_t grid_column = column / block;
        const int64_t count = std::min((grid_column + 1) * block, last_column) - column;
        expand(from.codes + (rows.first + first) * from.columns + column, from.columns,
               from.scales[grid_row * from.grid_columns + grid_column], last - first, count,
               columns.count, out + first * columns.count + column - columns.first);
        column += count;
      }
    }
  });
  return tile;
}

}  // namespace

Fp8Weight::Fp8Weight(at::Tensor codes, Fp8Scales scales)
    : codes_(std::move(codes)), scales_(std::move(scales)) {
  TORCH_CHECK(codes_.dim() == 2 && codes_.scalar_type() == at::kFloat8_e4m3fn &&
                  codes_.is_contiguous() && scales_.columns > 0 &&
                  scales_.values.scalar_type() == at::kFloat && scales_.values.is_contiguous() &&
                  scales_.grid_row.sizes() == at::IntArrayRef{rows()} &&
                  scales_.grid_row.scalar_type() == at::kInt && scales_.grid_row.is_contiguous() &&
                  scales_.values.size(1) * scales_.columns >= columns(),
              "codes and scales of one matrix");
}

Fp8Weight::Fp8Weight(WeightParts parts)
    : Fp8Weight(parts.tensors[0], {parts.tensors[1], parts.tensors[2], parts.size}) {}

WeightParts Fp8Weight::parts() const {
  return {{codes_, scales_.values, scales_.grid_row}, scales_.columns};
}

Fp8Weight Fp8Weight::to(at::Device device) const {
  return {codes_.to(device),
          {scales_.values.to(device), scales_.grid_row.to(device), scales_.columns}};
}

at::Tensor Fp8Weight::dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const {
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16, "values are fp32 or bf16");
  if (const cuda::Kernels* kernels = kernels_for(codes_.device())) {
    return dense_by(*kernels, rows, columns, dtype);
  }
  if (!codes_.is_cpu()) return dense_by_operators(rows, columns, dtype);
  return dtype == at::kFloat ? tile_of<float>(*this, rows, columns)
                             : tile_of<at::BFloat16>(*this, rows, columns);
}

at::Tensor Fp8Weight::dense_by(const cuda::Kernels& kernels, IndexRange rows, IndexRange columns,
                               at::ScalarType dtype) const {
  const cuda::Fp8Codes from{.codes = static_cast<const std::byte*>(codes_.const_data_ptr()) +
                                     rows.first * this->columns() + columns.first,
                            .scales = scales_.values.const_data_ptr<float>(),
                            .grid_row = scales_.grid_row.const_data_ptr<int32_t>() + rows.first,
                            .code_stride = this->columns(),
                            .grid_columns = scales_.values.size(1),
                            .block_columns = scales_.columns,
                            .first_column = columns.first};
  at::Tensor values = at::empty({rows.count, columns.count}, codes_.options().dtype(dtype));
  const cuda::Tile tile{kernel_type(dtype), rows.count, columns.count, values.mutable_data_ptr()};
  launch(kernels, &cuda::Kernels::dequantize_fp8, "dequantize_fp8", values, tile, from);
  return values;
}

at::Tensor Fp8Weight::dense_by_operators(IndexRange rows, IndexRange columns,
                                         at::ScalarType dtype) const {
  const auto indices = at::TensorOptions().dtype(at::kLong).device(codes_.device());
  const at::Tensor grid_columns = at::arange(columns.first, columns.first + columns.count, indices)
                                      .floor_divide(scales_.columns);
  const at::Tensor scale =
      scales_.values.index_select(0, scales_.grid_row.narrow(0, rows.first, rows.count))
          .index_select(1, grid_columns);
  const at::Tensor values = codes_.narrow(0, rows.first, rows.count)
                                .narrow(1, columns.first, columns.count)
                                .to(at::kFloat);
  return (values * scale).to(at::kBFloat16).to(dtype);
}

at::Tensor fp8_linear(const at::Tensor& x, const Fp8Weight& weight) {
  if (takes_row_product(x)) {
    const Fp8Scales& scales = weight.scales();
    return row_product_fp8(x, weight.codes(), scales.values, scales.grid_row, scales.columns);
  }
  return TiledProduct<Fp8Weight>::apply(x, weight);
}

}  // namespace trestle
