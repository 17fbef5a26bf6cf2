#include "metrics/run_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/html.h"
#include "recipes/config.h"

namespace trestle {

namespace {

constexpr size_t kAnswers = 8;  // of each kind
constexpr const char* kLoss = "loss";
constexpr const char* kThroughput = "tokens a second";
constexpr const char* kMemory = "peak memory in GB";

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string tile(std::string_view what, const std::string& value) {
  return fmt::format("<div>{}<b>{}</b></div>", escaped(what), escaped(value));
}

double number(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : 0;
}

std::string answer_card(const ScoredAnswer& answer) {
  const auto line = [](std::string_view what, const std::string& text) {
    return fmt::format("<tr><th>{}</th><td><pre>{}</pre></td></tr>", what, escaped(text));
  };
  const std::string pictures = answer.pictures == 0 ? ""
                               : answer.pictures == 1
                                   ? "[1 picture] "
                                   : fmt::format("[{} pictures] ", answer.pictures);
  return fmt::format(
      "<article class=\"{}\"><div><h3>Row {}: {} of {} right</h3><table>{}{}{}</table></div>"
      "</article>",
      answer.whole() ? "whole" : "part", answer.row, answer.right, answer.total,
      line("asked", pictures + answer.prompt), line("wanted", answer.wanted),
      line("said", answer.answer));
}

}  // namespace

RunReport::RunReport(std::filesystem::path path, std::string config, int64_t last_step)
    : path_(std::move(path)), config_(std::move(config)), last_step_(last_step) {}

void RunReport::add(const Json& line) {
  step_ = line.value("step", step_);
  seconds_ += number(line, "seconds") + number(line, "valid_seconds");
  const auto point = [&](const std::string& name, double value) {
    Curve& curve = curves_[name];
    curve.name = name;
    curve.points.emplace_back(static_cast<double>(step_), value);
  };
  for (const auto& [key, value] : line.items()) {
    const bool drawn = key == kLoss || key == "lr" || key == "grad_norm" ||
                       (key.starts_with("valid_") && key != "valid_seconds");
    if (drawn && value.is_number()) point(key, value.get<double>());
  }
  if (line.contains("skipped")) ++skipped_;
  if (const double seconds = number(line, "seconds"); seconds > 0) {
    point(kThroughput, number(line, "tokens") / seconds);
    point(kMemory, number(line, "peak_memory_bytes") / 1e9);
  }
}

void RunReport::set_answers(int64_t step, const std::string& set,
                            std::vector<ScoredAnswer> answers) {
  if (!answers.empty()) answers_[set] = {step, std::move(answers)};
}

void RunReport::write(const std::string& status) const { write_text(path_, body(status)); }

std::string RunReport::body(const std::string& status) const {
  return html_head("Trestle run") + head(status) + charts() + answers() +
         "<h2>Config</h2><details><summary>resolved_config.yaml</summary><pre>" + escaped(config_) +
         "</pre></details></html>\n";
}

std::string RunReport::head(const std::string& status) const {
  std::string out = fmt::format("<p class=\"soft\">{}</p><div class=\"scores\">",
                                escaped(path_.parent_path().string()));
  out += tile("status", status);
  out += tile("step", fmt::format("{} of {}", step_, last_step_));
  out += tile("time taken", duration(seconds_));
  for (const char* name : {kLoss, kValidLoss}) {
    if (const auto found = curves_.find(name); found != curves_.end()) {
      out += tile(name, fmt::format("{:.4f}", found->second.points.back().second));
    }
  }
  if (skipped_ > 0) out += tile("skipped steps", std::to_string(skipped_));
  return out + "</div>";
}

std::string RunReport::chart(const std::string& title, const std::vector<std::string>& names,
                             ValueAxis axis) const {
  std::vector<Curve> found;
  for (const std::string& name : names) {
    if (const auto curve = curves_.find(name); curve != curves_.end()) {
      found.push_back(curve->second);
    }
  }
  const std::string svg = line_chart(title + " by step", found, axis);
  return svg.empty() ? "" : "<h2>" + escaped(title) + "</h2>" + svg;
}

std::string RunReport::charts() const {
  std::string out = chart("Loss", {kLoss, kValidLoss}, ValueAxis::kLog);
  for (const auto& [name, curve] : curves_) {
    if (name.starts_with("valid_") && name != kValidLoss) {
      out += chart("Validation: " + name.substr(6), {name});
    }
  }
  return out + chart("Learning rate", {"lr"}) + chart("Gradient norm", {"grad_norm"}) +
         chart("Tokens a second", {kThroughput}) + chart("Peak memory in GB", {kMemory});
}

std::string RunReport::answers() const {
  std::string out;
  for (const auto& [set, given] : answers_) out += answers_of(set, given);
  return out;
}

std::string RunReport::answers_of(const std::string& set, const Answers& given) {
  std::string right, wrong;
  size_t rights = 0, wrongs = 0;
  for (const ScoredAnswer& each : given.answers) {
    if (each.whole() ? rights++ < kAnswers : wrongs++ < kAnswers) {
      (each.whole() ? right : wrong) += answer_card(each);
    }
  }
  std::string out = fmt::format(
      "<h2>Answers of the validation behind step {}{}</h2><p class=\"soft\">{} wholly right and {} "
      "not, of the {} kept; greedy.</p>",
      given.step, set.empty() ? "" : " on " + escaped(set), rights, wrongs, given.answers.size());
  return out + wrong + right;
}

}  // namespace trestle
