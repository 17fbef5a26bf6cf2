// `trestle quantize`: a checkpoint of any form, adapters merged into it, -> its weights in panels,
// as decoding on a CPU reads them.
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/paths.h"
#include "bridge/compare.h"
#include "bridge/streamed.h"
#include "checkpoint/packed_checkpoint.h"
#include "cli/commands.h"
#include "cli/convert.h"

namespace trestle {

namespace {

struct QuantizeFlags : ConvertFlags {
  std::string output, weights;
  bool verify = true;
};

Conversion run_quantize(QuantizeFlags& flags) {
  const OpenModel model(flags.source());
  const OpenCheckpoint& base = model.checkpoint();
  const PanelForm form = *panel_form_of(flags.weights);
  const bool half = form == PanelForm::kBf16 || base.dtype() == at::kBFloat16;
  if (flags.verify) {
    flags.later_bytes = streamed_bytes(model.config(), base.dtype());
    flags.options.verify = [&](const std::filesystem::path& written) {
      verify_and_report([&] {
        return verify_packed(model.weights(), model.config(),
                             {.dtype = base.dtype(), .max_memory = flags.options.max_memory},
                             written);
      });
    };
  }
  const Conversion done =
      write_packed(model.weights(), model.config(), base.config_json(), base.side_files(), form,
                   half ? at::kBFloat16 : at::kFloat, flags.output, flags.options);
  if (model.adapter() && model.adapter_changes_nothing()) {
    fmt::print(stderr, "{}\n", nothing_changes_warning(*model.adapter()));
  }
  return done;
}

}  // namespace

void add_quantize(Command app) {
  Command command =
      app.add_command("quantize", "checkpoint of any form -> weights packed for decoding on a CPU");
  auto flags = std::make_shared<QuantizeFlags>();
  flags->add_source_to(command);
  command.add("--output-path,--output_path", flags->output, "directory to write, new or empty")
      .required();
  command
      .add("--weights", flags->weights,
           "how they are held: bf16, or codes with a scale for each 32 of a row, int8 (8.5 bits a "
           "weight) or int4 (4.5); what sees pictures stays bf16")
      .one_of({"bf16", "int8", "int4"})
      .required();
  command
      .add_switch("--verify,!--no-verify", flags->verify,
                  "before the result gets its name, read it back and run a short forward on "
                  "source and result; default: on")
      .show_default("");
  flags->add_to(command);
  command.on_run([flags] {
    require_new_directory(flags->output, "--output-path",
                          {flags->megatron, flags->adapter, flags->hf_model});
    flags->report("packed", flags->output, [&] { return run_quantize(*flags); });
  });
}

}  // namespace trestle
