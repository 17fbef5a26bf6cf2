#include "base/html.h"

#include <fmt/format.h>

namespace trestle {

namespace {

constexpr std::string_view kMark = "<meta name=\"generator\" content=\"trestle\">";
constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--fg:#1d2330;--bg:#fff;--soft:#5b6475;--line:#d9dee7;--good:#0a7d45;--bad:#b3261e;--accent:#2757d6}
@media(prefers-color-scheme:dark){:root{--fg:#e8ebf1;--bg:#15181f;--soft:#9aa4b5;--line:#333a48;--good:#4cc38a;--bad:#ff8a80;--accent:#7aa2ff}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:960px;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem}h3{margin:.1rem 0 .5rem;font-size:1rem}.soft{color:var(--soft)}
.scores{display:flex;gap:1rem;flex-wrap:wrap}.scores div{border:1px solid var(--line);border-radius:8px;padding:.8rem 1.2rem;min-width:12rem}
.scores b{display:block;font-size:1.7rem}svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line)}.curve{fill:none;stroke:var(--accent);stroke-width:1.6}
.curve.c1{stroke:var(--good)}svg text.c0{fill:var(--accent)}svg text.c1{fill:var(--good)}
table{border-collapse:collapse;font-size:.85rem}td,th{text-align:left;padding:.1rem .8rem .1rem 0;border-bottom:1px solid var(--line)}
.right td:last-child{color:var(--good)}.wrong td:last-child{color:var(--bad);font-weight:600}
article{display:flex;gap:1.2rem;border:1px solid var(--line);border-left:4px solid var(--good);border-radius:8px;padding:1rem;margin:1rem 0;flex-wrap:wrap}
article.part{border-left-color:var(--bad)}img{border:1px solid var(--line);image-rendering:auto}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem})";

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

OutputKind page_kind() { return {.name = "page", .mark = std::string(kMark)}; }

std::string html_head(std::string_view title) {
  return fmt::format(
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">{2}<meta name=\"viewport\" "
      "content=\"width=device-width\"><title>{0}</title><style>{1}</style><h1>{0}</h1>",
      escaped(title), kStyle, kMark);
}

}  // namespace trestle
