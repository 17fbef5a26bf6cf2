#include "generate/generator.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "model/ministral3.h"

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
  return ModelInput::make(at::tensor(ids, at::kLong).to(device), std::move(lengths),
                          std::move(images_CHW));
}

// Each sequence's next token stands behind what the cache holds of it.
ModelInput one_token_each(const std::vector<int64_t>& ids, const KvCache& cache,
                          at::Device device) {
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).to(device);
  };
  return {
      on_device(ids), on_device(cache.lengths()), Packing(std::vector<int64_t>(ids.size(), 1)), {}};
}

at::Tensor last_rows(const at::Tensor& x_TD, const std::vector<int64_t>& lengths) {
  std::vector<int64_t> rows;
  int64_t end = 0;
  for (const int64_t length : lengths) rows.push_back((end += length) - 1);
  return x_TD.index_select(0, at::tensor(rows, at::kLong).to(x_TD.device()));
}

void check_images(const ModelConfig& config, const std::vector<at::Tensor>& images_CHW) {
  if (images_CHW.empty()) return;
  if (!config.vision) {
    user_error("the prompt has {} images but this model has no vision tower", images_CHW.size());
  }
  const int64_t side = config.vision->patch_size * config.projector.spatial_merge_size;
  for (const at::Tensor& image : images_CHW) {
    if (image.size(1) % side == 0 && image.size(2) % side == 0) continue;
    user_error(
        "an image became {} x {} pixels, but the model's patches are {} pixels wide; is the "
        "processor's config this model's?",
        image.size(1), image.size(2), side);
  }
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
    check_images(config, prompt.images_CHW);
  }
}

GenerationResult Generator::generate(const std::vector<Sample>& prompts,
                                     const SamplingOptions& options,
                                     const OnToken& on_token) const {
  TORCH_CHECK(!model_.is_training(), "a model that generates is in eval mode");
  check_prompts(model_.config(), prompts, options);
  GenerationResult result;
  if (prompts.empty()) return result;
  const c10::InferenceMode inference;
  const at::Device device = model_.build().device;
  auto& sequences = result.sequences;
  sequences.resize(prompts.size());

  const Stopwatch prefill;
  const ModelInput prompt = pack(prompts, device);
  for (size_t i = 0; i < prompts.size(); ++i) {
    sequences[i].prompt_tokens = prompt.packing.lengths()[i];
  }
  Sampler sampler(options, prompts.size());
  KvCache cache(model_.config().text, prompt.packing.sequences(),
                prompt.packing.longest() + options.max_new_tokens, model_.build());
  std::vector<int64_t> ids;  // the newest of each sequence
  const auto choose = [&](const at::Tensor& last_BD) {
    const at::Tensor logits_BV = model_.language_model().head(last_BD);
    ids = sampler.next(logits_BV);
    std::vector<Logprobs> logprobs;
    if (options.logprobs > 0) logprobs = logprobs_of(logits_BV, ids, options.logprobs);
    size_t running = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      Generation& sequence = sequences[i];
      // A finished sequence runs along with its neighbours, unread.
      if (!sequence.finish_reason.empty()) continue;
      sequence.ids.push_back(ids[i]);
      if (!logprobs.empty()) sequence.logprobs.push_back(std::move(logprobs[i]));
      if (on_token) on_token(i, ids[i]);
      const auto made = static_cast<int64_t>(sequence.ids.size());
      if (is_stop(ids[i])) {
        sequence.finish_reason = "stop";
      } else if (made == options.max_new_tokens) {
        sequence.finish_reason = "length";
      } else {
        ++running;
      }
    }
    return running;
  };
  size_t running = choose(last_rows(model_.hidden(prompt, &cache), prompt.packing.lengths()));
  result.stats.prefill_tokens = prompt.packing.tokens();
  result.stats.prefill_seconds = prefill.seconds();

  const Stopwatch decode;
  while (running > 0) {
    result.stats.decode_tokens += static_cast<int64_t>(running);
    running = choose(model_.hidden(one_token_each(ids, cache, device), &cache));
  }
  result.stats.decode_seconds = decode.seconds();
  return result;
}

bool Generator::is_stop(int64_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

}  // namespace trestle
