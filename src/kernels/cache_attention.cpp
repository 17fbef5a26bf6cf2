#include "kernels/cache_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/row_loops.h"
#include "cpu/thread_team.h"
#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

// Below this many products of queries and keys the caller makes all of it: another thread would be
// at it for less time than it takes to ask.
constexpr int64_t kAlone = 1 << 16;

struct Sizes {
  int64_t groups, heads, head_dim, capacity;
};

// One group of one sequence.
template <class Value>
class GroupAttention {
 public:
  GroupAttention(const Sizes& sizes, const at::Tensor& q, const at::Tensor& keys,
                 const at::Tensor& values, at::Tensor& y)
      : sizes_(sizes),
        q_(static_cast<const Value*>(q.const_data_ptr())),
        keys_(static_cast<const Value*>(keys.const_data_ptr())),
        values_(static_cast<const Value*>(values.const_data_ptr())),
        y_(static_cast<Value*>(y.mutable_data_ptr())),
        loops_(row_loops_here().of<Value>()) {}

  // Tokens [first, first + count) of q, of sequence `b`, which has `length` before them.
  void make(int64_t b, int64_t group, int64_t first, int64_t count, int64_t length) const {
    const int64_t N = sizes_.heads, H = sizes_.head_dim, queries = count * N;
    std::vector<float> q(static_cast<size_t>(queries * H + attention_work(queries, H)));
    std::vector<Value> y(static_cast<size_t>(queries * H));
    std::vector<int64_t> limits(static_cast<size_t>(queries));
    const float scale = 1 / std::sqrt(static_cast<float>(H));
    for (int64_t i = 0; i < queries; ++i) {
      limits[static_cast<size_t>(i)] = length + i / N + 1;
      const Value* from = q_ + row(first, group, i);
      for (int64_t d = 0; d < H; ++d) q[static_cast<size_t>(i * H + d)] = value(from[d]) * scale;
    }
    const int64_t slab = (b * sizes_.groups + group) * sizes_.capacity * H;
    loops_.attend(q.data(), queries, limits.data(), keys_ + slab, values_ + slab, H,
                  q.data() + queries * H, y.data());
    for (int64_t i = 0; i < queries; ++i) {
      std::copy_n(y.data() + i * H, H, y_ + row(first, group, i));
    }
  }

 private:
  static float value(float x) { return x; }
  static float value(uint16_t x) { return at::BFloat16(x, at::BFloat16::from_bits()); }
  // Of query i, of token first + i / N and head i mod N.
  int64_t row(int64_t first, int64_t group, int64_t i) const {
    const int64_t N = sizes_.heads;
    return (((first + i / N) * sizes_.groups + group) * N + i % N) * sizes_.head_dim;
  }

  Sizes sizes_;
  const Value *q_, *keys_, *values_;
  Value* y_;
  const RowLoops::Of<Value>& loops_;
};

}  // namespace

bool takes_cache_attention(const at::Tensor& q_TGNH, const std::vector<int64_t>& added) {
  const at::ScalarType dtype = q_TGNH.scalar_type();
  return q_TGNH.is_cpu() && (dtype == at::kFloat || dtype == at::kBFloat16) &&
         *std::ranges::max_element(added) <= kMostCacheTokens && !asks_for_gradient({q_TGNH});
}

at::Tensor cache_attention(const at::Tensor& q_TGNH, const at::Tensor& keys_BGCH,
                           const at::Tensor& values_BGCH, const std::vector<int64_t>& lengths,
                           const std::vector<int64_t>& added) {
  const at::Tensor q = q_TGNH.contiguous();
  const Sizes sizes{q.size(1), q.size(2), q.size(3), keys_BGCH.size(2)};
  TORCH_CHECK(keys_BGCH.is_contiguous() && values_BGCH.is_contiguous() &&
                  keys_BGCH.sizes() == at::IntArrayRef({std::ssize(lengths), sizes.groups,
                                                        sizes.capacity, sizes.head_dim}) &&
                  keys_BGCH.sizes() == values_BGCH.sizes() &&
                  keys_BGCH.scalar_type() == q.scalar_type() && lengths.size() == added.size(),
              "keys and values of each sequence");
  at::Tensor y = at::empty({q.size(0), sizes.groups * sizes.heads * sizes.head_dim}, q.options());
  std::vector<int64_t> first(added.size(), 0);
  for (size_t b = 1; b < first.size(); ++b) first[b] = first[b - 1] + added[b - 1];
  const auto make = [&]<class Value>(Value) {
    const GroupAttention<Value> attention(sizes, q, keys_BGCH, values_BGCH, y);
    int64_t products = 0;
    for (size_t b = 0; b < added.size(); ++b) {
      products += (lengths[b] + added[b]) * added[b] * sizes.groups * sizes.heads * sizes.head_dim;
    }
    const int64_t parts = std::ssize(lengths) * sizes.groups;
    const auto make_part = [&](int64_t part) {
      const auto b = static_cast<size_t>(part / sizes.groups);
      if (added[b] == 0) return;
      attention.make(static_cast<int64_t>(b), part % sizes.groups, first[b], added[b], lengths[b]);
    };
    ThreadTeam::of_process().run(parts, make_part, products < kAlone);
  };
  q.scalar_type() == at::kFloat ? make(float{}) : make(uint16_t{});
  return y;
}

}  // namespace trestle
