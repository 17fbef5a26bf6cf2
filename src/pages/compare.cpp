#include "pages/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/html.h"
#include "base/text.h"
#include "formats/safetensors.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

bool is_unmatched(const TensorDifference& tensor) {
  return !tensor.a || !tensor.b || tensor.a->shape != tensor.b->shape ||
         tensor.a->packed != tensor.b->packed;
}

// Of types whose elements' places are not defined.
bool differs_in_bytes(const TensorDifference& tensor) {
  return !tensor.equal && !tensor.differing && !is_unmatched(tensor);
}

int64_t elements(const TensorInfo& info) {
  int64_t count = 1;
  for (const int64_t size : info.shape) count *= size;
  return count;
}

// "BF16 [4096, 3072]", both where they differ.
std::string shapes(const TensorDifference& tensor) {
  if (!tensor.a) return describe(*tensor.b);
  if (!tensor.b || tensor.a == tensor.b) return describe(*tensor.a);
  return describe(*tensor.a) + " | " + describe(*tensor.b);
}

std::string verdict(const TensorDifference& tensor) {
  if (!tensor.a) return "only in B";
  if (!tensor.b) return "only in A";
  if (tensor.equal) return "equal";
  if (is_unmatched(tensor))
    return tensor.a->shape != tensor.b->shape ? "other shape" : "other type";
  if (differs_in_bytes(tensor)) return "other bytes";
  if (tensor.max_error == 0) {
    if (tensor.a == tensor.b) return "equal values, other bits";
    const std::string zeros =
        fmt::format(", -0 for 0 at {} of {} elements", tensor.zeros, elements(*tensor.a));
    return "equal values, other dtype" + (tensor.zeros > 0 ? zeros : "");
  }
  return fmt::format("{}, {} of {} elements", error_text(tensor), *tensor.differing,
                     elements(*tensor.a));
}

std::string logits_line(const LogitDifference& logits) {
  return fmt::format(
      "KL(A || B) mean {:.3g}, max {:.3g} nats; same likeliest token at {} of {} positions; "
      "logits off by {:.3g} (values up to {:.3g})",
      logits.mean_kl, logits.max_kl, logits.same_top, logits.positions, logits.max_error,
      logits.max_value);
}

// torch's, but of packed types, of which it has none, safetensors'.
std::string type_name(const TensorInfo& info) {
  if (info.packed != nullptr) return std::string(info.packed->name);
  switch (info.dtype) {  // of which no checkpoint of torch's is read
    case at::kComplexFloat:
      return "complex64";
    case at::kFloat8_e8m0fnu:
      return "float8_e8m0fnu";
    case at::kFloat8_e4m3fnuz:
      return "float8_e4m3fnuz";
    case at::kFloat8_e5m2fnuz:
      return "float8_e5m2fnuz";
    default:
      return dtype_name(info.dtype);
  }
}

// JSON has no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json info_json(const std::optional<TensorInfo>& info, const std::string& sha256) {
  if (!info) return nullptr;
  return {{"dtype", type_name(*info)}, {"shape", info->shape}, {"sha256", sha256}};
}

}  // namespace

int64_t CompareReport::equal() const {
  return std::ranges::count_if(tensors, &TensorDifference::equal);
}

int64_t CompareReport::unmatched() const { return std::ranges::count_if(tensors, is_unmatched); }

double CompareReport::max_error() const {
  double largest = 0;
  for (const TensorDifference& tensor : tensors) {
    if (!is_unmatched(tensor)) largest = std::max(largest, tensor.max_error);
  }
  return largest;
}

std::string CompareReport::summary() const {
  const auto equal_values = [&](bool same_dtype) {
    return std::ranges::count_if(tensors, [&](const TensorDifference& tensor) {
      return !tensor.equal && !is_unmatched(tensor) && tensor.max_error == 0 &&
             (tensor.a == tensor.b) == same_dtype;
    });
  };
  const int64_t recast = equal_values(false), in_bits = equal_values(true);
  const int64_t in_bytes = std::ranges::count_if(tensors, differs_in_bytes);
  const int64_t differing =
      static_cast<int64_t>(tensors.size()) - equal() - unmatched() - recast - in_bits - in_bytes;
  std::string line = fmt::format("{} of {} tensors are equal", equal(), tensors.size());
  if (recast > 0) line += fmt::format(", {} have equal values in another dtype", recast);
  if (in_bits > 0) {
    line += fmt::format(", {} have equal values in other bits (-0 for 0, or NaNs)", in_bits);
  }
  if (differing > 0) {
    TensorDifference largest;
    for (const TensorDifference& tensor : tensors) {
      if (!tensor.differing) continue;
      largest.nan += tensor.nan;
      largest.infinite += tensor.infinite;
      largest.finite_error = std::max(largest.finite_error, tensor.finite_error);
    }
    line += fmt::format(", {} differ{} {}", differing, largest.finite_error > 0 ? " by up to" : ":",
                        error_text(largest));
  }
  if (in_bytes > 0) {
    line += fmt::format(
        ", {} differ in bytes (which bits are which element of F6 no specification says)",
        in_bytes);
  }
  if (unmatched() > 0) {
    line += fmt::format(", {} have no counterpart of their shape and type", unmatched());
  }
  return line;
}

std::string compare_table(const CompareReport& report, bool all) {
  std::string out = fmt::format("A {} ({})\nB {} ({})\n", report.a.name, report.a.form,
                                report.b.name, report.b.form);
  for (const TensorDifference& tensor : report.tensors) {
    if (tensor.equal && !all) continue;
    out +=
        fmt::format("{:<62} {:<28} {}\n", one_line(tensor.name), shapes(tensor), verdict(tensor));
  }
  out += report.summary() + "\n";
  if (report.logits) out += logits_line(*report.logits) + "\n";
  if (!report.no_logits.empty()) out += "logits: not compared: " + report.no_logits + "\n";
  if (report.a.text) {
    out += fmt::format("asked: {}\nA: {}\nB: {}\n", report.prompt, one_line(*report.a.text),
                       one_line(report.b.text.value_or("")));
  }
  if (!report.no_text.empty()) out += "text: not compared: " + report.no_text + "\n";
  return out;
}

Json compare_json(const CompareReport& report) {
  const auto side = [](const CompareReport::Side& given) {
    Json json = {{"path", given.name}, {"form", given.form}};
    if (given.text) json["text"] = *given.text;
    return json;
  };
  Json json = {{"a", side(report.a)},
               {"b", side(report.b)},
               {"equal", report.equal()},
               {"unmatched", report.unmatched()},
               {"max_error", number(report.max_error())},
               {"tensors", Json::array()}};
  for (const TensorDifference& tensor : report.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"equal", tensor.equal},
                               {"differing", tensor.differing ? Json(*tensor.differing) : Json()},
                               {"max_error", number(tensor.max_error)},
                               {"max_value", number(tensor.max_value)},
                               {"nan", tensor.nan},
                               {"infinite", tensor.infinite},
                               {"a", info_json(tensor.a, tensor.sha256_a)},
                               {"b", info_json(tensor.b, tensor.sha256_b)}});
  }
  if (report.logits) {
    const LogitDifference& logits = *report.logits;
    json["logits"] = {{"positions", logits.positions}, {"mean_kl", logits.mean_kl},
                      {"max_kl", logits.max_kl},       {"max_error", number(logits.max_error)},
                      {"max_value", logits.max_value}, {"same_top", logits.same_top}};
  }
  if (!report.no_logits.empty()) json["no_logits"] = report.no_logits;
  if (!report.no_text.empty()) json["no_text"] = report.no_text;
  if (report.a.text) json["prompt"] = report.prompt;
  return json;
}

std::string compare_html(const CompareReport& report) {
  std::string page = html_head("Two checkpoints");
  for (const auto& [label, side] : {std::pair{"A", &report.a}, std::pair{"B", &report.b}}) {
    page += fmt::format("<p><b>{}</b> {} <span class=\"soft\">{}</span></p>", label,
                        escaped(side->name), escaped(side->form));
  }
  page += "<h2>What they compute</h2>";
  page += fmt::format("<p>{}</p>", report.logits ? escaped(logits_line(*report.logits))
                                                 : "Not compared: " + escaped(report.no_logits));
  if (report.a.text) {
    page += fmt::format(
        "<p class=\"soft\">{}</p><article><div><h3>A</h3><pre>{}</pre></div></article>"
        "<article><div><h3>B</h3><pre>{}</pre></div></article>",
        escaped(report.prompt), escaped(*report.a.text), escaped(report.b.text.value_or("")));
  }
  page += fmt::format(
      "<h2>Tensors</h2><p>{}</p><table><tr><th>tensor</th><th>dtype and shape</th>"
      "<th>SHA-256</th><th>largest error</th></tr>",
      escaped(report.summary()));
  for (const TensorDifference& tensor : report.tensors) {
    std::string hashes = tensor.sha256_a.substr(0, 12);
    if (tensor.sha256_b != tensor.sha256_a) hashes += " | " + tensor.sha256_b.substr(0, 12);
    page += fmt::format(
        "<tr class=\"{}\"><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td></tr>",
        tensor.equal ? "right" : "wrong", escaped(tensor.name), escaped(shapes(tensor)), hashes,
        escaped(verdict(tensor)));
  }
  return page + "</table></html>\n";
}

}  // namespace trestle
