// `trestle import`: Hugging Face's or Mistral's files -> Megatron.
#include <memory>

#include "base/paths.h"
#include "cli/commands.h"
#include "cli/convert.h"
#include "flags/number_flag.h"
#include "recipes/config.h"

namespace trestle {

void add_import(Command app) {
  Command command =
      app.add_command("import", "Hugging Face or Mistral checkpoint -> Megatron checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  command
      .add("--hf-model,--hf_model", flags->hf_model,
           "HF or Mistral directory, or ORG/NAME[@REVISION], to read")
      .required();
  command
      .add("--megatron-path,--megatron_path", flags->megatron,
           "run directory to write, new or empty")
      .required();
  add_number(command, "--tensor-model-parallel-size,--tensor_model_parallel_size",
             flags->options.tensor_parallel, between(1, kMostRanks),
             "write the chunks of so many ranks");
  add_number(command, "--pipeline-model-parallel-size,--pipeline_model_parallel_size",
             flags->options.pipeline_parallel, between(1, kMostRanks),
             "write the files of so many stages");
  flags->add_to(command);
  command.on_run([flags] {
    require_new_directory(flags->megatron, "--megatron-path", {flags->hf_model});
    const auto source = flags->format.resolve(flags->hf_model, "--hf-model");
    flags->options.format = flags->format.settle(source);
    flags->report("imported", flags->megatron,
                  [&] { return import_checkpoint(source, flags->megatron, flags->options); });
  });
}

}  // namespace trestle
