// `trestle generate`: a prompt with pictures in, an answer out, streamed or as one line of JSON.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/standard_streams.h"
#include "chat/settings.h"
#include "cli/commands.h"
#include "data/processor.h"
#include "flags/decoding_flags.h"
#include "flags/model_flags.h"
#include "flags/number_flag.h"
#include "generate/generator.h"
#include "generate/stop.h"
#include "model/ministral3.h"
#include "recipes/config.h"
#include "tokenizer/utf8.h"

namespace trestle {

namespace {

struct GenerateFlags {
  ModelFlags model;
  std::vector<std::string> images;
  ImageLimits limits;
  std::string prompt;
  std::string system_prompt = "none";
  std::optional<std::string> reasoning_effort;
  SamplingOptions sampling;
  DecodingOptions decoding;
  bool json = false;
};

void print_now(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

Conversation conversation_of(const GenerateFlags& flags, const Tokenizer& tokenizer) {
  Message message;
  for (const std::string& source : flags.images) {
    message.parts.push_back({.kind = Part::Kind::kImage, .image = {.source = source}});
  }
  if (!flags.prompt.empty()) message.parts.push_back({.text = flags.prompt});
  Conversation conversation;
  conversation.messages.push_back(std::move(message));
  add_system_prompt(conversation, flags.system_prompt, tokenizer);
  if (flags.reasoning_effort) {
    require_effort(*flags.reasoning_effort, tokenizer, tokenizer.version(), "--reasoning-effort");
  }
  add_reasoning_effort(conversation, flags.reasoning_effort);
  return conversation;
}

void refuse_unused(const Command& command, const GenerateFlags& flags) {
  if (flags.images.empty()) refuse_image_flags(command, "there is no --image-path");
  if (flags.sampling.temperature == 0) {
    command.refuse_given({"--top-k", "--top-p", "--min-p", "--seed"},
                         "--temperature 0 takes the likeliest token and draws none");
  }
}

void generate(const GenerateFlags& flags) {
  validate(flags.sampling);
  require_utf8(flags.prompt, "--prompt");
  const OpenCheckpoint checkpoint = flags.model.open();
  const Processor processor(checkpoint.assets(), flags.limits);
  const Tokenizer& tokenizer = processor.tokenizer();
  const std::vector<Sample> prompts = {
      processor.process(conversation_of(flags, tokenizer), Ending::kPrompt)};
  check_prompts(checkpoint.config(), prompts, flags.sampling);
  const std::vector<int64_t> stops = stop_ids(tokenizer);
  const std::shared_ptr<Ministral3> model = flags.model.load(checkpoint);

  StreamingDecoder decoder(tokenizer);
  const auto stream = [&](size_t, int64_t id) { print_now(decoder.push(id)); };
  const GenerationResult result =
      Generator(*model, stops, flags.decoding)
          .generate(prompts, flags.sampling, flags.json ? Generator::OnToken() : stream);
  const Generation& answer = result.sequences.front();
  if (flags.json) {
    Json report = {{"text", tokenizer.decode(answer.ids)},
                   {"ids", answer.ids},
                   {"prompt_tokens", answer.prompt_tokens},
                   {"finish_reason", answer.finish_reason}};
    if (flags.sampling.logprobs > 0) report["logprobs"] = logprobs_json(answer.logprobs, tokenizer);
    print_now(report.dump() + "\n");
  } else {
    print_now(decoder.flush() + "\n");
    if (flags.sampling.logprobs > 0) print_now("\n" + logprobs_table(answer.logprobs, tokenizer));
  }
  fmt::print(stderr, "{}\n", describe(result.stats));
}

}  // namespace

void add_generate(Command app) {
  Command command = app.add_command("generate", "answer a prompt about text and pictures");
  auto flags = std::make_shared<GenerateFlags>();
  flags->model.add_to(command);
  command.add("--image-path,--image_path", flags->images,
              "path, http(s) URL or data: URI; repeat for several, they stand before the text");
  add_image_flags(command, flags->limits);
  command.add("--prompt", flags->prompt, "text of the user's turn").required();
  command
      .add("--system-prompt,--system_prompt", flags->system_prompt,
           "none, default (the checkpoint's) or a text")
      .show_default();
  command.add(
      "--reasoning-effort,--reasoning_effort",
      [flags](const std::string& effort) { flags->reasoning_effort = effort; },
      "how much to think, of the values that the tokenizer (v15) takes");
  SamplingOptions& sampling = flags->sampling;
  add_number(command, "--max-new-tokens,--max_new_tokens", sampling.max_new_tokens,
             between(1, kMostTokens), "tokens to make at most");
  add_number(command, "--temperature", sampling.temperature, at_least(0),
             "0 takes the likeliest token; above it the options below choose what is drawn");
  add_number(command, "--top-k,--top_k", sampling.top_k, between(0, kMostTokens),
             "draw from the k likeliest tokens; 0: all");
  add_number(command, "--top-p,--top_p", sampling.top_p, above(0, 1),
             "draw from the likeliest tokens that together have this probability");
  add_number(command, "--min-p,--min_p", sampling.min_p, between(0, 1),
             "draw from tokens at least this share as probable as the likeliest");
  add_number(command, "--seed", sampling.seed, between(0, kMostSeed),
             "of the draws; the same seed draws the same text");
  add_number(command, "--logprobs", sampling.logprobs, between(1, kMostLogprobs),
             "tell each token's log-probability and the N likeliest: natural logarithms over the "
             "whole vocabulary, before temperature and what else draws");
  add_decoding_flags(command, flags->decoding);
  command.add_switch(
      "--json", flags->json,
      R"(print {"text", "ids", "prompt_tokens", "finish_reason"} at the end instead, and with )"
      R"(--logprobs OpenAI's "logprobs")");
  command.on_run([command, flags] {
    refuse_unused(command, *flags);
    generate(*flags);
  });
}

}  // namespace trestle
