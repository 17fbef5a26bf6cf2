#include "pages/demo.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/base64.h"
#include "base/chart.h"
#include "base/file.h"
#include "base/html.h"
#include "data/cord.h"

namespace trestle {

namespace {

std::string image(const std::string& png) {
  return fmt::format("<img alt=\"receipt\" src=\"data:image/png;base64,{}\">", base64(png));
}

std::string loss_curve(const std::vector<StepMetrics>& steps) {
  Curve loss{"loss", {}};
  for (const StepMetrics& each : steps) {
    loss.points.emplace_back(static_cast<double>(each.step), each.loss);
  }
  return line_chart("loss by step", {loss}, ValueAxis::kLog);
}

// Every field of the truth with what the answer says in its place.
std::string field_table(const Json& truth, const std::string& answer) {
  std::vector<std::pair<std::string, std::string>> said = flat_fields(tags_to_json(answer));
  std::string rows;
  for (const auto& [path, value] : flat_fields(truth)) {
    const auto found = std::find_if(said.begin(), said.end(),
                                    [&](const auto& each) { return each.first == path; });
    const std::string got = found == said.end() ? "(nothing)" : found->second;
    if (found != said.end()) said.erase(found);
    rows +=
        fmt::format("<tr class=\"{}\"><td>{}</td><td>{}</td><td>{}</td></tr>",
                    got == value ? "right" : "wrong", escaped(path), escaped(value), escaped(got));
  }
  for (const auto& [path, value] : said) {
    rows += fmt::format("<tr class=\"wrong\"><td>{}</td><td>(not on it)</td><td>{}</td></tr>",
                        escaped(path), escaped(value));
  }
  return "<table><tr><th>field</th><th>printed</th><th>read</th></tr>" + rows + "</table>";
}

std::string receipt_card(const DemoReport::Receipt& receipt) {
  return fmt::format(
      "<article class=\"{}\"><div>{}</div><div><h3>Test receipt {}: {} of {} fields</h3>{}"
      "<details><summary>before fine-tuning it "
      "said</summary><pre>{}</pre></details></div></article>",
      receipt.after.whole() ? "whole" : "part", image(receipt.png), receipt.after.row,
      receipt.after.right, receipt.after.total, field_table(receipt.truth, receipt.after.answer),
      escaped(receipt.before.answer));
}

}  // namespace

void write_demo_report(const std::filesystem::path& path, const DemoReport& report) {
  double seconds = 0;
  std::string stages;
  for (const auto& stage : report.stages) {
    seconds += stage.seconds;
    stages +=
        fmt::format("<tr><td>{}</td><td>{:.1f} s</td></tr>", escaped(stage.name), stage.seconds);
  }
  const auto score = [](const char* what, double before, double after) {
    return fmt::format("<div>{}<b>{:.1f} % &rarr; {:.1f} %</b></div>", what, 100 * before,
                       100 * after);
  };
  std::string page = html_head("Trestle demo");
  page += fmt::format("<p class=\"soft\">{}, {}, {:.0f} s in all</p>", escaped(report.date),
                      escaped(report.machine), seconds);
  page += fmt::format(
      "<p>A {:.1f} M parameter model of the Ministral 3 architecture, pre-trained by this program "
      "to read receipts aloud, "
      "learnt in {} steps of LoRA ({:.1f} % of its parameters) on {} receipts to write what they "
      "say as cord-v2's "
      "structured text. The {} test receipts were in no training set. All receipts are "
      "<b>synthetic</b>: rendered in "
      "six real faces of two families, in several sizes and layouts, slightly rotated and noisy, "
      "from 50 words and random prices. They "
      "are far easier than "
      "photographs; the numbers say that the whole path works, not how well Ministral 3 reads.</p>",
      static_cast<double>(report.total - report.trainable) / 1e6, report.steps.size(),
      100.0 * static_cast<double>(report.trainable) / static_cast<double>(report.total),
      report.train_rows, report.after.answers.size());
  page +=
      "<h2>Score on the test receipts</h2><div class=\"scores\">" +
      score("fields right", report.before.field_accuracy(), report.after.field_accuracy()) +
      score("whole receipts right", report.before.whole_accuracy(), report.after.whole_accuracy()) +
      "</div><p class=\"soft\">A field is right when path and text are equal; an invented field "
      "counts as one "
      "missed. Greedy answers.</p>";
  page += "<h2>Loss</h2>" + loss_curve(report.steps);
  page += "<h2>What it did</h2><table>" + stages + "</table>";
  page +=
      "<h2>From the exported model</h2><p>Loaded back from the Hugging Face directory it wrote, "
      "and asked about a "
      "picture it had not seen:</p><article><div>" +
      image(report.generated_for) + "</div><div><pre>" + escaped(report.generated) +
      "</pre></div></article>";
  page += "<h2>Answers, right and wrong</h2>";
  for (const auto& receipt : report.receipts) page += receipt_card(receipt);
  write_text(path, page + "</html>\n");
}

}  // namespace trestle
