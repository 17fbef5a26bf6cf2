// One function a subcommand: each adds itself, its flags and its callback to the program. Called by
// main.
#pragma once

namespace CLI {
class App;
}

namespace trestle {

void add_compare(CLI::App& app);
void add_data(CLI::App& app);
void add_demo(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_export(CLI::App& app);
void add_finetune(CLI::App& app);
void add_generate(CLI::App& app);
void add_import(CLI::App& app);
void add_inspect(CLI::App& app);
void add_logits(CLI::App& app);
void add_preprocess(CLI::App& app);
void add_recipes(CLI::App& app);
void add_tokenize(CLI::App& app);

}  // namespace trestle
