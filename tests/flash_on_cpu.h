// Attention of packed rows for the CPU, registered with libtorch in place of the card's: while one
// lives, models on the CPU go the very way that they go on a card, and what they hand over is held
// to what flash attention asks for. Plain formulas in fp64, sequence by sequence.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "kernels/attention_product.h"

namespace trestle::testing {

struct FlashCounts {
  int forwards = 0, backwards = 0;
  /// Backwards that flash attention would have computed in one order.
  int deterministic = 0;
};

class FlashOnCpu {
 public:
  FlashOnCpu() {
    counts_ = {};
    library_.impl("_flash_attention_forward",
                  torch::CppFunction::makeFromBoxedFunction<&forward>());
    library_.impl("_flash_attention_backward",
                  torch::CppFunction::makeFromBoxedFunction<&backward>());
    PackedAttention::supported() = {.device = at::kCPU, .takes_float = true};
  }
  ~FlashOnCpu() { PackedAttention::supported() = {}; }
  FlashOnCpu(const FlashOnCpu&) = delete;
  FlashOnCpu& operator=(const FlashOnCpu&) = delete;

  static const FlashCounts& counts() { return counts_; }

 private:
  using Stack = torch::jit::Stack;

  // One head's sequence: [n, H] each in fp64, and which keys a row sees.
  struct Operands {
    at::Tensor q_TNH, k_TGH, v_TGH;
    SequenceRows queries, keys;
    bool causal;

    int64_t group_of(int64_t head) const { return head / (q_TNH.size(1) / k_TGH.size(1)); }
    double scale() const { return 1 / std::sqrt(static_cast<double>(q_TNH.size(2))); }
  };

  static at::Tensor wide(const at::Tensor& x_TNH, int64_t first, int64_t count, int64_t head) {
    return x_TNH.narrow(0, first, count).select(1, head).to(at::kDouble);
  }

  // Of one sequence: its queries and its keys.
  struct Run {
    int64_t first, count;
  };

  // The last query sees the last key, as flash attention has it since 2.1.
  static at::Tensor scores(const Operands& of, Run queries, Run keys, int64_t head) {
    const at::Tensor q = wide(of.q_TNH, queries.first, queries.count, head);
    const at::Tensor k = wide(of.k_TGH, keys.first, keys.count, of.group_of(head));
    const at::Tensor all = at::mm(q, k.t()) * of.scale();
    if (!of.causal) return all;
    const int64_t before = keys.count - queries.count;
    return all.masked_fill(at::ones_like(all, at::kBool).triu(1 + before),
                           -std::numeric_limits<double>::infinity());
  }

  // What flash_attn_varlen_func asks of its arguments, and what a Packing says.
  static void check(const Operands& of, double dropout) {
    for (const at::Tensor& x : {of.q_TNH, of.k_TGH, of.v_TGH}) {
      TORCH_CHECK(x.dim() == 3 && x.stride(-1) == 1 && x.size(-1) % 8 == 0, "[T, heads, H]");
      TORCH_CHECK(x.scalar_type() == of.q_TNH.scalar_type());
    }
    TORCH_CHECK(of.q_TNH.size(1) % of.k_TGH.size(1) == 0 && of.k_TGH.sizes() == of.v_TGH.sizes());
    check(of.queries, of.q_TNH);
    check(of.keys, of.k_TGH);
    TORCH_CHECK(of.queries.offsets.sizes() == of.keys.offsets.sizes() && dropout == 0);
  }

  static void check(const SequenceRows& rows, const at::Tensor& x) {
    TORCH_CHECK(rows.offsets.scalar_type() == at::kInt && rows.offsets.dim() == 1 &&
                rows.offsets.is_contiguous() && rows.offsets.device() == x.device());
    const at::Tensor lengths = rows.offsets.diff();
    TORCH_CHECK(rows.offsets[0].item<int>() == 0 && rows.offsets[-1].item<int>() == x.size(0) &&
                lengths.gt(0).all().item<bool>() && lengths.max().item<int>() == rows.longest);
  }

  template <class Fn>
  static void for_sequences(const Operands& of, const Fn& fn) {
    const auto run = [](const SequenceRows& rows, int64_t i) {
      const auto* offsets = rows.offsets.const_data_ptr<int>();
      return Run{offsets[i], offsets[i + 1] - offsets[i]};
    };
    for (int64_t i = 0; i + 1 < of.queries.offsets.size(0); ++i) {
      for (int64_t head = 0; head < of.q_TNH.size(1); ++head) {
        fn(run(of.queries, i), run(of.keys, i), head);
      }
    }
  }

  static std::vector<c10::IValue> arguments(const c10::OperatorHandle& op, Stack* stack) {
    return torch::jit::pop(*stack, op.schema().arguments().size());
  }

  static void forward(const c10::OperatorHandle& op, Stack* stack) {
    ++counts_.forwards;
    const auto args = arguments(op, stack);
    const Operands of{args[0].toTensor(),
                      args[1].toTensor(),
                      args[2].toTensor(),
                      {args[3].toTensor(), args[5].toInt()},
                      {args[4].toTensor(), args[6].toInt()},
                      args[8].toBool()};
    check(of, args[7].toDouble());
    for (size_t i = 9; i < args.size(); ++i) {
      TORCH_CHECK(args[i].isNone() || (i == 9 && !args[i].toBool()), "argument ", i);
    }
    at::Tensor out = at::empty(of.q_TNH.sizes(), of.q_TNH.options());
    at::Tensor log_sum = at::empty({of.q_TNH.size(1), of.q_TNH.size(0)}, at::kFloat);
    for_sequences(of, [&](Run queries, Run keys, int64_t head) {
      const at::Tensor s = scores(of, queries, keys, head);
      log_sum.select(0, head).narrow(0, queries.first, queries.count).copy_(s.logsumexp(1));
      out.narrow(0, queries.first, queries.count)
          .select(1, head)
          .copy_(at::mm(s.softmax(1), wide(of.v_TGH, keys.first, keys.count, of.group_of(head))));
    });
    const at::Tensor none = at::empty({0});
    torch::jit::push(*stack, out, log_sum, none, none, none);
  }

  static void backward(const c10::OperatorHandle& op, Stack* stack) {
    ++counts_.backwards;
    const at::Context& context = at::globalContext();
    if (context.deterministicAlgorithms() && !context.deterministicAlgorithmsWarnOnly()) {
      ++counts_.deterministic;
    }
    const auto args = arguments(op, stack);
    const Operands of{args[1].toTensor(),
                      args[2].toTensor(),
                      args[3].toTensor(),
                      {args[6].toTensor(), args[8].toInt()},
                      {args[7].toTensor(), args[9].toInt()},
                      args[11].toBool()};
    check(of, args[10].toDouble());
    const at::Tensor up = args[0].toTensor(), out = args[4].toTensor();
    const auto zeros = [](const at::Tensor& x) { return at::zeros(x.sizes(), at::kDouble); };
    const at::Tensor dq = zeros(of.q_TNH), dk = zeros(of.k_TGH), dv = zeros(of.v_TGH);
    for_sequences(of, [&](Run queries, Run keys, int64_t head) {
      const int64_t group = of.group_of(head);
      const auto add = [](const at::Tensor& to, Run rows, int64_t which, const at::Tensor& some) {
        to.narrow(0, rows.first, rows.count).select(1, which).add_(some);
      };
      const auto query = [&](const at::Tensor& x) {
        return wide(x, queries.first, queries.count, head);
      };
      const auto key = [&](const at::Tensor& x) { return wide(x, keys.first, keys.count, group); };
      const at::Tensor p = scores(of, queries, keys, head).softmax(1);
      const at::Tensor dout = query(up);
      const at::Tensor dp = at::mm(dout, key(of.v_TGH).t());
      const at::Tensor inner = (dout * query(out)).sum(1, /*keepdim=*/true);
      const at::Tensor ds = p * (dp - inner) * of.scale();
      add(dq, queries, head, at::mm(ds, key(of.k_TGH)));
      add(dk, keys, group, at::mm(ds.t(), query(of.q_TNH)));
      add(dv, keys, group, at::mm(p.t(), dout));
    });
    const auto dtype = of.q_TNH.scalar_type();
    torch::jit::push(*stack, dq.to(dtype), dk.to(dtype), dv.to(dtype));
  }

  inline static FlashCounts counts_;
  torch::Library library_{torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__};
};

}  // namespace trestle::testing
