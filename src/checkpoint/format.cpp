#include "checkpoint/format.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "base/paths.h"
#include "checkpoint/mistral_checkpoint.h"
#include "checkpoint/mistral_params.h"
#include "megatron/checkpoint.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

struct Form {
  CheckpointFormat format;
  std::string_view name;
  std::string_view words;
  /// What the names of its weights begin with and end with.
  std::string_view begin, end;
};

// In the order of precedence.
constexpr std::array<Form, 4> kForms = {
    {{CheckpointFormat::kMegatron, "megatron", "the Megatron form", "", ".distcp"},
     {CheckpointFormat::kHf, "hf", "the Hugging Face form", "model", ".safetensors"},
     {CheckpointFormat::kMistral, "mistral", "the Mistral form", "consolidated", ".safetensors"},
     {CheckpointFormat::kPacked, "packed", "weights in panels", "packed", ".safetensors"}}};

const Form& form_of(CheckpointFormat format) {
  return *std::ranges::find(kForms, format, &Form::format);
}

bool has_form(const fs::path& directory, const Form& form) {
  if (form.format == CheckpointFormat::kMegatron) return is_megatron_checkpoint(directory);
  const std::string single = std::string(form.begin) + std::string(form.end);
  return has_file(directory / single) || has_file(directory / (single + ".index.json"));
}

// Weights of a form in a directory; a Megatron run keeps them a level below.
uint64_t weight_bytes(const fs::path& directory, const Form& form) {
  uint64_t bytes = 0;
  std::error_code ignored;
  for (fs::recursive_directory_iterator entry(directory, ignored), end; entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    const bool deep = entry.depth() > 0 && form.format != CheckpointFormat::kMegatron;
    if (deep || !name.starts_with(form.begin) || !name.ends_with(form.end)) continue;
    const auto size = entry->file_size(ignored);
    if (!ignored) bytes += size;
  }
  return bytes;
}

std::string in_words(const fs::path& directory, const Form& form) {
  return fmt::format("{} ({:.1f} MB)", form.words,
                     static_cast<double>(weight_bytes(directory, form)) / 1e6);
}

// Where one file of weights lies beside the index of others: which of them is read, as transformers
// chooses. Empty where there is one set.
std::string told_of_stray_file(const fs::path& directory, const Form& form) {
  const std::string single = std::string(form.begin) + std::string(form.end);
  const std::string index = single + ".index.json";
  if (form.format == CheckpointFormat::kMegatron) return {};
  if (!has_file(directory / single) || !has_file(directory / index)) return {};
  return fmt::format("{}: {} is read; {} and the files that it names are not", directory.string(),
                     single, index);
}

}  // namespace

std::string_view format_name(CheckpointFormat format) { return form_of(format).name; }

FormatChoice choose_format(const fs::path& directory, std::optional<CheckpointFormat> asked) {
  std::vector<const Form*> present;
  for (const Form& form : kForms) {
    if (has_form(directory, form)) present.push_back(&form);
  }
  if (present.empty()) {
    const bool params_only =
        has_file(directory / "params.json") && !has_file(directory / "config.json");
    return {asked.value_or(params_only ? CheckpointFormat::kMistral : CheckpointFormat::kHf), ""};
  }
  std::vector<std::string_view> names;
  for (const Form* form : present) names.push_back(form->name);
  const Form& chosen = asked ? form_of(*asked) : *present.front();
  if (std::ranges::find(present, &chosen) == present.end()) {
    user_error("--format {}: {} holds no such checkpoint; it holds: {}", chosen.name,
               directory.string(), fmt::join(names, ", "));
  }
  const std::string stray = told_of_stray_file(directory, chosen);
  if (present.size() == 1) return {chosen.format, stray};
  std::vector<std::string> others;
  for (const Form* form : present) {
    if (form != &chosen) {
      others.push_back(fmt::format("{} with --format {}", in_words(directory, *form), form->name));
    }
  }
  const std::string note = fmt::format("{}: reading {}; it also holds {}", directory.string(),
                                       in_words(directory, chosen), fmt::join(others, " and "));
  return {chosen.format, stray.empty() ? note : note + "; " + stray};
}

std::unique_ptr<HfCheckpoint> open_model_directory(const fs::path& directory,
                                                   CheckpointFormat format) {
  switch (format) {
    case CheckpointFormat::kHf:
      return std::make_unique<HfCheckpoint>(directory);
    case CheckpointFormat::kMistral:
      return std::make_unique<MistralCheckpoint>(directory);
    case CheckpointFormat::kPacked:
      refuse_packed(directory);
    case CheckpointFormat::kMegatron:
      break;
  }
  user_error("{} is a Megatron checkpoint; a Hugging Face or Mistral directory is needed here",
             directory.string());
}

void refuse_packed(const fs::path& directory) {
  user_error(
      "{} holds weights in panels, which generate, evaluate and logits take; name the checkpoint "
      "that they were made of",
      directory.string());
}

ModelConfig read_model_config(const fs::path& directory, CheckpointFormat format) {
  if (format != CheckpointFormat::kMistral) return read_hf_config(directory);
  const fs::path path = directory / "params.json";
  return parse_hf_config(config_of_params(read_json(path), path.string()), path.string());
}

std::pair<Json, std::string> read_config_json(const fs::path& directory) {
  const fs::path config = directory / "config.json", params = directory / "params.json";
  if (has_file(config) || !has_file(params)) return {read_json(config), config.string()};
  return {config_of_params(read_json(params), params.string()), params.string()};
}

}  // namespace trestle
