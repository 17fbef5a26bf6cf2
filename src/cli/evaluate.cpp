// `trestle evaluate`: a model's answers on a data set, scored.
#include "generate/evaluate.h"

#include <memory>

#include "chat/settings.h"
#include "cli/commands.h"
#include "flags/dataset_flags.h"
#include "flags/decoding_flags.h"
#include "flags/model_flags.h"
#include "flags/number_flag.h"
#include "model/ministral3.h"
#include "recipes/config.h"

namespace trestle {

namespace {

struct EvaluateFlags {
  ModelFlags model;
  DatasetFlags data;
  EvaluationOptions options;
  ImageLimits images;
  bool json = false;
};

void run_evaluate(const Command& command, const EvaluateFlags& flags) {
  const OpenCheckpoint checkpoint = flags.model.open();
  if (!checkpoint.config().vision) refuse_image_flags(command, "the model takes no pictures");
  const Processor processor(checkpoint.assets(), flags.images);
  if (const auto& effort = flags.options.reasoning_effort) {
    const Tokenizer& tokenizer = processor.tokenizer();
    require_effort(*effort, tokenizer, tokenizer.version(), "--reasoning-effort");
  }
  const auto dataset = flags.data.open();
  const auto model = flags.model.load(checkpoint);
  const Evaluation result = evaluate(*model, processor, *dataset, flags.options, [](int64_t done) {
    fmt::print(stderr, "{} rows answered\n", done);
  });
  fmt::print(stderr, "{}\n", describe(result.stats));
  if (flags.json) {
    Json answers = Json::array();
    for (const ScoredAnswer& each : result.answers) {
      answers.push_back({{"row", each.row},
                         {"answer", each.answer},
                         {"wanted", each.wanted},
                         {"right", each.right},
                         {"total", each.total}});
    }
    const Json report = {{"field_accuracy", result.field_accuracy()},
                         {"whole_accuracy", result.whole_accuracy()},
                         {"scores", result.scores()},
                         {"rows", result.answers.size()},
                         {"answers", answers}};
    fmt::print("{}\n", report.dump());
    return;
  }
  fmt::print("fields right {:.1f} %, answers wholly right {:.1f} % of {} rows in {:.1f} s\n",
             100 * result.field_accuracy(), 100 * result.whole_accuracy(), result.answers.size(),
             result.seconds);
  for (const auto& [name, score] : result.scores()) fmt::print("{:<20} {:.4f}\n", name, score);
}

}  // namespace

void add_evaluate(Command app) {
  Command command = app.add_command("evaluate", "score a model's answers on a data set");
  auto flags = std::make_shared<EvaluateFlags>();
  flags->model.add_to(command);
  flags->data.add_to(command, "test");
  add_number(command, "--rows", flags->options.rows, between(0, kMostSteps),
             "only the first rows; 0: all");
  add_number(command, "--batch-size,--batch_size", flags->options.batch_size,
             between(1, kMostSamples), "answers at a time");
  add_number(command, "--max-new-tokens,--max_new_tokens", flags->options.max_new_tokens,
             between(1, kMostTokens), "longest answer");
  command.add(
      "--reasoning-effort,--reasoning_effort",
      [flags](const std::string& effort) { flags->options.reasoning_effort = effort; },
      "for rows without one, of the values that the tokenizer (v15) takes");
  add_image_flags(command, flags->images);
  add_decoding_flags(command, flags->options.decoding);
  command.add_switch("--json", flags->json, "every answer as JSON");
  command.on_run([command, flags] { run_evaluate(command, *flags); });
}

}  // namespace trestle
