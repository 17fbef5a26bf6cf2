#include "pages/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/base64.h"
#include "base/error.h"
#include "base/html.h"

namespace trestle {

namespace {

constexpr std::string_view kTokens = R"(<style>
.tokens{white-space:pre-wrap;overflow-wrap:anywhere;font:.85rem/1.9 ui-monospace,monospace}
.tokens span{border:1px solid var(--line);border-radius:3px;padding:0 .1rem;margin:0 .05rem}
.tokens .learnt{background:#0a7d4533;border-color:var(--good)}.tokens .special{color:var(--accent)}
.tokens .cut{text-decoration:line-through;opacity:.5}
.picture{position:relative;display:inline-block;margin:.3rem;max-width:100%;overflow:auto}
.picture img{display:block;border:0;max-width:none}.picture svg{position:absolute;inset:0;pointer-events:none}
</style>)";

// The mime type by the first bytes; browsers look at them too.
std::string_view mime_of(std::string_view bytes) {
  if (bytes.starts_with("\x89PNG")) return "image/png";
  return bytes.starts_with("RIFF") ? "image/webp" : "image/jpeg";
}

std::string picture(const Part& part, const at::Tensor& pixels_CHW, int64_t side) {
  const int64_t height = pixels_CHW.size(1), width = pixels_CHW.size(2);
  const std::string source =
      part.image.bytes
          ? fmt::format("data:{};base64,{}", mime_of(*part.image.bytes), base64(*part.image.bytes))
          : escaped(part.image.source);
  std::string grid;
  for (int64_t x = 0; x <= width; x += side) grid += fmt::format("M{} 0V{}", x, height);
  for (int64_t y = 0; y <= height; y += side) grid += fmt::format("M0 {}H{}", y, width);
  return fmt::format(
      "<figure class=\"picture\"><img alt=\"\" src=\"{0}\" width=\"{1}\" height=\"{2}\">"
      "<svg width=\"{1}\" height=\"{2}\"><path d=\"{3}\" stroke=\"#ff3b30\" stroke-opacity=\".55\" "
      "fill=\"none\"/></svg><figcaption class=\"soft\">{1} x {2} pixels, {4} x {5} "
      "tokens</figcaption></figure>",
      source, width, height, grid, height / side, width / side);
}

std::string token(const Tokenizer& tokenizer, int64_t id, bool learnt, bool cut) {
  const std::array<int64_t, 1> one = {id};
  const std::string plain = tokenizer.decode(one);
  const std::string text = plain.empty() ? tokenizer.decode(one, Specials::kKeep) : plain;
  return fmt::format("<span class=\"{}{}{}\" title=\"{}\">{}</span>", learnt ? "learnt " : "",
                     plain.empty() ? "special " : "", cut ? "cut" : "", id, escaped(text));
}

std::string tokens(const Tokenizer& tokenizer, const Sample& sample, int64_t seq_length) {
  std::string out = "<div class=\"tokens\">";
  size_t image = 0;
  for (int64_t i = 0; i < std::ssize(sample.ids); ++i) {
    if (image < sample.image_spans.size() && sample.image_spans[image].first == i) {
      const auto [begin, end] = sample.image_spans[image];
      out += fmt::format("<span class=\"special{}\">picture {}: {} tokens</span>",
                         end > seq_length ? " cut" : "", ++image, end - begin);
      i = end - 1;
      continue;
    }
    const auto at = static_cast<size_t>(i);
    // labels[i] is what follows ids[i]: a token is learnt where its predecessor has it as label.
    const bool learnt = i > 0 && sample.labels[at - 1] != -100;
    out += token(tokenizer, sample.ids[at], learnt, i >= seq_length);
  }
  return out + "</div>";
}

std::string row_of(const Dataset& dataset, const Processor& processor, int64_t row,
                   int64_t seq_length) {
  const Conversation conversation = dataset.row(row);
  const Sample sample = processor.process(conversation, Ending::kSample);
  std::vector<const Part*> pictures;
  for (const Message& message : conversation.messages) {
    for (const Part& part : message.parts) {
      if (part.kind == Part::Kind::kImage) pictures.push_back(&part);
    }
  }
  const int64_t side = processor.images().patch_size * processor.images().spatial_merge_size;
  std::string out =
      fmt::format("<h2>row {}: {} tokens, {} learnt{}</h2>", row, sample.ids.size(),
                  sample.targets(), std::ssize(sample.ids) > seq_length ? ", too long" : "");
  for (size_t i = 0; i < std::min(pictures.size(), sample.images_CHW.size()); ++i) {
    out += picture(*pictures[i], sample.images_CHW[i], side);
  }
  return out + tokens(processor.tokenizer(), sample, seq_length);
}

}  // namespace

std::string data_page(const Dataset& dataset, const Processor& processor, int64_t rows,
                      int64_t seq_length, std::string_view title) {
  std::string page = html_head(title);
  page += kTokens;
  page += fmt::format(
      "<p class=\"soft\">Green tokens are learnt, blue ones are control tokens; what lies behind "
      "token {} is struck out. The grid shows what becomes one token.</p>",
      seq_length);
  for (int64_t row = 0; row < std::min(rows, dataset.size()); ++row) {
    try {
      page += row_of(dataset, processor, row, seq_length);
    } catch (const UserError& error) {
      page += fmt::format("<h2>row {}</h2><p class=\"wrong\">{}</p>", row, escaped(error.what()));
    }
  }
  return page + "</html>\n";
}

}  // namespace trestle
