#include "generate/generator.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "cpu/panel_sums.h"
#include "generate/answers.h"
#include "generate/decode_step.h"
#include "generate/prefill.h"
#include "generate/prompt_lookup.h"
#include "generate/speculation.h"
#include "model/host_input.h"

namespace trestle {

namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

ModelInput pack(const std::vector<Sample>& prompts, at::Device device) {
  std::vector<int64_t> ids, lengths;
  std::vector<at::Tensor> images_CHW;
  for (const Sample& prompt : prompts) {
    ids.insert(ids.end(), prompt.ids.begin(), prompt.ids.end());
    lengths.push_back(static_cast<int64_t>(prompt.ids.size()));
    images_CHW.insert(images_CHW.end(), prompt.images_CHW.begin(), prompt.images_CHW.end());
  }
  return ModelInput::make(to_device(at::tensor(ids, at::kLong), device), std::move(lengths),
                          std::move(images_CHW));
}

void check_images(const ModelConfig& config, const Sample& prompt) {
  const std::vector<at::Tensor>& images_CHW = prompt.images_CHW;
  if (images_CHW.empty()) return;
  if (!config.vision) {
    user_error("the prompt has {} images but this model has no vision tower", images_CHW.size());
  }
  const int64_t side = config.vision->patch_size * config.projector.spatial_merge_size;
  int64_t features = 0;
  for (const at::Tensor& image : images_CHW) {
    features += (image.size(1) / side) * (image.size(2) / side);
    if (image.size(1) % side == 0 && image.size(2) % side == 0) continue;
    user_error(
        "an image became {} x {} pixels, but the model's patches are {} pixels wide; is the "
        "processor's config this model's?",
        image.size(1), image.size(2), side);
  }
  const auto tokens = std::ranges::count(prompt.ids, config.image_token_id);
  if (tokens != features) {
    user_error("the prompt has {} image tokens but its images have {} features", tokens, features);
  }
}

}  // namespace

namespace {

// Whether logits of a token are the same bits alone and beside others.
bool gives_each_row_its_bits(const Ministral3& model) {
  if (!model.build().panels) return false;
  return std::ranges::none_of(model.modules(), [](const auto& module) {
    const auto* linear = dynamic_cast<const Linear*>(module.get());
    return linear != nullptr && linear->adapter() != nullptr;
  });
}

}  // namespace

void check_prompts(const ModelConfig& config, const std::vector<Sample>& prompts,
                   const SamplingOptions& options) {
  validate(options);
  const int64_t context = config.text.max_position_embeddings;
  if (options.logprobs > config.text.vocab_size) {
    user_error("--logprobs {}, but the model has {} tokens to choose from", options.logprobs,
               config.text.vocab_size);
  }
  for (const Sample& prompt : prompts) {
    const auto length = static_cast<int64_t>(prompt.ids.size());
    if (length == 0) user_error("a prompt has no tokens");
    if (length >= context) {
      user_error(
          "the prompt has {} tokens, but the model's context is {} with the answer in it; "
          "shorten the prompt or shrink its images",
          length, context);
    }
    if (options.max_new_tokens > context - length) {
      user_error(
          "a prompt of {} tokens and --max-new-tokens {} do not fit the model's context of "
          "{}; give --max-new-tokens {} or less",
          length, options.max_new_tokens, context, context - length);
    }
    for (const int64_t id : prompt.ids) {
      if (id >= 0 && id < config.text.vocab_size) continue;
      user_error(
          "the prompt holds token id {}, but the model has ids 0 to {}; is the tokenizer "
          "this model's?",
          id, config.text.vocab_size - 1);
    }
    check_images(config, prompt);
  }
}

namespace {

// Ids of each sequence, behind what the cache holds of it.
ModelInput behind(const std::vector<std::vector<int64_t>>& tokens, const KvCache& cache,
                  at::Device device) {
  std::vector<int64_t> ids, positions, lengths;
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t k = 0; k < tokens[i].size(); ++k) {
      ids.push_back(tokens[i][k]);
      positions.push_back(cache.lengths()[i] + static_cast<int64_t>(k));
    }
    lengths.push_back(static_cast<int64_t>(tokens[i].size()));
  }
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return to_device(at::tensor(values, at::kLong), device);
  };
  return {on_device(ids), on_device(positions), Packing(std::move(lengths)), {}};
}

// The rows of what was chosen, where those of a sequence and its proposals lie beside each other.
at::Tensor rows_of(const at::Tensor& logits_RV, const std::vector<std::vector<int64_t>>& proposals,
                   const std::vector<std::vector<int64_t>>& chosen) {
  std::vector<int64_t> rows;
  int64_t first = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    for (size_t k = 0; k < chosen[i].size(); ++k) rows.push_back(first + static_cast<int64_t>(k));
    first += std::ssize(proposals[i]) + 1;
  }
  return std::ssize(rows) == logits_RV.size(0)
             ? logits_RV
             : logits_RV.index_select(0,
                                      to_device(at::tensor(rows, at::kLong), logits_RV.device()));
}

// Tokens by the model's forward and the sampler, for all answers at once.
class Decoding {
 public:
  Decoding(const Forward& forward, const SamplingOptions& options, Answers& answers, KvCache& cache)
      : forward_(forward),
        options_(options),
        answers_(answers),
        cache_(cache),
        sampler_(options, answers.count()) {}

  // From hidden states [R, D], a row a sequence and one more for each of its proposals.
  void choose(const at::Tensor& x_RD, const std::vector<std::vector<int64_t>>& proposals) {
    int64_t rows = 0;
    for (const auto& each : proposals) rows += std::ssize(each) + 1;
    const at::Tensor logits_RV = forward_.head(x_RD, rows);
    chosen_ = sampler_.next(logits_RV, proposals);
    seconds_ = clock_.seconds();
    std::vector<Logprobs> logprobs;
    if (options_.logprobs > 0) {
      std::vector<int64_t> ids;
      for (const auto& each : chosen_) ids.insert(ids.end(), each.begin(), each.end());
      logprobs = logprobs_of(rows_of(logits_RV, proposals, chosen_), ids, options_.logprobs);
    }
    auto next = logprobs.begin();
    for (size_t i = 0; i < chosen_.size(); ++i) {
      for (const int64_t id : chosen_[i]) {
        answers_.take(i, id, logprobs.empty() ? std::nullopt : std::optional(std::move(*next++)));
      }
    }
  }

  // One step of every sequence; a finished one runs along with its neighbours, unread.
  void step(int64_t most_proposals, GenerationStats& stats) {
    clock_ = Stopwatch();
    std::vector<std::vector<int64_t>> proposals(chosen_.size()), tokens(chosen_.size());
    for (size_t i = 0; i < chosen_.size(); ++i) {
      if (!answers_.is_finished(i)) {
        const auto found = answers_.lookup(i, most_proposals);
        proposals[i].assign(found.begin(), found.end());
      }
      tokens[i] = {chosen_[i].back()};
      tokens[i].insert(tokens[i].end(), proposals[i].begin(), proposals[i].end());
      stats.proposed_tokens += std::ssize(proposals[i]);
    }
    std::vector<int64_t> lengths = cache_.lengths();
    const int64_t running = answers_.running(), made = answers_.tokens();
    ever_proposed_ = ever_proposed_ || most_proposals > 0;
    choose(forward_.hidden(behind(tokens, cache_, forward_.model().build().device), cache_),
           proposals);
    for (size_t i = 0; i < chosen_.size(); ++i) {
      // With proposals an answer may end many steps before its neighbours: it takes no more room.
      if (ever_proposed_ && answers_.is_finished(i)) continue;
      lengths[i] += std::ssize(chosen_[i]);
    }
    cache_.truncate(lengths);
    ++stats.decode_steps;
    stats.accepted_tokens += answers_.tokens() - made - running;
  }

  // Of the newest step, until its tokens were chosen.
  double seconds() const { return seconds_; }

  // All steps over fixed buffers, each on its way before the one in front of it is read.
  void steps_over_fixed_buffers(GenerationStats& stats) {
    std::vector<int64_t> newest;
    for (const auto& chosen : chosen_) newest.push_back(chosen.back());
    DecodeStep step(forward_.model(), options_, newest, cache_);
    int64_t to_launch = options_.max_new_tokens - 1;
    const auto launch = [&] {
      if (to_launch-- > 0) step.launch();
    };
    launch();
    for (; answers_.running() > 0; ++stats.decode_steps) {
      launch();
      const std::vector<int64_t> ids = step.take();
      for (size_t i = 0; i < ids.size(); ++i) answers_.take(i, ids[i], std::nullopt);
    }
  }

 private:
  const Forward& forward_;
  const SamplingOptions& options_;
  Answers& answers_;
  KvCache& cache_;
  Sampler sampler_;
  // The newest tokens of each sequence; the last is not in the cache yet.
  std::vector<std::vector<int64_t>> chosen_;
  bool ever_proposed_ = false;
  Stopwatch clock_;
  double seconds_ = 0;
};

}  // namespace

GenerationStats& GenerationStats::operator+=(const GenerationStats& other) {
  prefill_tokens += other.prefill_tokens;
  prefill_seconds += other.prefill_seconds;
  prefill_chunks += other.prefill_chunks;
  decode_tokens += other.decode_tokens;
  decode_seconds += other.decode_seconds;
  decode_steps += other.decode_steps;
  proposed_tokens += other.proposed_tokens;
  accepted_tokens += other.accepted_tokens;
  return *this;
}

std::string describe(const GenerationStats& stats) {
  const auto rate = [](int64_t tokens, double seconds) {
    return fmt::format("{} tokens in {:.2f} s ({:.1f} tokens/s)", tokens, seconds,
                       seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0);
  };
  std::string text = "prefill " + rate(stats.prefill_tokens, stats.prefill_seconds);
  if (stats.prefill_chunks > 1) text += fmt::format(" in {} chunks", stats.prefill_chunks);
  text += ", decode " + rate(stats.decode_tokens, stats.decode_seconds);
  if (stats.proposed_tokens > 0) {
    text += fmt::format(
        " in {} steps, {} of {} proposed tokens accepted ({:.2f} a step)", stats.decode_steps,
        stats.accepted_tokens, stats.proposed_tokens,
        static_cast<double>(stats.accepted_tokens) / static_cast<double>(stats.decode_steps));
  }
  return text;
}

GenerationResult Generator::generate(const std::vector<Sample>& prompts,
                                     const SamplingOptions& options,
                                     const OnToken& on_token) const {
  const Ministral3& model = forward_.model();
  TORCH_CHECK(!model.is_training(), "a model that generates is in eval mode");
  check_prompts(model.config(), prompts, options);
  GenerationResult result;
  if (prompts.empty()) return result;
  GenerationStats& stats = result.stats;
  const c10::InferenceMode inference;

  const Stopwatch prefilling;
  const ModelInput prompt = pack(prompts, model.build().device);
  KvCache cache(model.config().text, prompt.packing.sequences(),
                prompt.packing.longest() + options.max_new_tokens, model.build());
  Answers answers(prompts, options.max_new_tokens, stop_ids_, on_token);
  Decoding decoding(forward_, options, answers, cache);
  decoding.choose(prefill(forward_, prompt, decoding_.prefill_chunk_size, cache),
                  std::vector<std::vector<int64_t>>(prompts.size()));
  stats.prefill_tokens = prompt.packing.tokens();
  stats.prefill_chunks =
      std::ssize(prefill_chunks(prompt.packing.lengths(), decoding_.prefill_chunk_size));
  stats.prefill_seconds = prefilling.seconds();

  const Stopwatch decoded;
  const int64_t first_tokens = answers.tokens();
  const int64_t proposed = decoding_.prompt_lookup_num_tokens;
  const bool settles = decoding_.speculates_where_it_pays && proposed == 0 &&
                       gives_each_row_its_bits(model) &&
                       std::ssize(prompts) * (Speculation::kTokens + 1) <= kMostPanelRows;
  const bool fixed = decoding_.fixed_buffers.value_or(model.build().device.is_cuda()) &&
                     proposed == 0 && forward_.is_whole() && can_step(model, options);
  if (fixed && answers.running() > 0) decoding.steps_over_fixed_buffers(stats);
  Speculation speculation;
  while (answers.running() > 0) {
    const int64_t before = answers.tokens(), tried = stats.proposed_tokens;
    decoding.step(settles && speculation.is_worth() ? Speculation::kTokens : proposed, stats);
    speculation.note(stats.proposed_tokens > tried, answers.tokens() - before, decoding.seconds());
  }
  stats.decode_tokens = answers.tokens() - first_tokens;
  stats.decode_seconds = decoded.seconds();
  result.sequences = answers.release();
  return result;
}

}  // namespace trestle
