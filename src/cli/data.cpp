// `trestle data check` and `trestle data show`: what a data set becomes before it is trained on.
#include "pages/data.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/html.h"
#include "base/json.h"
#include "base/paths.h"
#include "base/standard_streams.h"
#include "base/text.h"
#include "cli/commands.h"
#include "data/check.h"
#include "flags/dataset_flags.h"
#include "flags/model_flags.h"
#include "flags/number_flag.h"
#include "hub/hub.h"
#include "recipes/config.h"

namespace trestle {

namespace {

struct DataFlags {
  std::string model, output;
  DatasetFlags data;
  int64_t rows = 0, seq_length = 4096;
  ImageLimits images;
  bool json = false;

  void add_to(Command command, int64_t usual_rows) {
    rows = usual_rows;
    command
        .add("--hf-model-path,--hf_model_path", model,
             "directory or ORG/NAME[@REVISION] with tokenizer and processor files")
        .required();
    data.add_to(command, "train");
    add_number(command, "--rows", rows, between(0, kMostSteps), "only the first rows; 0: all");
    add_number(command, "--seq-length,--seq_length", seq_length, between(1, kMostTokens),
               "model.seq_length: what longer samples become is told for every dataset.overlong");
    add_image_flags(command, images);
  }
  Processor processor() const {
    const auto directory = resolve_model(model, "--hf-model-path", HubFiles::kAssets);
    require_directory(directory, "--hf-model-path");  // a tokenizer alone says nothing of pictures
    return Processor(directory, images);
  }
};

Json json_of(const OverlongReport& each, const DataReport& report) {
  return {{"refused", each.refused},
          {"dropped", each.dropped},
          {"shrunk", each.shrunk},
          {"cut", each.cut},
          {"targets", each.targets},
          {"targets_lost", report.targets - each.targets},
          {"assistant_turns", each.turns},
          {"turns_with_eos", each.eos},
          {"eos_lost", report.turns_with_eos - each.eos}};
}

Json json_of(const DataReport& report, int64_t seq_length) {
  Json overlong = Json::object();
  for (const OverlongReport& each : report.overlong) {
    overlong[std::string(name_of(each.policy))] = json_of(each, report);
  }
  return {{"rows", report.rows},
          {"bad_rows", report.bad_rows},
          {"errors", report.errors},
          {"notes", report.notes},
          {"tokens", report.tokens()},
          {"length",
           {{"min", report.quantile(0)},
            {"median", report.quantile(0.5)},
            {"p95", report.quantile(0.95)},
            {"max", report.quantile(1)}}},
          {"longer_than_seq_length", report.longer_than(seq_length)},
          {"overlong", std::move(overlong)},
          {"targets", report.targets},
          {"target_share", report.target_share()},
          {"rows_without_target", report.untrained},
          {"rows_all_target", report.all_trained},
          {"assistant_turns", report.turns},
          {"turns_with_eos", report.turns_with_eos},
          {"images", report.images},
          {"text_only_rows", report.text_only},
          {"image_tokens", report.image_tokens},
          {"largest_image", {report.largest_width, report.largest_height}}};
}

// A line a policy: what becomes of the samples, and what of the loss's targets is gone with them.
void print_overlong(const DataReport& report, int64_t seq_length) {
  constexpr const char* kColumns = "{:<22} {:>8} {:>8} {:>8} {:>8} {:>13} {:>9}   {}\n";
  fmt::print("\n{} samples over --seq-length {}:\n", report.longer_than(seq_length), seq_length);
  fmt::print(fmt::runtime(kColumns), "dataset.overlong", "refused", "dropped", "shrunk", "cut",
             "targets lost", "</s> lost", "</s> supervised");
  for (const OverlongReport& each : report.overlong) {
    fmt::print(fmt::runtime(kColumns), name_of(each.policy), each.refused, each.dropped,
               each.shrunk, each.cut, report.targets - each.targets,
               report.turns_with_eos - each.eos, fmt::format("{} of {}", each.eos, each.turns));
  }
}

void print(const DataReport& report, int64_t seq_length) {
  fmt::print("samples      {} of {} rows can be used\n", report.lengths.size(), report.rows);
  for (const std::string& error : report.errors) fmt::print("             {}\n", error);
  fmt::print("length       {} to {} tokens, median {}, 95 % up to {}; {} over --seq-length {}\n",
             report.quantile(0), report.quantile(1), report.quantile(0.5), report.quantile(0.95),
             report.longer_than(seq_length), seq_length);
  fmt::print("images       {}, up to {} x {} pixels, {} tokens in all; {} rows of text only\n",
             report.images, report.largest_width, report.largest_height, report.image_tokens,
             report.text_only);
  fmt::print("targets      {} of {} tokens ({:.1f} %); policy: the assistant's turns\n",
             report.targets, report.tokens(), 100 * report.target_share());
  fmt::print("end of turn  </s> is learnt in {} of {} turns\n", report.turns_with_eos,
             report.turns);
  print_overlong(report, seq_length);
}

void check(const DataFlags& flags) {
  const auto dataset = flags.data.open();
  const Processor processor = flags.processor();
  const DataReport report =
      check_data(*dataset, processor, flags.rows, flags.seq_length, [&](int64_t done) {
        if (done % 1000 == 0) fmt::print(stderr, "{} rows\n", done);
      });
  if (flags.json) {
    fmt::print(
        "{}\n",
        json_of(report, flags.seq_length).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print(report, flags.seq_length);
  }
  flush_output();
  for (const auto& [note, rows] : report.notes) {
    fmt::print(stderr, "note: {} of {} rows: {}\n", rows, report.rows, one_line(note));
  }
  if (report.bad_rows > 0) {
    user_error("{}: {} of {} rows cannot be used", flags.data.path, report.bad_rows, report.rows);
  }
  if (!report.untrained.empty() || report.targets == 0) {
    user_error("{}: 0 % of the tokens of {} rows are targets (row {} the first); nothing is learnt",
               flags.data.path, report.untrained.size(),
               report.untrained.empty() ? 0 : report.untrained.front());
  }
  if (!report.all_trained.empty()) {
    user_error(
        "{}: 100 % of the tokens of {} rows are targets (row {} the first); prompts would be "
        "learnt too",
        flags.data.path, report.all_trained.size(), report.all_trained.front());
  }
  if (report.turns_with_eos != report.turns) {
    user_error("{}: </s> is learnt in {} of {} turns; answers would not end", flags.data.path,
               report.turns_with_eos, report.turns);
  }
}

void show(const DataFlags& flags) {
  require_output_file(flags.output, "--output", page_kind(), {flags.data.path, flags.model});
  const auto dataset = flags.data.open();
  const Processor processor = flags.processor();
  const int64_t rows = flags.rows > 0 ? flags.rows : dataset->size();
  write_text(flags.output, data_page(*dataset, processor, rows, flags.seq_length, flags.data.path));
  fmt::print(stderr, "wrote {} rows to {}\n", std::min(rows, dataset->size()), flags.output);
}

}  // namespace

void add_data(Command app) {
  Command command = app.add_command("data", "look at a data set as training sees it");
  command.require_command();
  Command check_command = command.add_command(
      "check", "count samples, lengths, images and targets; exit 2 where training would be wrong");
  auto check_flags = std::make_shared<DataFlags>();
  check_flags->add_to(check_command, 0);
  check_command.add_switch("--json", check_flags->json, "the counts as JSON");
  check_command.on_run([check_flags] { check(*check_flags); });
  Command show_command = command.add_command(
      "show", "a page of samples: pictures with their patches, tokens by whether they are learnt");
  auto show_flags = std::make_shared<DataFlags>();
  show_flags->add_to(show_command, 20);
  show_command.add("--output", show_flags->output, "HTML file to write").required();
  show_command.on_run([show_flags] { show(*show_flags); });
}

}  // namespace trestle
