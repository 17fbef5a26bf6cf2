#include "generate/logprobs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/tokenizer.h"

namespace trestle {

namespace {

bool has_token(const TokenLogprob& entry, const Tokenizer& tokenizer) {
  return entry.id < tokenizer.vocab_size();
}

std::string text_of(const TokenLogprob& entry, const Tokenizer& tokenizer) {
  // A vocabulary may be padded: the model has logits for ids that no text has.
  if (!has_token(entry, tokenizer)) return fmt::format("<id {}>", entry.id);
  return repair_utf8(tokenizer.bytes_of(entry.id));
}

Json json_of(const TokenLogprob& entry, const Tokenizer& tokenizer) {
  Json json = {
      {"token", text_of(entry, tokenizer)}, {"logprob", entry.logprob}, {"bytes", nullptr}};
  if (!has_token(entry, tokenizer)) return json;
  Json bytes = Json::array();
  for (const char byte : tokenizer.bytes_of(entry.id)) bytes.push_back(static_cast<uint8_t>(byte));
  json["bytes"] = std::move(bytes);
  return json;
}

std::string quoted(const TokenLogprob& entry, const Tokenizer& tokenizer) {
  return Json(text_of(entry, tokenizer)).dump();
}

}  // namespace

std::vector<Logprobs> logprobs_of(const at::Tensor& logits_BV, const std::vector<int64_t>& ids,
                                  int64_t top) {
  // In binary64: the sum over a hundred thousand tokens is to cost no digit of the answer.
  const at::Tensor logprobs_BV = at::log_softmax(logits_BV.cpu().to(at::kDouble), -1);
  const auto [values_BK, ids_BK] = logprobs_BV.topk(top, -1);
  std::vector<Logprobs> rows;
  for (size_t b = 0; b < ids.size(); ++b) {
    const auto row = static_cast<int64_t>(b);
    Logprobs entry{{ids[b], logprobs_BV[row][ids[b]].item<double>()}, {}};
    for (int64_t k = 0; k < top; ++k) {
      entry.top.push_back({ids_BK[row][k].item<int64_t>(), values_BK[row][k].item<double>()});
    }
    std::ranges::sort(entry.top, [](const TokenLogprob& a, const TokenLogprob& b) {
      return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
    });
    rows.push_back(std::move(entry));
  }
  return rows;
}

Json logprobs_json(std::span<const Logprobs> tokens, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const Logprobs& each : tokens) {
    Json entry = json_of(each.chosen, tokenizer);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : each.top) {
      entry["top_logprobs"].push_back(json_of(other, tokenizer));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

std::string logprobs_table(std::span<const Logprobs> tokens, const Tokenizer& tokenizer) {
  std::string table = "token                 logprob  likeliest\n";
  for (const Logprobs& each : tokens) {
    table += fmt::format("{:<20}  {:>7.4f}", quoted(each.chosen, tokenizer), each.chosen.logprob);
    for (const TokenLogprob& other : each.top) {
      table += fmt::format("  {} {:.4f}", quoted(other, tokenizer), other.logprob);
    }
    table += '\n';
  }
  return table;
}

}  // namespace trestle
